"""Top-k retrieval against all orders of the tied rows, and against random orders."""

from itertools import combinations, permutations

import numpy as np
import pytest

from jaxlesion.evaluation.retrieval import top_k


def by_orders(target: np.ndarray, prediction: np.ndarray, k: int) -> tuple[float, float]:
    """Return expected hits and the chance of one over all orders of one patient's rows that the predictions allow."""
    hits = []
    for order in permutations(range(len(target))):
        ranked = prediction[list(order)]
        if (np.diff(ranked) <= 0).all():
            hits.append(target[list(order)][:k].sum())
    return float(np.mean(hits)), float(np.mean(np.array(hits) > 0))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(6))
def test_ties_count_as_all_orders_of_the_tied_rows(seed, k):
    rng = np.random.default_rng(seed)
    patient = np.repeat([3, 5, 8], [6, 4, 1])
    target = (rng.random(11) < 0.4).astype(int)
    target[[0, 6, 10]] = 1
    prediction = rng.integers(3, size=11) / 4
    order = rng.permutation(11)
    found = top_k(target[order], prediction[order], patient[order], k)
    for i, one in enumerate((3, 5, 8)):
        y, p = target[patient == one], prediction[patient == one]
        assert (found.rows[i], found.malignant[i]) == (len(y), y.sum())
        assert (found.hits[i], found.any_hit[i]) == pytest.approx(by_orders(y, p, k))
        draws = [y[list(c)].sum() for c in combinations(range(len(y)), min(k, len(y)))]
        assert found.chance_hits[i] == pytest.approx(np.mean(draws))
        assert found.chance_any_hit[i] == pytest.approx(np.mean(np.array(draws) > 0))


def test_a_constant_is_chance_and_patients_without_a_malignant_lesion_do_not_count():
    patient = np.repeat([0, 1, 2], 20)
    target = np.isin(np.arange(60), [1, 2, 45]).astype(int)
    found = top_k(target, np.full(60, 0.2), patient, 5)
    assert found.rows.tolist() == [20, 20]
    np.testing.assert_allclose(found.hits, found.chance_hits)
    np.testing.assert_allclose(found.any_hit, found.chance_any_hit)
    np.testing.assert_allclose(found.chance_hits, [2 * 5 / 20, 5 / 20])
    assert found.chance_any_hit[0] == pytest.approx(1 - 15 * 14 / (20 * 19))


def test_large_patients_are_exact():
    target, prediction = np.zeros(9000, int), np.zeros(9000)
    target[:2] = 1
    found = top_k(target, prediction, np.zeros(9000, int), 15)
    assert found.any_hit[0] == pytest.approx(1 - (8985 * 8984) / (9000 * 8999), rel=1e-12)
