"""The pictures of a run's report, and what stands beside them."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

from jaxlesion.core.config import RECIPES
from jaxlesion.core.errors import InputError
from jaxlesion.data.batches import Batches, open_batches
from jaxlesion.data.dataset import Dataset
from jaxlesion.evaluation.metrics import brier_score, expected_calibration_error, log_loss
from jaxlesion.evaluation.registry import CHOSEN
from jaxlesion.evaluation.reliability import reliability
from jaxlesion.evaluation.subgroups import MIN_POSITIVES, by_subgroup
from jaxlesion.evaluation.summary import Estimate, Summary, folds_of
from jaxlesion.inference.predictor import data_config, predict_rows, restore_variables
from jaxlesion.learning.augment import augment
from jaxlesion.learning.step import make_grad_cam_step
from jaxlesion.model.registry import build_model
from jaxlesion.reporting import plots
from jaxlesion.runs.store import Run
from jaxlesion.runtime.devices import data_mesh

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
    """The pictures of a report by name, and why those that are missing cannot be shown."""

    content: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, drawing: "Drawing") -> None:
        self.content[name] = plots.png(drawing)

    def uri(self, name: str) -> str:
        """The picture itself, as an address that asks nobody for it."""
        return "data:image/png;base64," + base64.b64encode(self.content[name]).decode()


@dataclass(frozen=True)
class Source:
    """What a report is made of."""

    run: Run
    dataset: Dataset
    lesions: pd.DataFrame  # of the run, with folds
    table: pd.DataFrame  # out-of-fold predictions, of the finished folds' rows
    parts: Summary
    chosen: np.ndarray  # [n] the threshold of each row of the table, chosen on the other folds; nan where it cannot be

    @property
    def folds(self) -> list[int]:
        return folds_of(self.table)

    @property
    def overall(self) -> str:
        """The part that all rows of the table are in."""
        return "pooled" if len(self.folds) > 1 else f"fold {self.folds[0]}"

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        return self.table["target"].to_numpy(np.int8), self.table["prediction"].to_numpy(np.float64)

    @property
    def threshold(self) -> np.ndarray:
        """[n] The chosen threshold, else 0.5."""
        return np.where(np.isnan(self.chosen), 0.5, self.chosen)

    @property
    def has_chosen(self) -> bool:
        return not np.isnan(self.chosen).any()


def draw_curves(source: Source, pictures: Pictures) -> None:
    """Learning curves, ROC, precision and recall, confusions and scores."""
    pictures.add("learning_curves", plots.learning_curves({k: source.run.fold(k).metrics() for k in source.folds}))
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
    figures = source.parts[source.overall]["whole fold"]
    titles = {"threshold 0.5": ""} | ({"threshold chosen on the other folds": CHOSEN} if source.has_chosen else {})
    matrices = {
        title: plots.Confusion(*(int(figures[prefix + name].value) for name in plots.Confusion._fields))
        for title, prefix in titles.items()
    }
    pictures.add("confusion", plots.confusion_matrices(matrices))
    pictures.add("scores", plots.score_histogram(target, prediction))
    if not source.has_chosen:
        pictures.missing["chosen_threshold"] = ONE_FOLD


def draw_reliability(source: Source, pictures: Pictures) -> tuple[np.ndarray | None, dict[str, dict[str, float]]]:
    """The diagrams; the calibrated prediction of each row, if the run has a calibration, and figures of both."""
    target, prediction = source.columns
    both, calibrated = {"as predicted": prediction}, None
    try:
        calibrated = source.run.calibration().out_of_fold(prediction, source.table["fold"])
        both["calibrated"] = calibrated
    except InputError as e:
        pictures.missing["calibrated"] = f"No calibrated predictions: {e}"
    pictures.add("reliability", plots.reliability_diagram({name: reliability(target, p) for name, p in both.items()}))
    scores = {"Brier score": brier_score, "log loss": log_loss, "calibration error": expected_calibration_error}
    return calibrated, {name: {label: f(target, p) for label, f in scores.items()} for name, p in both.items()}


def draw_subgroups(source: Source, pictures: Pictures, draws: int) -> list[dict[str, Any]]:
    """The forest plot; the subgroups as rows of a table."""
    found = by_subgroup(source.table, source.lesions, source.threshold, resamples=draws)
    if found.empty:
        pictures.missing["subgroups"] = "The metadata has none of the columns that subgroups are made by."
    elif (given := found[found["sensitivity"].notna()]).empty:
        pictures.missing["subgroups"] = f"No subgroup has {MIN_POSITIVES} malignant rows and a benign one."
    else:
        pictures.add("subgroups", plots.forest(given))
    return [
        row
        | {
            name: "" if np.isnan(row[name]) else cell(Estimate(row[name], *(_known(row[name + end]) for end in LIMITS)))
            for name in ("roc_auc", "sensitivity")
        }
        for row in found.to_dict("records")
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def draw_augmentation(source: Source, pictures: Pictures) -> None:
    """Some malignant lesions, spread over the table, each with its first draws of the run's recipe."""
    run, spec = source.run, RECIPES[source.run.config.augment.recipe]
    malignant = np.flatnonzero(source.lesions["target"] == 1)
    if run.config.augment.recipe == "none" or not len(malignant):
        why = "The run trained on images as they are." if len(malignant) else "There is no malignant lesion."
        pictures.missing["augmentation"] = why
        return
    rows = malignant[np.unique(np.linspace(0, len(malignant) - 1, SHOWN).astype(int))]
    batches = batches_of(source)
    images = np.stack([batches.image(row) for row in rows])
    step = jax.jit(partial(augment, spec=spec, seed=run.config.data.seed))
    draws = np.stack([step(images, epoch=epoch, rows=rows.astype(np.int32)) for epoch in range(SHOWN)], 1)
    pictures.add("augmentation", plots.contact_sheet(images, draws, source.lesions["isic_id"].iloc[rows].tolist()))


def draw_mistakes(
    source: Source, pictures: Pictures, calibrated: np.ndarray | None
) -> dict[str, list[Mapping[str, Any]]]:
    """The false positives of the highest and the false negatives of the lowest predictions, as rows of two tables."""
    table = source.table.assign(threshold=source.threshold, calibrated=np.nan if calibrated is None else calibrated)
    called, malignant = table["prediction"] >= table["threshold"], table["target"] == 1
    shown = {
        "false_positives": table[called & ~malignant].nlargest(SHOWN, "prediction"),
        "false_negatives": table[~called & malignant].nsmallest(SHOWN, "prediction"),
    }
    batches, maps = batches_of(source), {}
    row_of = pd.Series(np.arange(len(source.lesions)), source.lesions["isic_id"])
    try:
        maps = heat(source, batches, row_of[pd.concat(shown.values())["isic_id"]].to_numpy())
    except InputError as e:
        pictures.missing["grad_cam"] = f"No Grad-CAM: {e}"
    for name, rows in shown.items():
        if rows.empty:
            pictures.missing[name] = f"There are no {name.replace('_', ' ')} at the threshold."
            continue
        at = row_of[rows["isic_id"]].to_numpy()
        captions = [f"{isic_id}\n{p:.3g}, fold {k}" for isic_id, p, k in rows[CAPTION].itertuples(index=False)]
        images = np.stack([batches.image(row) for row in at])
        pictures.add(name, plots.lesions(images, np.stack([maps[r] for r in at]) if maps else None, captions))
    return {name: rows.to_dict("records") for name, rows in shown.items()}


def heat(source: Source, batches: Batches, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Grad-CAM [h, w] by row, each by the network of the fold that held the row out."""
    step, mesh = make_grad_cam_step(build_model(source.run.config.model)), data_mesh(batches.config.batch_size)
    fold, maps = source.lesions["fold"].to_numpy()[rows], {}
    for k in np.unique(fold).tolist():
        variables, _ = restore_variables(source.run, k, mesh=mesh)
        here = rows[fold == k]
        found = predict_rows(step, variables, batches, here, mesh, f"fold {k}: Grad-CAM")
        maps |= dict(zip(here.tolist(), found, strict=True))
    return maps


def batches_of(source: Source) -> Batches:
    """The images of the run's lesions, as training has left them; so few are read that none is kept anew."""
    config, digest = data_config(source.run, BATCH), source.run.manifest["data"]["images"]
    return open_batches(config, source.lesions, source.dataset, digest, new=False)


def cell(figure: Estimate | None) -> str:
    """A figure and its interval as text."""
    if figure is None:
        return ""
    if isinstance(figure.value, int):
        return f"{figure.value:,}"
    if np.isnan(figure.value):
        return "undefined"
    return f"{figure.value:.3f}" + ("" if figure.low is None else f" ({figure.low:.3f}–{figure.high:.3f})")
