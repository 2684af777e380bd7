"""Measure what metadata are worth: each choice of features, and image, metadata and both on the same rows.

    python -m experiments.metadata --data-dir slice3d_metadata --out ckpt/metadata
    python -m experiments.metadata --data-dir slice3d_tbp --out ckpt/both --images ckpt/image --by patients

The first command trains trees on every choice of features; the second compares them with a run of a network on the
same rows, whose folds the trees and the stacks take. `--by hospitals` holds out one hospital after the other. Finished
runs are not trained again. Writes OUT/metadata-BY.md. Hardware: any; time: 6 minutes on 2 cores. Results:
docs/metadata.md.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from experiments.results import markdown
from jaxlesion.boosting.measures import TOPICS
from jaxlesion.boosting.train import train_tabular
from jaxlesion.core.config import FoldsConfig
from jaxlesion.core.experts import FeaturesConfig, StackConfig, TabularConfig, TreesConfig
from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import Hooks
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation.compare import compare
from jaxlesion.evaluation.summary import POOLED, EvalOptions, summarise
from jaxlesion.inference.stacking import fit_stack
from jaxlesion.runs.store import Run
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import say

DEFAULT = FeaturesConfig()
CHOICES = {
    "the default: columns, measures, z and median": DEFAULT,
    "columns alone": FeaturesConfig(derived=False, relative=()),
    "columns and measures": FeaturesConfig(relative=()),
    "z alone": FeaturesConfig(relative=("z",)),
    "median alone": FeaturesConfig(relative=("median",)),
    "with ranks too": FeaturesConfig(relative=("z", "median", "rank")),
    "with differences too": FeaturesConfig(relative=("z", "median", "difference")),
    "also within the kind of tile": FeaturesConfig(within=("patient", "tile")),
    "also within the part of the body": FeaturesConfig(within=("patient", "site")),
    **{f"without {topic}": FeaturesConfig(without=(topic,)) for topic in TOPICS},
}
METRICS = (("ROC AUC", "roc_auc"), ("pAUC", "pauc"))


def trees(options: argparse.Namespace, name: str, features: FeaturesConfig, folds: FoldsConfig) -> Run:
    """Train trees, or open the run that is there."""
    size = TreesConfig(bag=1, trees=4) if options.shrink else TreesConfig()
    folder = options.out / f"{options.by}-{name}"
    config = TabularConfig(
        data_dir=options.data_dir, run_dir=folder, features=features, folds=folds, trees=size, resume=True
    )
    return train_tabular(config, Hooks(progress=ProgressBar))[0]


def stacked(folder: Path, runs: tuple[Path, ...], method: str) -> Run:
    """Stack runs, or open the stack that is there."""
    if (folder / "config.json").is_file():
        return Run.open(folder)
    return fit_stack(StackConfig(runs, method, run_dir=folder), say)[0]


def table_of(predictions: dict[str, pd.DataFrame], resamples: int) -> str:
    """Return a table of metrics, and of their differences to the first, with intervals by patient."""
    first = next(iter(predictions))
    rows = []
    for name, table in predictions.items():
        options = EvalOptions(resamples=resamples)
        own = summarise({"rows": table}, "rows", options)[POOLED]["rows"]
        cells = [_with(own[key].value, own[key].low, own[key].high) for _, key in METRICS]
        if name == first:
            cells += ["", ""]
        else:
            found = compare(table, predictions[first], (name, first), replace(options, swaps=200))
            cells += [_with(found[key].difference, found[key].low, found[key].high, "+") for _, key in METRICS]
        rows.append([name, *cells])
    heads = ["", *(label for label, _ in METRICS), *(f"{label}: difference to the first" for label, _ in METRICS)]
    return markdown(heads, rows)


def _with(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    if low is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def choices(options: argparse.Namespace, folds: FoldsConfig) -> dict[str, Run]:
    """Train trees on every choice of features."""
    found = {}
    wanted = list(CHOICES.items())[: 2 if options.shrink else None]
    for number, (name, features) in enumerate(wanted, start=1):
        say(f"{number} of {len(wanted)}: {name}")
        found[name] = trees(options, str(number), features, folds)
    return found


def both(options: argparse.Namespace) -> dict[str, Run]:
    """Train trees on the folds of a network's run, with and without its logits, and stack the two."""
    image = Run.open(options.images)
    folds = FoldsConfig(group=None, file=(options.images / "folds.csv").resolve())
    alone = trees(options, "trees", DEFAULT, folds)
    with_logits = replace(DEFAULT, runs=(options.images.resolve(),))
    pair = (image.folder, alone.folder)
    return {
        "metadata alone": alone,
        "image alone": image,
        "both: mean of ranks": stacked(options.out / f"{options.by}-rank", pair, "rank"),
        "both: logistic regression": stacked(options.out / f"{options.by}-logistic", pair, "logistic"),
        "both: the image's logit as a feature": trees(options, "feature", with_logits, folds),
    }


def run() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with train-metadata.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--images", type=Path, help="a run of a network on the same rows, with all folds")
    parser.add_argument("--by", choices=("patients", "hospitals"), default="patients", help="what folds keep together")
    parser.add_argument("--bootstrap", type=int, default=2000, help="draws for the intervals, 0 for none")
    parser.add_argument("--shrink", action="store_true", help="try it in seconds: few trees, two choices")
    options = parser.parse_args()
    hospitals = pd.read_csv(options.data_dir / "train-metadata.csv", usecols=["attribution"])["attribution"].nunique()
    folds = FoldsConfig(stratify=True) if options.by == "patients" else FoldsConfig(hospitals, "attribution")
    runs = both(options) if options.images else choices(options, folds)
    predictions = {name: read_predictions(run.folder / "oof.csv") for name, run in runs.items()}
    text = table_of(predictions, options.bootstrap)
    path = options.out / f"metadata-{options.by}.md"
    write_atomic(path, text + "\n")
    say(text)
    say(f"table in {path}")


if __name__ == "__main__":
    run_program(run)
