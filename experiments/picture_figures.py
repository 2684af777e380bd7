"""Figures that `experiments.pictures` draws of a run: ROC curves with bands, reliability, contact sheet, Grad-CAM."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.augmentation_sheet import Sheet, malignant, sheet_figure
from jaxlesion.evaluation.bootstrap import LEVEL, draws
from jaxlesion.evaluation.crossfold import rank_within_folds
from jaxlesion.evaluation.metrics import roc_curve
from jaxlesion.evaluation.reliability import reliability
from jaxlesion.evaluation.statistics import Rows
from jaxlesion.evaluation.summary import patients_of
from jaxlesion.evaluation.units import counted, units_of
from jaxlesion.reporting import plots
from jaxlesion.reporting.pictures import batches_of, heat
from jaxlesion.reporting.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUNS = ("#2f6fb0", "#c2452d")  # of a run and the one against it
GRID = np.linspace(0, 1, 201)  # false positive rates
SHOWN = 3  # lesions of a class


def roc_with_bands(sources: Mapping[str, Source], resamples: int) -> "Figure":
    """Draw ROC curves with a band of intervals at each false positive rate, by resamples of patients."""
    figure, axis = plots.square("false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axis.axhspan(0.8, 1, color=plots.SHADE, alpha=0.15, linewidth=0)
    for (name, source), colour in zip(sources.items(), RUNS, strict=False):
        target, prediction = source.columns
        rank = rank_within_folds(target, prediction, source.table["fold"].to_numpy(np.int8))
        fpr, tpr, _ = roc_curve(target, rank)
        if resamples:
            axis.fill_between(GRID, *band(target, rank, patients_of(source.table), resamples), color=colour, alpha=0.2)
        axis.plot(fpr, tpr, color=colour, linewidth=1.8, label=name)
    axis.legend(loc="lower right", frameon=False)
    return figure


def band(target: np.ndarray, rank: np.ndarray, patient: np.ndarray | None, resamples: int) -> np.ndarray:
    """Return the limits [2, len(GRID)] of the true positive rate at each false positive rate."""
    units = units_of(patient, counted(target, rank, {}))
    rows = Rows(target, rank, units.kind, len(units.sizes), {}, units.sizes)
    found = []
    for weight in draws(units, resamples, 100, 0):
        drawn = rows.weighted(weight)
        falling = zip(1 - drawn.specificity, drawn.sensitivity, strict=True)
        found += [np.interp(GRID, [0, *fpr[::-1], 1], [0, *tpr[::-1], 1]) for fpr, tpr in falling]
    return np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def reliability_before_and_after(source: Source, calibrated: np.ndarray) -> "Figure":
    target, prediction = source.columns
    both = {"as predicted": prediction, "calibrated": calibrated}
    patient = patients_of(source.table)
    return plots.reliability_diagram({name: reliability(target, p, patient=patient) for name, p in both.items()})


def contact_sheet(source: Source, recipe: Any) -> "Figure":
    sheet = Sheet(Path("sheet.png"), recipe=recipe, lesions=4, draws=3, size=96)
    images = malignant(source.dataset.metadata.parent, sheet.lesions, sheet.size, sheet.seed)
    return sheet_figure(images, sheet)


def grad_cam_pairs(source: Source) -> "Figure":
    highest = [source.table[source.table["target"] == target].nlargest(SHOWN, "prediction") for target in (1, 0)]
    row_of = {isic_id: row for row, isic_id in enumerate(source.lesions["isic_id"])}
    rows = np.array([row_of[isic_id] for one in highest for isic_id in one["isic_id"]])
    batches = batches_of(source)
    maps = heat(source, batches, rows)
    captions = [
        f"{label} {p:.2f}"
        for label, one in zip(("malignant", "benign"), highest, strict=True)
        for p in one["prediction"]
    ]
    return plots.lesions(
        np.stack([batches.image(row) for row in rows]), np.stack([maps[row] for row in rows]), captions
    )
