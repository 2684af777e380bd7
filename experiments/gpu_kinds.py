"""The kinds of cases that `experiments.gpu_session` measures: each builds and compiles, and returns what measures."""

import dataclasses
import json
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from experiments.gpu_cases import Case, GpuSession
from experiments.recipes import SHRUNK
from experiments.together import train_plainly
from jaxlesion.core import fields
from jaxlesion.core.config import DataConfig, ModelConfig, OptimConfig
from jaxlesion.core.recipes import RECIPES
from jaxlesion.data.batches import open_batches
from jaxlesion.data.dataset import fingerprint
from jaxlesion.data.open import open_dataset
from jaxlesion.learning.loop import decode_ahead, predict_rows
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.state import create_state
from jaxlesion.learning.step import make_predict_step, make_train_step
from jaxlesion.model.convolve import IMPL
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import normalise
from jaxlesion.model.weights import find_weights, initial_variables
from jaxlesion.runtime.devices import data_mesh, replicate, shard_batch, use_cores
from jaxlesion.ui.options import parse_train
from jaxlesion.ui.terminal import quiet

ARCHIVE = 401_059  # crops of the challenge
SAMPLED = 4_400  # about the crops of an epoch with 1 % of the challenge's negatives
Result = dict[str, Any]


def _medians(config: GpuSession, once: Callable[[int], Any], batch: int) -> Result:
    """Time groups of steps that are awaited together; return the median rate and step.

    Args:
        config: of the session.
        once: runs some steps to their end.
        batch: images of a step.
    """
    began = time.perf_counter()
    once(2)
    steps = max(2, min(100, int(2 * 0.5 / (time.perf_counter() - began))))  # about half a second a group
    taken = []
    for _ in range(config.repeats):
        began = time.perf_counter()
        once(steps)
        taken.append((time.perf_counter() - began) / steps)
    middle = float(np.median(taken))
    return {"step_ms": 1e3 * middle, "images_per_second": batch / middle, "least_ms": 1e3 * min(taken)}


def _network(config: GpuSession, case: Case, platform: str | None = None) -> tuple[Any, Any]:
    """Return the network of a platform, by default JAX's, and its variables."""
    variant = "tiny" if config.shrink else ModelConfig().variant
    weights = None if config.shrink else find_weights(config.weights, variant)
    model = build_model(ModelConfig(variant=variant, dtype=case.dtype), platform)
    return model, initial_variables(model, weights, 0)[0]


def _batch(case: Case) -> dict[str, np.ndarray]:
    """Return a batch of noise with one malignant row in ten."""
    shape, count = (case.batch, case.size, case.size, 3), np.arange(case.batch, dtype=np.int32)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return {
        "image": images,
        "label": (count % 10 == 0) * np.float32(1),
        "mask": np.ones(len(count), "f4"),
        "row": count,
    }


def _stepper(config: GpuSession, case: Case, *, train: bool) -> Callable[[int], None]:
    """Return a function that runs some steps of ours to their end, compiled."""
    use_cores(case.batch)
    mesh = data_mesh(case.batch)
    model, variables = _network(config, case)
    batch = shard_batch(mesh)(_batch(case))
    # Compiled and not run, so that a process that waits for the GPU holds none of its memory.
    if not train:
        variables = replicate(mesh, variables)
        with IMPL(case.form):
            predict = make_predict_step(model).lower(variables, batch).compile()
        return lambda steps: jax.block_until_ready([predict(variables, batch) for _ in range(steps)])
    optimiser, seed = make_optimiser(OptimConfig()), np.uint32(0)
    step = make_train_step(model, optimiser, OptimConfig(), recipe=RECIPES["light"], mesh=mesh)
    state = replicate(mesh, create_state(variables, optimiser, total_steps=100_000))
    with IMPL(case.form):
        step = step.lower(state, batch, seed).compile()

    def fit(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, batch, seed)
        jax.block_until_ready((state, metrics))

    return fit


def _ours(config: GpuSession, case: Case) -> Callable[[], Result]:
    stepper = _stepper(config, case, train=case.kind == "train")
    return lambda: _medians(config, stepper, case.batch)


def _timm(config: GpuSession, case: Case) -> Callable[[], Result]:
    """Compile timm's network by torch.compile, channels-last, in bfloat16."""
    sys.path.append(str(Path(__file__).parent))  # where that script finds its neighbours
    from experiments.bench_throughput import timm_step

    what, gpu = case.kind.removeprefix("timm_"), not config.shrink
    args = Namespace(batch=case.batch, size=case.size, variant="efficientnetv2_b1", what=what, compile=gpu, bf16=gpu)
    step, name = timm_step(args)
    step()
    if gpu:
        import torch

        torch.cuda.empty_cache()

    def once(steps: int) -> None:
        for _ in range(steps):
            step()

    return lambda: _medians(config, once, case.batch) | {"by": name}


def _parity(config: GpuSession, case: Case) -> Callable[[], Result]:
    """Compare logits of real crops with those of float32 on the CPU, in each type and precision."""
    images, result = _crops(config, case)[: case.batch], {}

    def logits(dtype: str, precision: str, device: Any) -> np.ndarray:
        model, variables = _network(config, dataclasses.replace(case, dtype=dtype), device.platform)
        with jax.default_device(device), jax.default_matmul_precision(precision):
            apply = jax.jit(lambda v, x: model.apply(v, normalise(x, model.variant))[:, 0])
            return np.asarray(apply(jax.device_put(variables, device), jax.device_put(images, device)), np.float64)

    def run() -> Result:
        reference = logits("float32", "highest", jax.devices("cpu")[0])
        for dtype, precision in (("float32", "highest"), ("float32", "default"), ("bfloat16", "default")):
            found = logits(dtype, precision, jax.devices()[0])
            result[f"{dtype} {precision}"] = float(np.abs(found - reference).max())
        return {"largest_difference_of_logits": result, "crops": len(images)}

    return run


def _crops(config: GpuSession, case: Case) -> np.ndarray:
    """Return the first decoded crops [n, h, h, 3], uint8."""
    batches, _ = _batches(config, case)
    return np.concatenate([batch["image"] for batch in batches.plain(np.arange(case.batch))])


def _batches(config: GpuSession, case: Case) -> tuple[Any, int]:
    """Return the batches of the data, and how many rows there are."""
    dataset = open_dataset(config.data_dir)
    wanted = DataConfig(image_size=case.size, batch_size=case.batch)
    return open_batches(wanted, dataset.lesions, dataset, fingerprint(dataset)["images"]), len(dataset.lesions)


def _archive(config: GpuSession, case: Case) -> Callable[[], Result]:
    """Predict as many crops as the challenge has, from the cache of decoded ones, by the loop of `predict`."""
    batches, n = _batches(config, case)
    decode_ahead(batches, np.arange(n), again=True)
    mesh, (model, variables) = data_mesh(case.batch), _network(config, case)
    step, variables = make_predict_step(model), replicate(mesh, variables)
    predict_rows(step, variables, batches, np.arange(min(n, case.batch)), mesh, "")

    def run() -> Result:
        rows = np.arange(ARCHIVE if not config.shrink else n) % n
        began = time.perf_counter()
        predict_rows(step, variables, batches, rows, mesh, "")
        seconds = time.perf_counter() - began
        return {"rows": len(rows), "seconds": seconds, "images_per_second": len(rows) / seconds}

    return run


def _epochs(config: GpuSession, case: Case) -> Callable[[], Result]:
    """Train a fold as `train` does, once for the compiled program and once more for the time."""
    argv = ["--preset", "best", "--data-dir", str(config.data_dir), "--weights", config.weights, "--epochs", "3"]
    argv += ["--data.image-size", str(case.size), "--data.batch-size", str(case.batch), "--fold", "0"]
    wanted = parse_train([*argv, *(SHRUNK if config.shrink else ())])

    def timed(name: str) -> list[Result]:
        folder = config.out / "runs" / f"{config.case}-{name}-{time.time_ns()}"
        with quiet(True):
            run = train_plainly(fields.replace(wanted, {"run_dir": folder}))
        return [json.loads(line) for line in (run.fold(0).folder / "timing.jsonl").read_text().splitlines()]

    first = timed("first")[0]["first_step_seconds"]

    def run() -> Result:
        times = timed("again")
        rate = float(np.median([one["images_per_second"] for one in times]))
        again = times[0]["first_step_seconds"]
        return {
            "first_step_seconds": first,
            "first_step_again_seconds": again,
            "images_per_second": rate,
            "sampled_epoch_seconds": SAMPLED / rate,
        }

    return run


def _profile(config: GpuSession, case: Case) -> Callable[[], Result]:
    """Add up the time of each kind of kernel in a few training steps."""
    fit = _stepper(config, case, train=True)
    folder, steps = config.out / "profile", 5

    def run() -> Result:
        with jax.profiler.trace(str(folder)):
            fit(steps)
        kernels: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for name, milliseconds in _kernels(folder):
            kernels[name.rstrip("_.0123456789") or name] += np.array([1, milliseconds]) / steps
        launches, spent = sum(kernels.values(), np.zeros(2)).tolist()
        most = sorted(kernels, key=lambda name: -kernels[name][1])[:25]
        return {"launches": launches, "kernel_ms": spent, "most": {name: kernels[name].tolist() for name in most}}

    return run


def _kernels(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield name and milliseconds of each kernel in the newest trace of a folder."""
    newest = max(folder.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        for line in plane.lines if plane.name.startswith("/device:GPU") else ():
            if line.name.startswith("Stream"):
                yield from ((event.name, event.duration_ns / 1e6) for event in line.events)


KINDS: Mapping[str, Callable[[GpuSession, Case], Callable[[], Result]]] = MappingProxyType(
    {
        "train": _ours,
        "infer": _ours,
        "timm_train": _timm,
        "timm_infer": _timm,
        "parity": _parity,
        "archive": _archive,
        "epochs": _epochs,
        "profile": _profile,
    }
)
