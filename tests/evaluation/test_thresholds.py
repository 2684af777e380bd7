import numpy as np
import pandas as pd
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import as_written, predictions_table, read_predictions, write_predictions
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


@pytest.mark.parametrize("choose", [best_f1, lambda target, p: at_sensitivity(target, p, 0.9)])
def test_a_threshold_chosen_on_float32_gives_the_same_calls_on_the_csv(choose, tmp_path):
    """Choose in memory and apply to the file. Without `as_written` some 4 in 10 of these sets lose a row."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        target = (rng.random(100) < 0.3).astype(int)
        prediction = rng.random(100).astype(np.float32)
        lesions = pd.DataFrame({"isic_id": [f"L{i}" for i in range(100)], "target": target})
        write_predictions(tmp_path / "p.csv", predictions_table(lesions, prediction, "m", 0))
        read = read_predictions(tmp_path / "p.csv")["prediction"].to_numpy()
        np.testing.assert_array_equal(read, as_written(prediction))
        assert choose(target, prediction) == choose(target, read)
        assert np.isin(choose(target, prediction), read)
    assert as_written(np.float32([0.1, 1e-9])).tolist() == [0.1, 1e-9]
    assert as_written([0.25]).dtype == np.float64


def test_the_wanted_sensitivity_is_reached_on_the_csv():
    rng = np.random.default_rng(1)
    for _ in range(50):
        target, prediction = (rng.random(60) < 0.3).astype(int), rng.random(60).astype(np.float32)
        called = as_written(prediction) >= at_sensitivity(target, prediction, 0.9)
        assert called[target == 1].mean() >= 0.9


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
