"""The clinical metrics of an evaluation: their keys and labels, and the three parts they are reported in.

`patients` needs the patient of every row, `calibration` and `decision` need probabilities. docs/clinic.md explains
each metric. A new one is a function in its module and a line here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from jaxlesion.core.experts import RunConfig
from jaxlesion.core.files import without_nan
from jaxlesion.evaluation import calibration_metrics as calibrated
from jaxlesion.evaluation import decision, patients
from jaxlesion.evaluation.calibration import logit
from jaxlesion.evaluation.clinic_intervals import benefit_limits, calibration_limits, froc_limits
from jaxlesion.evaluation.crossfold import rank_within_folds
from jaxlesion.evaluation.ratios import FEWEST_PATIENTS, ratio
from jaxlesion.evaluation.retrieval import Found, top_k
from jaxlesion.evaluation.summary import Estimate, Summary, folds_of, patients_of

ALWAYS_SHOWN = (1, 5)  # of top-k
WHOLE_FOLD, NOT_OF_SAMPLED_PRIOR = "whole fold", ("brier", "ece")
SHOWN_THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
AS_THEY_ARE = "the table's predictions, taken as probabilities"
CALIBRATED = "calibrated predictions"

RETRIEVAL = (  # key and label, numerator and denominator by patient, and the numerator by chance
    ("sensitivity", "mean over patients", lambda f: (f.hits / f.malignant, f.chance_hits / f.malignant), np.ones_like),
    ("pooled", "of all malignant lesions", lambda f: (f.hits, f.chance_hits), np.copy),
    ("any_found", "patients with one found", lambda f: (f.any_hit, f.chance_any_hit), np.ones_like),
)
CALLS = (
    ("called", "patients called"),
    ("sensitivity", "sensitivity over patients"),
    ("specificity", "specificity over patients"),
)
EXPECTED = "expected / observed"
OF_ANY_PRIOR = (EXPECTED, "log loss")  # labels that are shown of predictions that carry the sampled prior, too
CALIBRATION = (
    ("calibration_in_the_large", "calibration in the large", calibrated.calibration_in_the_large),
    ("slope", "calibration slope", calibrated.calibration_slope),
    ("ici", "ICI", calibrated.integrated_calibration_index),
    ("ece_equal_mass", "calibration error, equal mass", calibrated.equal_mass_error),
    ("scaled_brier", "scaled Brier score", calibrated.scaled_brier),
)
NEEDED = {
    "sensitivity": "sensitivity",
    "number_needed": "calls per malignant lesion",
    "ppv": "PPV",
    "calls_per_1000": "calls per 1,000 lesions",
    "calls_per_patient": "calls per patient",
}
CURVE = {
    "model": "net benefit",
    "treat_all": "of calling all",
    "avoided_per_1000": "calls avoided",
}


@dataclass(frozen=True)
class ClinicOptions:
    """Options of the clinical metrics.

    Args:
        top_k: lesions that are looked at in each patient.
        prevalence: share of malignant lesions that benign rows are weighted to; None for the table's.
        threshold: predictions of at least this are called malignant.
        resamples: of patients, for intervals; 0 for none.
        seed: of the resamples.
    """

    top_k: int = 15
    prevalence: float | None = None
    threshold: float = 0.5
    resamples: int = 0
    seed: int = 0


class Probabilities(NamedTuple):
    """Predictions that are probabilities, or taken for such."""

    values: np.ndarray
    """[n] in [0, 1]."""
    prevalence: float | None = None
    """Share of malignant rows that a run's calibration fitted them to; None for predictions as they are."""


class Grid(NamedTuple):
    """A table to print: cells are numbers, estimates, text or None."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Any]]]


class Clinic(NamedTuple):
    """Clinical metrics: three trees of dictionaries, None where withheld, and sentences for the reader."""

    patients: dict[str, Any] | None
    calibration: dict[str, Any] | None
    decision: dict[str, Any] | None
    notes: list[str]


def clinic(
    table: pd.DataFrame, probabilities: Probabilities | None, options: ClinicOptions = ClinicOptions()
) -> Clinic:
    """Compute the clinical metrics of a Predictions table.

    Args:
        table: each lesion once, its target known; with `chosen`, a threshold for each row, if there is one.
        probabilities: of its rows; None where there are none.
        options: of the metrics.
    """
    notes, of_patients = [], None
    if why := patients.why_unknown(table):
        notes.append(f"no patient-level figures: {why}")
    else:
        of_patients = patient_metrics(table, options)
        notes += _on_patients(of_patients, options.top_k)
    if probabilities is None or table["target"].nunique() < 2:
        return Clinic(of_patients, None, None, notes)
    calibration = calibration_metrics(table, probabilities, options)
    worth = decision_metrics(table, probabilities, options, None if why else table["patient_id"].nunique())
    return Clinic(of_patients, calibration, worth, [*notes, *_on_prevalence(probabilities, options)])


def with_clinic(text: str, found: Clinic) -> str:
    """Add `patients`, `calibration` and `decision` to the JSON of `as_json`; each is null where it is withheld.

    An interval is `value`, `low` and `high`; undefined values are null.
    """
    parts = {name: without_nan(_plain(getattr(found, name))) for name in ("patients", "calibration", "decision")}
    return json.dumps(json.loads(text) | parts, indent=2) + "\n"


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _plain(inner) for name, inner in tree.items()}
    return tree._asdict() if isinstance(tree, Estimate) else tree


def without_uncorrected(summary: Summary, config: RunConfig) -> Summary:
    """Leave Brier score and calibration error out beside whole folds, unless a run trained on all rows alike."""
    if config.keeps_prior:
        return summary
    return {
        part: {
            rows: {k: v for k, v in found.items() if rows != WHOLE_FOLD or k not in NOT_OF_SAMPLED_PRIOR}
            for rows, found in by_rows.items()
        }
        for part, by_rows in summary.items()
    }


def patient_metrics(table: pd.DataFrame, options: ClinicOptions) -> dict[str, Any]:
    """Return retrieval, AUC within patients, calls of patients and FROC points of a table with known patients."""
    target, prediction = table["target"].to_numpy(np.int64), table["prediction"].to_numpy(np.float64)
    patient = patients_of(table)
    count = int(patient.max()) + 1
    found = {k: top_k(target, prediction, patient, k) for k in sorted({*ALWAYS_SHOWN, options.top_k})}
    widest = found[options.top_k]
    thresholds = {"at_threshold": np.full(len(table), options.threshold)}
    if "chosen" in table and table["chosen"].notna().all():
        thresholds["at_chosen_threshold"] = table["chosen"].to_numpy(np.float64)
    return {
        "patients": count,
        "malignant_patients": len(widest.rows),
        "with_at_most_k_lesions": int((widest.rows <= options.top_k).sum()),
        "retrieval": {str(k): _retrieval(of_k, count, options) for k, of_k in found.items()},
        "auc_within_patients": _spread(*patients.auc_within(target, prediction, patient), count, options),
        **{name: _calls(target, prediction >= at, patient, options) for name, at in thresholds.items()},
        "froc": _froc(target, _one_scale(table, target, prediction), patient, count, options),
    }


def calibration_metrics(table: pd.DataFrame, probabilities: Probabilities, options: ClinicOptions) -> dict[str, Any]:
    """Return the calibration of probabilities, at the stated prevalence or the table's."""
    target, p, weight = _at_prevalence(table, probabilities, options)
    likelihood = np.clip(np.where(target == 1, p, 1 - p), np.finfo(np.float64).eps, 1)
    patient = patients_of(table)
    expected, observed, loss, rows = (
        np.bincount(patient, weight * column) for column in (p, target, -np.log(likelihood), np.ones(len(p)))
    )
    enough = np.count_nonzero(observed) >= FEWEST_PATIENTS
    limits = calibration_limits(target, p, weight, patient, options.resamples, options.seed)
    chance = {"resamples": options.resamples if enough else 0, "seed": options.seed, "best": np.inf}
    return {
        "of": AS_THEY_ARE if probabilities.prevalence is None else CALIBRATED,
        "prevalence": float(np.average(target, weights=weight)),
        "stated_prevalence": options.prevalence is not None,
        "expected_over_observed": ratio(expected, observed, **chance),
        **{key: _with_limits(formula(target, p, weight), key, limits) for key, _, formula in CALIBRATION},
        "log_loss": ratio(loss, rows, **chance),
    }


def _with_limits(value: float, key: str, limits: Mapping[str, tuple[float, float] | None]) -> Estimate | float:
    """Return the value with its interval, if the metric of the key has intervals."""
    return Estimate(value, *(limits[key] or ())) if key in limits else value


def calibration_by_label(target: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Return the metrics of calibration without intervals, by label."""
    ratio_of_sums = calibrated.expected_over_observed(target, prediction)
    return {EXPECTED: ratio_of_sums} | {label: formula(target, prediction) for _, label, formula in CALIBRATION}


def decision_metrics(
    table: pd.DataFrame, probabilities: Probabilities, options: ClinicOptions, known_patients: int | None
) -> dict[str, Any]:
    """Return the decision curve and the calls at fixed sensitivity, at the stated prevalence or the table's."""
    target, p, weight = _at_prevalence(table, probabilities, options)
    scale = _one_scale(table, target, table["prediction"].to_numpy(np.float64))
    curve = decision.decision_curve(target, p, weight)
    limits = benefit_limits(
        target, p, patients_of(table), curve.threshold, options.prevalence, options.resamples, options.seed
    )
    low, high = zip(*((None, None) if ends is None else ends for ends in limits), strict=True)
    return {
        "of": AS_THEY_ARE if probabilities.prevalence is None else CALIBRATED,
        "prevalence": float(np.average(target, weights=weight)),
        "stated_prevalence": options.prevalence is not None,
        "curve": {name: values.tolist() for name, values in curve._asdict().items()}
        | {"model_low": list(low), "model_high": list(high)},
        "needed": {
            f"{at:g}": decision.needed_at(target, scale, at, options.prevalence, known_patients)._asdict()
            for at in decision.SENSITIVITIES
        },
    }


def grids(found: Clinic) -> list[Grid]:
    """Return the tables to print."""
    shown = []
    if (of := found.patients) is not None:
        shown += [_retrieval_grid(of), _calls_grid(of), _froc_grid(of)]
    if (of := found.calibration) is not None:
        labels = {"expected_over_observed": EXPECTED}
        labels |= {key: label for key, label, _ in CALIBRATION} | {"log_loss": "log loss"}
        shown.append(Grid(f"calibration of {of['of']}, {_at(of)}", ("",), [(v, (of[k],)) for k, v in labels.items()]))
    if (of := found.decision) is not None:
        at = [of["curve"]["threshold"].index(t) for t in SHOWN_THRESHOLDS]
        rows = [(f"called from {t:g} on", _benefits(of["curve"], i)) for t, i in zip(SHOWN_THRESHOLDS, at, strict=True)]
        shown.append(Grid(f"decision curve per 1,000 lesions, {_at(of)}", [*CURVE.values()], rows))
        columns = [f"{float(key):.0%}" for key in of["needed"]]
        rows = [(label, [each[key] for each in of["needed"].values()]) for key, label in NEEDED.items()]
        shown.append(Grid(f"calls at fixed sensitivity, {_at(of)}", columns, rows))
    return shown


def _benefits(curve: Mapping[str, Sequence[float]], i: int) -> list[float | Estimate]:
    """Return the cells of one threshold, all per 1,000 lesions."""
    cells = [curve[key][i] * (1 if key.endswith("per_1000") else 1000) for key in CURVE]
    low, high = curve["model_low"][i], curve["model_high"][i]
    return cells if low is None else [Estimate(cells[0], 1000 * low, 1000 * high), *cells[1:]]


def _retrieval_grid(of: Mapping[str, Any]) -> Grid:
    title = (
        f"malignant lesions among a patient's k highest: {of['malignant_patients']:,} of {of['patients']:,} patients"
    )
    rows = []
    for key, label, *_ in RETRIEVAL:
        rows.append((label, [each[key] for each in of["retrieval"].values()]))
        rows.append(("  by chance", [each[f"chance_{key}"] for each in of["retrieval"].values()]))
    return Grid(title, [f"top {k}" for k in of["retrieval"]], rows)


def _calls_grid(of: Mapping[str, Any]) -> Grid:
    names = {"at_threshold": "at the threshold", "at_chosen_threshold": "at the chosen one"}
    columns = [key for key in names if key in of]
    rows = [(label, [of[column][key] for column in columns]) for key, label in CALLS]
    rows.append(("AUC within patients", [of["auc_within_patients"], *[None] * (len(columns) - 1)]))
    return Grid("patients called if any lesion is", [names[column] for column in columns], rows)


def _froc_grid(of: Mapping[str, Any]) -> Grid:
    columns = [f"{float(key):g}" for key in of["froc"]]
    return Grid("FROC: false positives per patient", columns, [("sensitivity", list(of["froc"].values()))])


def _at(of: Mapping[str, Any]) -> str:
    stated = "the stated" if of["stated_prevalence"] else "the table's"
    return f"at {stated} prevalence, {100 * of['prevalence']:.3g} %"


def _retrieval(found: Found, patients: int, options: ClinicOptions) -> dict[str, Any]:
    tree = {}
    for key, _, numerators, denominator in RETRIEVAL:
        by_model, by_chance = numerators(found)
        each = denominator(found.malignant)
        tree[key] = _spread(by_model, each, patients, options)
        tree[f"chance_{key}"] = ratio(by_chance, each).value
    return tree


def _spread(numerator: np.ndarray, denominator: np.ndarray, patients: int, options: ClinicOptions) -> Estimate:
    """Return a ratio of some of the patients, with an interval by draws of all."""
    others = np.zeros(patients - len(numerator))
    padded = (np.append(column, others) for column in (numerator, denominator))
    return ratio(*padded, resamples=options.resamples, seed=options.seed)


def _froc(
    target: np.ndarray, scale: np.ndarray, patient: np.ndarray, count: int, options: ClinicOptions
) -> dict[str, Estimate]:
    allowed = patients.FALSE_POSITIVES
    values = patients.froc(target, scale, count)
    limits = froc_limits(target, scale, patient, allowed, values, options.resamples, options.seed)
    return {
        str(most): Estimate(value, *(ends or ())) for most, value, ends in zip(allowed, values, limits, strict=True)
    }


def _calls(target: np.ndarray, called: np.ndarray, patient: np.ndarray, options: ClinicOptions) -> dict[str, Any]:
    found = patients.patient_calls(target, called, patient)
    options = {"resamples": options.resamples, "seed": options.seed}
    return {
        "called": int(found.called.sum()),
        "sensitivity": ratio(1.0 * (found.malignant & found.called), 1.0 * found.malignant, **options),
        "specificity": ratio(1.0 * (~found.malignant & ~found.called), 1.0 * ~found.malignant, **options),
    }


def _one_scale(table: pd.DataFrame, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the predictions, or ranks within folds where there are several and each has a benign row."""
    if len(folds_of(table)) < 2:
        return prediction
    rank = rank_within_folds(target, prediction, table["fold"].to_numpy(np.int64))
    return prediction if rank is None else rank


def _at_prevalence(
    table: pd.DataFrame, probabilities: Probabilities, options: ClinicOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target, probability and weight [n]; calibrated probabilities are shifted to the stated prevalence."""
    target = table["target"].to_numpy(np.int64)
    weight = decision.prevalence_weight(target, options.prevalence)
    p = np.asarray(probabilities.values, np.float64)
    if probabilities.prevalence is not None and options.prevalence is not None:
        p = expit(logit(p) + logit(options.prevalence) - logit(probabilities.prevalence))
    return target, p, weight


def _on_patients(of: Mapping[str, Any], k: int) -> list[str]:
    few = f"{of['with_at_most_k_lesions']} of {of['malignant_patients']} patients with a malignant lesion"
    pooled = of["retrieval"][str(k)]["chance_pooled"]
    return [f"{few} have at most {k} lesions: by chance the top {k} hold {pooled:.3f} of the malignant lesions"]


def _on_prevalence(probabilities: Probabilities, options: ClinicOptions) -> list[str]:
    notes = ["a call is not a biopsy: most benign lesions of ISIC were never biopsied"]
    if options.prevalence is None:
        return [
            *notes,
            "calibration, decision curve and calls are at the table's prevalence; give --prevalence a clinic's",
        ]
    how = "predictions are taken as they are" if probabilities.prevalence is None else "probabilities are shifted to it"
    return [*notes, f"benign rows are weighted to a prevalence of {100 * options.prevalence:g} %; {how}"]
