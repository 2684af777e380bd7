"""Table 1: one epoch on the normalised set, and the paper's overall figures.

    python -m experiments.table1 --data-dir isic-2024-challenge

Data: all 401,059 rows of the challenge, trained on all malignant and 1 % of the benign ones, five folds; scored on the
normalised rows of each held-out fold, as the paper's figures imply, and on the whole fold. Hardware: any; time: five
epochs of about 3,500 images, and all rows predicted once. Result: not run on the challenge's full set yet.
"""

from experiments import paper
from experiments.common import Experiment, Setting, main
from experiments.trained import trained_section

EXPERIMENT = Experiment(
    "table1",
    "Table 1: one epoch, normalised set",
    lambda context, runs: trained_section(context, runs[0], paper.TABLE1, paper.OVERALL),
    (Setting("normalised-1", epochs=1),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
