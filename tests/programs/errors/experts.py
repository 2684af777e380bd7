"""Mistakes in training trees on metadata, and in stacking runs."""

from pathlib import Path

from errors.case import Case, column, nothing

from jaxlesion import evaluate, predict, stack, tabular
from jaxlesion.boosting.train import train_tabular
from jaxlesion.ui.options import parse_tabular

TREES = ("--data-dir", "data", "--run-dir", "trees", "--trees.trees", "2", "--trees.bag", "1", "--folds.n", "2")


def sized() -> None:
    """Add a column that trees can learn from."""
    column("tbp_lv_areaMM2", lambda i: i % 7)()


def trees(*options: str) -> None:
    """Train trees in silence."""
    sized()
    train_tabular(parse_tabular([*TREES, *options]))


def two_runs() -> None:
    trees()
    trees("--run-dir", "other", "--folds.seed", "1")


def changed_trees() -> None:
    """Change a digit of a member after training."""
    trees()
    path = Path("trees/fold_0/trees-0.txt")
    path.write_text(path.read_text().replace("shrinkage=1", "shrinkage=2", 1))


def tested_without_the_column() -> None:
    trees()
    Path("data/test-metadata.csv").write_text("isic_id,patient_id\nISIC_9999,IP_99\n")


GROUPS = {
    "Trees on metadata": [
        Case(
            *("The table has no column beside ids and targets", nothing, tabular.main, TREES),
            "the table has no column to learn from beyond ids, targets and diagnoses",
            "Give a table with measurements of the lesions.",
        ),
        Case(
            *("A topic that there is not", sized, tabular.main, (*TREES, "--features.without", "colours")),
            "--features.without colours: is no column of the table, no measure and no topic; topics are size, shape "
            "and border, colour, contrast to the skin, skin around, confidence of a nevus, place on the body, "
            "age and sex, camera",
            "Names with spaces take quotes.",
        ),
        Case(
            *("A fold of trees that is finished", trees, tabular.main, TREES),
            "trees: fold 0 is finished: add --resume to train what is missing, or give another --run-dir",
            "Nothing is trained twice.",
        ),
        Case(
            *("A run of other folds gives features", two_runs, tabular.main),
            (*TREES[:3], "third", *TREES[4:], "--features.runs", "other"),
            "FOLDER/other/oof.csv: ISIC_0004 is in fold 1 there and 0 here, so a prediction would have seen its label; "
            "train --folds.file FOLDER/other/folds.csv",
            "Folds of all runs must be the same, or test rows leak into training.",
        ),
        Case(
            *("The table to predict lacks a column", tested_without_the_column, predict.main),
            ("--run", "trees", "--data-dir", "data"),
            "data/test-metadata.csv: lacks tbp_lv_areaMM2, which the run was trained with; add the columns, empty "
            "where nothing is known",
            "A run on metadata predicts from the same columns.",
        ),
        Case(
            *("A file of trees has changed since training", changed_trees, evaluate.main, ("--run", "trees")),
            "trees/fold_0/trees-0.txt: its SHA-256 is not the one in features.json: put back what training wrote, or "
            "delete trees/fold_0 and train the fold again",
            "Models are compared with the digests that training kept of them.",
        ),
        Case(
            *("A picture is given to trees", trees, predict.main, ("--run", "trees", "--image", "a.jpg")),
            "trees is a tabular run, which predicts the rows of a table: give --data-dir",
            "Pictures are for networks.",
        ),
    ],
    "Stacks": [
        Case(
            *("One run is no stack", trees, stack.main, ("--runs", "trees", "--run-dir", "stack")),
            "give --runs two or more folders of runs",
            "Name all runs after one `--runs`.",
        ),
        Case(
            *("Runs of other folds", two_runs, stack.main, ("--runs", "trees", "other", "--run-dir", "stack")),
            "FOLDER/other/oof.csv: ISIC_0004 is in fold 1 there and 0 here, so a prediction would have seen its label; "
            "train --folds.file FOLDER/other/folds.csv",
            "Train the runs on the same folds: give the later ones the `folds.csv` of the first.",
        ),
    ],
}
