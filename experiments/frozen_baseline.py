"""The paper's baseline: a new classifier on the frozen ImageNet backbone, 50,000 records, Adam 1e-3, no augmentation.

    python -m experiments.frozen_baseline --data-dir isic-2024-challenge

One epoch as in the paper, which prints no figures for it, and 20 epochs to see where it settles. Data: 50,000 random
rows, trained on all malignant and 1 % of the benign ones, five folds. Hardware: 2 CPU cores are enough, as features are
computed once. Time: minutes a fold, mostly for predicting the whole fold. Result: for 7,399 crops in docs/results.md.
"""

from collections.abc import Sequence

from experiments.common import Context, Experiment, Setting, main
from experiments.results import Section
from experiments.trained import trained_section
from jaxlesion.runs.store import Run


def make(context: Context, runs: Sequence[Run]) -> Section:
    """Return a section with the results of both lengths of training."""
    sections = {f"epochs: {run.config.epochs}": trained_section(context, run) for run in runs}
    return Section(
        "\n\n".join(f"### {length}\n\n{section.body}" for length, section in sections.items()),
        [(f"{length}: {metric}", p, ours) for length, s in sections.items() for metric, p, ours in s.summary],
        {f"{length}, {part}": rows for length, s in sections.items() for part, rows in s.figures.items()},
    )


EXPERIMENT = Experiment(
    "frozen_baseline",
    "Frozen baseline: 1 and 20 epochs (no figures in the paper)",
    make,
    (Setting("frozen-1", epochs=1, preset="baseline"), Setting("frozen-20", epochs=20, preset="baseline")),
)

if __name__ == "__main__":
    main(EXPERIMENT)
