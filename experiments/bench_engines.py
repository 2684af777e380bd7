"""Measure the engines that predict on a CPU: images per second, memory, and seconds to the first prediction.

    python experiments/bench_engines.py --size 224 --batch 32

JAX, ONNX Runtime, OpenVINO (in float32 and in bfloat16), and timm in its eager form where it is installed. Each runs B1
in a process of its own, in float32 unless named otherwise. They take turns, so that a drift in the machine's speed
affects all alike. The first prediction counts from the start of its process: imports, weights and compilation. Takes
about two minutes on 2 cores.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

import bench_throughput

ENGINES = ("jax", "onnxruntime", "openvino", "openvino-bf16", "timm")


def engine_step(args: argparse.Namespace):
    """Return a function that predicts one batch by ONNX Runtime or OpenVINO; and a description."""
    from importlib.metadata import version

    import numpy as np

    from jaxlesion.core.config import ModelConfig
    from jaxlesion.inference.engines import LOADERS, package_of
    from jaxlesion.model.onnx_graph import build_graph
    from jaxlesion.model.registry import build_model
    from jaxlesion.model.variables import init_variables

    model = build_model(ModelConfig(variant=args.variant))
    logits = LOADERS[args.worker](build_graph(model, [init_variables(model, 0)], args.size).SerializeToString())
    images = np.random.default_rng(0).integers(0, 256, (args.batch, args.size, args.size, 3), dtype=np.uint8)
    return lambda: logits(images), f"{args.worker} {version(package_of(args.worker))}"


def work(args: argparse.Namespace) -> None:
    """Run as a worker: print a line when ready, then for each input line predict and print seconds per batch."""
    args.what, args.bf16, args.compile = "infer", False, False
    makers = {"jax": bench_throughput.jaxlesion_step, "timm": bench_throughput.timm_step}
    step, name = makers.get(args.worker, engine_step)(args)
    step()
    print(name, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(args.steps):
            step()
        print((time.perf_counter() - began) / args.steps, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


class Worker:
    """A process that holds one engine."""

    def __init__(self, engine: str, args: argparse.Namespace):
        options = {"size": args.size, "batch": args.batch, "steps": args.steps, "variant": args.variant}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        python = args.timm_python if engine == "timm" else sys.executable
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [python, __file__, "--worker", engine, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = self._line()
        self.start = time.perf_counter() - began

    def turn(self) -> float:
        """Predict the batches of one turn; return seconds per batch."""
        print(file=self.process.stdin, flush=True)
        return float(self._line())

    def close(self) -> float:
        """End the process; return its largest resident memory in MB."""
        self.process.stdin.close()
        memory = float(self._line())
        self.process.wait()
        return memory

    def _line(self) -> str:
        if not (line := self.process.stdout.readline().strip()):
            raise SystemExit("a worker has failed; its message is above")
        return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--variant", default="efficientnetv2_b1")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each")
    parser.add_argument("--steps", type=int, default=3, help="batches in a turn")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between turns, for idle threads to sleep")
    parser.add_argument("--timm-python", default=sys.executable, help="interpreter that has torch and timm")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    other = args.timm_python != sys.executable
    there = {"jax": True, "timm": other or (find_spec("timm") and find_spec("torch"))}
    workers = [Worker(engine, args) for engine in ENGINES if there.get(engine, find_spec(engine.partition("-")[0]))]
    for worker in workers:
        worker.turn()
    seconds = []
    for _ in range(args.rounds):
        turn = []
        for worker in workers:
            turn.append(worker.turn())
            time.sleep(args.pause)
        seconds.append(turn)
    print("| engine | img/s | ratio to JAX | least | largest | MB | first prediction |\n|---|--:|--:|--:|--:|--:|--:|")
    for k, worker in enumerate(workers):
        ratios = sorted(turn[0] / turn[k] for turn in seconds)
        rate = args.batch / statistics.median(turn[k] for turn in seconds)
        print(
            f"| {worker.name} | {rate:.1f} | **{statistics.median(ratios):.2f}** | {ratios[0]:.2f} | {ratios[-1]:.2f} "
            f"| {worker.close():,.0f} | {worker.start:.1f} s |",
            flush=True,
        )
    where = f"{os.cpu_count()} cores, {platform.machine()}; {time.strftime('%Y-%m-%d')}"
    print(f"\n{args.variant}, {args.size} px, batch {args.batch}; {where}")


if __name__ == "__main__":
    main()
