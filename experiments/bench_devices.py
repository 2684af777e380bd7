"""Measure images per second by devices and processes, in training or inference, on this machine.

    python -m experiments.bench_devices train --layout 1x1 1x2 2x1 --batch 32
    python -m experiments.bench_devices train --layout 1x1 1x2 1x4 1x8 8x1 --batch 1024 --bf16    # on eight GPUs

A layout is PROCESSESxDEVICES, where DEVICES counts those of each process. All layouts are loaded at once with the same
global batch; on CPUs each needs some 0.2 GB per image. They take turns step by step, so that a drift in the machine's
speed affects all alike. The output is the median of each, and the ratio to the first layout within each turn: median,
least and largest.
"""

import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import tyro

from jaxlesion.core.errors import InputError
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program

# Join the other processes and run the step once; then, for each input line, run it and print its seconds.
WORK = """
import json, sys, time
from argparse import Namespace
from experiments.bench_throughput import jaxlesion_step
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.core.config import DistributedConfig
from jaxlesion.runtime.processes import join_processes
what, together = Namespace(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
with join_processes(DistributedConfig(launcher=False, **together), what.batch):
    keep_compiled()
    step, name = jaxlesion_step(what)
    step()
    print("=", name, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print("=", time.perf_counter() - began, flush=True)
"""


@dataclass(frozen=True)
class Devices:
    """Measure steps of one global batch on different numbers of devices and processes, turn by turn."""

    what: tyro.conf.Positional[Literal["train", "infer"]]
    """Training steps, or predictions."""
    layout: tuple[str, ...] = ("1x1", "1x2", "2x1")
    """PROCESSESxDEVICES each."""
    batch: int = 32
    """Images of a step, over all devices."""
    size: int = 224
    """Side of the images, pixels."""
    variant: str = "efficientnetv2_b1"
    """Network."""
    rounds: int = 8
    """Turns of each layout."""
    bf16: bool = False
    """Compute in bfloat16."""


class Layout:
    """The processes of one layout, which take a step together."""

    def __init__(self, name: str, config: Devices):
        if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name)):
            raise InputError(f"--layout {name}: PROCESSESxDEVICES is meant, such as 2x1")
        self.name, (count, devices) = name, map(int, found.groups())
        if config.batch % (count * devices):
            raise InputError(f"--batch {config.batch} is not a multiple of the {count * devices} devices of {name}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{free.getsockname()[1]}"
        what = json.dumps({key: getattr(config, key) for key in ("what", "batch", "size", "variant", "bf16")})
        self.processes = []
        for index in range(count):
            together = {"coordinator": where, "processes": count, "index": index} if count > 1 else {}
            mine = ",".join(str(index * devices + k) for k in range(devices))
            where_to = {"JAX_NUM_CPU_DEVICES": str(devices), "CUDA_VISIBLE_DEVICES": mine}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", WORK, what, json.dumps(together)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    # By default JAX preallocates most of a GPU's memory; here layouts share it.
                    env={**os.environ, **where_to, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                )
            )
        self.device = self._lines()[0]

    def turn(self) -> float:
        """Run one step in all processes together; return its seconds."""
        for process in self.processes:
            with suppress(BrokenPipeError):  # the process has ended; `_line` reports it
                print(file=process.stdin, flush=True)
        return max(map(float, self._lines()))

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()

    def _lines(self) -> list[str]:
        return [self._line(process) for process in self.processes]

    def _line(self, process: subprocess.Popen) -> str:
        for line in process.stdout:
            if line.startswith("= "):  # gloo prints lines of its own
                return line[2:].strip()
        raise InputError(f"a process of {self.name} has ended: its message is above, or memory was short (--batch)")


def bench(config: Devices) -> None:
    """Time all layouts and print a row for each.

    Raises:
        InputError: a layout is impossible, or one of its processes failed.
    """
    layouts = [Layout(name, config) for name in config.layout]
    for layout in layouts:
        layout.turn()
    turns = []
    for _ in range(config.rounds):
        turns.append([])
        for layout in layouts:
            time.sleep(0.05)  # lets the previous layout's idle threads sleep
            turns[-1].append(config.batch / layout.turn())
    for layout in layouts:
        layout.close()
    print(f"| {config.what}, {config.size} px, batch {config.batch} | img/s | ratio | least | largest |")
    print("|---|--:|--:|--:|--:|")
    for layout, rates in zip(layouts, zip(*turns, strict=True), strict=True):
        ratios = sorted(rate / turn[0] for rate, turn in zip(rates, turns, strict=True))
        cells = (f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}")
        print(f"| {layout.name} | {statistics.median(rates):.1f} | {' | '.join(cells)} |")
    print(f"\n{layouts[0].device}; {os.cpu_count()} cores, {platform.machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: bench(tyro.cli(Devices, description=__doc__)))
