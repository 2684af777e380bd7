"""Table 9: five nearest neighbours, per class.

    python -m experiments.table9 --data-dir isic-2024-challenge --features embedding pixels metadata

Reuses the search of table 8. The paper scored one fold, 80,133 benign and 79 malignant rows; here every requested fold
is scored. Data, hardware and time as for table 8. Result: for 7,399 crops in docs/results.md; not run on the full set
yet.
"""

from collections.abc import Sequence

from experiments.common import Context, Experiment, main
from experiments.neighbours import by_features, features_of, note, searched
from experiments.paper import TABLE9
from experiments.results import Section, markdown, shown
from experiments.trained import RATES, main_part
from jaxlesion.evaluation.metrics import CLASSES
from jaxlesion.runs.store import Run

K = "k = 5"
SUPPORT = {"benign": 80_133, "malignant": 79}  # of the paper's fold


def make(context: Context, runs: Sequence[Run]) -> Section:
    """Return a section with precision, recall and F1 of both classes, for each kind of features."""
    parts = {f: context.metrics({K: searched(context, f)[K]}) for f in features_of(context)}
    rows = []
    for name in CLASSES:
        printed = (f"{value:.2f}" for value in getattr(TABLE9, name))
        rows.append([name, "paper", "one fold", *printed, f"{SUPPORT[name]:,}"])
        for features, tree in parts.items():
            part = main_part(tree)
            metrics = tree[part][K]
            cells = [shown(metrics[f"{name}_{rate}"]) for rate in RATES]
            rows.append([name, features, part, *cells, shown(metrics[f"{name}_support"])])
    summary = [
        (
            f"kNN malignant {rate}, {K}, {features}",
            f"{printed:.2f}",
            shown(tree[main_part(tree)][K][f"malignant_{rate}"]),
        )
        for features, tree in parts.items()
        for rate, printed in TABLE9.malignant._asdict().items()
        if rate != "f1"  # in table 8
    ]
    body = markdown(["class", "features", "rows of", "precision", "recall", "F1", "rows"], rows)
    return Section(f"{body}\n\n{note(context)}", summary, by_features(parts))


EXPERIMENT = Experiment("table9", "Table 9: five nearest neighbours, per class", make)

if __name__ == "__main__":
    main(EXPERIMENT)
