"""Comparison of what a command writes with what it reads, before any work."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import STDOUT, is_stream
from jaxlesion.core.outputs import check_file
from jaxlesion.data.open import read_from
from jaxlesion.runs.released import SUMS
from jaxlesion.runs.store import Run

OUTPUTS = ("out", "json", "submission", "explain", "run_dir")  # all other options that are paths are read
RUN = ("config.json", "manifest.json", "folds.csv", "pixels.csv", "oof.csv", "calibration.json", "lock", SUMS)


def check_outputs(outputs: Mapping[str, Path | None], config: Any) -> bool:
    """Check that every output can be written, and is none of the files that are read.

    Args:
        outputs: by option. A file's name inside the folder that an option names is checked likewise.
        config: of the command; its other options that are paths are read: a file, a run's folder, or a folder of data.

    Returns:
        Whether one of them is standard output.

    Raises:
        InputError: an output is a folder or cannot be written, is read, or is named twice.
    """
    inputs = [*_inputs(config)]
    seen: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path != STDOUT:
            check_file(option, path)
            if not is_stream(path) and any(_is_within(path, source) for source in inputs):
                raise InputError(f"{option} {path}: this command reads that very file; give another path")
            if _is_of_run(Path(os.path.realpath(path))):
                raise InputError(f"{option} {path}: is a file of a run; give another path")
        name = str(path) if is_stream(path) else os.path.realpath(path)
        if name in seen and name != os.devnull:
            raise InputError(f"{option} {path}: {seen[name]} is written there too; give another path")
        seen[name] = option
    return str(STDOUT) in seen


def _inputs(config: Any) -> Iterator[Path]:
    """Yield each file that is read, and each folder of which everything may be."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in OUTPUTS or value is None:
            continue
        if field.name == "run":
            yield from (value / name for name in RUN)
            yield from value.glob("fold_*")
            with contextlib.suppress(InputError):  # no run: whoever reads it says so
                yield from _inputs(Run.open(value).config)
        elif field.name == "data_dir":
            yield from read_from(value)
        elif field.name in ("weights", "image"):  # the words of the command line
            yield from map(Path, [value] if isinstance(value, str) else value)
        elif dataclasses.is_dataclass(value):
            yield from _inputs(value)
        else:
            yield from (path for path in (value if isinstance(value, tuple) else (value,)) if isinstance(path, Path))


def _is_of_run(path: Path) -> bool:
    """Return whether a run keeps its own file there, also one that this command does not read."""
    inside = path.parent.parent if path.parent.name.startswith("fold_") else path.parent
    return path.exists() and (inside / "config.json").is_file() and (inside != path.parent or path.name in RUN)


def _is_within(path: Path, source: Path) -> bool:
    """Return whether `path` is `source` or inside it, under whatever name."""
    with contextlib.suppress(OSError):
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source)):
            return True
        return path.exists() and source.exists() and path.samefile(source)
    return False
