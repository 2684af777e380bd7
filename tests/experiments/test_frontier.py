"""The comparison of networks and sizes, shrunk."""

import re

import pytest

from experiments import frontier
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.summary import Estimate


@pytest.mark.extra
def test_trained_networks_are_ranked_and_others_cost_alone(demo, tmp_path):
    config = frontier.Frontier(
        demo, tmp_path, ("tiny",), ("efficientnetv2_b0",), ("none",), (32, 64), batch=4, turns=2, shrink=True
    )
    text = frontier.frontier(config).read_text()
    rows = re.findall(r"^\| (TINY|B0) \| (\d+) \| ([^|]*) \| ([^|]*) \| ([\d.]+) \|", text, re.M)
    assert [row[:2] for row in rows] == [("TINY", "32"), ("TINY", "64"), ("B0", "32"), ("B0", "64")]
    assert [row[2] == "untrained" for row in rows] == [False, False, True, True]
    assert all(float(row[4]) > 0 for row in rows)
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_costs_grow_with_the_image():
    small, large = frontier.costs([("tiny", 32), ("tiny", 256)], 4, 3)
    assert small["milliseconds"] < large["milliseconds"]
    assert small["working"] < large["working"]
    assert small["weights"] == large["weights"]


def test_the_table_says_what_is_untrained(tmp_path):
    cost = {"size": 64, "milliseconds": 1.0, "weights": 2.0, "working": 3.0}
    ranked = {"roc_auc": Estimate(0.8, 0.7, 0.9), "pauc": Estimate(0.1, 0.05, 0.15)}
    points = [cost | {"network": "efficientnetv2_b0"} | ranked, cost | {"network": "efficientnetv2_b2"}]
    text = frontier.write(frontier.Frontier(out=tmp_path), points).read_text()
    assert "| B0 | 64 | 0.800 [0.700, 0.900] | 0.100 [0.050, 0.150] | 1.0 | 2 | 3 |" in text
    assert "| B2 | 64 | untrained | untrained | 1.0 | 2 | 3 |" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--data-dir"),
        ({"cost_only": True, "weights": ("a", "b", "c")}, "--weights"),
        ({"trained": ("b9",)}, "no network b9"),
    ],
)
def test_wrong_options_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        frontier.frontier(frontier.Frontier(out=tmp_path, **options))
