"""Time trees on metadata at the challenge's full size, on a table of its shape drawn from a smaller one.

    python -m experiments.tabular_scale --data-dir isic-2024-challenge

Rows are drawn with replacement, numbers jittered by 1 %, and malignant ones kept at 393, of 1,042 patients. Each part
runs in a process of its own, whose peak memory is printed too. Hardware: any. Results: docs/metadata.md.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.boosting.features import Schema, compare_within
from jaxlesion.boosting.train import train_tabular
from jaxlesion.core.config import Layout
from jaxlesion.core.experts import FeaturesConfig, TabularConfig, TreesConfig
from jaxlesion.core.files import write_atomic
from jaxlesion.data.open import open_table
from jaxlesion.inference.shards import Part
from jaxlesion.inference.tables import PredictOptions, predict_table
from jaxlesion.runs.store import Run

ONE_VIEW = PredictOptions("last", False, None, 65_536, False, Part(0, 1))


def drawn(small: pd.DataFrame, rows: int, malignant: int, patients: int) -> pd.DataFrame:
    """Draw a table of the challenge's shape from a smaller one."""
    rng = np.random.default_rng(0)
    parts = [small[small["target"] == label] for label in (1, 0)]
    counts = (malignant, rows - malignant)
    table = pd.concat([part.iloc[rng.integers(len(part), size=n)] for part, n in zip(parts, counts, strict=True)])
    table = table.iloc[rng.permutation(rows)].reset_index(drop=True)
    numbers = table.select_dtypes("float").columns
    table[numbers] *= 1 + 0.01 * rng.standard_normal((rows, len(numbers)))
    sizes = rng.gamma(1.0, size=patients)
    patient = rng.choice(patients, rows, p=sizes / sizes.sum())
    return table.assign(isic_id=[f"ISIC_{n:07d}" for n in range(rows)], patient_id=[f"IP_{n:07d}" for n in patient])


def read_and_compare(folder: Path) -> str:
    """Time the table's reading and the features within the patient."""
    start = time.perf_counter()
    lesions = open_table(folder)
    read = time.perf_counter()
    schema = Schema.of(lesions, np.ones(len(lesions), bool), FeaturesConfig())
    found = compare_within(lesions, schema.numbers, FeaturesConfig(), None)
    columns = found.numbers.shape[1] + found.comparisons.shape[1]
    return f"read {read - start:.0f} s, {columns} numbers and comparisons {time.perf_counter() - read:.0f} s"


def fit(folder: Path) -> str:
    """Time five folds of three members, with the table's reading and out-of-fold predictions."""
    start = time.perf_counter()
    config = TabularConfig(data_dir=folder, run_dir=folder / "run", trees=TreesConfig(bag=3))
    train_tabular(config)
    return f"five folds x three members {time.perf_counter() - start:.0f} s"


def predict(folder: Path) -> str:
    """Time the prediction of a test set of the same size by the fifteen members."""
    start = time.perf_counter()
    predict_table(Run.open(folder / "run"), folder, Layout(), folder / "predictions.csv", None, ONE_VIEW)
    return f"a test set of the same size, by the fifteen members {time.perf_counter() - start:.0f} s"


def _in_process(work: Callable[[Path], str], folder: Path, answers: multiprocessing.Queue) -> None:
    said = work(folder)
    answers.put(f"{said}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    """Draw the table, and print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of the table to draw from [default: the demo's]")
    parser.add_argument("--rows", type=int, default=401_059)
    parser.add_argument("--malignant", type=int, default=393)
    parser.add_argument("--patients", type=int, default=1_042)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data_dir is None:
            from jaxlesion.data.demo import write_demo

            options.data_dir = write_demo(folder / "demo")
        table = drawn(open_table(options.data_dir), options.rows, options.malignant, options.patients)
        write_atomic(folder / "train-metadata.csv", table.to_csv(index=False))
        write_atomic(folder / "test-metadata.csv", table.drop(columns="target").to_csv(index=False))
        print(f"{len(table):,} rows, {table.shape[1]} columns, {table['patient_id'].nunique():,} patients")
        context = multiprocessing.get_context("spawn")
        answers = context.Queue()
        for work in (read_and_compare, fit, predict):
            process = context.Process(target=_in_process, args=(work, folder, answers))
            process.start()
            print(answers.get())
            process.join()


if __name__ == "__main__":
    main()
