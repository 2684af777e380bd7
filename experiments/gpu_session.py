"""Measure on a GPU, in one call, what only a GPU can tell: is it right, how fast, and beside timm.

    python -m experiments.gpu_session --data-dir isic-2024-challenge --out session --minutes 10
    python -m experiments.gpu_session --data-dir isic-2024-challenge --shrink

Each case has a process of its own. All are built and compiled side by side, and measured one at a time: a lock on
`--out`/gpu.lock keeps the GPU to one, and whoever holds it from outside delays the measurements. Cases whose compiler
searches for the fastest kernels by running them come last, one after the other. Writes `session.jsonl`, a line as soon
as a case is measured, and `session.md`; a case that has no result by `--minutes` is named and stopped. Needs an NVIDIA
GPU, jax[cuda12] and, for its cases, torch and timm. Result: docs/performance.md.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from experiments.gpu_cases import GpuSession, cases
from experiments.gpu_kinds import KINDS, Result
from experiments.results import environment
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.terminal import say


def session(config: GpuSession) -> Path:
    """Run the cases, write the results and return the table's path.

    Raises:
        InputError: no such case.
    """
    ends = time.monotonic() + 60 * config.minutes
    wanted = [name for name in cases() if not config.only or name.startswith(config.only)]
    if not wanted:
        raise InputError(f"--only {' '.join(config.only)}: the cases are {', '.join(cases())}")
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "session.jsonl").unlink(missing_ok=True)
    running = {name: _start(config, name) for name in wanted if not cases()[name].alone}
    _wait(running, ends)
    for name in wanted:
        if cases()[name].alone and time.monotonic() < ends:
            running[name] = _start(config, name)
            _wait(running, ends)
    for process in running.values():
        process.kill()
        process.wait()
    results = read(config.out)
    missing = [name for name in wanted if name not in {one["name"] for one in results}]
    write_atomic(config.out / "session.md", page(results, missing))
    return config.out / "session.md"


def _start(config: GpuSession, name: str) -> subprocess.Popen:
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} | {"case": name}
    argv = [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if key not in ("only", "shrink")]
    found = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    flags = {"XLA_FLAGS": cases()[name].flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environ = os.environ | flags | {"PYTHONPATH": found}  # the caller may stand in another folder
    with (config.out / f"{name}.log").open("w") as log:
        command = [sys.executable, "-m", "experiments.gpu_session", *argv, *(["--shrink"] if config.shrink else [])]
        return subprocess.Popen(command, env=environ, stdout=log, stderr=log)


def _wait(running: dict[str, subprocess.Popen], ends: float) -> None:
    """Wait for all, each said when it ends, or until it is time."""
    waiting = dict(running)
    while waiting and time.monotonic() < ends:
        for name in [name for name, process in waiting.items() if process.poll() is not None]:
            if running.pop(name, None) and (code := waiting[name].returncode) is not None:
                say(f"{name}: {'measured' if code == 0 else f'failed ({code}), see {name}.log'}")
            del waiting[name]
        time.sleep(0.2)


def measure(config: GpuSession) -> None:
    """Build and compile a case, wait for the GPU, measure, and write the line."""
    case = cases()[config.case]
    if config.shrink:
        case = dataclasses.replace(case, batch=min(case.batch, 16), size=32, dtype="float32")
    began = time.perf_counter()
    run = KINDS[case.kind](config, case)
    ready = time.perf_counter() - began
    with FileLock(config.out / "gpu.lock"):
        result = run()
        line = {"name": config.case, **dataclasses.asdict(case), "ready_seconds": ready, **result}
        with (config.out / "session.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def read(folder: Path) -> list[Result]:
    """Read the lines of a session."""
    with suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "session.jsonl").read_text().splitlines()]
    return []


def page(results: list[Result], missing: list[str]) -> str:
    """Return the results as Markdown: a table of rates, and the rest as JSON lines."""
    rates = [one for one in results if "step_ms" in one]
    lines = ["| case | ms a step | images/s | seconds until compiled |", "|---|--:|--:|--:|"]
    for one in rates:
        row = one["name"], f"{one['step_ms']:.2f}", f"{one['images_per_second']:,.0f}", f"{one['ready_seconds']:.0f}"
        lines.append(f"| {' | '.join(row)} |")
    rest = [f"- {json.dumps(one)}" for one in results if one not in rates]
    without = [f"- No result: {', '.join(missing)}."] if missing else []
    made = environment()
    by = f"- Made on {made['date']}: {made['machine']}; {made['software']}."
    return "\n".join([*lines, "", *rest, *without, by, ""])


if __name__ == "__main__":
    prepare_process()
    wanted = parse(GpuSession, arguments(None), "gpu_session")
    run_program(lambda: measure(wanted) if wanted.case else say(str(session(wanted))))
