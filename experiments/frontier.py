"""Compare networks and image sizes: ranking against time and memory of prediction, as a table and one picture.

    python -m experiments.frontier --data-dir isic-2024-challenge --out frontier
    python -m experiments.frontier --cost-only --out frontier

Trains B0 and B1 at each size on folds 0 and 1, into `--out`/runs; B2 and B3 are measured for their cost alone and
marked untrained. Time is that of the jitted prediction of a batch, all networks in turns, median; memory is that of
the weights and of what the compiled program needs beside them. Writes `frontier.md`, `frontier.json` and
`frontier.png` after each finished network. Give the same command again to resume. Hardware: on two cores about a
quarter of an hour a network, size and fold at 128 px.
"""

import io
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.results import environment, markdown, shown
from jaxlesion.core import fields
from jaxlesion.core.config import ModelConfig, Preset
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.summary import POOLED, Estimate, EvalOptions, summarise
from jaxlesion.learning.step import make_predict_step
from jaxlesion.model.registry import build_model, find_backbone
from jaxlesion.model.variables import init_variables
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import use_cores
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.train import train
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse, parse_train
from jaxlesion.ui.terminal import say, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = (("AUC", "roc_auc"), ("pAUC", "pauc"))
SHRUNK = ("--model.variant", "tiny", "--data.batch-size", "8", "--epochs", "1", "--optim.warmup-steps", "2")
SHRUNK += ("--weights", "none", "--sampling.negatives-per-positive", "1")


@dataclass(frozen=True)
class Frontier:
    """Compare networks and image sizes by ranking, time and memory."""

    data_dir: Path | None = None
    """Folder with train-metadata.csv and train-image.hdf5; not needed for --cost-only."""
    out: Path = Path("frontier")
    """Folder of the runs, frontier.md and frontier.png."""
    trained: tuple[str, ...] = ("efficientnetv2_b0", "efficientnetv2_b1")
    """Networks to train."""
    untrained: tuple[str, ...] = ("efficientnetv2_b2", "efficientnetv2_b3")
    """Networks to measure for their cost alone."""
    weights: tuple[str, ...] = ("imagenet",)
    """Weights of the trained networks: imagenet or a .safetensors file; one for all, or one for each."""
    sizes: tuple[int, ...] = (96, 128, 160, 224)
    """Sides in pixels."""
    fold: tuple[int, ...] = (0, 1)
    """Folds to train."""
    batch: int = 32
    """Images of a step whose time is measured."""
    turns: int = 5
    """Steps that are timed of each."""
    cost_only: bool = False
    """Train nothing."""
    preset: Preset = "best"
    """Recipe of training."""
    shrink: bool = False
    """Try everything in a minute: a tiny random network for one epoch."""


def frontier(config: Frontier) -> Path:
    """Measure, train what is missing, write table and picture; return the table's path.

    Raises:
        InputError: no such network, no data, or whatever training refuses.
    """
    for name in (*config.trained, *config.untrained):
        find_backbone(name)
    if config.data_dir is None and not config.cost_only:
        raise InputError("give --data-dir, the folder with train-metadata.csv, or --cost-only")
    if len(config.weights) not in (1, len(config.trained)):
        raise InputError(f"--weights: give one, or one for each of {', '.join(config.trained)}")
    keep_compiled()
    use_cores(config.batch)
    names = [(name, size) for name in (*config.trained, *config.untrained) for size in config.sizes]
    points = costs(names, config.batch, config.turns)
    weights = dict(zip(config.trained, config.weights * (len(config.trained) // len(config.weights)), strict=True))
    path = write(config, points)
    for point in points:
        if point["network"] in weights and not config.cost_only:
            point |= ranking(config, point["network"], point["size"], weights[point["network"]])
            path = write(config, points)
    show(path.read_text())
    return path


def costs(names: list[tuple[str, int]], batch: int, turns: int) -> list[dict[str, Any]]:
    """Return milliseconds an image and megabytes of each network and size; they take turns."""
    ready, points = [], []
    for name, size in names:
        model = build_model(ModelConfig(variant=name))
        variables = init_variables(model, 0)
        images = {"image": np.zeros((batch, size, size, 3), np.uint8)}
        compiled = make_predict_step(model).lower(variables, images).compile()
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
        working = compiled.memory_analysis().temp_size_in_bytes
        points.append({"network": name, "size": size, "weights": weights / 2**20, "working": working / 2**20})
        ready.append((compiled, variables, images))
        say(f"{name} {size} px: compiled")
    seconds = [[] for _ in ready]
    for _ in range(turns + 1):
        for (compiled, variables, images), taken in zip(ready, seconds, strict=True):
            began = time.perf_counter()
            compiled(variables, images).block_until_ready()
            taken.append(time.perf_counter() - began)
    for point, taken in zip(points, seconds, strict=True):
        point["milliseconds"] = 1000 * statistics.median(taken[1:]) / batch
    return points


def ranking(config: Frontier, name: str, size: int, weights: str) -> dict[str, Estimate]:
    """Train a network at a size where it is missing; return its pooled out-of-fold metrics."""
    argv = ["--preset", config.preset, "--data-dir", str(config.data_dir), "--weights", weights, "--folds.stratify"]
    argv += ["--model.variant", name, *(SHRUNK if config.shrink else ()), "--data.image-size", str(size)]
    folder = config.out / "runs" / f"{name}-{size}"
    run = train(fields.replace(parse_train(argv), {"run_dir": folder, "fold": config.fold, "resume": True}))
    return pooled(run, config.fold)


def pooled(run: Run, folds: tuple[int, ...]) -> dict[str, Estimate]:
    """Return the metrics of some folds' held-out rows together."""
    table = read_predictions(run.folder / "oof.csv")
    table = table[table["fold"].isin(folds)]
    parts = summarise({"rows": table}, "rows", EvalOptions(resamples=RESAMPLES))
    found = parts.get(POOLED, next(iter(parts.values())))["rows"]
    return {key: found[key] for _, key in METRICS}


def write(config: Frontier, points: list[dict[str, Any]]) -> Path:
    """Write table and picture; return the table's path."""
    rows = [
        [
            point["network"].removeprefix("efficientnetv2_").upper(),
            str(point["size"]),
            *(shown(point[key]) if key in point else "untrained" for _, key in METRICS),
            f"{point['milliseconds']:.1f}",
            f"{point['weights']:.0f}",
            f"{point['working']:.0f}",
        ]
        for point in points
    ]
    header = ["network", "px", *(label for label, _ in METRICS), "ms an image", "MB of weights", "MB beside them"]
    made = environment()
    how = f"Batches of {config.batch}. {made['date']}: {made['machine']}; {made['software']}."
    text = f"{markdown(header, rows)}\n\n{how}\n"
    config.out.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    figure(points).savefig(image, dpi=150)
    write_atomic(config.out / "frontier.md", text)
    write_atomic(config.out / "frontier.json", json.dumps(points, indent=1) + "\n")
    write_atomic(config.out / "frontier.png", image.getvalue())
    return config.out / "frontier.md"


def read_points(path: Path) -> list[dict[str, Any]]:
    """Read the points that `write` has written."""
    points = json.loads(path.read_text())
    return [point | {key: Estimate(*point[key]) for _, key in METRICS if key in point} for point in points]


def figure(points: list[dict[str, Any]]) -> "Figure":
    """Draw AUC and pAUC against milliseconds, untrained networks as marks on the axis; without any, milliseconds."""
    from matplotlib.figure import Figure

    if not any(key in point for point in points for _, key in METRICS):
        return _costs_figure(points)
    drawing = Figure(figsize=(10, 4), layout="constrained")
    axes = drawing.subplots(1, len(METRICS))
    for axis, (label, key) in zip(axes, METRICS, strict=True):
        for name in dict.fromkeys(point["network"] for point in points):
            own = [point for point in points if point["network"] == name]
            title = name.removeprefix("efficientnetv2_").upper()
            if known := [point for point in own if key in point]:
                x, y = [point["milliseconds"] for point in known], [point[key].value for point in known]
                axis.plot(x, y, "o-", label=title)
                for point, at in zip(known, y, strict=True):
                    axis.annotate(
                        f"{point['size']}", (point["milliseconds"], at), xytext=(4, 4), textcoords="offset points"
                    )
            else:
                x = [point["milliseconds"] for point in own]
                at = axis.get_xaxis_transform()
                axis.plot(x, [0.02] * len(x), "|", ms=12, transform=at, label=f"{title}, untrained")
        axis.set(xlim=(0, None), xlabel="milliseconds an image", ylabel=label)
        axis.legend()
    return drawing


def _costs_figure(points: list[dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6, 4), layout="constrained")
    axis = drawing.add_subplot()
    for name in dict.fromkeys(point["network"] for point in points):
        own = [point for point in points if point["network"] == name]
        x, y = [point["size"] for point in own], [point["milliseconds"] for point in own]
        axis.plot(x, y, "o-", label=name.removeprefix("efficientnetv2_").upper())
    axis.set(ylim=(0, None), xlabel="side of the image in pixels", ylabel="milliseconds an image")
    axis.legend(frameon=False)
    return drawing


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: frontier(parse(Frontier, arguments(None), "frontier")))
