"""python -m jaxlesion.report: a run on one page, with its pictures, and its model card."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from jaxlesion.core.config import to_dict
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.folds import training_rows
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation.bootstrap import LEVEL, RESAMPLES
from jaxlesion.evaluation.registry import CHOSEN, Table, headlines, printed
from jaxlesion.evaluation.subgroups import MIN_POSITIVES
from jaxlesion.evaluation.summary import EvalOptions, resampled_by, summarise_run
from jaxlesion.evaluation.thresholds import on_other_folds
from jaxlesion.inference.predictor import finished_folds
from jaxlesion.reporting.pictures import (
    Pictures,
    Source,
    cell,
    draw_augmentation,
    draw_curves,
    draw_mistakes,
    draw_reliability,
    draw_subgroups,
)
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import progress, say
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse

SECTIONS = {  # by their ids
    "data": "Data and run",
    "folds": "Figures by fold",
    "training": "Learning curves",
    "ranking": "ROC, precision and recall",
    "calibration": "Reliability",
    "calls": "Calls and scores",
    "groups": "Subgroups",
    "augmented": "Augmentation",
    "mistakes": "Most confident mistakes",
}


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html and model_card.md of a run, from its out-of-fold predictions."""

    run: Path
    """Folder of a run with at least one finished fold."""
    data_dir: Path | None = None
    """Where its data lies now [default: where it lay in training]. The hashes are checked."""
    data_name: str | None = None
    """What the report calls the data [default: the name of its folder]."""
    out: Path | None = None
    """Folder that is written to [default: report in the folder of the run]."""
    bootstrap: int = RESAMPLES
    """Draws for the intervals: of patients, or of rows where no patient has two. 0 for no intervals."""


def report(config: ReportConfig) -> Path:
    """Write the pictures, then report.html and model_card.md; return the folder.

    Raises:
        InputError: no run, no finished fold, other data than it was trained on, or a folder that cannot be made.
    """
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    source = read(config)
    out = config.out or config.run / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{out} cannot be made ({e.strerror}): give another --out") from None
    context = content(source, config)
    for name, picture in context["pictures"].content.items():
        write_atomic(out / f"{name}.png", picture)
    for name in ("report.html", "model_card.md"):
        write_atomic(out / name, render(name, context))
    for name, why in context["pictures"].missing.items():
        say(f"{name}: {why}")
    say(f"report: {out / 'report.html'}    model card: {out / 'model_card.md'}")
    return out


def read(config: ReportConfig) -> Source:
    """The run, its data and out-of-fold predictions, and the figures of these."""
    run = Run.open(config.run)
    finished_folds(run)
    dataset, lesions = run.open_data(config.data_dir)
    table = held_out(run, lesions)
    columns = (table[name].to_numpy(np.float64) for name in ("target", "prediction", "fold"))
    with progress("bootstrap") as tick:
        parts = summarise_run(run.config, lesions, table, EvalOptions(resamples=config.bootstrap, tick=tick))
    return Source(run, dataset, lesions, table, parts, on_other_folds(*columns))


def held_out(run: Run, lesions: pd.DataFrame) -> pd.DataFrame:
    """The run's oof.csv.

    Raises:
        InputError: it is not the rows that folds.csv has for its folds, each once, with their targets.
    """
    path = run.folder / "oof.csv"
    table = read_predictions(path)
    keys = ["isic_id", "target", "fold"]
    there, wanted = table[keys], lesions.loc[lesions["fold"].isin(table["fold"]), keys]
    if there["fold"].isna().any() or sorted(there.itertuples(index=False)) != sorted(wanted.itertuples(index=False)):
        raise InputError(f"{path}: does not hold the very rows of folds.csv: write it anew by train --resume")
    return table


def content(source: Source, config: ReportConfig) -> dict[str, Any]:
    """What the templates are filled with."""
    pictures = Pictures()
    draw_curves(source, pictures)
    calibrated, calibration = draw_reliability(source, pictures)
    groups = draw_subgroups(source, pictures, config.bootstrap)
    draw_augmentation(source, pictures)
    mistakes = draw_mistakes(source, pictures, calibrated)
    run, lesions = source.run, source.lesions
    return {
        "sections": SECTIONS,
        "pictures": pictures,
        "run": run.folder.resolve().name,
        "manifest": run.manifest,
        "config": run.config,
        "options": options(to_dict(run.config)),
        "weights": Path(run.config.weights).name,
        "data": data_facts(source, config.data_name or source.dataset.metadata.parent.resolve().name),
        "drawn": is_drawn(source),
        "folds": source.folds,
        "all_folds": sorted(int(k) for k in lesions["fold"].unique()),
        "overall": source.overall,
        "parts": source.parts,
        "headline": {n: label for n, label in headlines().items() if source.has_chosen or not n.startswith(CHOSEN)},
        "figures": printed(Table.CONSOLE),
        "cell": cell,
        "has_chosen": source.has_chosen,
        "bootstrap": {"draws": config.bootstrap, "by": resampled_by(source.table), "level": LEVEL},
        "calibration": calibration,
        "groups": groups,
        "min_positives": MIN_POSITIVES,
        "mistakes": mistakes,
    }


def data_facts(source: Source, name: str) -> dict[str, Any]:
    """What the data are: name, rows, malignant rows, patients, and a digest of the ids."""
    lesions = source.lesions
    ids = "".join(f"{isic_id}\n" for isic_id in sorted(lesions["isic_id"]))
    trained = [training_rows(lesions, k, source.run.config.sampling, source.run.config.data.seed) for k in source.folds]
    return {
        "name": name,
        "rows": len(lesions),
        "malignant": int(lesions["target"].sum()),
        "patients": lesions["patient_id"].nunique(),
        "patients_known": resampled_by(lesions) == "patient",
        "held_out": len(source.table),
        "held_out_malignant": int(source.table["target"].sum()),
        "trained": {k: len(rows) for k, rows in zip(source.folds, trained, strict=True)},
        "ids": hashlib.sha256(ids.encode()).hexdigest(),
    }


def is_drawn(source: Source) -> bool:
    """Whether the lesions are the demo's, drawn by a program."""
    note = source.dataset.metadata.parent / "README.txt"
    drawn = note.is_file() and note.read_text(errors="replace").startswith("Demo lesions of jaxlesion")
    return drawn or source.run.config.preset == "demo"


def options(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The run's options by dotted name; a path by its last part, since the rest is about a machine."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= options(value, f"{prefix}{name}.")
        elif name not in ("data_dir", "run_dir", "resume", "fold"):
            flat[prefix + name] = Path(value).name if isinstance(value, str) else value
    return flat


def render(name: str, context: Mapping[str, Any]) -> str:
    """A template of this package, filled; what goes into HTML is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxlesion.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.j2").render(context)


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.report`."""
    prepare_process()
    run_program(lambda: report(parse(ReportConfig, arguments(argv), "report")))


if __name__ == "__main__":
    main()
