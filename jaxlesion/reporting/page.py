"""The page and the model card of a report: the context of their templates, and rendering."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from jaxlesion.boosting.explain import reasons
from jaxlesion.core.fields import to_dict
from jaxlesion.core.hooks import Meter
from jaxlesion.data.folds import training_rows
from jaxlesion.data.leaks import telling_columns
from jaxlesion.evaluation.bootstrap import LEVEL
from jaxlesion.evaluation.registry import CHOSEN, Table, headlines, printed
from jaxlesion.evaluation.subgroups import MIN_POSITIVES
from jaxlesion.evaluation.summary import resampled_by
from jaxlesion.reporting.pictures import (
    Pictures,
    cell,
    clinical,
    draw_augmentation,
    draw_curves,
    draw_explanation,
    draw_mistakes,
    draw_reliability,
    draw_subgroups,
    draw_training,
    find_mistakes,
)
from jaxlesion.reporting.source import Source
from jaxlesion.reporting.words import words

OF_KIND = {"training": "network", "augmented": "network", "explained": "tabular"}  # sections of one kind of run alone
SECTIONS = {  # by their ids
    "data": "Data and run",
    "folds": "Figures by fold",
    "training": "Learning curves",
    "ranking": "ROC, precision and recall",
    "calibration": "Reliability",
    "clinic": "Patients and decisions",
    "calls": "Calls and scores",
    "groups": "Subgroups",
    "augmented": "Augmentation",
    "explained": "What the trees rest on",
    "mistakes": "Most confident mistakes",
}

STRONGEST = 20  # features in the table


def page_context(
    source: Source, resamples: int, data_name: str | None, progress: type[Meter] = Meter
) -> dict[str, Any]:
    """Draw the pictures, and return all that the templates are filled with.

    Args:
        source: of the report.
        resamples: for the intervals.
        data_name: the data's name in the report; None for that of their folder.
        progress: makes the meter of longer work.
    """
    pictures = Pictures()
    draw_curves(source, pictures)
    calibrated, calibration = draw_reliability(source, pictures)
    clinic_tables, clinic_notes = clinical(source, pictures, calibrated, resamples)
    groups = draw_subgroups(source, pictures, resamples)
    run, lesions = source.run, source.lesions
    if run.kind == "network":
        draw_training(source, pictures)
        draw_augmentation(source, pictures)
    explanation = draw_explanation(source, pictures, progress) if run.kind == "tabular" else None
    mistakes = find_mistakes(source, calibrated)
    if run.kind == "network":
        draw_mistakes(source, pictures, mistakes)
    shown = [isic_id for rows in mistakes.values() for isic_id in rows["isic_id"]]
    return {
        "sections": {name: title for name, title in SECTIONS.items() if OF_KIND.get(name, run.kind) == run.kind},
        "kind": run.kind,
        "words": words(run.config),
        "explanation": explanation,
        "strongest": list(explanation.strength.items())[:STRONGEST] if explanation else [],
        "reasons": reasons(run, lesions, shown) if explanation else {},
        "pictures": pictures,
        "run": run.folder.resolve().name,
        "manifest": run.manifest,
        "config": run.config,
        "options": flat_options(to_dict(run.config)),
        "weights": Path(run.manifest["weights"]["name"]).name,
        "data": data_facts(source, data_name or source.dataset.metadata.parent.resolve().name),
        "drawn": is_demo(source),
        "folds": source.folds,
        "all_folds": sorted(int(k) for k in lesions["fold"].unique()),
        "overall": source.overall,
        "parts": source.summary,
        "headline": headings(source.has_chosen),
        "figures": printed(Table.CONSOLE),
        "cell": cell,
        "has_chosen": source.has_chosen,
        "bootstrap": {"draws": resamples, "by": resampled_by(source.table), "level": LEVEL},
        "calibration": calibration,
        "groups": groups.rows,
        "gaps": groups.gaps,
        "spread": groups.spread,
        "widest": max(groups.gaps, key=lambda row: abs(row["gap"]), default=None),
        "clinic_tables": clinic_tables,
        "clinic_notes": clinic_notes,
        "min_positives": MIN_POSITIVES,
        "mistakes": {name: rows.to_dict("records") for name, rows in mistakes.items()},
    }


def headings(has_chosen: bool) -> dict[str, str]:
    """Return the headings of the table of folds by metric; with a chosen threshold, those of its metrics too."""
    return {name: label for name, label in headlines().items() if has_chosen or not name.startswith(CHOSEN)}


def data_facts(source: Source, name: str) -> dict[str, Any]:
    """Return facts on the data: name, rows, malignant rows, patients, and a digest of the ids."""
    lesions = source.lesions
    ids = "".join(f"{isic_id}\n" for isic_id in sorted(lesions["isic_id"]))
    trained = [training_rows(lesions, k, source.run.config.sampling, source.run.config.data.seed) for k in source.folds]
    return {
        "name": name,
        "rows": len(lesions),
        "malignant": int(lesions["target"].sum()),
        "malignant_patients": lesions["patient_id"][lesions["target"] == 1].nunique(),
        "patients": lesions["patient_id"].nunique(),
        "patients_known": resampled_by(lesions) == "patient",
        "held_out": len(source.table),
        "held_out_malignant": int(source.table["target"].sum()),
        "trained": {k: len(rows) for k, rows in zip(source.folds, trained, strict=True)},
        "ids": hashlib.sha256(ids.encode()).hexdigest(),
        "near": source.run.manifest.get("near_duplicates"),
        "telling": telling_columns(lesions),
    }


def is_demo(source: Source) -> bool:
    """Return whether the lesions are the demo's, drawn by a program."""
    note = source.dataset.metadata.parent / "README.txt"
    drawn = note.is_file() and note.read_text(errors="replace").startswith("Demo lesions of jaxlesion")
    return drawn or getattr(source.run.config, "preset", None) == "demo"


def flat_options(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a run's options by dotted name; of paths the last part only, since the rest is about a machine."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flat_options(value, f"{prefix}{name}.")
        elif name not in ("data_dir", "run_dir", "resume", "fold"):
            flat[prefix + name] = Path(value).name if isinstance(value, str) else value
    return flat


def render(name: str, context: Mapping[str, Any]) -> str:
    """Fill a template of this package; values in HTML are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxlesion.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.j2").render(context)
