"""From the command line to a configuration: presets, flags that beat them, and runs that already exist."""

import argparse
import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import EXCLUSIVE, DistributedConfig, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import TabularConfig, check_tabular
from jaxlesion.core.fields import flag
from jaxlesion.core.hub import repository_of
from jaxlesion.core.presets import PRESETS, preset
from jaxlesion.runs.selection import folds_meant
from jaxlesion.runs.store import Run
from jaxlesion.ui.help import ALL, print_help

T = TypeVar("T")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
FILES = ("weights", "image")  # options that are paths, but no `Path`
HELP = {"-h", "--help"}
HUB = ("weights", "run")  # options that may be hf://USER/NAME


def parse(kind: type[T], argv: Sequence[str], program: str, default: T | None = None) -> T:
    """Parse `argv` into the dataclass `kind`.

    Raises:
        InputError: an option that does not exist or a value of the wrong type, in one line.
        SystemExit: after --help and --help-all.
    """
    if HELP & set(argv):
        print_help(kind, program, default)
        raise SystemExit(0)
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            words = ["--help" if word == ALL else word for word in argv]
            config = tyro.cli(kind, args=words, prog=f"python -m jaxlesion.{program}", default=default)
        _refuse_addresses(config)
        return config
    except SystemExit as e:
        if e.code in (0, None):
            raise
        raise InputError(_one_line(heard.getvalue(), program)) from None


def _refuse_addresses(config: object, prefix: str = "") -> None:
    """Refuse s3://bucket and the like as a path: files are read at random places, locked, renamed and linked."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            _refuse_addresses(value, f"{prefix}{item.name}.")
        for path in value if isinstance(value, tuple) else (value,):
            is_path = isinstance(path, Path) or item.name in FILES
            if is_path and not (item.name in HUB and repository_of(path)):
                refuse_address(prefix + item.name, str(path))


def refuse_address(name: str, path: str) -> None:
    """Raise InputError if the value of an option is an address; `Path` has made one slash of two."""
    if (scheme := ADDRESS.match(path)) and not Path(f"{scheme[1]}:").exists():
        slashes = "///" if scheme[1] == "file" else "//"
        raise InputError(
            f"{flag(name)} {scheme[1]}:{slashes}{path[scheme.end() :]}: is an address, and only files and folders are "
            "used: download it or mount it first, and give the path"
        )


def _one_line(box: str, program: str) -> str:
    """Return tyro's complaint without its frame (ASCII where stdout is), its title and the option's help text."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    text = "\n".join("" if set(line) == {"-"} else line for line in lines[1:])
    complaint, _, rest = text.strip().partition("\n\n")
    guess = re.search(r"--[\w.-]+", rest) if rest.startswith("Perhaps you meant") else None
    hint = f"; did you mean {guess[0]}?" if guess else ""
    return f"{' '.join(complaint.split())}{hint} (see python -m jaxlesion.{program} {ALL})"


def parse_train(argv: Sequence[str]) -> TrainConfig:
    """Parse a training command.

    Defaults come from the run in --run-dir when there is one, else from the preset; without a
    preset, from `demo` if there is no --data-dir. Any flag beats them, also within a pair of
    options that replace one another.

    Raises:
        InputError: an unknown option, both of a pair, no data, or --resume of nothing and nothing to begin.
    """
    early = _early(argv)
    run = None
    refuse_address("run_dir", early.run_dir or "")
    if early.run_dir and (Path(early.run_dir) / "config.json").is_file():
        run = Run.open(Path(early.run_dir))
    if early.resume and run is None:
        if not early.run_dir:
            raise InputError("--resume: there is no --run-dir; give it the folder of the run to resume")
        if not (early.data_dir or early.preset):  # a whole command begins the run, a mistyped folder alone does not
            raise InputError(
                f"--resume: {early.run_dir} holds no run; give --run-dir the folder of the run to resume, "
                "or the whole command with --data-dir to begin it"
            )
    if run is not None:
        run.check_unreleased()
        run.check_network("train it by the command that began it, or give another --run-dir")
        changed = {"fold": folds_meant(run), "run_dir": run.folder, "resume": False, "distributed": DistributedConfig()}
        base = fields.replace(run.config, changed)
    else:
        names = PRESETS
        if early.preset is not None and early.preset not in names:
            raise InputError(f"--preset {early.preset}: choose from {', '.join(names)}")
        base = preset(early.preset or ("default" if early.data_dir or _wants_help(argv) else "demo"))
    base = _unset_replaced(base, argv)
    config = parse(TrainConfig, argv, "train", base)
    configuration.check(config)
    if config.data_dir is None and config.preset != "demo":
        raise InputError(
            f"--preset {config.preset} needs --data-dir, the folder with train-metadata.csv (only demo does without)"
        )
    return config


def parse_tabular(argv: Sequence[str]) -> TabularConfig:
    """Parse a command that trains trees; defaults come from the run in --run-dir when there is one.

    Raises:
        InputError: an unknown option, both of a pair, or --resume of nothing and nothing to begin.
    """
    early = _early(argv)
    refuse_address("run_dir", early.run_dir or "")
    base = TabularConfig()
    if early.run_dir and (Path(early.run_dir) / "config.json").is_file():
        run = Run.open(Path(early.run_dir))
        if run.kind != "tabular":
            raise InputError(f"{run.folder} is a {run.kind} run: give another --run-dir")
        base = fields.replace(run.config, {"fold": "all", "run_dir": run.folder, "resume": False})
    elif early.resume and not early.data_dir:
        raise InputError(
            f"--resume: {early.run_dir or 'no --run-dir'} holds no run; give --run-dir the folder of the run to "
            "resume, or the whole command with --data-dir to begin it"
        )
    if _is_given("folds.file", argv):
        base = fields.replace(base, {"folds.stratify": False})
    config = parse(TabularConfig, argv, "tabular", _unset_replaced(base, argv))
    check_tabular(config)
    return config


def _unset_replaced(base: T, argv: Sequence[str]) -> T:
    """Unset the default of an option that another one, which is given, replaces."""
    for pair in EXCLUSIVE:
        given = [name for name in pair if _is_given(name, argv)]
        if len(given) == 2:
            raise InputError(f"{flag(given[0])} and {flag(given[1])} replace one another: give one of them")
        if given:
            base = fields.replace(base, {next(name for name in pair if name not in given): None})
    return base


def _early(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options that decide the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("preset", "data_dir", "run_dir"):
        parser.add_argument(flag(name), f"--{name}", dest=name, nargs="?")
    parser.add_argument("--resume", action="store_true")
    try:
        return parser.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as e:
        raise InputError(str(e)) from None


def _wants_help(argv: Sequence[str]) -> bool:
    return bool({*HELP, ALL} & set(argv))


def _is_given(name: str, argv: Sequence[str]) -> bool:
    return any(word.split("=")[0].replace("_", "-") == flag(name) for word in argv)


def arguments(argv: Sequence[str] | None) -> Sequence[str]:
    """Return `argv`, or the command line when it is None."""
    return sys.argv[1:] if argv is None else argv
