"""Sections and `results.md`: metrics as Markdown, and descriptions of data, machine and runs."""

import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.core.presets import preset
from jaxlesion.evaluation.bootstrap import LEVEL
from jaxlesion.evaluation.summary import Estimate, Summary, as_json, resampled_by
from jaxlesion.runs.manifest import make_manifest
from jaxlesion.runs.store import Run

ORDER = ("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8", "table9")
ORDER += ("frozen_baseline", "five_epochs")
TITLE = "# The paper's tables, reproduced\n\nHow do our results compare with each table of the paper?"
SHRUNK = """> **Shrunk: no figure below means anything.** A tiny network of random weights, 32 px, 1, 2, 3 and 4 epochs
> instead of 1, 20, 50 and 100: this shows that every table can be made, not what comes out."""
SAME = "**No patient is known to have two of these lesions**, so lesions of one patient may be on both sides of a fold."


@dataclass(frozen=True)
class Section:
    """The result of an experiment.

    Args:
        body: Markdown under the section's heading.
        summary: rows of the table at the top: name of the metric, the paper's value, our value.
        figures: all metrics, for programs.
    """

    body: str
    summary: Sequence[tuple[str, str, str]] = ()
    figures: Summary = field(default_factory=dict)


def to_json(section: Section, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the section as JSON values, with its date, machine, software and runs."""
    return {
        "made": environment(),
        "runs": [described(run) for run in runs],
        "body": section.body,
        "summary": [list(row) for row in section.summary],
        "figures": json.loads(as_json(section.figures, [], 0, ""))["figures"],
    }


def load(path: Path) -> dict[str, Any]:
    """Return a saved section as JSON values.

    Raises:
        InputError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        return {key: content[key] for key in ("title", "made_from", "made", "runs", "body", "summary", "figures")}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path}: not a section that was saved here ({e}); remove it, and it is rebuilt") from None


def write(path: Path, folder: Path, data_name: str, lesions: pd.DataFrame, shrunk: bool) -> None:
    """Write results.md from the saved sections in `folder` that have the same rows and the same `shrunk`."""
    saved = {name: load(folder / f"{name}.json") for name in ORDER if (folder / f"{name}.json").is_file()}
    wanted = {"ids": hash_of_ids(lesions), "shrunk": shrunk}
    sections = {name: s for name, s in saved.items() if wanted.items() <= s["made_from"].items()}
    parts = [TITLE, *([SHRUNK] if shrunk else []), _data(data_name, lesions)]
    if sections:
        parts.append(_summary(sections))
    if missing := [name for name in ORDER if name not in sections]:
        parts.append(f"Not made yet of these rows: {', '.join(missing)} (`python -m experiments.NAME`).")
    for name, section in sections.items():
        made = section["made"]
        lines = [f"- {line}" for line in section["runs"]]
        lines.append(f"- Made on {made['date']}: {made['machine']}; {made['software']}.")
        if section["figures"]:
            lines.append(f"- All metrics, with those of each fold, are in `{name}.json`.")
        parts += [f"## {section['title']}", section["body"], "\n".join(lines)]
    write_atomic(path, "\n\n".join(parts) + "\n")


def hash_of_ids(lesions: pd.DataFrame) -> str:
    """Return the SHA-256 of the sorted ids, each with a newline."""
    return hashlib.sha256("".join(f"{isic_id}\n" for isic_id in sorted(lesions["isic_id"])).encode()).hexdigest()


def _data(name: str, lesions: pd.DataFrame) -> str:
    target, patients = lesions["target"], lesions["patient_id"].nunique()
    by = resampled_by(lesions)
    prose = (
        f"**Data:** `{name}`, {len(lesions):,} rows, {int(target.sum()):,} malignant, {(target == 0).sum():,} benign "
        f"({1 / target.mean() - 1:,.1f} to 1), {patients:,} patient ids; SHA-256 of the sorted ids, each with a "
        f"newline: `{hash_of_ids(lesions)}`."
    )
    intervals = (
        f"**How to read it:** in brackets stands the {100 * LEVEL:.0f} % interval, from resamples of {by}s. "
        "Thresholded metrics are at 0.5 as in the paper, of probabilities that carry the prior of the training rows. "
        "`pooled` means all held-out rows at once, each predicted by the network of the fold that held it out. "
        "`normalised rows` are all malignant rows of a fold and benign ones at the training's sampling; `whole fold` "
        "is every row. pAUC is the challenge's, above 80 % TPR: 0.2 at best, 0.02 by chance. PR AUC by chance is the "
        "share of malignant rows. Where no row was called malignant, precision is given as 0."
    )
    return "\n\n".join([prose, *([SAME] if by == "row" else []), intervals])


def _summary(sections: Mapping[str, dict[str, Any]]) -> str:
    rows = [
        [section["title"].partition(":")[0] if number == 0 else "", *row]
        for section in sections.values()
        for number, row in enumerate(section["summary"])
    ]
    return "## At a glance\n\n" + markdown(["", "metric", "paper", "here"], rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with columns of numbers aligned right."""
    rows = [list(row) for row in rows]
    right = [
        any(row[i] for row in rows) and all(re.match(r"^(-?[\d.,]+( \[.*\])?|undefined|)$", row[i]) for row in rows)
        for i in range(len(header))
    ]
    lines = [header, ["--:" if of_numbers else "---" for of_numbers in right], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(metric: Estimate | float | None, digits: int = 3) -> str:
    """Format a metric with its interval; an empty string for None."""
    if metric is None:
        return ""
    value, low, high = metric if isinstance(metric, tuple) else (metric, None, None)
    if isinstance(value, int):
        return f"{value:,}"
    if value != value:
        return "undefined"
    text = f"{value:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def described(run: Run) -> str:
    """Describe a run in one line: settings, weights, time and machine."""
    manifest, differing = run.manifest, differences(run.config)
    options = " ".join(f"`{fields.flag(name)} {value}`" for name, value in differing.items() if value is not None)
    weights = manifest["weights"]
    name = Path(weights["name"]).name + (f" (SHA-256 {weights['sha256'][:12]}...)" if weights["sha256"] else "")
    folds = run.finished_folds()
    seconds, epochs = 0.0, 0
    for k in folds:
        path = run.fold(k).folder / "timing.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        seconds += sum(record["train_seconds"] + record["validation_seconds"] for record in records)
        epochs += len(records)
    devices, versions = manifest["devices"], manifest["versions"]
    software = ", ".join(f"{name} {versions[name]}" for name in ("jaxlesion", "jax") if name in versions)
    return (
        f"Run `{run.folder.name}`: preset `{run.config.preset}`{f' with {options}' if options else ''}; "
        f"weights {name}; {manifest['rows']:,} rows; folds {' '.join(map(str, folds))}; "
        f"{seconds / 60:.1f} min of training and validation; "
        f"{len(devices)} x {devices[0]}; {software}."
    )


def differences(config: TrainConfig) -> dict[str, Any]:
    """Return the dotted options that affect metrics and differ from the preset, except the weights."""
    usual = _flat(configuration.identity(preset(config.preset)))
    return {
        name: value
        for name, value in _flat(configuration.identity(config)).items()
        if value != usual[name] and name != "weights"
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def environment() -> dict[str, str]:
    """Return date, machine and software as texts for results.md."""
    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cores} CPU cores ({_processor()})"
    if devices[0].platform != "cpu":
        machine = f"{len(devices)} x {devices[0].device_kind}, {machine}"
    manifest = make_manifest({}, 0, {}, [])
    versions = manifest["versions"]
    names = [n for n in ("python", "jaxlesion", "jax", "jaxlib", "flax", "numpy") if n in versions]
    software = ", ".join(f"{name} {versions[name]}" for name in names)
    commit = manifest["git_commit"]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "software": software + (f", commit {commit[:12]}" if commit else ""),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
