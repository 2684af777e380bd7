"""The pictures of a report, drawn from arrays by matplotlib, and their PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxlesion.boosting.explain import Course, Importance
from jaxlesion.evaluation.decision import NetBenefit
from jaxlesion.evaluation.metrics import CLASSES, MIN_TPR, precision_recall_curve, roc_curve
from jaxlesion.evaluation.reliability import Reliability
from jaxlesion.evaluation.statistics import Confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
COLOURS = {"benign": "#3b6fb6", "malignant": "#c2452d"}  # distinct without red or green vision too
SHADE = "#f0b429"
FLOOR = 1e-5  # the least share on a logarithmic axis
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by name: target [n] and prediction [n]


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def learning_curves(records: Mapping[int, Sequence[Mapping[str, Any]]]) -> "Figure":
    """Draw training loss, and ROC AUC and pAUC on the normalised validation rows, by epoch; a line per fold.

    Args:
        records: of `FoldDir.metrics`, by fold; null is a gap.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(1, 3, (9, 3))
    names = {"mean training loss": None, "validation ROC AUC": "roc_auc", "validation pAUC": "pauc"}
    for axis, (title, name) in zip(axes, names.items(), strict=True):
        for fold, of_fold in records.items():
            values = [record["loss"] if name is None else record["validation"].get(name) for record in of_fold]
            epochs = [record["epoch"] for record in of_fold]
            axis.plot(epochs, np.array(values, np.float64), marker="o", markersize=3, label=f"fold {fold}")
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(fontsize="small")
    return figure


def roc(folds: Curves, overall: tuple[np.ndarray, np.ndarray], name: str) -> "Figure":
    """Draw ROC curves; the area that the challenge scores, above 80 % TPR, is shaded under the overall curve.

    Args:
        folds: thin lines.
        overall: the thick one.
        name: of the thick one.
    """
    figure, axis = square("false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":", label="chance")
    for label, columns in folds.items():
        axis.plot(*roc_curve(*columns)[:2], linewidth=0.8, alpha=0.7, label=label)
    fpr, tpr, _ = roc_curve(*overall)
    axis.plot(fpr, tpr, color="black", linewidth=1.8, label=name)
    axis.fill_between(
        fpr, MIN_TPR, tpr, where=tpr >= MIN_TPR, interpolate=True, color=SHADE, alpha=0.6, linewidth=0, label="pAUC"
    )
    axis.axhline(MIN_TPR, color=SHADE, linewidth=0.8)
    axis.legend(loc="lower right", fontsize="small")
    return figure


def precision_recall(folds: Curves, overall: tuple[np.ndarray, np.ndarray], name: str) -> "Figure":
    """Draw precision by recall, as steps without interpolation between operating points. Arguments as for `roc`."""
    figure, axis = square("recall (sensitivity)", "precision")
    axis.axhline(overall[0].mean(), color="grey", linewidth=0.8, linestyle=":", label="chance: share of malignant rows")
    for label, columns in folds.items():
        precision, recall, _ = precision_recall_curve(*columns)
        axis.step(recall, precision, where="pre", linewidth=0.8, alpha=0.7, label=label)
    precision, recall, _ = precision_recall_curve(*overall)
    axis.step(recall, precision, where="pre", color="black", linewidth=1.8, label=name)
    axis.legend(loc="upper right", fontsize="small")
    return figure


def reliability_diagram(diagrams: Mapping[str, Reliability]) -> "Figure":
    """Draw observed by predicted share of malignant rows, a panel each, on logarithmic axes since both are small.

    A bin without a malignant row has no place there: an arrow hangs from the upper end of its interval.
    """
    from matplotlib.ticker import NullFormatter

    figure, axes = _axes(1, len(diagrams), (4.5 * len(diagrams), 4.2))
    for axis, (title, found) in zip(axes, diagrams.items(), strict=True):
        x, y = (np.clip(share, FLOOR, 1) for share in (found.mean_prediction, found.observed))
        some = found.observed > 0
        errors = np.clip([y - found.low, found.high - y], 0, None)[:, some]
        axis.plot([FLOOR, 1], [FLOOR, 1], color="grey", linewidth=0.8, linestyle=":")
        axis.errorbar(x[some], y[some], errors, fmt="o", markersize=4, capsize=2, linewidth=1, color="black")
        axis.plot(x[~some], found.high[~some], "v", color="grey", markersize=5)
        low = max(FLOOR, min(x.min(), found.high.min(), *y[some]) / 2)
        axis.set(xscale="log", yscale="log", xlim=(low, 1.2), ylim=(low, 1.2), title=title, aspect="equal")
        axis.set(xlabel="mean prediction of the bin", ylabel="share of malignant rows")
        for ticks in (axis.xaxis, axis.yaxis):  # within a decade their labels would overlap
            ticks.set_minor_formatter(NullFormatter())
    return figure


def decision_curve(curve: NetBenefit) -> "Figure":
    """Draw net benefit per 1,000 lesions by threshold probability: of the model, of calling all and of calling none."""
    from matplotlib.ticker import PercentFormatter

    figure, (axis,) = _axes(1, 1, (7, 3.8))
    axis.axhline(0, color="grey", linewidth=0.8, linestyle=":", label="call none")
    axis.plot(curve.threshold, 1000 * curve.treat_all, color="grey", linewidth=1.2, label="call all")
    axis.plot(curve.threshold, 1000 * curve.model, color="black", linewidth=1.8, label="model")
    best = 1000 * max(curve.model.max(), curve.treat_all.max(), 0)
    axis.set(xlabel="threshold probability", ylabel="net benefit per 1,000 lesions", ylim=(-0.25 * best, 1.1 * best))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.legend(fontsize="small")
    return figure


def confusion_matrices(matrices: Mapping[str, Confusion]) -> "Figure":
    """Draw numbers of rows by true and called class, a panel each, coloured by their share of the true class."""
    figure, axes = _axes(1, len(matrices), (3.6 * len(matrices), 3.3))
    for axis, (title, found) in zip(axes, matrices.items(), strict=True):
        counts = np.reshape(found[:4], (2, 2))
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            text = f"{count:,}\n{share[row, column]:.1%}"
            axis.text(
                column, row, text, ha="center", va="center", color="white" if share[row, column] > 0.5 else "black"
            )
        axis.set(xticks=(0, 1), yticks=(0, 1), xticklabels=CLASSES, title=title, xlabel="called", ylabel="is")
        axis.set_yticklabels(CLASSES, rotation=90, va="center")
        axis.grid(False)
    return figure


def score_histogram(target: np.ndarray, prediction: np.ndarray) -> "Figure":
    """Draw a histogram of the predictions of each class; counts on a logarithmic axis."""
    figure, (axis,) = _axes(1, 1, (7, 3.5))
    edges = np.linspace(0, 1, 41)
    for label, name in enumerate(CLASSES):
        rows = prediction[target == label]
        style = {"color": COLOURS[name], "label": f"{name} ({len(rows):,})"}
        axis.hist(rows, edges, histtype="stepfilled", alpha=0.35, **style)
        axis.hist(rows, edges, histtype="step", linewidth=1.2, color=COLOURS[name])
    axis.set(yscale="log", xlim=(0, 1), ylim=(0.7, None), xlabel="prediction", ylabel="rows")
    axis.legend(fontsize="small")
    return figure


def forest(found: pd.DataFrame) -> "Figure":
    """Draw ROC AUC and sensitivity of each subgroup with their intervals.

    Args:
        found: rows of `by_subgroup`, at least one.
    """
    figure, axes = _axes(1, 2, (9, 1.1 + 0.27 * len(found)))
    y = np.arange(len(found))
    for axis, (title, name) in zip(axes, {"ROC AUC": "roc_auc", "sensitivity": "sensitivity"}.items(), strict=True):
        value, low, high = (found[name + end].to_numpy(np.float64) for end in ("", "_low", "_high"))
        axis.errorbar(value, y, fmt="s", markersize=4, color="black")
        axis.hlines(y, low, high, color="black", linewidth=1.2)
        axis.set(title=title, xlim=(-0.02, 1.02), ylim=(len(found) - 0.5, -0.5), yticks=y, yticklabels=[])
    rows = zip(found["variable"], found["group"], found["n"], found["positives"], strict=True)
    labels = [f"{variable}: {_short(group)} ({positives:,} of {n:,})" for variable, group, n, positives in rows]
    axes[0].set_yticklabels(labels, fontsize="small")
    return figure


def importance(found: Sequence[Importance]) -> "Figure":
    """Draw the loss of ROC AUC of each group of features as a bar, with its interval.

    Args:
        found: at least one, the largest first.
    """
    figure, (axis,) = _axes(1, 1, (8, 1.1 + 0.3 * len(found)))
    y = np.arange(len(found))
    axis.barh(y, [one.loss for one in found], color=COLOURS["benign"], height=0.6)
    limits = [(one.low, one.high) if one.low is not None else (np.nan, np.nan) for one in found]
    axis.hlines(y, *np.array(limits, float).T, color="black", linewidth=1.2)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set(xlabel="loss of ROC AUC when shuffled", ylim=(len(found) - 0.5, -0.5), yticks=y)
    axis.set_yticklabels([f"{one.group} ({one.features})" for one in found], fontsize="small")
    return figure


def dependence(courses: Sequence[Course]) -> "Figure":
    """Draw the mean predicted probability by the value of each feature.

    Args:
        courses: one to eight.
    """
    rows = -(-len(courses) // 4)
    figure, axes = _axes(rows, min(4, len(courses)), (9, 2.1 * rows + 0.3))
    top = 1.1 * max(one.probability.max(initial=0) for one in courses)
    for axis, one in zip(axes, courses, strict=False):
        axis.plot(one.at, one.probability, color="black", linewidth=1.5)
        axis.set(ylim=(0, top or 1))
        axis.set_title(one.name.replace("tbp_lv_", ""), fontsize="small")
        axis.tick_params(labelsize="x-small")
    for axis in axes[len(courses) :]:
        axis.set_axis_off()
    return figure


def contact_sheet(originals: np.ndarray, augmented: np.ndarray, names: Sequence[str]) -> "Figure":
    """Draw each lesion in a row: the original, then augmented ones.

    Args:
        originals: uint8 [n, h, w, 3].
        augmented: uint8 [n, k, h, w, 3].
        names: [n].
    """
    n, k = augmented.shape[:2]
    figure, axes = _axes(n, k + 1, (1.35 * (k + 1), 1.45 * n + 0.2), images=True)
    images = np.concatenate([originals[:, None], augmented], 1).reshape(-1, *augmented.shape[2:])
    for axis, image in zip(axes, images, strict=True):
        axis.imshow(image)
    for axis, name in zip(axes[:: k + 1], names, strict=True):
        axis.set_title(name, fontsize="small")
    return figure


def lesions(images: np.ndarray, maps: np.ndarray | None, captions: Sequence[str]) -> "Figure":
    """Draw lesions side by side, and below each the same under its Grad-CAM.

    Args:
        images: uint8 [n, h, w, 3].
        maps: [n, h, w] in [0, 1]; None for no second row.
        captions: [n].
    """
    n, rows = len(images), 1 if maps is None else 2
    figure, axes = _axes(rows, n, (1.6 * max(n, 2), 1.65 * rows + 0.5), images=True)
    for axis, image, caption in zip(axes, images, captions, strict=False):
        axis.imshow(image)
        axis.set_title(caption, fontsize="small")
    for axis, image, heat in zip(axes[n:], images, () if maps is None else maps, strict=False):
        axis.imshow(image)
        axis.imshow(heat, cmap="inferno", alpha=0.15 + 0.45 * heat, vmin=0, vmax=1)
    return figure


def _axes(rows: int, columns: int, inches: tuple[float, float], *, images: bool = False) -> "tuple[Figure, list[Axes]]":
    """Return a figure and its axes, row by row, without ticks for images; pyplot's state is not touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    axes = [figure.add_subplot(rows, columns, 1 + i) for i in range(rows * columns)]
    for axis in axes:
        if images:
            axis.set_axis_off()
        else:
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def square(x: str, y: str) -> "tuple[Figure, Axes]":
    """Return a figure and its axes, both from 0 to 1, with labels."""
    figure, (axis,) = _axes(1, 1, (5.2, 5.2))
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    return figure, axis


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
