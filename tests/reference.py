"""Write docs/options.md and docs/api.md from the source: `python tests/reference.py --write`."""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxlesion.__main__ import COMMANDS
from jaxlesion.ui.described import Option, as_text, describe, groups

DOCS = Path(__file__).resolve().parents[1] / "docs"
WRITTEN = "<!-- written by `python tests/reference.py --write` from the source -->\n"
OPTIONS = f"""# Options

Which options has each command, with which values and defaults? N stands for a whole number, X for a number; `...` for
several values. A switch is given alone, and its opposite has `no-` after the last dot: `--data.no-cache`.

{WRITTEN}"""
API = f"""# Python

Which functions are there for use from Python? Shapes are in brackets, rows first.

{WRITTEN}"""
NAMES = {
    "Networks": ("jaxlesion.create_model", "jaxlesion.normalise", "jaxlesion.load_run"),
    "Training": ("jaxlesion.core.presets.preset", "jaxlesion.core.fields.replace", "jaxlesion.train.train"),
    "Runs and tables": (
        *("jaxlesion.runs.store.Run.open", "jaxlesion.data.predictions.read_predictions"),
        *("jaxlesion.data.predictions.write_predictions", "jaxlesion.data.demo.write_demo"),
    ),
    "Metrics": (
        *("jaxlesion.evaluation.metrics.roc_auc", "jaxlesion.evaluation.metrics.pauc_above_tpr"),
        *("jaxlesion.evaluation.metrics.pr_auc", "jaxlesion.evaluation.metrics.sensitivity_at_specificity"),
        *("jaxlesion.evaluation.metrics.roc_curve", "jaxlesion.evaluation.registry.summary"),
    ),
}


def options_page() -> str:
    """Return docs/options.md as text."""
    parts = [OPTIONS]
    for name, what in COMMANDS.items():
        kind = getattr(import_module(f"jaxlesion.{name}"), f"{name.capitalize()}Config")
        heads, written = groups(kind), None
        parts += [f"## {name}\n", f"`python -m jaxlesion.{name}`: {what}.\n"]
        for option in describe(kind):
            if option.group != written:
                written = option.group
                parts += ["", f"**{written}**: {_line(heads[written])}\n"] if written else []
                parts.append("| option | values | default | meaning |\n|---|---|---|---|")
            elif parts[-1].startswith("`python"):
                parts.append("| option | values | default | meaning |\n|---|---|---|---|")
            parts.append(_row(option))
        parts.append("")
    return "\n".join(parts)


def _row(option: Option) -> str:
    values = ", ".join(f"`{value}`" for value in option.values.split("|")) if option.values else "switch"
    if option.range:
        values += f", {option.range}"
    required = option.default is dataclasses.MISSING
    silent = required or option.default in (None, ()) or "[default" in option.text
    default = "required" if required else "" if silent else f"`{_default(option.default)}`"
    return f"| `{option.flag}` | {values} | {default} | {_line(option.text)} |"


def _default(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else as_text(value)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def api_page() -> str:
    """Return docs/api.md as text."""
    parts = [API]
    for title, names in NAMES.items():
        parts.append(f"## {title}\n")
        parts += [_function(name) for name in names]
    return "\n".join(parts)


def find(name: str) -> Callable:
    """Return the function with a dotted name.

    Raises:
        AttributeError: there is none.
    """
    module, _, rest = name.rpartition(".")
    if (kind := module.rpartition(".")[2])[0].isupper():  # a method
        module, rest = module.rpartition(".")[0], f"{kind}.{rest}"
    found: Any = import_module(module)
    for part in rest.split("."):
        found = getattr(found, part)
    return found


def _function(name: str) -> str:
    found = find(name)
    short = name.rpartition(".")[2]
    text, *sections = re.split(r"\n\n(Args|Returns|Raises|Yields):\n", inspect.getdoc(found))
    body = [text, *map(_section, sections[::2], sections[1::2])]
    return f"### {name}\n\n```\n{short}{_signature(found)}\n```\n\n" + "\n\n".join(body) + "\n"


def _signature(found: Callable) -> str:
    """Return the arguments as the source has them; of a metric, which is made of a formula, without types."""
    if hasattr(found, "__signature__"):
        arguments = found.__signature__.parameters.values()
        return f"({', '.join(str(one.replace(annotation=one.empty)) for one in arguments)}) -> float"
    node = ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]
    own = re.sub(r"^cls, ", "", ast.unparse(node.args))
    return f"({own}) -> {ast.unparse(node.returns)}"


def _section(head: str, content: str) -> str:
    """Return a section of a docstring: a list of names, or a paragraph."""
    items = [" ".join(item.split()) for item in re.split(r"\n(?=    \S)", content)]
    if head in ("Returns", "Yields"):
        return f"{head}: {' '.join(items)}"
    listed = [f"- `{name}`: {what}" for name, what in (item.split(": ", 1) for item in items)]
    return "\n".join([f"{'Arguments' if head == 'Args' else head}:\n", *listed])


PAGES: dict[str, Callable[[], str]] = {"options.md": options_page, "api.md": api_page}

if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for page, render in PAGES.items():
        (DOCS / page).write_text(render())
