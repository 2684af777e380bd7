"""Table 8: k nearest neighbours, F1 of the malignant class for k = 5, 10, 15, 20.

    python -m experiments.table8 --data-dir isic-2024-challenge --features embedding pixels metadata

Data: all rows; the neighbours of each fold are searched among all rows of the other folds. The paper does not name its
features, so there are three kinds. Hardware: 2 CPU cores or a GPU; the predictions are saved and reused by table 9.
`embedding` first passes every row through the network once. Result: for 7,399 crops in docs/results.md; not run on the
challenge's full set yet.
"""

from collections.abc import Sequence

from experiments.common import Context, Experiment, main
from experiments.neighbours import by_features, features_of, note, searched
from experiments.paper import TABLE8
from experiments.results import Section, markdown, shown
from experiments.trained import main_part
from jaxlesion.runs.store import Run

COLUMNS = (
    ("malignant F1", "malignant_f1"),
    ("precision", "malignant_precision"),
    ("recall", "malignant_recall"),
    ("called malignant", "predicted_positives"),
    ("ROC AUC", "roc_auc"),
    ("pAUC", "pauc"),
)


def make(context: Context, runs: Sequence[Run]) -> Section:
    """Return a section with malignant F1 and areas by k, for each kind of features."""
    parts = {features: context.metrics(searched(context, features)) for features in features_of(context)}
    rows = [["paper", "one fold", str(k), f"{f1:.4f}", *[""] * (len(COLUMNS) - 1)] for k, f1 in TABLE8.items()]
    for features, tree in parts.items():
        part = main_part(tree)
        for k in TABLE8:
            metrics = tree[part][f"k = {k}"]
            rows.append([features, part, str(k), *(shown(metrics[key], 4) for _, key in COLUMNS)])
    summary = [
        (f"kNN malignant F1, k = {k}, {features}", f"{f1:.4f}", shown(metrics["malignant_f1"], 4))
        for features, tree in parts.items()
        for k, f1 in TABLE8.items()
        for metrics in [tree[main_part(tree)][f"k = {k}"]]
    ]
    body = markdown(["features", "rows of", "k", *(label for label, _ in COLUMNS)], rows)
    return Section(f"{body}\n\n{note(context)}", summary, by_features(parts))


EXPERIMENT = Experiment("table8", "Table 8: nearest neighbours, malignant F1 by k", make)

if __name__ == "__main__":
    main(EXPERIMENT)
