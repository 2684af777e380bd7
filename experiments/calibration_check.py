"""Simulate networks whose true risks are known, and measure calibrated predictions against them.

python -m experiments.calibration_check: the table of docs/calibration.md. Each set has one score a row, normal with
standard deviation 1, its mean 2 higher for malignant rows. The network's logit is `sureness` times the log odds among
its training rows: 1 % of the benign ones, malignant ones weighted by `pos_weight`. Rows fall into five folds at random.
"""

import argparse
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from jaxlesion.evaluation import calibration
from jaxlesion.evaluation.logistic import fit_logistic

ROWS, FOLDS, KEPT, APART = 100_000, 5, 0.01, 2.0


class World(NamedTuple):
    """Parameters of simulated rows and their network."""

    sureness: float
    pos_weight: float
    prevalence: float


class Found(NamedTuple):
    """Calibrated predictions against true risks."""

    ratio: float
    """Sum of predictions over sum of risks."""
    slope: float
    """Coefficient of the calibrated log odds in a logistic regression of the risks; 1 is right."""
    top: float
    """`ratio` among the thousandth of the rows that has the highest predictions."""


WORLDS = [World(s, w, p) for s in (1.6, 0.625) for w in (1.0, 2.0) for p in (0.001, 0.002)]


def draw(world: World, rng: np.random.Generator, rows: int = ROWS) -> tuple[np.ndarray, ...]:
    """Return target, uncorrected prediction, fold and true risk, each [rows]."""
    target = (rng.random(rows) < world.prevalence).astype(int)
    score = rng.normal(APART * target)
    log_odds = special.logit(world.prevalence) + APART * score - APART**2 / 2
    trained = log_odds - np.log(KEPT) + np.log(world.pos_weight)
    return target, special.expit(world.sureness * trained), rng.integers(FOLDS, size=rows), special.expit(log_odds)


def by_line(target: np.ndarray, prediction: np.ndarray, fold: np.ndarray, pos_weight: float) -> np.ndarray:
    """Return each row's prediction [n], calibrated by offset and line, fitted on the other folds."""
    names = {k: f"fold_{k}/1" for k in range(FOLDS)}
    counts = dict.fromkeys(range(FOLDS), (round(1e6 * KEPT), 10**6))
    return calibration.fit(target, prediction, fold, names, counts, pos_weight).out_of_fold(prediction, fold)


def by_temperature(target: np.ndarray, prediction: np.ndarray, fold: np.ndarray, pos_weight: float) -> np.ndarray:
    """Return the same by offset and temperature, as versions before the line did."""
    z = calibration.logit(prediction) + np.log(KEPT) - np.log(pos_weight)
    found = np.empty(len(z))
    for k in range(FOLDS):
        y, x = target[fold != k], z[fold != k]

        def loss(log_t: float, y: np.ndarray = y, x: np.ndarray = x) -> float:
            scaled = x / np.exp(log_t)
            return float(np.mean(np.logaddexp(0, scaled) - y * scaled))

        log_t = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-6}).x
        found[fold == k] = special.expit(z[fold == k] / np.exp(log_t))
    return found


def against_truth(calibrated: np.ndarray, risk: np.ndarray) -> Found:
    """Measure calibrated predictions against true risks."""
    design = np.column_stack([np.ones(len(risk)), calibration.logit(calibrated)])
    top = np.argpartition(calibrated, -len(risk) // 1000)[-len(risk) // 1000 :]
    slope = fit_logistic(design, risk)[1]
    return Found(calibrated.sum() / risk.sum(), float(slope), calibrated[top].sum() / risk[top].sum())


def simulate(world: World, sets: int, seed: int = 0, rows: int = ROWS, calibrate=by_line) -> np.ndarray:
    """Return ratio, slope and top [sets, 3] of some simulated sets."""
    found = []
    for number in range(sets):
        target, prediction, fold, risk = draw(world, np.random.default_rng([seed, number]), rows)
        found.append(against_truth(calibrate(target, prediction, fold, world.pos_weight), risk))
    return np.array(found)


def main() -> None:
    """Print the table, before and after, a world a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    print("| sureness | weight | prevalence | by | expected / true | slope | top thousandth |")
    print("|---:|---:|---:|---|---:|---:|---:|")
    for world in WORLDS:
        for name, method in (("temperature", by_temperature), ("a + b z", by_line)):
            found = simulate(world, options.sets, rows=options.rows, calibrate=method)
            mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(options.sets)
            cells = " | ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True))
            print(
                f"| {world.sureness:g} | {world.pos_weight:g} | {100 * world.prevalence:g} % | {name} | {cells} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
