"""Fields of configurations by dotted names, as options and as JSON."""

import builtins
import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxlesion.core.errors import InputError

T = TypeVar("T")


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return the configuration with other values at dotted names, as `replace(config, {"optim.clip": 1.0})`."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        config = dataclasses.replace(config, **{head: replace(getattr(config, head), {rest: value}) if rest else value})
    return config


def lookup(config: Any, name: str) -> Any:
    """Return the value at a dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def flag(name: str) -> str:
    """Return the command-line spelling of a dotted field name."""
    return "--" + name.replace("_", "-")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a JSON-ready dictionary; `from_dict` is the inverse."""
    return {
        f.name: to_dict(value) if dataclasses.is_dataclass(value) else _to_json(value)
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_to_json, value))
    return str(value) if isinstance(value, Path) else value


def from_dict(data: Mapping[str, Any], source: str, kind: type[T], prefix: str = "") -> T:
    """Rebuild a configuration of type `kind` read from `source` (a file's name, for the message).

    Raises:
        InputError: a key that does not exist or a value of another type, naming the file and the key.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{source}: {prefix.removesuffix('.') or 'it'} is {data!r}, not a group of options")
    known = typing.get_type_hints(kind)
    if unknown := sorted(set(data) - set(known)):
        raise InputError(
            f"{source}: there is no option {prefix}{unknown[0]}; remove it or use the version that wrote it"
        )
    values = {}
    for name, value in data.items():
        if dataclasses.is_dataclass(known[name]):
            values[name] = from_dict(value, source, known[name], f"{prefix}{name}.")
        else:
            try:
                values[name] = _from_json(value, known[name])
            except TypeError:
                raise InputError(
                    f"{source}: {prefix}{name} is {value!r}, which this option cannot be; put back what training wrote"
                ) from None
    return kind(**values)


def _from_json(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint` of a field. TypeError where it is none of that type."""
    choices = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            for choice in choices:
                with contextlib.suppress(TypeError):
                    return _from_json(value, choice)
        case typing.Literal if value in choices:
            return value
        case builtins.tuple if isinstance(value, list):
            return tuple(_from_json(item, choices[0]) for item in value)
        case None if hint is Path and isinstance(value, str):
            return Path(value)
        case None if hint is float and type(value) in (int, float):
            return float(value)
        case None if type(value) is hint:
            return value
    raise TypeError(hint)
