"""`--help` on one screen: the options that matter first. `--help-all` is tyro's, with every option."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxlesion.ui.described import Option, as_text, describe

ALL = "--help-all"
MOST = 10  # options on a screen
WIDEST = 16  # characters after an option
# Of commands with more than MOST options.
FIRST: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": (
            *("data_dir", "preset", "fold", "run_dir", "resume", "epochs", "weights", "data.image_size"),
            *("data.columns", "optim.learning_rate"),
        ),
        "tabular": (
            *("data_dir", "fold", "run_dir", "resume", "data.columns", "features.relative", "features.without"),
            *("features.runs", "trees.bag", "trees.trees"),
        ),
        "knn": (*("data_dir", "run", "features", "k", "fold", "weights", "data.columns", "out", "json"),),
        "outliers": (
            *("data_dir", "run", "weights", "fold", "data.columns", "data.image_size", "folds.n", "folds.group"),
            *("bootstrap", "out"),
        ),
        "evaluate": (
            *("run", "predictions", "compare", "data_dir", "tta", "threshold", "subgroups", "bootstrap", "out"),
            "json",
        ),
        "predict": (*("image", "data_dir", "run", "out", "submission", "tta", "fold", "calibrated"),),
        "app": ("run", "neighbours", "data_dir", "data.columns", "tta", "fold", "api", "host", "port", "checkpoint"),
    }
)


def print_help(kind: type, program: str, default: Any = None) -> None:
    """Print the options of a command that matter first, a sentence each.

    Args:
        kind: its configuration class.
        program: its name.
        default: an instance that gives the defaults; None for those of the class.
    """
    options = describe(kind, default)
    by_name = {option.name: option for option in options}
    shown = [by_name[name] for name in FIRST[program]] if program in FIRST else options
    screen = Console(highlight=False, markup=False, emoji=False)
    screen.print(f"usage: python -m jaxlesion.{program} [options]\n")
    screen.print(inspect.getdoc(kind) + "\n")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for option in shown:
        table.add_row(f"  {option.flag} {_placeholder(option)}".rstrip(), _sentence(option))
    screen.print(table)
    if options:
        more = len(options) - len(shown)
        screen.print(f"\n{more} more options, and more on these: {ALL}" if more else f"\nmore on these: {ALL}")


def _placeholder(option: Option) -> str:
    """Return what follows an option; of many choices the name of the list alone."""
    return option.values if len(option.values) <= WIDEST else "NAME"


def _sentence(option: Option) -> str:
    """Return the first sentence of an option's docstring, with its choices where they have no room, and its default."""
    text = re.split(r"(?<=[.;]) ", option.text)[0].rstrip(";.")
    if len(option.values) > WIDEST:
        text += f": {option.values.replace('|', ', ')}"
    silent = option.default in (None, (), dataclasses.MISSING) or isinstance(option.default, bool) or "[default" in text
    return text if silent else f"{text} [{as_text(option.default)}]"
