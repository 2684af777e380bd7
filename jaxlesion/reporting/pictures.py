"""The pictures of a run's report, and the tables beside them."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxlesion.boosting.explain import Explanation, explain
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Meter
from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.data.batches import Batches, open_batches
from jaxlesion.evaluation.clinic import (
    OF_ANY_PRIOR,
    ClinicOptions,
    Grid,
    Probabilities,
    calibration_by_label,
    clinic,
    grids,
)
from jaxlesion.evaluation.decision import decision_curve
from jaxlesion.evaluation.registry import CHOSEN, Table, values_of
from jaxlesion.evaluation.reliability import reliability
from jaxlesion.evaluation.spread import Spread, gaps, spread_over
from jaxlesion.evaluation.statistics import Confusion
from jaxlesion.evaluation.subgroups import MIN_POSITIVES, by_subgroup
from jaxlesion.evaluation.summary import Estimate, patients_of
from jaxlesion.inference.predictor import data_config, restore_variables
from jaxlesion.learning.augment import augment
from jaxlesion.learning.loop import predict_rows
from jaxlesion.learning.step import make_grad_cam_step
from jaxlesion.model.registry import build_model
from jaxlesion.reporting import plots
from jaxlesion.reporting.source import Source
from jaxlesion.runtime.devices import data_mesh, platform_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SHOWN = 6  # lesions side by side, and draws beside a lesion
BATCH = 8  # images at a time: a gradient holds more of each than a prediction does
LIMITS = ("_low", "_high")
CAPTION = ["isic_id", "prediction", "fold"]
ONE_FOLD = (
    "No threshold can be chosen: that takes out-of-fold predictions of two folds, both with malignant lesions, since "
    "one that is chosen on the rows it is reported on is too good."
)


@dataclass
class Pictures:
    """The pictures of a report by name, and for each missing one the reason."""

    content: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, drawing: "Drawing") -> None:
        """Keep a drawing as PNG."""
        self.content[name] = plots.png(drawing)

    def uri(self, name: str) -> str:
        """Return the picture as a data URI, which needs no network."""
        return "data:image/png;base64," + base64.b64encode(self.content[name]).decode()


def draw_training(source: Source, pictures: Pictures) -> None:
    """Draw the learning curves."""
    pictures.add("learning_curves", plots.learning_curves({k: source.run.fold(k).metrics() for k in source.folds}))


def draw_explanation(source: Source, pictures: Pictures, progress: type[Meter]) -> Explanation:
    """Draw what the trees of a run rest on, and return it."""
    found = explain(source.run, source.lesions, source.table, progress)
    if found.importance:
        pictures.add("importance", plots.importance(found.importance))
    else:
        pictures.missing["importance"] = "There is no importance: the held-out rows are all of one class."
    if found.courses:
        pictures.add("dependence", plots.dependence(found.courses))
    else:
        pictures.missing["dependence"] = "There is no partial dependence: no feature is a number."
    return found


def draw_curves(source: Source, pictures: Pictures) -> None:
    """Draw ROC, precision and recall, confusions and scores."""
    target, prediction = source.columns
    if len(np.unique(target)) == 2:
        fold = source.table["fold"].to_numpy(np.int8)
        several = source.folds if len(source.folds) > 1 else []
        folds = {f"fold {k}": (target[fold == k], prediction[fold == k]) for k in several}
        folds = {name: columns for name, columns in folds.items() if len(np.unique(columns[0])) == 2}
        pictures.add("roc", plots.roc(folds, source.columns, source.overall))
        pictures.add("precision_recall", plots.precision_recall(folds, source.columns, source.overall))
    else:
        why = "There is no curve: the held-out rows are all of one class."
        pictures.missing |= {"roc": why, "precision_recall": why}
    estimates = source.summary[source.overall]["whole fold"]
    titles = {"threshold 0.5": ""} | ({"threshold chosen on the other folds": CHOSEN} if source.has_chosen else {})
    matrices = {
        title: Confusion(*(int(estimates[prefix + name].value) for name in Confusion._fields[:4]))
        for title, prefix in titles.items()
    }
    pictures.add("confusion", plots.confusion_matrices(matrices))
    pictures.add("scores", plots.score_histogram(target, prediction))
    if not source.has_chosen:
        pictures.missing["chosen_threshold"] = ONE_FOLD


def draw_reliability(source: Source, pictures: Pictures) -> tuple[np.ndarray | None, dict[str, dict[str, float]]]:
    """Draw the diagrams; return each row's calibrated prediction, if the run has a calibration, and scores of both."""
    target, prediction = source.columns
    both, calibrated = {"as predicted": prediction}, None
    try:
        calibrated = source.run.calibration().out_of_fold(prediction, source.table["fold"])
        both["calibrated"] = calibrated
    except InputError as e:
        pictures.missing["calibrated"] = f"No calibrated predictions: {e}"
    patient = patients_of(source.table)
    diagrams = {name: reliability(target, p, patient=patient) for name, p in both.items()}
    pictures.add("reliability", plots.reliability_diagram(diagrams))
    scores = {
        name: values_of(Table.CALIBRATION, target, p) | calibration_by_label(target, p) for name, p in both.items()
    }
    scores["as predicted"] = {label: scores["as predicted"][label] for label in OF_ANY_PRIOR}
    return calibrated, scores


def clinical(
    source: Source, pictures: Pictures, calibrated: np.ndarray | None, resamples: int
) -> tuple[list[Grid], list[str]]:
    """Draw the decision curve; return the tables of clinical metrics, text for cells, and the sentences under them."""
    if calibrated is None:
        pictures.missing["decision_curve"] = "There is no decision curve: it takes calibrated predictions."
    else:
        pictures.add("decision_curve", plots.decision_curve(decision_curve(source.columns[0], calibrated)))
    probabilities = None if calibrated is None else Probabilities(calibrated, source.run.calibration().prevalence)
    table = source.table.assign(chosen=source.chosen)
    found = clinic(table, probabilities, ClinicOptions(resamples=resamples))
    shown = [
        grid._replace(rows=[(label, [_text(value) for value in cells]) for label, cells in grid.rows])
        for grid in grids(found)
    ]
    return shown, found.notes


def _text(value: Estimate | float | None) -> str:
    if isinstance(value, Estimate) or value is None:
        return cell(value)
    if isinstance(value, int) or np.isnan(value):
        return "" if value != value else f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.3g}"


class Subgroups(NamedTuple):
    """Rows of the tables of subgroups and of their gaps, and the spread over hospitals if that is known."""

    rows: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    spread: Spread | None


def draw_subgroups(source: Source, pictures: Pictures, resamples: int) -> Subgroups:
    """Draw the forest plot; return the tables."""
    found = by_subgroup(source.table, source.lesions, source.threshold, resamples=resamples)
    if found.empty:
        pictures.missing["subgroups"] = "The metadata has none of the columns that subgroups are made by."
    elif (given := found[found["sensitivity"].notna()]).empty:
        pictures.missing["subgroups"] = f"No subgroup has {MIN_POSITIVES} malignant rows and a benign one."
    else:
        pictures.add("subgroups", plots.forest(given))
    rows = [
        row
        | {
            name: "" if np.isnan(row[name]) else cell(Estimate(row[name], *(_known(row[name + end]) for end in LIMITS)))
            for name in ("roc_auc", "sensitivity")
        }
        for row in found.to_dict("records")
    ]
    return Subgroups(rows, gaps(found).to_dict("records"), spread_over(found))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def draw_augmentation(source: Source, pictures: Pictures) -> None:
    """Draw some malignant lesions, spread over the table, each with its first augmentations by the run's recipe."""
    run, spec = source.run, source.run.config.augment.spec
    malignant = np.flatnonzero(source.lesions["target"] == 1)
    if spec == RecipeSpec() or not len(malignant):
        why = "The run trained on images as they are." if len(malignant) else "There is no malignant lesion."
        pictures.missing["augmentation"] = why
        return
    rows = malignant[np.unique(np.linspace(0, len(malignant) - 1, SHOWN).astype(int))]
    batches = batches_of(source)
    images = np.stack([batches.image(row) for row in rows])
    step = jax.jit(partial(augment, spec=spec, seed=run.config.data.seed))
    augmented = np.stack([step(images, epoch=epoch, rows=rows.astype(np.int32)) for epoch in range(SHOWN)], 1)
    pictures.add("augmentation", plots.contact_sheet(images, augmented, source.lesions["isic_id"].iloc[rows].tolist()))


def find_mistakes(source: Source, calibrated: np.ndarray | None) -> dict[str, pd.DataFrame]:
    """Return the false positives of the highest and the false negatives of the lowest predictions."""
    table = source.table.assign(threshold=source.threshold, calibrated=np.nan if calibrated is None else calibrated)
    called, malignant = table["prediction"] >= table["threshold"], table["target"] == 1
    return {
        "false_positives": table[called & ~malignant].nlargest(SHOWN, "prediction"),
        "false_negatives": table[~called & malignant].nsmallest(SHOWN, "prediction"),
    }


def draw_mistakes(source: Source, pictures: Pictures, mistakes: Mapping[str, pd.DataFrame]) -> None:
    """Draw the lesions of `find_mistakes`, with Grad-CAM below."""
    batches, maps = batches_of(source), {}
    row_of = pd.Series(np.arange(len(source.lesions)), source.lesions["isic_id"])
    try:
        maps = heat(source, batches, row_of[pd.concat(mistakes.values())["isic_id"]].to_numpy())
    except InputError as e:
        pictures.missing["grad_cam"] = f"No Grad-CAM: {e}"
    for name, rows in mistakes.items():
        if rows.empty:
            pictures.missing[name] = f"There are no {name.replace('_', ' ')} at the threshold."
            continue
        at = row_of[rows["isic_id"]].to_numpy()
        captions = [f"{isic_id}\n{p:.3g}, fold {k}" for isic_id, p, k in rows[CAPTION].itertuples(index=False)]
        images = np.stack([batches.image(row) for row in at])
        pictures.add(name, plots.lesions(images, np.stack([maps[r] for r in at]) if maps else None, captions))


def heat(source: Source, batches: Batches, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Return Grad-CAM [h, w] by row, each by the network of the fold that held the row out."""
    mesh = data_mesh(batches.config.batch_size)
    step = make_grad_cam_step(build_model(source.run.config.model, platform_of(mesh)))
    fold, maps = source.lesions["fold"].to_numpy()[rows], {}
    for k in np.unique(fold).tolist():
        variables, _ = restore_variables(source.run, k, mesh=mesh)
        held_out = rows[fold == k]
        found = predict_rows(step, variables, batches, held_out, mesh, f"fold {k}: Grad-CAM")
        maps |= dict(zip(held_out.tolist(), found, strict=True))
    return maps


def batches_of(source: Source) -> Batches:
    """Open the images of the run's lesions, cached if training cached them; too few are read to start a cache."""
    config, digest = data_config(source.run, BATCH), source.run.manifest["data"]["images"]
    return open_batches(config, source.lesions, source.dataset, digest, new=False)


def cell(estimate: Estimate | None) -> str:
    """Return a value and its interval as text."""
    if estimate is None:
        return ""
    if isinstance(estimate.value, int):
        return f"{estimate.value:,}"
    if np.isnan(estimate.value):
        return "undefined"
    return f"{estimate.value:.3f}" + ("" if estimate.low is None else f" ({estimate.low:.3f}–{estimate.high:.3f})")
