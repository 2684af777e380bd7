"""A line in the registry adds a metric to JSON, intervals and tables."""

import numpy as np
import pandas as pd
import pytest

from jaxlesion.evaluation import registry
from jaxlesion.evaluation.bootstrap import Scores, resample
from jaxlesion.evaluation.registry import CHOSEN, Metric, Table
from jaxlesion.evaluation.statistics import Statistics
from jaxlesion.evaluation.summary import EvalOptions, summarise
from jaxlesion.ui.console import print_neighbours, print_summary


def draw(rows: int = 200) -> pd.DataFrame:
    """Return out-of-fold predictions of two folds."""
    rng = np.random.default_rng(0)
    target = (rng.random(rows) < 0.3).astype(int)
    ids, patient = ([f"{name}_{i}" for i in range(rows)] for name in ("ISIC", "IP"))
    prediction = np.clip(0.3 * target + 0.7 * rng.random(rows), 0, 1)
    columns = {"isic_id": ids, "patient_id": patient, "target": target, "fold": np.arange(rows) % 2}
    return pd.DataFrame(columns | {"prediction": prediction, "model": "m"})


@pytest.fixture
def mean_prediction(monkeypatch) -> str:
    """Register a metric by one line and return its label."""

    def formula(s: Statistics) -> np.ndarray:
        return (s.gaps(1)[:, 0] + s.positives) / s.n

    new = Metric("mean_prediction", "mean prediction", formula, Table.CONSOLE | Table.KNN, headline="mean")
    monkeypatch.setattr(registry, "OF_PREDICTIONS", (*registry.OF_PREDICTIONS, new))
    return new.label


def test_a_new_line_is_in_the_summary_with_an_interval_and_in_every_table(mean_prediction, capsys):
    table = draw()
    found = summarise({"all rows": table}, "", EvalOptions(resamples=40))
    pooled = found["pooled"]["all rows"]["mean_prediction"]
    assert pooled.value == pytest.approx(table["prediction"].mean())
    assert pooled.low < pooled.value < pooled.high
    assert "mean_prediction" in found["mean of folds"]["all rows"]
    print_summary(found)
    print_neighbours("", {"k = 5": found["pooled"]["all rows"]})
    printed = capsys.readouterr().out
    assert printed.count(mean_prediction) == 4  # two folds, pooled beside mean, neighbours
    assert registry.headlines()["mean_prediction"] == "mean"


def test_what_has_an_interval_is_what_is_resampled():
    table = draw()
    target, prediction = table["target"], table["prediction"]
    samples = resample(target, [Scores(prediction, {"": 0.5, CHOSEN: 0.3})], resamples=2).samples[0]
    keys = registry.summary(target, prediction, {"": 0.5, CHOSEN: 0.3})
    assert set(samples) == {key for key in keys if registry.has_interval(key)}
    assert "log_loss" in samples


def test_keys_are_unique_and_every_printed_one_is_in_the_summary():
    keys = [m.key for m in registry.OF_PREDICTIONS + registry.AT_THRESHOLD]
    assert len(keys) == len(set(keys))
    found = registry.summary([0, 1], [0.2, 0.9], {"": 0.5, CHOSEN: 0.3})
    for table in (Table.CONSOLE, Table.KNN):
        assert {key for _, key in registry.printed(table)} <= set(found)
    assert set(registry.headlines()) <= set(found)
    assert ("log loss", "log_loss") in registry.printed(Table.CONSOLE)
