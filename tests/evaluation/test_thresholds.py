import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation import registry
from jaxlesion.evaluation.thresholds import at_sensitivity, best_f1, on_other_folds


def draw(seed: int = 0, rows: int = 200):
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.2).astype(int)
    return target, np.round(np.clip(rng.beta(2, 5, rows) + 0.2 * target, 0, 1), 2), rng.integers(4, size=rows)


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_is_the_highest_prediction_that_none_beats(seed):
    target, prediction, _ = draw(seed)
    f1 = {at: registry.classification(target, prediction, at)["malignant_f1"] for at in np.unique(prediction)}
    assert best_f1(target, prediction) == max(at for at, value in f1.items() if value == max(f1.values()))


@pytest.mark.parametrize("wanted", [0.01, 0.5, 0.9, 1.0])
def test_at_sensitivity_is_the_highest_prediction_that_reaches_it(wanted):
    target, prediction, _ = draw()
    recall = {at: registry.classification(target, prediction, at)["malignant_recall"] for at in np.unique(prediction)}
    assert at_sensitivity(target, prediction, wanted) == max(at for at, value in recall.items() if value >= wanted)


def test_without_a_malignant_row_there_is_none():
    assert np.isnan(best_f1([0, 0], [0.1, 0.2]))
    assert np.isnan(at_sensitivity([0, 0], [0.1, 0.2], 0.9))
    with pytest.raises(InputError, match="sensitivity"):
        at_sensitivity([0, 1], [0.1, 0.2], 0)


def test_the_threshold_of_a_fold_depends_on_the_other_folds_alone():
    target, prediction, fold = draw()
    before = on_other_folds(target, prediction, fold)
    for k in range(4):
        here = fold == k
        assert (before[here] == best_f1(target[~here], prediction[~here])).all()
        changed = on_other_folds(np.where(here, 1 - target, target), np.where(here, 1 - prediction, prediction), fold)
        np.testing.assert_array_equal(changed[here], before[here])
    assert (changed[fold != k] != before[fold != k]).any()


def test_one_fold_has_none():
    target, prediction, _ = draw()
    assert np.isnan(on_other_folds(target, prediction, np.zeros(len(target)))).all()
