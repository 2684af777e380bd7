"""Table 7: test predictions by length of training.

    python -m experiments.table7 --data-dir isic-2024-challenge

Separate runs of 1, 20, 50 and 100 epochs on the normalised set, as the cosine schedule depends on the length. Each
predicts the lesions of test-metadata.csv by the mean of its finished folds, uncorrected; table7.csv has all of them.
Three of the runs are those of tables 1, 4 and 5, as are hardware and time. Result: not run on the full set yet.
"""

from collections.abc import Sequence

import pandas as pd

from experiments import paper
from experiments.common import Context, Experiment, Setting, main
from experiments.results import Section, markdown
from jaxlesion.core.files import write_atomic
from jaxlesion.data.predictions import read_predictions
from jaxlesion.predict import PredictConfig, predict
from jaxlesion.runs.store import Run

LENGTHS = (1, 20, 50, 100)
FEW = 5  # lesions shown if the test set has none of the paper's


def predictions(context: Context, runs: Sequence[Run]) -> pd.DataFrame:
    """Return the test Predictions of all runs in one table, with a column `epochs`."""
    tables = []
    for run in runs:
        out = run.folder / "test.csv"
        predict(PredictConfig(run=run.folder, data_dir=context.data_dir, out=out))
        tables.append(read_predictions(out).assign(epochs=run.config.epochs))
    return pd.concat(tables, ignore_index=True)


def make(context: Context, runs: Sequence[Run]) -> Section:
    """Write the CSV; return a section with the paper's three lesions, or others if the test set lacks them."""
    table = predictions(context, runs)
    path = context.options.out / "table7.csv"
    columns = ["isic_id", "epochs", "prediction", "model"]
    write_atomic(path, table[columns].to_csv(index=False, lineterminator="\n"))
    known = [isic_id for isic_id in paper.TABLE7_LESIONS if isic_id in set(table["isic_id"])]
    ids = known or table["isic_id"].unique()[:FEW].tolist()
    rows = []
    for length, run in zip(LENGTHS, runs, strict=True):
        printed = paper.TABLE7.get(length, dict.fromkeys(paper.TABLE7_LESIONS, paper.TABLE7_OTHERS))
        of_run = table[table["epochs"] == run.config.epochs].set_index("isic_id")["prediction"]
        if known:
            cells = (f"{cell:.4f}" if isinstance(cell, float) else cell for cell in (printed[i] for i in ids))
            rows.append([str(length), "paper", *cells])
        rows.append([str(run.config.epochs), "here", *(f"{of_run[isic_id]:.4f}" for isic_id in ids)])
    others = "" if known else f"None of the paper's three lesions is in this test set; its first {len(ids)} instead. "
    note = (
        f"{others}Mean of the folds' probabilities, with the prior of the normalised training rows, uncorrected. "
        f"All {table['isic_id'].nunique():,} lesions are in `{path.name}`. Their truth is not public."
    )
    cells = {(length, source): ", ".join(values) for length, source, *values in rows}
    summary = [
        (f"test predictions, epochs: {epochs}", cells.get((str(length), "paper"), ""), cells[epochs, "here"])
        for length, run in zip(LENGTHS, runs, strict=True)
        for epochs in [str(run.config.epochs)]
    ]
    return Section(f"{markdown(['epochs', '', *ids], rows)}\n\n{note}", summary)


EXPERIMENT = Experiment(
    "table7",
    "Table 7: test predictions by length of training",
    make,
    tuple(Setting(f"normalised-{epochs}", epochs=epochs) for epochs in LENGTHS),
)

if __name__ == "__main__":
    main(EXPERIMENT)
