import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlesion.core.errors import InputError
from jaxlesion.inference.neighbours import QUERIES, nearest


def squared_by_hand(index: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return squared distances in float64, [queries, rows], from all differences."""
    return np.square(queries[:, None].astype(np.float64) - index[None].astype(np.float64)).sum(-1)


def assert_nearest(index: np.ndarray, queries: np.ndarray, k: int) -> None:
    """Assert that each row appears once, at its true distance, and that no omitted row is nearer."""
    distance, row = nearest(index, queries, k)
    squared = squared_by_hand(index, queries)
    largest = max(np.square(part, dtype=np.float64).sum(1).max() for part in (index, queries))
    tolerance = 1e-14 * (index.shape[1] + 4) * largest
    assert all(len(set(rows)) == k for rows in row.tolist())
    np.testing.assert_allclose(distance**2, np.sort(squared)[:, :k], rtol=1e-6, atol=tolerance)
    np.testing.assert_allclose(distance**2, np.take_along_axis(squared, row, 1), rtol=1e-6, atol=tolerance)


def test_neighbours_are_those_of_all_differences_sorted():
    rng = np.random.default_rng(0)
    index, queries = rng.standard_normal((900, 40), np.float32), rng.standard_normal((150, 40), np.float32)
    distance, row = nearest(index, queries, 20)
    squared = squared_by_hand(index, queries)
    np.testing.assert_array_equal(row, np.argsort(squared)[:, :20])
    np.testing.assert_allclose(distance, np.sqrt(np.sort(squared)[:, :20]), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_bytes_and_rows_that_are_there_twice(k):
    rng = np.random.default_rng(1)
    index, queries = rng.integers(0, 3, (60, 4), np.uint8), rng.integers(0, 256, (20, 4), np.uint8)
    assert len(np.unique(index, axis=0)) < 60
    assert_nearest(index, queries, k)


def test_near_duplicates_far_from_the_origin_are_told_apart():
    """Use rows 1e-3 apart at 1e4 from the origin: float32 squares have errors of 10 there."""
    rng = np.random.default_rng(2)
    centre = np.array([1e4, -1e4, 1e4], np.float32)
    index = (centre + 1e-2 * rng.standard_normal((200, 3))).astype(np.float32)
    queries = (centre + 1e-2 * rng.standard_normal((30, 3))).astype(np.float32)
    expected = np.sort(squared_by_hand(index, queries))[:, :5]
    plain = np.square(index).sum(1) - 2 * queries @ index.T
    taken = np.take_along_axis(squared_by_hand(index, queries), np.argsort(plain)[:, :5], 1)
    assert not np.allclose(np.sort(taken), expected, atol=1e-6)
    np.testing.assert_allclose(nearest(index, queries, 5)[0] ** 2, expected, atol=1e-6)


def test_float64_is_kept():
    index = np.array([[1.0], [1.0 + 1e-12], [3.0]])
    assert nearest(index, index[:1], 3)[1].tolist() in ([[0, 1, 2]], [[1, 0, 2]])
    assert nearest(1e-6 * (index - 1), np.full((1, 1), 1e-18), 1)[1].tolist() == [[1]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.sampled_from([1e-15, 1.0, 1e15]), st.integers(0, 999)
)
def test_any_small_index_is_searched_exactly(rows, queries, columns, size, seed):
    rng = np.random.default_rng(seed)
    draw = lambda n: (size * rng.integers(-2, 3, (n, columns)) * rng.choice([1, 1.0001], (n, columns))).astype("f4")  # noqa: E731
    assert_nearest(draw(rows), draw(queries), int(rng.integers(1, rows + 1)))


def test_order_of_queries_does_not_matter_and_each_is_reported():
    rng = np.random.default_rng(6)
    count = 2 * QUERIES + 20
    index, queries = rng.standard_normal((50, 3), np.float32), rng.standard_normal((count, 3), np.float32)
    done, mixed = [], rng.permutation(count)
    distance, row = nearest(index, queries, 3, done.append)
    assert done == [QUERIES, QUERIES, 20]
    np.testing.assert_array_equal(nearest(index, queries[mixed], 3)[1], row[mixed])
    np.testing.assert_allclose(nearest(index, queries[mixed], 3)[0], distance[mixed], rtol=1e-6)
    assert nearest(index, queries[:0], 3)[1].shape == (0, 3)


@pytest.mark.parametrize(
    ("k", "columns", "value", "message"),
    [
        (0, 3, 0.0, "0 neighbours"),
        (5, 3, 0.0, "5 neighbours are wanted of 4 rows"),
        (2, 2, 0.0, "3 columns and the queries 2"),
        (2, 3, np.nan, r"queries: row 1 \(from 0\)"),
        (2, 3, -np.inf, r"queries: row 1 \(from 0\)"),
    ],
)
def test_what_cannot_be_searched_is_refused(k, columns, value, message):
    queries = np.zeros((2, columns), np.float32)
    queries[1, 0] = value
    with pytest.raises(InputError, match=message):
        nearest(np.zeros((4, 3), np.float32), queries, k)
