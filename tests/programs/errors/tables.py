"""Mistakes in the table of lesions and in folds."""

from collections.abc import Callable
from pathlib import Path

from errors.case import ALL, CSV, DATA, ROWS, SMALL, TRAIN, Case, change_row, column, nothing, write_table

from jaxlesion import knn, train

FILE = (*DATA, *SMALL, *ALL[:-2], "--folds.file", "folds.csv")


def no_table() -> None:
    Path("data/train-metadata.csv").unlink()


def no_target() -> None:
    write_table([(isic_id, patient) for isic_id, _, patient in ROWS], "isic_id,patient_id")


def without_patients() -> None:
    write_table([row[:2] for row in ROWS], "isic_id,target")


def with_a_unit(row: int) -> str:
    return "3.2 mm" if row == 6 else f"{row}.5"


def all_malignant_in_one_patient() -> None:
    write_table(
        [(isic_id, target, "IP_0" if target else f"IP_{i % 9 + 1}") for i, (isic_id, target, _) in enumerate(ROWS)]
    )


def some_hospitals() -> None:
    header = "isic_id,target,patient_id,attribution"
    write_table([(*row, "" if i == 6 else f"hospital {i % 5}") for i, row in enumerate(ROWS)], header)


def fold_file(fold_of: Callable[[int], object], rows: int = 40) -> Callable[[], None]:
    def write() -> None:
        lines = ["isic_id,fold", *(f"{ROWS[i][0]},{fold_of(i)}" for i in range(rows))]
        Path("folds.csv").write_text("\n".join(lines))

    return write


def many_columns() -> None:
    names = [f"x{i}" for i in range(100_000)]
    write_table([(*row, *("1" * len(names))) for row in ROWS[:1]], ",".join(["isic_id,target,patient_id", *names]))


OF_METADATA = ("--data-dir", "data", "--features", "metadata", "--folds.n", "2")
LABELS = "correct it, or name the malignant labels by --data.positive"
HOSPITALS = ("--folds.group", "attribution")


GROUPS = {
    "The table of lesions": [
        Case(
            *("`--data-dir` is no folder", nothing, train.main, ("--data-dir", "nowhere", *TRAIN[2:])),
            "FOLDER/nowhere is not a folder: give --data-dir the one that holds train-metadata.csv",
            "Give `--data-dir` the folder that the competition's files were unpacked in.",
        ),
        Case(
            *("The table is not in it", no_table, train.main, TRAIN),
            "FOLDER/data has no train-metadata.csv: give --data-dir the folder that holds it",
            "Put `train-metadata.csv` beside the images, or name the folder where both are.",
        ),
        Case(
            *("A column is missing", no_target, train.main, TRAIN),
            f"{CSV}: the column target is missing (it begins with 'isic_id, patient_id')",
            "Training needs `isic_id`, `patient_id` and `target`, separated by commas; is it the training file?",
        ),
        Case(
            *("An id is there twice", change_row(0, "ISIC_0003"), train.main, TRAIN),
            f"{CSV}: line 8: ISIC_0003 is there twice; keep one row per lesion",
            "Remove one of the rows; look first whether they agree.",
        ),
        Case(
            *("An id that could be a path or a formula", change_row(0, "../ISIC_0007"), train.main, TRAIN),
            f"{CSV}: line 8: isic_id '../ISIC_0007' is not 1 to 64 of A-Z a-z 0-9 _ . -, letter or digit first",
            "Rename the lesion, in the table and among the images.",
        ),
        Case(
            *("A patient that a spreadsheet would compute", change_row(2, "=1+1"), train.main, TRAIN),
            f"{CSV}: line 8: patient_id '=1+1' begins like a formula or has control characters",
            "Rename the patient: the name is written into every table of predictions.",
        ),
        Case(
            *("A column is there twice", column("target", lambda i: 0), train.main, TRAIN),
            f"{CSV}: the column target is there 2 times; keep one of them",
            "Remove one of the columns.",
        ),
        Case(
            *("Far too many columns", many_columns, train.main, TRAIN),
            f"{CSV}: has 100,003 columns, where at most 10,000 are read",
            "The competition's table has 55; is this one turned on its side?",
        ),
        Case(
            *("A target outside {0, 1}", change_row(1, 2), train.main, TRAIN),
            f"{CSV}: line 8: target of ISIC_0007 is '2', not 0 or 1; {LABELS}",
            "Write 1 for malignant and 0 for benign.",
        ),
        Case(
            *("A target is missing", change_row(1, ""), train.main, TRAIN),
            f"{CSV}: line 8: target of ISIC_0007 is empty, not 0 or 1; {LABELS}",
            "Fill it in, or remove the row: training needs every label.",
        ),
        Case(
            *("Patients are not known", without_patients, train.main, TRAIN),
            "the table has no patient_id, so that folds may split patients: give --folds.group a column of groups, or "
            "--folds.group none to take every lesion as a patient of its own",
            "Lesions of one patient in two folds make figures too good; add the column if you can.",
        ),
        Case(
            *("Two patients that read alike", change_row(2, "ip_7.0"), train.main, TRAIN),
            "patient_id 'ip_7.0' and 'IP_7' read alike: write them the same if they are one, or give "
            "--folds.group-as-is if they are two",
            "Spaces around ids do not count; case, `.0` and characters that look alike are asked about.",
        ),
        Case(
            *(
                "A number with a decimal comma or a unit",
                column("tbp_lv_areaMM2", with_a_unit),
                knn.main,
                OF_METADATA,
            ),
            "data/train-metadata.csv: line 8: tbp_lv_areaMM2 of ISIC_0007 is '3.2 mm', not a number; write numbers "
            "with a point and without a unit, and leave unknown ones empty",
            "One such cell would make a category of every number.",
        ),
        Case(
            *("A patient is missing", change_row(2, ""), train.main, TRAIN),
            f"{CSV}: line 8: ISIC_0007 has no patient_id, which folds are made by; fill it in, or remove the column "
            "and give --folds.group none",
            "Fill it in; where patients are unknown, repeat the `isic_id` and say so with the figures.",
        ),
    ],
    "Folds": [
        Case(
            *("A fold would hold one class only", all_malignant_in_one_patient, train.main, TRAIN),
            "fold 1 holds 0 malignant of 21 rows: both classes are needed to train and to score; "
            "use --folds.stratify, fewer folds (--folds.n), another --folds.group, or folds of your own (--folds.file)",
            "Lower `--folds.n`, or give your own folds by `--folds.file`.",
        ),
        Case(
            *("Fewer groups than folds", nothing, train.main, (*TRAIN, "--folds.n", "11")),
            "11 folds need at least 11 groups, and there are 10: lower --folds.n",
            "Lower `--folds.n` to the number of groups or below.",
        ),
        Case(
            *("No such column to group by", nothing, train.main, (*TRAIN, *HOSPITALS)),
            "--folds.group attribution: the metadata has no such column; name one it has",
            "Check the header of the table.",
        ),
        Case(
            *("A row without its group", some_hospitals, train.main, (*TRAIN, *HOSPITALS)),
            "ISIC_0007 has no attribution: folds need one for every row; fill it in or drop the row",
            "Fill in the column, or remove the row.",
        ),
        Case(
            *("A patient is in two folds of a given file", fold_file(lambda i: i % 3), train.main, FILE),
            "folds.csv: patient IP_0 is in 3 folds; keep a patient in one",
            "Give all rows of a patient one fold: otherwise the figures are too good.",
        ),
        Case(
            *("A given file lacks a lesion", fold_file(lambda i: i % 2, 39), train.main, FILE),
            "folds.csv: no fold (a whole number from 0 to 126) for ISIC_0040; add it",
            "Add a row `isic_id,fold`; folds of other lesions are ignored.",
        ),
        Case(
            *("A given file does not exist", nothing, train.main, FILE),
            "folds.csv: no such file; give the path of a table (CSV, .csv.gz or Parquet)",
            "Check the path after `--folds.file`.",
        ),
        Case(
            *("A fold that there is not", nothing, train.main, (*TRAIN, "--fold", "2")),
            "--fold 2: the folds are 0 to 1, or all",
            "Folds count from 0; `--fold all` trains every one.",
        ),
    ],
}
