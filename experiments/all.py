"""Make every table of the paper, and a results.md that compares them with the paper's figures.

    python -m experiments.all --data-dir isic-2024-challenge --data-name '$SLICE3D'
    python -m experiments.all --shrink

Give the same command again to resume an interrupted run; finished runs and sections are reused. Cheap tables come
first. On the challenge's 401,059 rows, each of five folds takes 196 epochs of 3,500 images and 70 of 321,000: tables 2,
3 and 6 are 97 % of the cost. `--fold 0` costs a fifth of everything; `--only table1 table4` makes only these two.
"""

from collections.abc import Sequence

from experiments import (
    five_epochs,
    frozen_baseline,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
)
from experiments.common import parse, perform
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program

CHEAPEST_FIRST = (
    *(table1, table8, table9, frozen_baseline, five_epochs, table4, table5, table7),
    *(table2, table6, table3),  # the full set
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in CHEAPEST_FIRST}


def run(argv: Sequence[str] | None = None) -> None:
    """Make all experiments, or only those that --only names."""
    options, wanted = parse(argv, "all", "Every table of the paper, one after the other", tuple(EXPERIMENTS))
    perform([experiment for name, experiment in EXPERIMENTS.items() if name in wanted], options)


if __name__ == "__main__":
    prepare_process()
    run_program(run)
