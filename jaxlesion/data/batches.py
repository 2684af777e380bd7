"""Batches of a table's images, in an order that is a function of (seed, epoch).

Images leave as uint8 and are normalised inside the jitted step: a quarter of the bytes, and one
place with mean and std. Recipes by Albumentations go through tf.data (`data.pipeline`);
everything else goes through threads, and needs no TensorFlow.
"""

import copy
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.config import DataConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import ignore
from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.data.batch import Batch
from jaxlesion.data.cache import CACHE, ImageCache
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.sources import ImageSource

AHEAD = 3  # batches that are being loaded while one is computed on


def epoch_order(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Shuffle the training rows [m] into the order of one epoch."""
    return np.random.default_rng((seed, epoch, 3)).permutation(rows)


def spread_evenly(order: np.ndarray, positive: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Rearrange shuffled rows so that all batches have the same number of positives, give or take one.

    Positives are put at equal distances from a random start, as in systematic sampling, and each batch is shuffled.

    Args:
        order: [m] rows in the order of `epoch_order`.
        positive: [m] whether each is one.
        size: rows of a batch.
        seed: of the run.
        epoch: from 0.
    """
    rng = np.random.default_rng((seed, epoch, 4))
    count = int(positive.sum())
    places = np.floor((np.arange(count) + rng.random()) * len(order) / max(count, 1)).astype(np.int64)
    at = np.zeros(len(order), bool)
    at[places] = True
    spread = np.empty_like(order)
    spread[at], spread[~at] = order[positive], order[~positive]
    return np.concatenate([rng.permutation(spread[start : start + size]) for start in range(0, len(order), size)])


def steps_per_epoch(rows: np.ndarray, batch_size: int) -> int:
    """Count the whole batches in an epoch of training; the rows left over come in another epoch's order.

    Raises:
        InputError: fewer rows than one batch.
    """
    if len(rows) < batch_size:
        raise InputError(f"{len(rows)} training rows do not fill one batch: lower --data.batch-size")
    return len(rows) // batch_size


class Batches:
    """Makes batches of one table's images.

    Args:
        source: where the bytes are.
        ids: [n] isic_id of every row of the table.
        target: [n] 0 or 1; None where unknown.
        config: size, batch, seed and threads.
        cache: decoded images; rows that are not in it are decoded at each reading.
    """

    def __init__(
        self,
        source: ImageSource,
        ids: np.ndarray,
        target: np.ndarray | None,
        config: DataConfig,
        cache: ImageCache | None = None,
    ):
        self.source, self.ids, self.config, self.cache = source, list(ids), config, cache
        self.share = slice(0, config.batch_size)
        self.watch: Callable[[str, np.ndarray], None] = ignore
        self.even, self.weight, self.groups = False, None, None
        self.target = np.zeros(len(self.ids), np.float32) if target is None else np.asarray(target, np.float32)

    def shared(self, share: slice) -> "Batches":
        """Return the same batches with only these rows of each: other processes load the others."""
        part = copy.copy(self)
        part.share = share
        return part

    def teaching(self, even: bool, weight: np.ndarray | None, groups: np.ndarray | None = None) -> "Batches":
        """Return the same batches whose epochs of training have other proportions, and groups.

        Args:
            even: give all batches of an epoch the same number of positives, give or take one.
            weight: [n] of each row of the table in the loss; None for 1.
            groups: int32 [n, columns] of each row, see `group_numbers`; None for none.
        """
        other = copy.copy(self)
        other.even, other.weight, other.groups = even, weight, groups
        return other

    def training(self, rows: np.ndarray, spec: RecipeSpec | None, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the shuffled batches `start`, `start` + 1, ... of one epoch.

        Args:
            rows: positions in the table.
            spec: recipe that Albumentations applies here; None: images as they are, for the step to augment.
            epoch: from 0.
            start: batches of this epoch that are done already.
        """
        order = self._order(rows, epoch, start)
        if spec is None:
            return self._taught(order, self._loaded(order))
        from jaxlesion.data.pipeline import augmented

        mine = [row for part in self._parts(order) for row in part.tolist()]
        config = dataclasses.replace(self.config, batch_size=self.share.stop - self.share.start)
        return self._taught(order, augmented(np.array(mine), self.image, spec, epoch, config))

    def rows_only(self, rows: np.ndarray, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `training` without their images, for a device that holds these already."""
        return self._taught(self._order(rows, epoch, start), None)

    def unread(self, rows: np.ndarray) -> Iterator[Batch]:
        """Yield the batches of `plain` without their images."""
        return self._batches(rows, None)

    def plain(self, rows: np.ndarray) -> Iterator[Batch]:
        """Yield every row once, in the order given, resized only; masked rows fill up the last batch."""
        return self._batches(rows, self._loaded(rows))

    def image(self, row: int) -> np.ndarray:
        """Return one decoded and resized image, uint8 [size, size, 3], from the cache where it is there."""
        isic_id = self.ids[row]
        if self.cache is not None and isic_id in self.cache:
            return self.cache.read(isic_id)
        return self.decoded(isic_id)

    def decoded(self, isic_id: str) -> np.ndarray:
        """Decode and resize one image, uint8 [size, size, 3], without looking at the cache; `watch` sees the pixels."""
        pixels = decode(self.source.read(isic_id), isic_id)
        self.watch(isic_id, pixels)
        return resize(pixels, self.config.image_size, antialias=self.config.antialias)

    def to_cache(self, rows: np.ndarray, *, again: bool) -> list[str]:
        """List the ids that are worth decoding into the cache before `rows` are read.

        Args:
            rows: positions in the table.
            again: whether they are read more than once. If not, only sets that fit whole are kept.
        """
        if self.cache is None:
            return []
        if self.cache.bytes <= self.config.cache_gib * 2**30:
            wanted = self.ids if again else [self.ids[row] for row in rows]
        else:
            wanted = [self.ids[row] for row in rows] if again else []
        return [isic_id for isic_id in wanted if isic_id not in self.cache]

    def _order(self, rows: np.ndarray, epoch: int, start: int) -> np.ndarray:
        size, seed = self.config.batch_size, self.config.seed
        order = epoch_order(rows, seed, epoch)
        if self.even:
            order = spread_evenly(order, self.target[order] == 1, size, seed, epoch)
        return order[start * size : steps_per_epoch(rows, size) * size]

    def _loaded(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of each batch, loaded ahead by threads."""
        return threaded((part for part in self._parts(rows) if len(part)), self.image, self.config.workers)

    def _parts(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the rows of each batch that this process loads."""
        size = self.config.batch_size
        return (rows[start : start + size][self.share] for start in range(0, len(rows), size))

    def _taught(self, rows: np.ndarray, loaded: Iterator[np.ndarray] | None) -> Iterator[Batch]:
        """Yield batches with the weights and groups of training; all their rows are full."""
        for batch in self._batches(rows, loaded):
            if self.weight is not None:
                batch["mask"] *= self.weight[batch["row"]]
            if self.groups is not None:
                batch["groups"] = self.groups[batch["row"]]
            yield batch

    def _batches(self, rows: np.ndarray, loaded: Iterator[np.ndarray] | None) -> Iterator[Batch]:
        size, side = self.share.stop - self.share.start, self.config.image_size
        for part in self._parts(rows):
            row = np.full(size, -1, np.int32)
            row[: len(part)] = part
            mask = (row >= 0).astype(np.float32)
            batch = Batch(label=self.target[row] * mask, mask=mask, row=row)
            if loaded is not None:
                images = next(loaded) if len(part) else np.zeros((0, side, side, 3), np.uint8)
                if len(images) < size:
                    images = np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), np.uint8)])
                batch["image"] = images
            yield batch


def open_batches(
    config: DataConfig, lesions: pd.DataFrame, dataset: Dataset, digest: str, folder: Path = CACHE, *, new: bool = True
) -> Batches:
    """Return the batches of a Lesions table, through the cache of decoded images unless that is turned off.

    Args:
        config: size, batch, seed, threads and cache.
        lesions: rows of the dataset, in any order; targets may be absent.
        dataset: where the images are.
        digest: SHA-256 of their content.
        folder: where caches lie.
        new: make a cache where there is none; if not, one that is there and may be written to is used.
    """
    ids, target = lesions["isic_id"], lesions.get("target")
    cache, kind = None, (config.image_size, config.antialias)
    if config.cache and (new or os.access(ImageCache.file_of(folder, digest, *kind), os.W_OK)):
        cache = ImageCache(folder, digest, dataset.lesions["isic_id"].tolist(), *kind)
    return Batches(dataset.images, ids, target, config, cache)


def threaded(parts: Iterable[np.ndarray], image: Callable[[int], np.ndarray], workers: int) -> Iterator[np.ndarray]:
    """Yield the images of each part, uint8 [rows of it, h, w, 3], loaded ahead by `workers` threads."""
    ahead, pool = deque(), ThreadPoolExecutor(workers)
    try:
        for part in parts:
            ahead.append([pool.submit(image, row) for row in part.tolist()])
            if len(ahead) > AHEAD:
                yield np.stack([loaded.result() for loaded in ahead.popleft()])
        while ahead:
            yield np.stack([loaded.result() for loaded in ahead.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)
