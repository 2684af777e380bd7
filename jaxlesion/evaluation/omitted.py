"""Replicates that the jackknife omits since no row of a class is left in them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from jaxlesion.evaluation.summary import parts_of, patients_of

OMITTED_NOTE = "intervals of areas omit the replicate without a patient who holds all rows of a class"


def omitted_replicates(tables: Mapping[str, pd.DataFrame], name: str) -> dict[str, dict[str, int]]:
    """Return the number of patients who hold all rows of a class, by part and set of rows, where there are some.

    Areas are undefined without such a patient: the jackknife omits the replicate.

    Args:
        tables: as of `summarise`.
        name: as of `summarise`.
    """
    counts = {
        part: {rows: len(_sole_holders(table)) for rows, table in by_rows.items()}
        for part, by_rows in parts_of(tables, name).items()
    }
    some = {part: {rows: count for rows, count in by_rows.items() if count} for part, by_rows in counts.items()}
    return {part: by_rows for part, by_rows in some.items() if by_rows}


def _sole_holders(table: pd.DataFrame) -> set[int]:
    """Return the patients who hold all rows of a class, numbered as by `patients_of`."""
    patient, target = patients_of(table), table["target"].to_numpy(np.int8)
    holders = (np.unique(patient[target == of]) for of in (0, 1))
    return {int(of_class[0]) for of_class in holders if len(of_class) == 1}


def notes_on_omitted(omitted: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a sentence on `omitted_replicates`, if there are some."""
    found = [f"{count} in {part}, {rows}" for part, by_rows in omitted.items() for rows, count in by_rows.items()]
    return [f"{OMITTED_NOTE}: {'; '.join(found)}"] if found else []
