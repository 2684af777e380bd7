"""Sections of experiments that train: per-class metrics beside the paper's, and the threshold-free ones."""

from collections.abc import Sequence

import pandas as pd

from experiments.common import Context
from experiments.paper import Printed
from experiments.results import Section, markdown, shown
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation.clinic import without_uncorrected
from jaxlesion.evaluation.metrics import CLASSES
from jaxlesion.evaluation.registry import CHOSEN
from jaxlesion.evaluation.summary import Estimates, Summary, rows_of_run
from jaxlesion.runs.store import Run

RATES = ("precision", "recall", "f1")
BESIDE = (
    ("rows", "n"),
    ("malignant", "positives"),
    ("called malignant", "predicted_positives"),
    ("ROC AUC", "roc_auc"),
    ("PR AUC", "pr_auc"),
    ("pAUC", "pauc"),
    ("Brier score", "brier"),
)
OVERALL = (
    ("accuracy", "accuracy"),
    ("Hamming loss", "hamming"),
    *((f"macro {label}", f"macro_{rate}") for label, rate in zip(("precision", "recall", "F1"), RATES, strict=True)),
)


def held_out(context: Context, run: Run) -> pd.DataFrame:
    """Return the out-of-fold Predictions of the requested folds."""
    table = read_predictions(run.folder / "oof.csv")
    return table[table["fold"].isin(context.folds(run))].reset_index(drop=True)


def metrics_of_run(context: Context, run: Run) -> Summary:
    """Return metrics by part on `normalised rows` and the `whole fold`; only the latter after training on all rows."""
    rows = rows_of_run(run.config, run.folds_table(), held_out(context, run))
    if run.config.sampling.negatives_kept == 1:
        return context.metrics({"whole fold": rows["whole fold"]})
    found = context.metrics({"normalised rows": rows["normalised"], "whole fold": rows["whole fold"]})
    return without_uncorrected(found, run.config)


def trained_section(
    context: Context,
    run: Run,
    printed: Printed | None = None,
    overall: dict[str, float] | None = None,
) -> Section:
    """Return the section of one run: metrics per class, over both classes, and without a threshold.

    Args:
        context: data, options and folder.
        run: the run, its requested folds finished.
        printed: the paper's table.
        overall: the paper's metrics over both classes.
    """
    parts = metrics_of_run(context, run)
    main = main_part(parts)
    by_rows = parts[main]
    blocks = [
        f"Per class, {main}:",
        per_class(by_rows, printed),
        f"Over both classes, {main}:",
        both_classes(by_rows, overall),
        "Metrics without a threshold, and how many rows 0.5 calls malignant:",
        beside(parts),
    ]
    if CHOSEN + "accuracy" in next(iter(by_rows.values())):
        blocks += [
            f"The malignant class at a threshold chosen on the other folds for the highest F1 there, {main}:",
            at_chosen(by_rows),
        ]
    blocks.append(collapse(by_rows["whole fold"]))
    return Section("\n\n".join(blocks), summary(main, by_rows, printed), parts)


def main_part(parts: Summary) -> str:
    """Return `pooled` if there are several folds, else the name of the only one."""
    return "pooled" if "pooled" in parts else next(iter(parts))


def per_class(by_rows: dict[str, Estimates], printed: Printed | None) -> str:
    """Return a table of precision, recall and F1 of both classes, the paper's first."""
    rows = []
    for name in CLASSES:
        if printed is not None:
            rows.append([name, "paper", *(f"{value:.2f}" for value in getattr(printed, name)), ""])
        for of_rows, metrics in by_rows.items():
            cells = [shown(metrics[f"{name}_{rate}"]) for rate in RATES]
            rows.append([name, f"here, {of_rows}", *cells, shown(metrics[f"{name}_support"])])
    return markdown(["class", "", "precision", "recall", "F1", "rows"], rows)


def both_classes(by_rows: dict[str, Estimates], overall: dict[str, float] | None) -> str:
    """Return a table of accuracy, Hamming loss and macro means, the paper's first."""
    rows = [["paper", *(shown(overall.get(key), 2) for _, key in OVERALL)]] if overall else []
    rows += [[f"here, {of}", *(shown(metrics[key]) for _, key in OVERALL)] for of, metrics in by_rows.items()]
    return markdown(["", *(label for label, _ in OVERALL)], rows)


def beside(parts: Summary) -> str:
    """Return a table of counts and areas of every part: pooled and mean first, then single folds."""
    first = [part for part in ("pooled", "mean of folds") if part in parts]
    order = [*first, *(part for part in parts if part not in first)]
    rows = [
        [of_rows, part, *(shown(parts[part][of_rows].get(key)) for _, key in BESIDE)]
        for of_rows in parts[order[0]]
        for part in order
    ]
    return markdown(["", "", *(label for label, _ in BESIDE)], rows)


def at_chosen(by_rows: dict[str, Estimates]) -> str:
    """Return a table of the malignant class at the thresholds chosen on other folds."""
    keys = (*(f"malignant_{rate}" for rate in RATES), "predicted_positives")
    rows = [[of, *(shown(metrics[CHOSEN + key]) for key in keys)] for of, metrics in by_rows.items()]
    return markdown(["", "precision", "recall", "F1", "called malignant"], rows)


def collapse(metrics: Estimates) -> str:
    """Describe the rows called malignant, and the scores of a classifier that calls every row benign."""
    n, positives, called = (metrics[key].value for key in ("n", "positives", "predicted_positives"))
    hits = metrics["tp"].value
    note = f"{called:,} of {n:,} rows of the whole fold are called malignant at 0.5, {hits:,} of them rightly"
    if not called:
        note = f"**Collapsed:** not one of {n:,} rows of the whole fold is called malignant at 0.5; precision is then 0"
    share = 1 - positives / n
    return (
        f"{note}; {positives:,} are malignant. Calling every row benign would have an accuracy of {share:.4f} and a "
        f"benign precision, recall and F1 of {share:.4f}, 1 and {2 * share / (1 + share):.4f}: neither shows "
        "whether anything was learnt. The areas show that, and so does a threshold that suits the prior."
    )


def summary(main: str, by_rows: dict[str, Estimates], printed: Printed | None) -> Sequence[tuple[str, str, str]]:
    """Return summary rows: malignant F1 on the rows the paper scored, and the ROC AUC of the whole fold."""
    of = next(iter(by_rows))
    paper = "" if printed is None else f"{printed.malignant.f1:.2f}"
    return (
        (f"malignant F1 at 0.5, {of}, {main}", paper, shown(by_rows[of]["malignant_f1"])),
        (f"ROC AUC, whole fold, {main}", "", shown(by_rows["whole fold"]["roc_auc"])),
    )
