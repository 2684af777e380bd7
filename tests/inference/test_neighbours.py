import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlesion.core.errors import InputError
from jaxlesion.inference import neighbours as search
from jaxlesion.inference.neighbours import nearest


def by_hand(index: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All differences in float64, sorted by distance and then by row."""
    squared = np.square(queries[:, None].astype(np.float64) - index[None].astype(np.float64)).sum(-1)
    row = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squared, row, 1)), row


def assert_exact(index: np.ndarray, queries: np.ndarray, k: int) -> None:
    for found, expected in zip(nearest(index, queries, k), by_hand(index, queries, k), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture
def small_tiles(monkeypatch):
    """So small that little data goes through many tiles and blocks, none of them even."""
    for name, size in (("QUERIES", 7), ("ROWS", 11), ("DOUBTFUL", 2), ("BLOCK", 5)):
        monkeypatch.setattr(search, name, size)


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    index, queries = rng.standard_normal((9000, 40), np.float32), rng.standard_normal((1500, 40), np.float32)
    distance, row = nearest(index, queries, 20)
    theirs = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(index.astype(np.float64)).kneighbors(queries)
    np.testing.assert_array_equal(row, theirs[1])
    np.testing.assert_allclose(distance, theirs[0], rtol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_rows_at_the_same_distance_come_in_their_order(k, small_tiles):
    rng = np.random.default_rng(1)
    index, queries = rng.integers(0, 3, (60, 4), np.uint8), rng.integers(0, 3, (20, 4), np.uint8)
    assert len(np.unique(index, axis=0)) < 60
    assert_exact(index, queries, k)
    from sklearn.neighbors import NearestNeighbors

    theirs, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(index).kneighbors(queries.astype(float))
    np.testing.assert_allclose(nearest(index, queries, k)[0], theirs, atol=1e-7)


def test_a_constant_index_gives_its_first_rows(small_tiles):
    distance, row = nearest(np.ones((50, 3), np.float32), np.zeros((3, 3), np.float32), 4)
    np.testing.assert_array_equal(row, [[0, 1, 2, 3]] * 3)
    np.testing.assert_allclose(distance, np.sqrt(3))


def test_near_duplicates_far_from_the_origin_are_told_apart(small_tiles):
    """At 1e4 the squares of float32 vectors are good to 10, while these rows are 1e-3 apart: a plain product fails."""
    rng = np.random.default_rng(2)
    centre = np.array([1e4, -1e4, 1e4], np.float32)
    index = (centre + 1e-2 * rng.standard_normal((200, 3))).astype(np.float32)
    queries = (centre + 1e-2 * rng.standard_normal((30, 3))).astype(np.float32)
    plain = np.square(index).sum(1) - 2 * queries @ index.T
    assert not np.array_equal(np.argsort(plain, 1, kind="stable")[:, :5], by_hand(index, queries, 5)[1])
    assert_exact(index, queries, 5)
    assert_exact(np.concatenate([index, -index]), queries, 5)  # the mean is no help


def test_one_row_far_away_spoils_nothing(small_tiles):
    rng = np.random.default_rng(3)
    index, queries = rng.standard_normal((80, 6), np.float32), rng.standard_normal((10, 6), np.float32)
    for far in (1e10, 1e30):  # by which all other rows are flushed to one point
        index[17] = far
        assert_exact(index, queries, 8)


def test_the_proof_fails_where_it_should_and_only_there(monkeypatch):
    asked = []
    within = search._Bounds.within
    monkeypatch.setattr(search._Bounds, "within", lambda self, q, s: asked.append(len(q)) or within(self, q, s))
    rng = np.random.default_rng(4)
    index = rng.standard_normal((3000, 64), np.float32)
    nearest(index, index[:100], 5)
    assert not asked
    index[500:600] = index[7]  # more of them than there are candidates
    assert_exact(index, index[:100], 5)
    assert asked == [1]


def test_bounds_are_below_the_distances_and_near_them():
    rng = np.random.default_rng(5)
    index, queries = 50 + rng.standard_normal((300, 1280), np.float32), 50 + rng.standard_normal((9, 1280), np.float32)
    bounds = search._Bounds(index, queries)
    centred, own = bounds._centred(queries)
    [(_, tile)] = bounds._tiles(centred)
    squared = np.square(queries[:, None].astype(np.float64) - index[None]).sum(-1) * bounds.scale**2
    below = (squared - (tile + own[:, None] - bounds.tiny)) / squared
    assert (below > 0).all()
    assert below.max() < 2e-4


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.sampled_from([1e-25, 1.0, 1e25]), st.integers(0, 999)
)
def test_any_small_index_is_searched_exactly(rows, queries, columns, size, seed):
    rng = np.random.default_rng(seed)
    draw = lambda n: (size * rng.integers(-2, 3, (n, columns)) * rng.choice([1, 1.0001], (n, columns))).astype("f4")  # noqa: E731
    assert_exact(draw(rows), draw(queries), int(rng.integers(1, rows + 1)))


def test_order_of_queries_does_not_matter_and_each_is_reported(small_tiles):
    rng = np.random.default_rng(6)
    index, queries = rng.standard_normal((50, 3), np.float32), rng.standard_normal((20, 3), np.float32)
    done, mixed = [], rng.permutation(20)
    distance, row = nearest(index, queries, 3, done.append)
    assert done == [7, 7, 6]
    np.testing.assert_array_equal(nearest(index, queries[mixed], 3)[1], row[mixed])
    np.testing.assert_array_equal(nearest(index, queries[mixed], 3)[0], distance[mixed])
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
