"""Simulated coverage, shortened: the truth is right, and intervals that are now given hold it."""

import json
import math

import numpy as np
import pytest

from experiments.coverage import DIFFERENCES, Coverage, _known, coverage, draw, prevalence, simulate, truth
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation import registry


def test_the_truth_is_what_many_simulated_lesions_have():
    known = truth(300, 60)
    assert known["roc_auc"] == pytest.approx((1 + math.erf(2 / math.sqrt(1.49) / 2)) / 2, abs=1e-4)
    samples = [draw(np.random.default_rng(i), 300, 60)[1:] for i in range(60)]
    target, prediction = (np.concatenate(column) for column in zip(*samples, strict=True))
    assert target.mean() == pytest.approx(prevalence(300, 60), rel=0.05)
    found = registry.summary(target, prediction)
    for key in ("roc_auc", "pauc", "brier", "log_loss"):
        assert known[key] == pytest.approx(found[key], rel=0.05), key


def test_new_intervals_hold_the_truth_where_the_old_ones_did_not():
    config = Coverage(sets=120, patients=80, resamples=120)
    known = truth(80, 25)
    sets = [simulate(config, 25, known, number) for number in range(config.sets)]

    def held(name: str) -> float:
        given = [one[name] for one in sets if not one[name][3]]
        return float(np.mean([outcome[0] for outcome in given]))

    for key in ("roc_auc", "pauc", "brier", "log_loss", "malignant_precision", "malignant_recall"):
        assert held(f"after {key}") >= 0.88, key  # .93 less 2.5 standard errors
    assert held("before brier") < 0.85
    assert held("before malignant_precision") < held("after malignant_precision")


def test_intervals_of_differences_hold_the_true_difference():
    config = Coverage(patients=80, resamples=120, kind="difference")
    known = _known(config, 25)
    assert known["roc_auc"] > 0 > known["brier"]
    sets = [simulate(config, 25, known, number) for number in range(80)]
    for key in DIFFERENCES:
        assert np.mean([one[f"difference {key}"][0] for one in sets]) >= 0.86, key


@pytest.mark.parametrize("kind", ["one", "folds", "pair", "difference"])
def test_it_resumes_and_writes_a_table(kind, tmp_path):
    options = {
        "malignant": (16,),
        "patients": 60,
        "resamples": 40,
        "swaps": 40,
        "kind": kind,
        "out": tmp_path / "coverage.md",
    }
    coverage(Coverage(sets=2, **options))
    kept = json.loads((tmp_path / "coverage.json").read_text())["sets"]["16"]
    text = coverage(Coverage(sets=3, **options))
    assert json.loads((tmp_path / "coverage.json").read_text())["sets"]["16"][:2] == kept
    assert text + "\n" == (tmp_path / "coverage.md").read_text()
    assert "| roc_auc | 16 | 3 |" in text
    with pytest.raises(InputError, match="give the same options"):
        coverage(Coverage(sets=3, **options | {"patients": 50}))
