"""Measure images per second of every input stage, and of the network with and without them.

    python experiments/bench_input.py --data-dir isic-2024-challenge
    python experiments/bench_input.py --data-dir isic-2024-challenge --no-network    # without the last two rows

All stages take turns in one process, so that a drift in the machine's speed affects all alike; each has one uncounted
turn first. The output is the median over the turns, the least and the largest. A last row compares prediction from
images in memory with prediction that reads and decodes, turn by turn. Rows whose packages are not installed are left
out; the packages are named. After the first turn the files are in the page cache, so no disk is measured. Without
--data-dir the synthetic demo lesions are read. Takes two to four minutes on 2 cores, most of it for the network.
"""

import contextlib
import importlib.metadata
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import tyro

from jaxlesion.core.config import DataConfig, ModelConfig
from jaxlesion.core.recipes import RECIPES
from jaxlesion.data.albumentations import augmenter
from jaxlesion.data.batches import Batches
from jaxlesion.data.cache import ImageCache
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.open import open_dataset
from jaxlesion.data.sources import Hdf5Images
from jaxlesion.learning.augment import augment
from jaxlesion.learning.loop import predict_batches
from jaxlesion.learning.step import make_predict_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import init_variables
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import data_mesh, shard_batch
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program

Turn = Callable[[], object]  # handles the rows of the benchmark once
RECIPE = RECIPES["light"]
IN_MEMORY, DECODING = "network, images in memory", "network, with reading and decoding"
MODULES = ("jax", "numpy", "h5py", "cv2", "PIL", "albumentations", "tensorflow")


@dataclass(frozen=True)
class Bench:
    """Measure reading, decoding, cache, loader, augmentation and prediction, taking turns."""

    data_dir: Path | None = None
    """Folder with train-metadata.csv and its images [default: drawn lesions]."""
    images: int = 256
    """Images in a turn; a multiple of the batch."""
    size: int = 224
    """Side in pixels that every crop is resized to."""
    batch: int = 32
    """Images in a batch."""
    workers: int = 2
    """Threads that decode and augment."""
    rounds: int = 7
    """Turns of each."""
    network: bool = True
    """Whether to run the network too."""
    variant: str = "efficientnetv2_b1"
    """Which network."""


def files(dataset: Dataset, rows: list[str], size: int) -> Iterator[tuple[str, Turn]]:
    """Yield (name, turn) for reading and for decoding the rows' images, in one thread."""
    if isinstance(dataset.images, Hdf5Images):
        import h5py

        file = h5py.File(dataset.images.path, "r")
        yield "bytes from HDF5 by key", lambda: [file[row][()] for row in rows]
    yield "bytes by our reader", lambda: [dataset.images.read(row) for row in rows]
    encoded = [dataset.images.read(row) for row in rows]

    def decode_all(opencv: bool) -> None:
        for row, data in zip(rows, encoded, strict=True):
            resize(decode(data, row, opencv=opencv), size, opencv=opencv)

    if find_spec("cv2"):
        yield "decode and resize, OpenCV", lambda: decode_all(opencv=True)
    if find_spec("PIL"):
        yield "decode and resize, Pillow and numpy", lambda: decode_all(opencv=False)


def loader(batches: Batches, cached: Batches, rows: np.ndarray, folder: Path) -> Iterator[tuple[str, Turn]]:
    """Yield (name, turn) for filling the cache and for epochs of batches, in threads."""
    ids, size, epochs, folders = batches.ids, batches.config.image_size, itertools.count(), itertools.count()

    def fill() -> None:
        cache = ImageCache(folder / str(next(folders)), "0" * 24, ids, size)
        cache.fill([ids[row] for row in rows], batches.decoded, batches.config.workers)

    def epoch(recipe=None) -> None:
        for _ in cached.training(rows, recipe, next(epochs)):
            pass

    yield "decode into the cache", fill
    yield "batches from the cache", epoch
    if find_spec("tensorflow") and find_spec("albumentations"):
        yield "batches from the cache, augmented by Albumentations in tf.data", lambda: epoch(RECIPE)
    yield "batches without a cache", lambda: list(batches.training(rows, None, next(epochs)))


def augmentation(batch: np.ndarray, turns: int) -> Iterator[tuple[str, Turn]]:
    """Yield (name, turn) for augmenting one batch, uint8 [b, size, size, 3], `turns` times by recipe `light`."""
    numbers = np.arange(len(batch), dtype=np.int32)
    step = jax.jit(lambda images, epoch: augment(images, RECIPE, 0, epoch, numbers))

    def in_jax() -> None:
        for epoch in range(turns):
            step(batch, epoch).block_until_ready()

    yield "augment, JAX", in_jax
    if find_spec("albumentations"):
        host = augmenter(RECIPE, 0)
        yield (
            "augment, Albumentations in one thread",
            lambda: [host(batch[k], epoch, k) for epoch in range(turns) for k in range(len(batch))],
        )


def network(bench: Bench, batches: Batches, rows: np.ndarray) -> Iterator[tuple[str, Turn]]:
    """Yield (name, turn) for predicting images in memory, and the same images from their files."""
    model, put = build_model(ModelConfig(variant=bench.variant)), shard_batch(data_mesh(bench.batch, jax.devices()[:1]))
    variables, step = init_variables(model, 0), make_predict_step(model)
    decoded = list(batches.plain(rows))
    yield IN_MEMORY, lambda: predict_batches(step, variables, decoded, put)
    yield DECODING, lambda: predict_batches(step, variables, batches.plain(rows), put)


def take_turns(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each counted turn, by name; one uncounted turn comes first."""
    seconds = {name: [] for name in turns}
    for counts in [False] + [True] * rounds:
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            if counts:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def measure(bench: Bench, dataset: Dataset, folder: Path) -> None:
    """Time every stage on a dataset and print the table; caches go to `folder`."""
    count = bench.images // bench.batch * bench.batch
    rows = np.resize(np.arange(len(dataset.lesions)), count)
    ids = dataset.lesions["isic_id"]
    config = DataConfig(image_size=bench.size, batch_size=bench.batch, workers=bench.workers)
    cache = ImageCache(folder / "kept", "0" * 24, ids.tolist(), bench.size)
    plain, cached = Batches(dataset.images, ids, None, config), Batches(dataset.images, ids, None, config, cache)
    cache.fill([plain.ids[row] for row in set(rows.tolist())], plain.decoded, bench.workers)
    turns = dict(files(dataset, [plain.ids[row] for row in rows], bench.size))
    turns |= dict(loader(plain, cached, rows, folder))
    turns |= dict(augmentation(next(plain.plain(rows))["image"], count // bench.batch))
    if bench.network:
        turns |= dict(network(bench, plain, rows))
    seconds = take_turns(turns, bench.rounds)
    print(f"| {count} images at {bench.size} px: a second | median | least | largest |\n|---|--:|--:|--:|")
    for name, taken in seconds.items():
        print_row(name, [count / s for s in taken], ",.0f")
    if bench.network:
        pairs = zip(seconds[IN_MEMORY], seconds[DECODING], strict=True)
        print_row("ratio of the last two, turn by turn", [a / b for a, b in pairs], ".2f")


def print_row(name: str, values: list[float], form: str) -> None:
    """Print a row of the table: median, least and largest."""
    print(f"| {name} |", *(f"{value:{form}} |" for value in (statistics.median(values), min(values), max(values))))


def versions() -> str:
    """Return the versions of the installed packages and the names of the missing ones, in one line."""
    names = importlib.metadata.packages_distributions()
    found = [names[module][0] for module in MODULES if find_spec(module)]
    absent = [module for module in MODULES if not find_spec(module)]
    missing = [f"without {' and '.join(absent)}, and the rows that need them"] if absent else []
    return ", ".join([f"{name} {importlib.metadata.version(name)}" for name in found] + missing)


def bench(bench: Bench) -> None:
    """Time every stage and print a Markdown table."""
    keep_compiled()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data_dir = bench.data_dir
        if data_dir is None:
            from jaxlesion.data.demo import write_demo

            data_dir = write_demo(folder / "demo")
        dataset = open_dataset(data_dir)
        stack.callback(dataset.images.close)
        measure(bench, dataset, folder)
    print(f"\n{versions()}")
    device = jax.devices()[0].device_kind
    print(
        f"{bench.workers} threads, {os.cpu_count()} cores, {platform.machine()}, {device}; {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: bench(tyro.cli(Bench, description=__doc__)))
