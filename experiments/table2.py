"""Table 2: 20 epochs on the full set, where the paper's network called everything benign.

    python -m experiments.table2 --data-dir isic-2024-challenge

Data: all 401,059 rows of the challenge, every benign one trained on (`--sampling.negatives-kept 1`), five folds, scored
on the whole fold, also by areas and the number of rows called malignant. Hardware: a GPU; an epoch is 321,000
images, 20 of them for each of five folds (32 million images; `--fold 0` is a fifth). Result: not run yet.
"""

from experiments import paper
from experiments.common import Experiment, Setting, main
from experiments.trained import trained_section

EXPERIMENT = Experiment(
    "table2",
    "Table 2: 20 epochs, full set",
    lambda context, runs: trained_section(context, runs[0], paper.TABLE2),
    (Setting("full-20", epochs=20, full=True),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
