"""Train several runs side by side, each in a process of its own: one run alone does not fill a GPU."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from jaxlesion.core.config import TrainConfig
from jaxlesion.core.hooks import Hooks, ignore
from jaxlesion.data.batches import open_batches
from jaxlesion.data.dataset import fingerprint
from jaxlesion.data.open import open_dataset
from jaxlesion.learning.loop import decode_ahead
from jaxlesion.runs.selection import choose_folds
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.training.run import train_run
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import quiet, say


def train_plainly(config: TrainConfig) -> Run:
    """Train the wanted folds of a run; print its progress and no metrics."""
    return train_run(config, Hooks(say, ProgressBar, ignore))


def missing_folds(config: TrainConfig) -> list[int]:
    """Return the wanted folds of a run, begun or not, that are not finished."""
    if (config.run_dir / "config.json").is_file():
        run = Run.open(config.run_dir)
        return sorted(set(choose_folds(config.fold, run.fold_numbers())) - set(run.finished_folds()))
    return choose_folds(config.fold, list(range(config.folds.n)))


def train_together(
    configs: Sequence[TrainConfig], jobs: int, train: Callable[[TrainConfig], Run] = train_plainly
) -> None:
    """Train runs in `jobs` processes, and say a line when one is finished.

    Args:
        configs: of the runs, whose folders all differ; they are begun in this order.
        jobs: processes; on a GPU each takes the memory it needs and no more.
        train: a function of a module, which trains one.

    Raises:
        InputError: whatever training refuses; runs that are under way are finished first.
    """
    if not configs:
        return
    _decode(configs)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # for the processes to come
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    with ProcessPoolExecutor(min(jobs, len(configs)), context, initializer=prepare_process) as pool:
        running = {pool.submit(_quietly, train, config): config.run_dir.name for config in configs}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                future.result()
                say(f"{running[future]}: trained, {number} of {len(running)}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _quietly(train: Callable[[TrainConfig], Run], config: TrainConfig) -> None:
    """Train a run and return nothing, which has no way to another process."""
    with quiet(True):
        train(config)


def _decode(configs: Sequence[TrainConfig]) -> None:
    """Decode every image at each size that is wanted, once and not in every process."""
    kinds = {(config.data.image_size, config.data.antialias): config for config in configs if config.data.cache}
    for config in kinds.values():
        dataset = open_dataset(config.data_dir, layout=config.data)
        batches = open_batches(config.data, dataset.lesions, dataset, fingerprint(dataset)["images"])
        decode_ahead(batches, dataset.lesions.index.to_numpy(), again=True, progress=ProgressBar)
