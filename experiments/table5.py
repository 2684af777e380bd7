"""Table 5: 100 epochs on the normalised set.

    python -m experiments.table5 --data-dir isic-2024-challenge

Data: all 401,059 rows of the challenge, trained on all malignant and 1 % of the benign ones, five folds; scored on the
normalised rows of each held-out fold, as the paper's figures imply, and on the whole fold. Hardware: a GPU, or days on
a CPU; an epoch is about 3,500 images, 100 of them for each of five folds. Result: not run on the full set yet.
"""

from experiments import paper
from experiments.common import Experiment, Setting, main
from experiments.trained import trained_section

EXPERIMENT = Experiment(
    "table5",
    "Table 5: 100 epochs, normalised set",
    lambda context, runs: trained_section(context, runs[0], paper.TABLE5),
    (Setting("normalised-100", epochs=100),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
