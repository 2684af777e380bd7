"""Simulate how often a 95 % interval holds the truth, before and after, and print the tables of docs/trust.md.

    python -m experiments.coverage --sets 2000 --out coverage.md

A set is a sample of patients with 1 to 500 lesions (log-normal), whose effects correlate the scores of one patient's
lesions. `--malignant` is the expected number of patients with a malignant lesion; the number itself varies, as it would
in another sample. Predictions are the true risk with an error, so that they are calibrated about as a network's are.
Before: patients with and without a malignant lesion are drawn apart, undefined rates are 0, limits are percentiles.
After: `jaxlesion.evaluation.bootstrap`. The truth is integrated. Results are kept in
`--out`.json after every 50 sets, from which an interrupted simulation resumes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from scipy.stats import norm

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.evaluation import registry
from jaxlesion.evaluation.bootstrap import Scores, resample
from jaxlesion.evaluation.compare import difference_limits
from jaxlesion.evaluation.crossfold import mean_auc_spread, rank_within_folds
from jaxlesion.evaluation.intervals import by_logit, percentiles
from jaxlesion.evaluation.permutation import Model, holm, mid_ranks, swap_p
from jaxlesion.evaluation.statistics import Rows
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.terminal import say, show

METRICS = (
    *("roc_auc", "pauc", "pr_auc", "sensitivity_at_90_specificity", "brier", "log_loss"),
    *("malignant_precision", "malignant_recall", "specificity"),
)
RESAMPLED_EVERY = 50  # sets between two saves
MEDIAN_LESIONS, SPREAD_LESIONS = 12.0, 1.3  # median and standard deviation of the logarithm of a patient's lesions
MOST_LESIONS = 500
MALIGNANT_LESIONS = {1: 4 / 6, 2: 1 / 6, 3: 1 / 6}  # of a patient who has some, and how likely
SHIFT, PATIENT_SD, ROW_SD = 2.0, 0.7, 1.0  # of the score: malignant less benign, of patients, and of rows


@dataclass(frozen=True)
class Coverage:
    """Coverage of 95 % intervals in simulated sets of patients."""

    sets: int = 200
    """Simulated sets for each number of malignant patients."""
    malignant: tuple[int, ...] = (4, 10, 16, 40, 100)
    """Expected numbers of patients with a malignant lesion."""
    patients: int = 300
    """Patients of a set."""
    resamples: int = 400
    """Resamples of an interval by percentiles."""
    swaps: int = 1999
    """Swaps for p; 25 metrics adjusted by Holm take some thousand."""
    kind: Literal["one", "folds", "pair", "difference"] = "one"
    """Simulate one table, five folds whose models have scales of their own, the p of two models that are alike, or the
    difference of two models, of which one is better."""
    before: bool = True
    """Also compute the intervals that were used before."""
    out: Path | None = None
    """Write the tables there, as Markdown."""


DIFFERENCES = ("roc_auc", "pauc", "brier")
WORSE_SD, SHARED_SD = 1.3, 0.7  # of rows: by the worse of two models, and of what both have in common


def draw(rng: np.random.Generator, patients: int, malignant: float) -> tuple[np.ndarray, ...]:
    """Return patient, target and prediction [rows] of a sample of patients.

    Args:
        rng: of the sample.
        patients: number of them.
        malignant: expected number of patients with a malignant lesion.
    """
    lesions = lesions_of(rng, patients)
    patient = np.repeat(np.arange(patients), lesions)
    first = np.cumsum(lesions) - lesions
    has = rng.random(patients) < malignant / patients
    more = np.where(has, rng.choice([*MALIGNANT_LESIONS], p=[*MALIGNANT_LESIONS.values()], size=patients), 0)
    target = (np.arange(len(patient)) - first[patient] < more[patient]).astype(int)
    effect = PATIENT_SD * rng.normal(size=patients)
    score = SHIFT * target + effect[patient] + ROW_SD * rng.normal(size=len(patient))
    return patient, target, predicted(score, patients, malignant)


def lesions_of(rng: np.random.Generator, patients: int) -> np.ndarray:
    """Return the number of lesions of each patient."""
    lesions = np.round(MEDIAN_LESIONS * np.exp(SPREAD_LESIONS * rng.normal(size=patients)))
    return np.clip(lesions, 1, MOST_LESIONS).astype(int)


def predicted(score: np.ndarray, patients: int, malignant: float) -> np.ndarray:
    """Return the predictions of scores: their risk at about the prevalence."""
    variance = PATIENT_SD**2 + ROW_SD**2
    logit = SHIFT / variance * (score - SHIFT / 2) + math.log(threshold_of(patients, malignant) / 3)
    return 1 / (1 + np.exp(-logit))


def threshold_of(patients: int, malignant: float) -> float:
    """Return the threshold of all sets: three times about the prevalence."""
    return 4.5 * malignant / (patients * MEDIAN_LESIONS * math.exp(SPREAD_LESIONS**2 / 2))


def prevalence(patients: int, malignant: float, drawn: int = 1_000_000) -> float:
    """Return the share of lesions that are malignant, from a million patients' numbers of lesions."""
    lesions = lesions_of(np.random.default_rng(99), drawn)
    found = sum(share * np.minimum(more, lesions).mean() for more, share in MALIGNANT_LESIONS.items())
    return malignant / patients * found / lesions.mean()


def truth(patients: int, malignant: float, points: int = 200_001, row_sd: float = ROW_SD) -> dict[str, float]:
    """Return the metrics of the population, from equally likely scores of both classes at its prevalence.

    Scores of a class are normal, whatever the sizes of patients: AUC is Phi(shift / (variance sqrt(2))) to 1e-5. Pairs
    of rows of one patient vanish among all.
    """
    sd, share = math.sqrt(PATIENT_SD**2 + row_sd**2), prevalence(patients, malignant)
    score = sd * norm.ppf((np.arange(points) + 0.5) / points)
    prediction = predicted(np.concatenate([score, score + SHIFT]), patients, malignant)
    target = np.repeat([0, 1], points)
    at = {"": np.full(2 * points, threshold_of(patients, malignant))}
    statistics = Rows(target, prediction, target, 2, at).weighted(np.array([[1 - share, share]]) / points)
    found = registry.scores(statistics) | registry.rates(*statistics.confusions[""][:4])
    return {key: float(found[key][0]) for key in METRICS}


def drawn_apart(
    rng: np.random.Generator, target: np.ndarray, prediction: np.ndarray, patient: np.ndarray, at: float, resamples: int
) -> dict[str, np.ndarray]:
    """Return metrics of [resamples] of patients with and without a malignant lesion apart, undefined rates 0."""
    name = np.unique(patient, return_inverse=True)[1]
    clusters = int(name.max()) + 1
    rows = Rows(target, prediction, name, clusters, {"": np.full(len(target), at)})
    has = rows.classes[:, 1] > 0
    weight = np.zeros((resamples, clusters))
    for stratum in (np.flatnonzero(has), np.flatnonzero(~has)):
        if len(stratum):
            share = np.full(len(stratum), 1 / len(stratum))
            weight[:, stratum] = rng.multinomial(len(stratum), share, resamples)
    statistics = rows.weighted(weight)
    rates = registry.rates(*statistics.confusions[""][:4])
    return registry.scores(statistics) | {key: np.nan_to_num(rate) for key, rate in rates.items()}


def simulate(config: Coverage, malignant: int, known: dict[str, float], number: int) -> dict[str, list[int]]:
    """Return for each metric [held, missed below, missed above, withheld] of one set, before and after.

    Args:
        config: of the simulation.
        malignant: expected number of malignant patients.
        known: the truth.
        number: of the set.
    """
    rng = np.random.default_rng((malignant, number))
    patient, target, prediction = draw(rng, config.patients, malignant)
    if config.kind == "folds":
        return _of_folds(patient, target, prediction, known, rng)
    if config.kind == "pair":
        return _of_pair(config, malignant, patient, target, rng)
    if config.kind == "difference":
        return _of_difference(config, malignant, patient, target, known, rng)
    at = threshold_of(config.patients, malignant)
    values = registry.summary(target, prediction, at)
    found = resample(target, [Scores(prediction, {"": at})], patient, resamples=config.resamples, seed=number)
    ends = {f"after {key}": found.limits(key, values[key]) for key in METRICS}
    if config.before:
        old = drawn_apart(rng, target, prediction, patient, at, config.resamples)
        ends |= {f"before {key}": percentiles(old[key]) for key in METRICS}
    return {name: outcome(limits, known[name.split(" ")[1]]) for name, limits in ends.items()}


def _of_folds(
    patient: np.ndarray, target: np.ndarray, prediction: np.ndarray, known: dict[str, float], rng: np.random.Generator
) -> dict[str, list[float]]:
    """Return outcomes and estimates of five folds with scales of their own, pooled and as a mean."""
    fold = patient % 5
    offset = rng.normal(size=5)[fold]
    prediction = 1 / (1 + np.exp(-np.log(prediction / (1 - prediction)) - offset))
    rank = rank_within_folds(target, prediction, fold)
    found = resample(target, [Scores(prediction, {"": 0.5}, rank)], patient, resamples=2)
    parts = [(target[fold == k], prediction[fold == k], patient[fold == k]) for k in range(5)]
    plain = [registry.summary(*part[:2]) for part in parts]
    result = {}
    for key in ("roc_auc", "pauc"):
        raw = registry.summary(target, prediction)[key]
        pooled = registry.summary(target, prediction, rank=rank)[key]
        mean = float(np.mean([one[key] for one in plain]))
        ends = found.limits(key, pooled)
        result[f"pooled-ranks {key}"] = [*outcome(ends, known[key]), pooled]
        result[f"pooled-raw {key}"] = [*outcome(None, known[key]), raw]
        ends = None
        if key == "roc_auc" and not math.isnan(mean):
            spread = mean_auc_spread(parts)
            ends = None if math.isnan(spread.error) or not 0 < mean < 1 else by_logit(mean, spread, 1.0)
        result[f"mean-of-folds {key}"] = [*outcome(ends, known[key]), mean]
    return result


def _of_pair(
    config: Coverage, malignant: int, patient: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Return whether p of two alike models is below .05: of ROC AUC, and of any metric.

    Before, p is twice the smaller share of stratified resamples on one side of 0, and no number of metrics is minded.
    """
    effect = PATIENT_SD * rng.normal(size=config.patients)[patient] + SHIFT * target
    scores = [effect + ROW_SD * rng.normal(size=len(target)) for _ in range(2)]
    pair = [predicted(score, config.patients, malignant) for score in scores]
    at = threshold_of(config.patients, malignant)
    samples = [
        drawn_apart(np.random.default_rng((malignant, config.resamples)), target, one, patient, at, config.resamples)
        for one in pair  # the same resamples
    ]
    before = {key: _share_p(samples[0][key] - samples[1][key]) for key in samples[0]}
    models = [Model(one, mid_ranks(one, np.zeros(len(one))), {"": np.full(len(one), at)}, one) for one in pair]
    p = swap_p(target, patient, tuple(models), swaps=config.swaps, seed=malignant)
    adjusted = holm({key: value for key, value in p.items() if key != "roc_auc" and not np.isnan(value)})
    return {
        "before roc_auc": [float(before["roc_auc"] < 0.05)],
        "before any": [float(np.nanmin([*before.values()]) < 0.05)],
        "after roc_auc": [float(p["roc_auc"] < 0.05)],
        "after any": [float(min(adjusted.values()) < 0.05)],
    }


def _of_difference(
    config: Coverage,
    malignant: int,
    patient: np.ndarray,
    target: np.ndarray,
    known: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, list[int]]:
    """Return outcomes of the difference of two models that share patient effects and some of the rows' errors."""
    shared = PATIENT_SD * rng.normal(size=config.patients)[patient] + SHIFT * target
    shared += SHARED_SD * rng.normal(size=len(target))
    own = (math.sqrt(sd**2 - SHARED_SD**2) for sd in (ROW_SD, WORSE_SD))
    scores = [Scores(predicted(shared + sd * rng.normal(size=len(target)), config.patients, malignant)) for sd in own]
    found = resample(target, scores, patient, resamples=config.resamples, seed=int(rng.integers(1 << 31)))
    return {f"difference {key}": outcome(difference_limits(key, found), known[key]) for key in DIFFERENCES}


def _known(config: Coverage, malignant: int) -> dict[str, float]:
    """Return the truth that intervals should hold."""
    better = truth(config.patients, malignant)
    if config.kind != "difference":
        return better
    worse = truth(config.patients, malignant, row_sd=WORSE_SD)
    return {key: better[key] - worse[key] for key in better}


def _share_p(gap: np.ndarray) -> float:
    gap = gap[~np.isnan(gap)]
    if not len(gap):
        return 1.0
    least = min(np.count_nonzero(gap <= 0), np.count_nonzero(gap >= 0))
    return min(1.0, 2 * (1 + least) / (1 + len(gap)))


def outcome(limits: tuple[float, float] | None, known: float) -> list[int]:
    """Return whether the truth was held, was below the interval, was above it, and whether there was none."""
    if limits is None:
        return [0, 0, 0, 1]
    low, high = limits
    return [int(low <= known <= high), int(known < low), int(known > high), 0]


def table(results: dict[str, list[dict[str, list[float]]]], names: Sequence[str], key: str) -> list[str]:
    """Return lines of one metric: for each number of malignant patients the coverage of all names."""
    lines = []
    for malignant, sets in results.items():
        cells = [_cell(np.array([one[f"{name} {key}"] for one in sets], float)) for name in names]
        lines.append(f"| {key} | {malignant} | {len(sets)} | {' | '.join(cells)} |")
    return lines


def _cell(outcomes: np.ndarray) -> str:
    """Return coverage among the sets with an interval, misses below and above, and the share without interval.

    Of p, the share of sets below .05.
    """
    if outcomes.shape[1] == 1:
        share = outcomes.mean()
        return f"{share:.3f} ± {math.sqrt(share * (1 - share) / len(outcomes)):.3f}"
    given = outcomes[outcomes[:, 3] == 0]
    extra = f"mean {np.nanmean(outcomes[:, 4]):.4f}" if outcomes.shape[1] > 4 else ""
    if not len(given):
        return extra or "withheld"
    held = given[:, 0].mean()
    error = math.sqrt(held * (1 - held) / len(given))
    below, above = given[:, 1].mean(), given[:, 2].mean()
    share = outcomes[:, 3].mean()
    none = f"; none in {share:.0%}" if share > 0.005 else ""
    return f"{held:.3f} ± {error:.3f} ({below:.3f}, {above:.3f}{none}) {extra}".strip()


def coverage(config: Coverage) -> str:
    """Simulate, print and return the tables."""
    kept = None if config.out is None else config.out.with_suffix(".json")
    results: dict[str, list[dict[str, list[float]]]] = {}
    options = {"patients": config.patients, "resamples": config.resamples, "swaps": config.swaps}
    options |= {"kind": config.kind, "before": config.before}
    if kept is not None and kept.is_file():
        stored = json.loads(kept.read_text())
        if stored["options"] != options:
            raise InputError(f"{kept} is of {stored['options']}: give the same options, or another --out")
        results = stored["sets"]
    for malignant in config.malignant:
        sets, known = results.setdefault(str(malignant), []), _known(config, malignant)
        while len(sets) < config.sets:
            sets.append(simulate(config, malignant, known, len(sets)))
            if kept is not None and (len(sets) % RESAMPLED_EVERY == 0 or len(sets) == config.sets):
                write_atomic(kept, json.dumps({"options": options, "sets": results}))
        say(f"{malignant} malignant patients: {len(sets)} sets")
        if config.kind in ("folds", "difference"):
            say(f"truth: ROC AUC {known['roc_auc']:.4f}, pAUC {known['pauc']:.4f}, Brier score {known['brier']:.5f}")
    names, keys = ("before", "after") if config.before else ("after",), METRICS
    if config.kind == "folds":
        names, keys = ("pooled-raw", "pooled-ranks", "mean-of-folds"), ("roc_auc", "pauc")
    elif config.kind == "pair":
        names, keys = ("before", "after"), ("roc_auc", "any")
    elif config.kind == "difference":
        names, keys = ("difference",), DIFFERENCES
    lines = [f"| metric | malignant patients | sets | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for key in keys:
        lines += table(results, names, key)
    text = "\n".join(lines)
    show(text)
    if config.out is not None:
        write_atomic(config.out, text + "\n")
    return text


if __name__ == "__main__":
    run_program(lambda: coverage(tyro.cli(Coverage)))
