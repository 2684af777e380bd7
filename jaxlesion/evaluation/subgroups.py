"""Metrics by sex, age, skin tone, site, hospital, kind of tile and size, and sensitivity by diagnosis."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError
from jaxlesion.data.tables import numbers
from jaxlesion.evaluation.bootstrap import RESAMPLES, Scores, resample
from jaxlesion.evaluation.metrics import roc_auc
from jaxlesion.evaluation.registry import classification
from jaxlesion.evaluation.summary import patients_of

# Columns of the competition's metadata, used where present; attribution is the hospital.
VARIABLES = (
    *("sex", "age_approx", "skin_tone", "fitzpatrick", "fitzpatrick_skin_type", "anatom_site_general", "attribution"),
    *("tbp_tile_type", "clin_size_long_diam_mm"),
)
SKIN = ("tbp_lv_Lext", "tbp_lv_Bext")  # L* and b* of the skin around the lesion, which `skin_tone` follows from
# Numbers go by bands: from one edge to below the next. In years, and in mm: 6 is the D of the ABCD rule.
BANDS = {
    "age_approx": ((30, 45, 60, 75), ("<30", "30-44", "45-59", "60-74", ">=75")),
    "skin_tone": ((-30, 10, 28, 41, 55), ("dark", "brown", "tan", "intermediate", "light", "very light")),
    "clin_size_long_diam_mm": ((3, 4, 6), ("<3 mm", "3 to <4 mm", "4 to <6 mm", ">=6 mm")),
}
DIAGNOSES = ("iddx_2", "iddx_3")  # known after a biopsy: for reports, never for training
COLUMNS = (*VARIABLES, *SKIN, *DIAGNOSES)  # of the metadata, as far as they are there
MIN_POSITIVES = 10
METRICS = {"roc_auc": "roc_auc", "sensitivity": "malignant_recall"}  # by name of the column, the key in `registry`
WIDEST = 40  # letters of a group that the console shows


def by_subgroup(
    table: pd.DataFrame,
    lesions: pd.DataFrame,
    threshold: ArrayLike = 0.5,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    after: Callable[[str], None] = lambda group: None,
) -> pd.DataFrame:
    """Compute ROC AUC and sensitivity, with 95 % intervals, of every subgroup whose column is in the metadata.

    Intervals are those of `bootstrap`; a row whose patient is unknown counts as a patient of its own.

    Args:
        table: n Predictions with targets, one model's.
        lesions: metadata of these lesions, others may be there too; gives `patient_id` where the table lacks it.
        threshold: predictions of at least this are malignant; one number or one for each row [n].
        resamples: of each bootstrap; 0 for no intervals.
        seed: of the resamples.
        after: called with the name of each group that is done.

    Returns:
        A row per group, by variable as in `VARIABLES` and `DIAGNOSES`, bands rising, names sorted, a group
        without value last as "unknown". Columns:

        - `variable`: the metadata column; `group`: its value or band
        - `n`, `positives`: rows, and malignant ones; `patients`: number of patients, missing where one is unknown
        - `roc_auc`, `roc_auc_low`, `roc_auc_high`: nan for a diagnosis, whose rows are all malignant
        - `sensitivity`, `sensitivity_low`, `sensitivity_high`: at the threshold
        - `withheld`: why metrics (all nan) or intervals are not given; else empty

        Of `DIAGNOSES` only malignant rows count.

    Raises:
        InputError: a lesion that the metadata lacks or without a target.
    """
    _check(table, lesions)
    described = with_skin_tone(lesions.set_index("isic_id").loc[table["isic_id"]].reset_index())
    patient = table["patient_id"].astype("string").reset_index(drop=True)
    if "patient_id" in described:
        patient = patient.fillna(described["patient_id"].astype("string"))
    columns = {
        "target": table["target"].to_numpy(np.int8),
        "prediction": table["prediction"].to_numpy(np.float64),
        "threshold": np.broadcast_to(threshold, len(table)),
        "patient": patients_of(described.assign(patient_id=patient)),
        "known": patient.notna().to_numpy(),
    }
    records = []
    for variable, group, rows in _groups(described, columns["target"] == 1):
        part = {name: column[rows] for name, column in columns.items()}
        row = _metrics(**part, only_malignant=variable in DIAGNOSES, resamples=resamples, seed=seed)
        records.append({"variable": variable, "group": group} | row)
        after(group)
    names = [name + end for name in METRICS for end in ("", "_low", "_high")]
    found = pd.DataFrame(records, columns=["variable", "group", "n", "positives", "patients", *names, "withheld"])
    return found.astype({"patients": "Int64"})


def with_skin_tone(lesions: pd.DataFrame) -> pd.DataFrame:
    """Add the column `skin_tone`, the individual typology angle in degrees, if the skin's colour is known.

    ITA = arctan((L* - 50) / b*) (Chardon, Cretois and Hourseau 1991), here of the skin around a lesion in a photograph
    that is not calibrated: a rank of lightness rather than a measurement. The classes' cuts are 55, 41, 28, 10 and -30
    degrees (Del Bino and Bernerd 2013).
    """
    if not {*SKIN} <= {*lesions.columns}:
        return lesions
    light, yellow = (numbers(lesions[column]) for column in SKIN)
    return lesions.assign(skin_tone=np.rad2deg(np.arctan2(light - 50, yellow)))


def _check(table: pd.DataFrame, lesions: pd.DataFrame) -> None:
    unknown, twice = ~table["isic_id"].isin(lesions["isic_id"]), table["isic_id"].duplicated()
    for bad, complaint in (
        (unknown, "is not in the metadata; give the metadata of the predicted lesions"),
        (table["target"].isna(), "has no target; give predictions of labelled lesions"),
        (twice, "is predicted twice; give one model's predictions"),
    ):
        if bad.any():
            raise InputError(f"{table['isic_id'][bad].iloc[0]} {complaint}")


def as_text(found: pd.DataFrame) -> str:
    """Return the result of `by_subgroup` as lines to print: a metric with its interval, or why there is none."""
    shown = found[["variable", "group", "n", "positives", "patients"]].astype("string").fillna("")
    shown["group"] = shown["group"].map(shortened)
    for name in METRICS:
        limits = zip(*(found[name + end] for end in ("", "_low", "_high")), strict=True)
        shown[name] = [_with_limits(*three) for three in limits]
    shown["withheld"] = found["withheld"]
    return shown.to_string(index=False)


def shortened(group: str) -> str:
    """Return a group's name for the console, cut to `WIDEST` letters; hospitals' have up to 160."""
    return group if len(group) <= WIDEST else group[: WIDEST - 3].rstrip() + "..."


def _with_limits(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _groups(described: pd.DataFrame, malignant: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield variable, group and positions of its rows, of all groups that have some."""
    for variable in (*VARIABLES, *DIAGNOSES):
        if variable in described:
            value = _value(described[variable])
            for group in [*value.cat.categories, None]:
                inside = (value.isna() if group is None else value == group).to_numpy(bool)
                inside = inside & malignant if variable in DIAGNOSES else inside
                if inside.any():
                    yield variable, "unknown" if group is None else group, np.flatnonzero(inside)


def _value(cells: pd.Series) -> pd.Series:
    """Return the group of every row as a category, missing where unknown."""
    if cells.name in BANDS:
        edges, labels = BANDS[cells.name]
        return pd.cut(numbers(cells), [-np.inf, *edges, np.inf], right=False, labels=labels)
    text = cells.astype("string").str.strip()
    return text.mask(text == "").astype("category")


def _metrics(
    target: np.ndarray,
    prediction: np.ndarray,
    threshold: np.ndarray,
    patient: np.ndarray,
    known: np.ndarray,
    only_malignant: bool,
    resamples: int,
    seed: int,
) -> dict[str, int | float | str | None]:
    """Return one row of `by_subgroup` without its name."""
    n, positives = len(target), int(target.sum())
    row = {"n": n, "positives": positives, "patients": len(np.unique(patient)) if known.all() else None}
    if positives < MIN_POSITIVES:
        return row | {"withheld": f"fewer than {MIN_POSITIVES} malignant rows"}
    if positives == n and not only_malignant:
        return row | {"withheld": "no benign row"}
    values = {"sensitivity": classification(target, prediction, threshold)["malignant_recall"]}
    if not only_malignant:
        values["roc_auc"] = roc_auc(target, prediction)
    row |= values | {"withheld": ""}
    if not resamples:
        return row
    scores = [Scores(prediction, {"": threshold})]
    found = resample(target, scores, patient, resamples=resamples, seed=seed)
    for name, value in values.items():
        if (limits := found.limits(METRICS[name], value)) is None:
            row["withheld"] = "intervals: too few malignant patients"
        else:
            row |= {f"{name}_low": limits[0], f"{name}_high": limits[1]}
    return row
