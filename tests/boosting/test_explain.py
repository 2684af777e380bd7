import numpy as np
import pytest

from jaxlesion.boosting.explain import COMPARED, explain, groups_of, reasons
from jaxlesion.boosting.predict import folds_features
from jaxlesion.boosting.trees import log_odds
from jaxlesion.core.hooks import Meter
from jaxlesion.data.predictions import read_predictions
from jaxlesion.runs.store import Run


@pytest.fixture(scope="module")
def opened(tabular_run):
    run = Run.open(tabular_run)
    return run, run.open_data()[1], read_predictions(run.folder / "oof.csv")


@pytest.fixture(scope="module")
def explanation(opened):
    return explain(*opened)


def test_groups_hold_every_feature_once_and_comparisons_once_more():
    found = groups_of(["tbp_lv_H", "z:tbp_lv_H", "elongation", "sex", "image logit", "site count", "mine"])
    assert found.pop(COMPARED) == [1, 5]
    assert sorted(at for group in found.values() for at in group) == list(range(7))
    assert found["colour"] == [0, 1]
    assert found["image"] == [4]


def test_what_the_label_was_drawn_by_is_worth_most(opened, explanation):
    """The demo draws size and colour by the label, and no place on the body."""
    loss = {one.group: one for one in explanation.importance}
    assert [one.loss for one in explanation.importance] == sorted((one.loss for one in loss.values()), reverse=True)
    assert loss["size"].loss > loss["place on the body"].loss
    assert all(one.low < one.loss < one.high or one.loss == 0 for one in loss.values() if one.low is not None)


def test_the_meter_counts_every_prediction_of_the_bags(opened, monkeypatch):
    meters = []

    class Kept(Meter):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            meters.append(self)

    monkeypatch.setattr("jaxlesion.boosting.explain.POINTS", 2)
    explain(*opened, Kept)
    assert [meter.done for meter in meters] == [meter.steps for meter in meters] != []


def test_courses_are_mean_probabilities_of_the_strongest_numbers(opened, explanation):
    assert 1 <= len(explanation.courses) <= 8
    assert explanation.courses[0].name in list(explanation.strength)[:8]
    for course in explanation.courses:
        assert (np.diff(course.at) >= 0).all()
        assert ((course.probability >= 0) & (course.probability <= 1)).all()


def test_the_reasons_of_a_lesion_are_its_largest_shares(opened):
    run, lesions, _ = opened
    wanted = lesions["isic_id"].iloc[[3, 50]].tolist()
    for isic_id, found in reasons(run, lesions, wanted, most=10_000).items():
        row = int(np.flatnonzero(lesions["isic_id"] == isic_id)[0])
        fold = int(lesions["fold"].iloc[row])
        ((_, inputs, members),) = folds_features(run, lesions, [fold], None, "x")
        shares = np.array([reason.log_odds for reason in found])
        assert (np.diff(np.abs(shares)) <= 0).all()
        constant = log_odds(members, inputs.values[[row]])[0] - shares.sum()
        assert constant == pytest.approx(
            np.mean([m.predict(inputs.values[[row]], pred_contrib=True)[0, -1] for m in members])
        )
