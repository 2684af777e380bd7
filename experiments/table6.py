"""Table 6: the out-of-fold prediction of every row, by the run of 20 epochs on the full set.

    python -m experiments.table6 --data-dir isic-2024-challenge

Writes table6.csv with the paper's columns. `target` is the label used in training and scoring, `original_target` the
label in the metadata file now; `model` is the checkpoint, as a path below the folder of runs. Run, data, hardware and
time are those of table 2. Result: not run on the challenge's full set yet.
"""

from collections.abc import Sequence

import pandas as pd

from experiments.common import Context, Experiment, Setting, main
from experiments.results import Section, markdown
from experiments.trained import held_out
from jaxlesion.core.files import write_atomic
from jaxlesion.runs.store import Run

COLUMNS = ("isic_id", "target", "original_target", "fold", "oof_prediction", "model")


def out_of_fold(context: Context, run: Run) -> pd.DataFrame:
    """Return the out-of-fold predictions with the paper's columns, in the order of the metadata file."""
    lesions = context.dataset.lesions.set_index("isic_id")
    table = held_out(context, run).rename(columns={"prediction": "oof_prediction"})
    table["original_target"] = table["isic_id"].map(lesions["target"])
    table["model"] = [f"{run.folder.name}/{name.replace('/', '/checkpoints/')}" for name in table["model"]]
    order = table["isic_id"].map({isic_id: row for row, isic_id in enumerate(lesions.index)})
    return table.iloc[order.argsort()][list(COLUMNS)].reset_index(drop=True)


def make(context: Context, runs: Sequence[Run]) -> Section:
    """Write the CSV; return a section with its first three benign and first two malignant rows."""
    table = out_of_fold(context, runs[0])
    path = context.options.out / "table6.csv"
    write_atomic(path, table.to_csv(index=False, lineterminator="\n"))
    target = table["target"]
    some = pd.concat([table[target == 0].head(3), table[target == 1].head(2)])
    rows = [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in some.to_numpy()]
    differ = int((target != table["original_target"]).sum())
    note = (
        f"All {len(table):,} rows are in `{path.name}`, each predicted once, by the fold that held it out; `target` "
        f"and `original_target` differ in {differ:,}. The first three benign and the first two malignant ones:"
    )
    return Section(f"{note}\n\n{markdown(COLUMNS, rows)}", [("rows predicted out of fold", "", f"{len(table):,}")])


EXPERIMENT = Experiment(
    "table6", "Table 6: out-of-fold predictions, 20 epochs, full set", make, (Setting("full-20", epochs=20, full=True),)
)

if __name__ == "__main__":
    main(EXPERIMENT)
