"""Exact nearest neighbours: matrix products find the candidates, differences in float64 decide.

For centred vectors |q - x|^2 = |q|^2 + |x|^2 - 2 q.x takes one matrix product for all pairs, but loses
digits where vectors are long and near one another. So the product only gives a lower bound of each squared
distance: its value less all that rounding can have added. The k + MARGIN rows of the lowest bounds are
compared by differences. Where the k-th of them is nearer than the bound of every row left out, the answer is
proven; elsewhere all rows whose bound is not above that k-th distance are compared too.

The 20 nearest of 320,847 x 1,280 to 80,212 queries take 12 minutes on two cores of an AMD EPYC, three quarters
of it in the product (extrapolated from 4,096 queries in 37 s), and 4 GB with both tables.
"""

from collections.abc import Callable, Iterator

import numpy as np

from jaxlesion.core.errors import InputError

QUERIES, ROWS = 1024, 4096  # a tile of products; larger ones were no faster, and cost memory
MARGIN = 16  # candidates beyond k: near always enough for the proof
DOUBTFUL = 64  # queries whose candidates are held at once when the proof fails: each may have all rows
BLOCK = 4096  # rows of differences at once
UNIT = 2.0**-24  # of float32 rounding


def nearest(
    index: np.ndarray, queries: np.ndarray, k: int, after: Callable[[int], None] = lambda queries: None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `index` to each query, nearest first, by Euclidean distance.

    The distance is that of the given numbers, computed in float64; of rows at the same distance the lower one
    comes first. Beside what is given, this holds the index once more, as float32. Rows at equal distances by
    the thousand (few columns of few values) are compared one by one, which is slow but as exact.

    Args:
        index: [n, d] float32, uint8 or any real numbers.
        queries: [m, d] the same.
        k: at most n.
        after: called with the number of queries of each block that is done.

    Returns:
        Distances float64 [m, k], rising, and rows of the index int64 [m, k].

    Raises:
        InputError: k is not in 1 .. n, the columns are not the same, or a number is not finite.
    """
    if not 1 <= k <= len(index):
        raise InputError(f"{k} neighbours are wanted of {len(index)} rows: give 1 to {len(index)}")
    if index.shape[1] != queries.shape[1]:
        raise InputError(f"the index has {index.shape[1]} columns and the queries {queries.shape[1]}: give the same")
    _reject_not_finite(index, "index")
    _reject_not_finite(queries, "queries")
    bounds = _Bounds(index, queries)
    distance, row = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), QUERIES):
        part = queries[start : start + QUERIES]
        candidates, left_out = bounds.lowest(part, min(k + MARGIN, len(index)))
        squared, found = distance[start : start + QUERIES], row[start : start + QUERIES]  # views
        for i, query in enumerate(part):
            squared[i], found[i] = _closest(index, query, candidates[i], k)
        doubtful = np.flatnonzero(~(squared[:, -1] * bounds.scale**2 < left_out))
        for first in range(0, len(doubtful), DOUBTFUL):
            some = doubtful[first : first + DOUBTFUL]
            within = bounds.within(part[some], squared[some, -1] * bounds.scale**2)
            for i, rows in zip(some, within, strict=True):
                squared[i], found[i] = _closest(index, part[i], rows, k)
        after(len(part))
    return np.sqrt(distance), row


def _closest(index: np.ndarray, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of some rows, compared by differences in float64: squared distances [k] and rows [k]."""
    query = query.astype(np.float64)
    blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
    squared = np.concatenate([np.square(index[block] - query).sum(1) for block in blocks])
    order = np.lexsort((rows, squared))[:k]
    return squared[order], rows[order]


class _Bounds:
    """Lower bounds of squared distances to the rows of an index; all vectors are centred and scaled by `scale`.

    The bound of a pair is (1 - slack)(|q|^2 + |x|^2) - 2 q.x - tiny. In the standard model of rounding (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), with g(n) = n UNIT / (1 - n UNIT):
    2 q.x, summed in any order, is wrong by at most g(d) 2 |q|.|x| <= g(d)(|q|^2 + |x|^2); rounding the centred
    vectors to float32 moves the squared distance by at most 4 UNIT (|q|^2 + |x|^2), adding the norm by 3 UNIT
    of the same; g(d + 16) covers the sum. `tiny` covers what is flushed to zero.
    """

    def __init__(self, index: np.ndarray, queries: np.ndarray):
        self.centre = index.mean(0, dtype=np.float64)
        ends = [end for vectors in (index, queries) if len(vectors) for end in (vectors.min(0), vectors.max(0))]
        spread = np.abs(ends - self.centre).max()
        self.scale = float(np.ldexp(1.0, -int(np.frexp(spread)[1])))  # a power of two: exact, and nothing overflows
        terms = index.shape[1] + 16
        self.slack = terms * UNIT / (1 - terms * UNIT)
        self.tiny = 8 * terms * float(np.finfo(np.float32).tiny)
        self.rows, norms = np.empty(index.shape, np.float32), np.empty(len(index))
        for start in range(0, len(index), BLOCK):
            block = slice(start, start + BLOCK)
            self.rows[block], norms[block] = self._centred(index[block])
        self.norms = norms.astype(np.float32)

    def _centred(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors as they enter the product, float32 [n, d], and (1 - slack) times their squared lengths [n]."""
        centred = ((vectors - self.centre) * self.scale).astype(np.float32)
        return centred, (1 - self.slack) * np.square(centred, dtype=np.float64).sum(1)

    def _tiles(self, centred: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """First row and [m, <= ROWS] bounds less the part that depends on the query alone; overwritten by the next."""
        doubled, buffer = -2 * centred, np.empty((len(centred), ROWS), np.float32)
        for start in range(0, len(self.rows), ROWS):
            rows = self.rows[start : start + ROWS]
            tile = buffer[:, : len(rows)]
            np.matmul(doubled, rows.T, out=tile)
            tile += self.norms[start : start + ROWS]
            yield start, tile

    def lowest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` rows of lowest bound [m, count], unsorted, and a bound of all other rows [m]."""
        centred, own = self._centred(queries)
        value = np.full((len(queries), count), np.inf, np.float32)
        row = np.full(value.shape, -1, np.int64)
        for start, tile in self._tiles(centred):
            # Flat, since numpy's search in two dimensions takes several times as long.
            query, column = np.divmod(np.flatnonzero(tile < value.max(1, keepdims=True)), tile.shape[1])
            if not len(query):
                continue
            number = np.bincount(query, minlength=len(queries))
            place = count + np.arange(len(query)) - np.repeat(np.cumsum(number) - number, number)
            wider = np.full((len(queries), count + number.max()), np.inf, np.float32)
            wider_row = np.full(wider.shape, -1, np.int64)
            wider[:, :count], wider_row[:, :count] = value, row
            wider[query, place], wider_row[query, place] = tile[query, column], start + column
            kept = np.argpartition(wider, count - 1, axis=1)[:, :count]
            value, row = np.take_along_axis(wider, kept, 1), np.take_along_axis(wider_row, kept, 1)
        return row, value.max(1) + own - self.tiny

    def within(self, queries: np.ndarray, squared: np.ndarray) -> list[np.ndarray]:
        """For each query the rows whose bound is not above `squared` [m], scaled, ascending."""
        centred, own = self._centred(queries)
        limit = (squared - own + self.tiny)[:, None]
        found: list[list[np.ndarray]] = [[] for _ in queries]
        for start, tile in self._tiles(centred):
            for i, below in enumerate(tile <= limit):
                found[i].append(start + np.flatnonzero(below))
        return [np.concatenate(rows) for rows in found]


def _reject_not_finite(vectors: np.ndarray, name: str) -> None:
    if not (np.isfinite(vectors.min(initial=0)) and np.isfinite(vectors.max(initial=0))):
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise InputError(f"{name}: row {row} (from 0) has a feature that is not finite; look for a diverged model")
