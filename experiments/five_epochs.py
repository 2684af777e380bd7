"""Five epochs on the normalised set: not in the paper, but feasible without a GPU.

    python -m experiments.five_epochs --data-dir isic-2024-challenge --sampling.negatives-per-positive 10

Data: as for table 1. Hardware: 2 CPU cores and patience, or any GPU. Time: on 7,399 crops about 2,100 images an epoch,
19 minutes a fold at 224 px on 2 cores; to train one fold at a time, give `--fold 0`, then `--fold 0 1` and so on.
Result: docs/results.md.
"""

from experiments.common import Experiment, Setting, main
from experiments.trained import trained_section

EXPERIMENT = Experiment(
    "five_epochs",
    "Five epochs: normalised set (not in the paper)",
    lambda context, runs: trained_section(context, runs[0]),
    (Setting("normalised-5", epochs=5),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
