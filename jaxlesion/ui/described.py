"""The options of a configuration as the source describes them: name, type, default, range and docstring."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

from jaxlesion.core.fields import flag
from jaxlesion.core.ranges import Range

WORDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class Option(NamedTuple):
    """One option of a command."""

    name: str
    """Dotted name of the field, such as data.image_size."""
    values: str
    """What may follow the option; empty for a switch."""
    default: Any
    """Its default; dataclasses.MISSING where it must be given."""
    text: str
    """The field's docstring, on one line."""
    range: str = ""
    """The values that are allowed, in words; empty where its type says all."""

    @property
    def flag(self) -> str:
        """Return the spelling on the command line."""
        return flag(self.name)

    @property
    def group(self) -> str:
        """Return the part of the name before the last dot; empty for options of the command itself."""
        return self.name.rpartition(".")[0]


def describe(kind: type, default: Any = None, prefix: str = "") -> list[Option]:
    """Return all options of a configuration class, those of groups included, in the order of the fields.

    Args:
        kind: a dataclass whose fields have docstrings.
        default: an instance that gives the defaults; None for those of the class.
        prefix: of the names.
    """
    documents, hints, found = _documents(kind), typing.get_type_hints(kind, include_extras=True), []
    for item in dataclasses.fields(kind):
        value, hint = _default(item) if default is None else getattr(default, item.name), hints[item.name]
        if dataclasses.is_dataclass(hint):
            found += describe(hint, value, f"{prefix}{item.name}.")
            continue
        ranges = [part.words for part in getattr(hint, "__metadata__", ()) if isinstance(part, Range)]
        found.append(Option(prefix + item.name, _values(hint), value, documents[item.name], ", ".join(ranges)))
    return found


def groups(kind: type, prefix: str = "") -> dict[str, str]:
    """Return the docstring of each group of options, by its dotted name."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= {prefix + name: inspect.getdoc(hint)} | groups(hint, f"{prefix}{name}.")
    return found


def as_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(item: dataclasses.Field) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _documents(kind: type) -> dict[str, str]:
    """Return the docstring of each field, those of base classes included."""
    found = {}
    for base in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
                found[node.target.id] = " ".join(ast.literal_eval(after.value).split())
    return found


def _values(hint: Any) -> str:
    """Return what an option takes: a placeholder for its type, or its choices."""
    choices = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Annotated:
            return _values(choices[0])
        case types.UnionType | typing.Union:
            return "|".join(_values(choice) for choice in choices if choice is not types.NoneType)
        case typing.Literal:
            return "|".join(str(choice) for choice in choices if choice is not None)
        case _ if typing.get_origin(hint) is tuple:
            one = _values(choices[0])
            return f"{one} ..." if choices[-1] is Ellipsis else " ".join(map(_values, choices))
    return "" if hint is bool else WORDS[hint]
