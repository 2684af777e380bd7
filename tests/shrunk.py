"""Run the commands of the docs on small data: `python`, `srun` and `mpirun` as the tests put them on PATH.

    python shrunk.py python -m jaxlesion.train --data-dir isic-2024-challenge --epochs 20
    python shrunk.py srun --nodes 4 python -m jaxlesion.train ...

`python` runs this interpreter with smaller values of the command's options. `srun` and `mpirun` start two local
processes with the variables by which JAX recognises SLURM and Open MPI.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = "--variant tiny --size 32 --rounds 1"
TRAIN = (
    "--weights none --model.variant tiny --data.image-size 32 --data.batch-size 8 --data.workers 1 --epochs 1 "
    "--sampling.negatives-per-positive 1 --optim.learning-rate 1e-3 --optim.warmup-steps 2 --folds.n 3"
)
SMALLER = {
    "jaxlesion.train": TRAIN,
    "jaxlesion.tabular": "--trees.trees 4 --trees.bag 1 --trees.min-rows 3",
    "jaxlesion.outliers": "--weights none --model.variant tiny --data.image-size 32 --bootstrap 20",
}
ALWAYS = dict.fromkeys(("jaxlesion.evaluate", "jaxlesion.report"), "--bootstrap 20")
EXPERIMENT = "--shrink --fold 0 --bootstrap 20"
OPTIONS = {
    "experiments.table1": EXPERIMENT,
    "experiments.all": f"{EXPERIMENT} --only table1 table8",
    "experiments.recipes": "--shrink --only few-negatives --resamples 20 --jobs 1",
    "experiments.frontier": "--trained tiny --untrained efficientnetv2_b0 --sizes 32 --batch 4 --turns 1",
    "experiments.gpu_session": "--shrink --only infer_256_224_bfloat16_native --repeats 1",
    "experiments.metadata": "--shrink --bootstrap 20",
    "experiments.tabular_scale": "--rows 2000 --malignant 60 --patients 40",
    "experiments.coverage": "--sets 2 --resamples 20 --patients 60 --malignant 16",
    "experiments.pictures": "--shrink --resamples 20 --out pictures",
    "experiments.scale": (
        "--rows 200 400 --table-rows 1500 --patients 60 --malignant 60 --batch-size 16 --shard-rows 64"
    ),
    "experiments.bench_devices": f"{TINY} --batch 4 --layout 1x1 2x1",
    "experiments/bench_throughput.py": "--variant efficientnetv2_b0 --size 64 --rounds 1 --steps 1 --batch 2",
    "experiments/bench_engines.py": "--variant efficientnetv2_b0 --size 64 --batch 2 --rounds 2 --steps 1",
    "experiments/bench_layers.py": f"{TINY} --batch 2",
    "experiments/bench_input.py": f"{TINY} --images 16 --batch 8",
    "experiments/augmentation_sheet.py": "--lesions 2 --draws 1 --size 32",
    "experiments/port_parity.py": "--variant efficientnetv2_b0 --sizes 64 --batch 1",
}
NEED_TIMM = ("experiments/bench_throughput.py", "experiments/port_parity.py")


def program_of(words: Sequence[str]) -> str:
    """Return the module or file that `python ...` runs."""
    return words[2] if words[1] == "-m" else words[1]


def shrink(words: Sequence[str]) -> list[str]:
    """Return a command `python ...` with the options that shrink its program in place of its own.

    Raises:
        KeyError: an experiment has no such options.
    """
    program = program_of(words)
    if program.startswith("experiments"):
        smaller = OPTIONS[program].split()
    else:  # a run that is gone on with has its options already
        smaller = ALWAYS.get(program, SMALLER.get(program, "") if "--data-dir" in words else "").split()
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word in smaller
        if not dropping:
            kept.append(word)
    return [*kept, *smaller]


def free_port(low: int = 61440, high: int = 65535) -> int:
    """Return a port that nobody listens at; JAX chooses the coordinator's from this range by the job's number."""
    for port in range(low + os.getpid() % 4000, high):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError("no free port")


def as_slurm(rank: int, port: int) -> dict[str, str]:
    """Return the variables of `srun` for one of two processes."""
    names = {"JOB_ID": port - 61440, "NTASKS": 2, "STEP_NUM_TASKS": 2, "PROCID": rank, "LOCALID": rank}
    return {f"SLURM_{name}": str(value) for name, value in (names | {"STEP_NODELIST": "localhost"}).items()}


def as_open_mpi(rank: int, port: int) -> dict[str, str]:
    """Return the variables of Open MPI 4 for one of two processes."""
    world = {"SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    uri = {"OMPI_MCA_orte_hnp_uri": f"{(port - 61440) * 2**12}.0;tcp://127.0.0.1:4000"}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in world.items()} | uri


LAUNCHERS = {"srun": as_slurm, "mpirun": as_open_mpi}


def launch(launcher: str, words: Sequence[str]) -> int:
    """Start two processes of a command, less the launcher's own options, and return an exit code that is 0 for both."""
    words, port = list(words), free_port()
    while words[0].startswith("-"):
        del words[:2]
    both = [
        subprocess.Popen(words, env=os.environ | LAUNCHERS[launcher](rank, port) | {"JAX_NUM_CPU_DEVICES": "1"})
        for rank in range(2)
    ]
    return max(abs(process.wait()) for process in both)


def main(name: str, *words: str) -> int:
    """Run a stand-in by name."""
    if name in LAUNCHERS:
        return launch(name, words)
    words = [re.sub(r"^(HOST|127\.0\.0\.1):4321$", f"127.0.0.1:{os.environ['PORT']}", word) for word in words]
    if words[0] == "-m" or words[0].startswith("experiments/"):
        words = shrink([name, *words])[1:]
        words[0] = words[0] if words[0] == "-m" else str(ROOT / words[0])
    os.execv(sys.executable, [sys.executable, *words])  # so that a signal reaches the command itself


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
