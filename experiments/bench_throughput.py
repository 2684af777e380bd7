"""Measure images per second against timm on the same machine, in training or inference.

    python experiments/bench_throughput.py train --batch 16 32
    python experiments/bench_throughput.py infer --batch 32 --bf16 --compile     # on a GPU

Each framework runs in a separate process, and the two take turns step by step, so that a drift in the machine's speed
affects both alike. The output is the two medians, and the ratio within each turn: median, least and largest. Both use
float32, one logit, binary cross-entropy and Adam; timm runs channels-last. Beside the rates stand the processor's
seconds for a step, of the program and of the kernel, and each process's largest memory. With several --steps a turn the
kernel takes back fewer pages of a process that waits. timm and torch may be installed in another environment
(--timm-python). Takes about a minute for each batch size on 2 cores.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from jaxlesion.runtime.memory import with_large_pages


def jaxlesion_step(args: argparse.Namespace):
    """Return a function that runs one step, or this process's share of it, to its end; and a description."""
    import jax
    import numpy as np

    from jaxlesion.core.config import ModelConfig, OptimConfig
    from jaxlesion.core.recipes import RecipeSpec
    from jaxlesion.learning.optim import make_optimiser
    from jaxlesion.learning.state import create_state
    from jaxlesion.learning.step import make_predict_step, make_train_step
    from jaxlesion.model.registry import build_model
    from jaxlesion.model.variables import init_variables
    from jaxlesion.runtime.devices import data_mesh, local_mesh, replicate, shard_batch, use_cores
    from jaxlesion.runtime.processes import compile_before_running, local_share

    use_cores(args.batch)  # as in every program of the package
    mesh = data_mesh(args.batch)
    dtype = "bfloat16" if args.bf16 else "float32"
    model = build_model(ModelConfig(variant=args.variant, dtype=dtype))
    variables = init_variables(model, 0)
    shape = (args.batch, args.size, args.size, 3)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        "label": (np.arange(args.batch) % 10 == 0).astype(np.float32),
        "mask": np.ones(args.batch, np.float32),
        "row": np.arange(args.batch, dtype=np.int32),
    }
    batch = {key: array[local_share(args.batch)] for key, array in batch.items()}
    name = f"jax {jax.__version__} on {mesh.size} {jax.devices()[0].device_kind}"
    if args.what == "infer":
        predict, mine = make_predict_step(model), local_mesh(mesh)
        variables, batch = replicate(mine, variables), shard_batch(mine)(batch)
        return lambda: predict(variables, batch).block_until_ready(), name
    optimiser = make_optimiser(OptimConfig())
    train = make_train_step(model, optimiser, OptimConfig(), recipe=RecipeSpec(), mesh=mesh)
    train, batch = compile_before_running(train), shard_batch(mesh)(batch)
    state = replicate(mesh, create_state(variables, optimiser, total_steps=1000))

    def step() -> None:
        nonlocal state
        state, metrics = train(state, batch, np.uint32(0))
        jax.block_until_ready((state, metrics))

    return step, name


def timm_step(args: argparse.Namespace):
    """Return a function that runs one step of timm to its end; and a description."""
    import timm_alone
    import torch

    timm_alone.allow()
    import timm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(f"tf_{args.variant}", num_classes=1).to(device, memory_format=torch.channels_last)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device).to(memory_format=torch.channels_last)
    labels = (torch.arange(args.batch, device=device) % 10 == 0).float()[:, None]
    run = torch.compile(model) if args.compile else model
    cast = torch.autocast(device, torch.bfloat16, enabled=args.bf16)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)
    model.train(args.what == "train")

    def infer() -> None:
        with torch.inference_mode(), cast:
            run(images)

    def train() -> None:
        optimiser.zero_grad(set_to_none=True)
        with cast:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(run(images), labels)
        loss.backward()
        optimiser.step()

    def step() -> None:
        infer() if args.what == "infer" else train()
        if device == "cuda":
            torch.cuda.synchronize()

    return step, f"timm {timm.__version__}, torch {torch.__version__} on {device}"


def work(args: argparse.Namespace) -> None:
    """Run as a worker: print a line when ready, and one for each input line, after which it runs the steps.

    That has seconds a step, those of the processor for the program and for the kernel, and the largest memory in GiB.
    """
    step, name = {"jaxlesion": jaxlesion_step, "timm": timm_step}[args.worker](args)
    began = time.perf_counter()
    step()
    print(f"{time.perf_counter() - began}\t{name}", flush=True)
    for _ in sys.stdin:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(args.steps):
            step()
        taken, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        spent = taken, used.ru_utime - before.ru_utime, used.ru_stime - before.ru_stime
        print(*(seconds / args.steps for seconds in spent), used.ru_maxrss / 2**20, flush=True)


class Turn(NamedTuple):
    """Hold what a step of one turn took: seconds, those of the processor, and the largest memory so far in GiB."""

    seconds: float
    user: float
    system: float
    memory: float


class Worker:
    """A process that holds one framework's step."""

    def __init__(self, name: str, python: str, args: argparse.Namespace, batch: int):
        options = [
            "--size",
            str(args.size),
            "--variant",
            args.variant,
            "--steps",
            str(args.steps),
            "--batch",
            str(batch),
        ]
        options += [flag for flag in ("--bf16", "--compile") if getattr(args, flag[2:])]
        # Programs of the package take large pages themselves; those of others do not.
        environ = with_large_pages(os.environ) if name == "jaxlesion" else os.environ
        self.process = subprocess.Popen(
            [python, __file__, args.what, "--worker", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # By default JAX preallocates most of a GPU's memory, and timm needs some too.
            env={**environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        first, self.name = self._line().split("\t")
        self.first_call = float(first)

    def turn(self) -> Turn:
        """Run the steps of one turn."""
        print(file=self.process.stdin, flush=True)
        return Turn(*map(float, self._line().split()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        if not (line := self.process.stdout.readline().strip()):
            raise SystemExit("a worker has failed; its message is above")
        return line


def race(args: argparse.Namespace, batch: int) -> None:
    """Time both frameworks in turns at one batch size and print a row."""
    workers = [Worker("jaxlesion", sys.executable, args, batch), Worker("timm", args.timm_python, args, batch)]
    for worker in workers:
        worker.turn()
    turns = []
    for _ in range(args.rounds):
        turns.append([worker.turn() for worker in workers])
        time.sleep(args.pause)
    for worker in workers:
        worker.close()
    ours, theirs = ([batch / turn.seconds for turn in column] for column in zip(*turns, strict=True))
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    used = [_spent(column) for column in zip(*turns, strict=True)]
    print(
        f"| {args.what} | {args.size} px | {batch} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} "
        f"| **{statistics.median(ratios):.2f}** | {ratios[0]:.2f} | {ratios[-1]:.2f} | {workers[0].first_call:.0f} s "
        f"| {' | '.join(used)} |",
        flush=True,
    )
    args.names = [worker.name for worker in workers]


def _spent(turns: Sequence[Turn]) -> str:
    """Return a framework's seconds of the processor for a step, and its memory."""
    user, system = (statistics.median(seconds) for seconds in zip(*((t.user, t.system) for t in turns), strict=True))
    return f"{user:.2f} + {system:.2f} | {turns[-1].memory:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "infer"])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--variant", default="efficientnetv2_b1")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between turns, for idle threads to sleep")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile for timm")
    parser.add_argument("--timm-python", default=sys.executable, help="interpreter that has torch and timm")
    parser.add_argument("--worker", choices=["jaxlesion", "timm"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        args.batch = args.batch[0]
        work(args)
        return
    each = [f"{name}: {what}" for name in ("jaxlesion", "timm") for what in ("user + system s", "GiB")]
    print(
        f"| | side | batch | jaxlesion img/s | timm img/s | ratio | least | largest | first call | {' | '.join(each)} |"
    )
    print(f"|---|{'--:|' * 12}")
    for batch in args.batch:
        race(args, batch)
    print(
        f"\n{args.names[0]}; {args.names[1]}; {os.cpu_count()} cores, {platform.machine()}; {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    main()
