"""Figures with intervals from Predictions tables: by fold, pooled, mean of folds, and the difference of two tables."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.config import TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import without_nan
from jaxlesion.data.folds import validation_rows
from jaxlesion.evaluation.bootstrap import DRAWS, LEVEL, Scores, difference, interval, resample
from jaxlesion.evaluation.metrics import classification, confusion, rates, summary
from jaxlesion.evaluation.thresholds import Choose, at_sensitivity, best_f1, on_other_folds

CHOSEN = "chosen_"  # begins the figures at the threshold that was chosen on the other folds

PRIOR_NOTE = "probabilities carry the prior of the sampled training rows, uncorrected"


class Figure(NamedTuple):
    """A figure and its 95 % interval; None for counts, for what the draws cannot tell, and without a bootstrap."""

    value: float
    low: float | None = None
    high: float | None = None


class Compared(NamedTuple):
    """A figure of two tables, their difference a - b with its 95 % interval, and the two-sided p."""

    a: float
    b: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


Figures = dict[str, Figure]  # by the names of `metrics.summary`, and some of them again after CHOSEN
Parts = dict[str, dict[str, Figures]]  # of which folds, on which rows


@dataclass(frozen=True)
class How:
    """How figures are made.

    Args:
        threshold: predictions of at least this are malignant.
        sensitivity: what the threshold chosen on the other folds must reach there; None for the highest F1.
        draws: of the bootstrap; 0 for no intervals.
        seed: of the draws.
        tick: called with the draws that are done, and all there will be.
    """

    threshold: float = 0.5
    sensitivity: float | None = None
    draws: int = DRAWS
    seed: int = 0
    tick: Callable[[int, int], object] = lambda done, total: None

    @property
    def choose(self) -> Choose:
        """How a threshold is chosen."""
        return best_f1 if self.sensitivity is None else partial(at_sensitivity, sensitivity=self.sensitivity)

    def ticker(self, total: int) -> Callable[[int], None]:
        """What takes the number of draws just done and hands on their sum."""
        done = 0

        def tick(draws: int) -> None:
            nonlocal done
            done += draws
            self.tick(done, total)

        return tick


def figures_by_part(tables: Mapping[str, pd.DataFrame], name: str, how: How = How()) -> Parts:
    """Figures by fold, `pooled` over the rows of several folds and as `mean of folds`; one part `name` without folds.

    Thresholds are chosen for each fold on the other folds of the same table, and only where there are several.

    Args:
        tables: the same folds on several sets of rows; each lesion once, its target known.
        name: of the only part where rows have no fold.
        how: options.

    Raises:
        InputError: a lesion is there twice.
    """
    tables = {rows: _with_thresholds(table, how) for rows, table in tables.items()}
    folds = folds_of(next(iter(tables.values())))
    parts: dict[str, dict[str, pd.DataFrame]] = {
        f"fold {k}": {rows: table[table["fold"] == k] for rows, table in tables.items()} for k in folds
    }
    if len(folds) != 1:
        parts["pooled" if folds else name] = tables
    tick = how.ticker(how.draws * len(tables) * len(parts))
    seeds = {part: (how.seed, number) for number, part in enumerate(parts)}  # folds are drawn independently
    measured = {
        part: {rows: _measure(table, how, seeds[part], tick) for rows, table in by_rows.items()}
        for part, by_rows in parts.items()
    }
    if len(folds) > 1:
        measured["mean of folds"] = {rows: _mean([measured[f"fold {k}"][rows] for k in folds]) for rows in tables}
    return {part: {rows: m.figures() for rows, m in by_rows.items()} for part, by_rows in measured.items()}


def figures_of_run(
    config: TrainConfig,
    lesions: pd.DataFrame,
    table: pd.DataFrame,
    how: How = How(),
) -> Parts:
    """Figures by part, each on the `normalised` rows and the `whole fold`.

    Args:
        config: of the run, whose sampling makes the normalised rows.
        lesions: of the run, with folds.
        table: out-of-fold predictions of one fold or more.
        how: options.
    """
    return figures_by_part(rows_of_run(config, lesions, table), "whole", how)


def rows_of_run(config: TrainConfig, lesions: pd.DataFrame, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The out-of-fold predictions of a run on its `normalised` rows, and on the `whole fold`."""
    rows = [validation_rows(lesions, k, config.sampling, config.data.seed) for k in folds_of(table)]
    sampled = table["isic_id"].isin(lesions["isic_id"].iloc[np.concatenate(rows)])
    return {"normalised": table[sampled], "whole fold": table}


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    names: Sequence[str],
    how: How = How(),
) -> dict[str, Compared]:
    """Every headline figure of two Predictions tables of the same lesions, and its difference a - b.

    Both are resampled together: each draw takes the same patients from the one and the other.

    Args:
        a, b: the tables, targets known.
        names: of both, for messages.
        how: options.

    Raises:
        InputError: a lesion twice, or the first lesion that only one table has or that they do not agree on.
    """
    a, b = _aligned(a, b, names)
    scored = [_with_thresholds(table, how, name) for table, name in zip((a, b), names, strict=True)]
    values = [_values(table, how) for table in scored]
    samples: Sequence[dict[str, np.ndarray]] = ({}, {})
    if how.draws:
        patient = patients_of(a.assign(patient_id=a["patient_id"].fillna(b["patient_id"])))
        samples = _resampled(scored, patient, how, (how.seed, 0), how.ticker(how.draws))
    compared = {}
    for name in _shared_shares(values):
        one, other = (of[name] for of in values)
        both = difference(*(of[name] for of in samples)) if all(name in of for of in samples) else None
        compared[name] = Compared(one, other, one - other, *(both or ()))
    return compared


def as_json(figures: Parts | Mapping[str, Compared], notes: Sequence[str], draws: int, by: str) -> str:
    """What programs write: `notes`; `bootstrap` with `draws`, `by` and `level`, null without draws; `figures`.

    A figure is an object of its fields by name; what is undefined or has no interval is null.
    """
    bootstrap = {"draws": draws, "by": by, "level": LEVEL} if draws else None
    content = {"notes": list(notes), "bootstrap": bootstrap, "figures": without_nan(_fields(figures))}
    return json.dumps(content, indent=2) + "\n"


def _fields(tree: Any) -> dict[str, Any]:
    """Named tuples in a tree of dictionaries as dictionaries of their fields."""
    if isinstance(tree, dict):
        return {name: _fields(inner) for name, inner in tree.items()}
    return tree._asdict()


def folds_of(table: pd.DataFrame) -> list[int]:
    """The folds of a Predictions table, ascending; none where a row has no fold."""
    return [] if table["fold"].isna().any() else sorted(int(k) for k in table["fold"].unique())


def patients_of(table: pd.DataFrame) -> np.ndarray:
    """The patient [n] of each row, as numbers that sort as the names do; a row without one is a patient of its own."""
    names = table["patient_id"].astype("string").fillna("row " + table["isic_id"].astype("string"))
    return pd.factorize(names, sort=True)[0]


def drawn_by(table: pd.DataFrame) -> Literal["patient", "row"]:
    """What a bootstrap of this table draws: rows, where no patient is known to have two of them."""
    return "patient" if table["patient_id"].dropna().duplicated().any() else "row"


@dataclass(frozen=True)
class _Measured:
    values: dict[str, float]
    samples: dict[str, np.ndarray]  # [draws] of the headline figures

    def figures(self) -> Figures:
        limits = {name: interval(sample) for name, sample in self.samples.items()}
        return {name: Figure(value, *(limits.get(name) or ())) for name, value in self.values.items()}


def _measure(table: pd.DataFrame, how: How, seed: tuple[int, int], tick: Callable[[int], object]) -> _Measured:
    if not how.draws:
        return _Measured(_values(table, how), {})
    return _Measured(_values(table, how), _resampled([table], patients_of(table), how, seed, tick)[0])


def _mean(folds: Sequence[_Measured]) -> _Measured:
    """The mean of what all folds have, counts left out; its draws are means of the folds', which share no patient."""
    shared = _shared_shares([fold.values for fold in folds])
    return _Measured(
        {name: float(np.mean([fold.values[name] for fold in folds])) for name in shared},
        {name: np.mean([f.samples[name] for f in folds], 0) for name in shared if name in folds[0].samples},
    )


def _shared_shares(values: Sequence[dict[str, float]]) -> list[str]:
    """Names of the figures that all have, without counts, thresholds and what the rows alone decide."""
    shares = [name for name, value in values[0].items() if isinstance(value, float) and not name.endswith("threshold")]
    return [name for name in shares if name != "positive_to_negative" and all(name in of for of in values)]


def _with_thresholds(table: pd.DataFrame, how: How, name: str = "the table") -> pd.DataFrame:
    """The table with `chosen`, the threshold of each row that was chosen on the other folds, nan where it cannot be."""
    if (twice := table["isic_id"].duplicated()).any():
        first = table["isic_id"][twice].iloc[0]
        raise InputError(f"{name}: {first} is there for two models; keep the rows of one, or one row for each lesion")
    if len(folds_of(table)) < 2:
        return table.assign(chosen=np.nan)
    columns = (table[column].to_numpy(np.float64) for column in ("target", "prediction", "fold"))
    return table.assign(chosen=on_other_folds(*columns, choose=how.choose))


def _columns(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return table["target"].to_numpy(np.int8), table["prediction"].to_numpy()


def _values(table: pd.DataFrame, how: How) -> dict[str, float]:
    values = summary(*_columns(table), how.threshold)
    chosen = table["chosen"].to_numpy()
    if np.isnan(chosen).any():
        return values
    if len(set(chosen)) == 1:
        at_chosen = classification(*_columns(table), float(chosen[0]))
    else:  # of several folds
        tn, fp, fn, tp = confusion(*_columns(table), chosen)
        at_chosen = {"tn": tn, "fp": fp, "fn": fn, "tp": tp, "predicted_positives": tp + fp}
        at_chosen |= {name: float(share) for name, share in rates(tn, fp, fn, tp).items()}
    return values | {CHOSEN + name: value for name, value in at_chosen.items()}


def _resampled(
    tables: Sequence[pd.DataFrame],
    patient: np.ndarray,
    how: How,
    seed: tuple[int, int],
    tick: Callable[[int], object],
) -> Sequence[dict[str, np.ndarray]]:
    """The draws of the headline figures of one table, or of several on the same rows."""
    scores = []
    for table in tables:
        chosen = table["chosen"].to_numpy()
        thresholds = {"": how.threshold} | ({} if np.isnan(chosen).any() else {CHOSEN: chosen})
        scores.append(Scores(table["prediction"].to_numpy(), thresholds))
    target = tables[0]["target"].to_numpy(np.int8)
    return resample(target, scores, patient, draws=how.draws, seed=seed, tick=tick).samples


def _aligned(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables by isic_id, or InputError for the first lesion that they do not share or agree on."""
    for one, other, (here, there) in ((a, b, names), (b, a, names[::-1])):
        if (alone := ~one["isic_id"].isin(other["isic_id"])).any():
            first = one["isic_id"][alone].min()
            raise InputError(f"{first} is in {here} and not in {there}: two tables compare on the same rows only")
    a, b = (table.sort_values("isic_id", ignore_index=True) for table in (a, b))
    if len(a) == len(b):  # otherwise a lesion is there twice, which is found next
        for column in ("target", "patient_id"):
            if (differ := (a[column] != b[column]).fillna(False)).any():
                row = int(np.argmax(differ.to_numpy(bool)))
                both = " and ".join(f"{t[column][row]} in {name}" for t, name in zip((a, b), names, strict=True))
                raise InputError(f"{column} of {a['isic_id'][row]} is {both}: two tables must agree on it")
    return a, b
