"""Mistakes in what is predicted, by a network or by neighbours."""

import shutil
from collections.abc import Callable
from pathlib import Path

from errors.case import OF_RUN, SOUND, Case, a_finished_fold, changed_image, column, nothing

from jaxlesion import knn, predict


def a_finished_fold_and_test_rows(isic_id: str) -> Callable[[], None]:
    def make() -> None:
        a_finished_fold()
        Path("data/test-metadata.csv").write_text(f"isic_id\n{isic_id}\n")
        shutil.copytree("data/train-image", "data/test-image")

    return make


PARTS = ("--run", "run", "--data-dir", "data", "--part")
NEIGHBOURS = ("--data-dir", "data", "--folds.n", "2", "--out", "out", "--features")


GROUPS = {
    "Prediction": [
        Case(
            *("A part that does not exist", nothing, predict.main, (*PARTS, "4/4")),
            "--part 4/4: give I/N, such as 0/4 to 3/4 for four processes",
            "The parts are counted from 0.",
        ),
        Case(
            *("Decoded images are to be kept by several parts", nothing, predict.main, (*PARTS, "0/4", "--cache")),
            "--cache is for the images of --data-dir, predicted in one part: leave it out",
            "Several processes cannot fill one file.",
        ),
        Case(
            *("Neither lesions nor images", nothing, predict.main, OF_RUN),
            "give one of --data-dir, a folder with test-metadata.csv, and --image, some files",
            "Give one of the two.",
        ),
        Case(
            *("An image that does not exist", a_finished_fold, predict.main, (*OF_RUN, "--image", "lesion.jpg")),
            "lesion.jpg: no such file; give image files",
            "Check the path.",
        ),
        Case(
            *("No table of test rows", a_finished_fold, predict.main, (*OF_RUN, "--data-dir", "data")),
            "data has no test-metadata.csv: give the folder that holds it, or --data.table data/train-metadata.csv to "
            "predict its rows",
            "Only the column `isic_id` is needed.",
        ),
        Case(
            *("A test row that could be a path", a_finished_fold_and_test_rows("../ISIC_0007"), predict.main),
            (*OF_RUN, "--data-dir", "data"),
            "data/test-metadata.csv: line 2: isic_id '../ISIC_0007' "
            "is not 1 to 64 of A-Z a-z 0-9 _ . -, letter or digit first",
            "Rename the lesion, in the table and among the images.",
        ),
        Case(
            *("A test row without an image", a_finished_fold_and_test_rows("ISIC_9999"), predict.main),
            (*OF_RUN, "--data-dir", "data"),
            "data/test-image/image: has no image 'ISIC_9999'; remove the row or add its image",
            "Add the image or remove the row.",
        ),
    ],
    "Nearest neighbours": [
        Case(
            *("Neither data nor a run", nothing, knn.main, ()),
            "give --data-dir, the folder with train-metadata.csv, or --run, the folder of a run",
            "Give one of the two.",
        ),
        Case(
            *("No neighbours", nothing, knn.main, (*NEIGHBOURS, "metadata", "--k", "0")),
            "--k must be at least 1, not 0",
            "Stay in the range.",
        ),
        Case(
            *("No column to search by", nothing, knn.main, (*NEIGHBOURS, "metadata")),
            "the metadata has no column to search by beyond ids, targets and diagnoses; use other --features",
            "Give `--features embedding` or `pixels`, or a table with more columns.",
        ),
        Case(
            *("A number that is too large", column("age", lambda i: "1e308" if i % 3 else "-1e308"), knn.main),
            (*NEIGHBOURS, "metadata"),
            "age of ISIC_0001 is -1e+308, too large to be scaled; correct it or leave it empty",
            "Correct the cell, or leave it empty: it becomes the median then.",
        ),
        Case(
            *("An image that is not whole", changed_image(lambda jpeg: jpeg[:-40]), knn.main, (*NEIGHBOURS, "pixels")),
            f"image ISIC_0007 is cut short; {SOUND}",
            "Get the file again, or remove its row.",
        ),
    ],
}
