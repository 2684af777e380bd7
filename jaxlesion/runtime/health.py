"""Look at a machine: packages, devices, memory and disk, each in a line with what to do."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax

from jaxlesion.runtime.compile_cache import private_folder
from jaxlesion.runtime.devices import HELD_SHARE, cores

PACKAGE = "jaxlesion"
LEAST_MEMORY, LEAST_DISK = 4, 5  # GiB: training B1 at 128 px, and a run with caches
EXTRAS = ("tabular", "onnx", "openvino", "app", "tensorboard")
# Beginnings of the variables that change a run
SETTINGS = ("JAX_", "XLA_", "CUDA_VISIBLE_DEVICES", "GLIBC_TUNABLES", "OMP_NUM_THREADS")
NVIDIA = Path("/proc/driver/nvidia/version")  # there where the driver of an NVIDIA GPU is


class Line(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    todo: str | None = None
    """What to do about it; None where nothing is wrong."""


def check_machine() -> Iterator[Line]:
    """Yield what was found, a line for each thing."""
    yield Line("jaxlesion", f"{metadata.version(PACKAGE)} in {Path(__file__).resolve().parents[1]}")
    yield Line("Python", f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    yield from _packages()
    yield from _devices()
    yield _memory()
    yield _disk(Path.cwd())
    yield _compiled()
    if given := {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)}:
        yield Line("environment", ", ".join(f"{name}={value}" for name, value in given.items()))


def _packages() -> Iterator[Line]:
    """Compare the installed packages with what jaxlesion needs, also for its extras."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    always = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [f"{each} (here {_version(each.name) or 'none'})" for each in always if not _fits(each)]
    names = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pandas", "tensorflow-cpu", "albumentations")
    found = ", ".join(f"{name} {version}" for name in names if (version := _version(name)))
    todo = f"install {'; '.join(wrong)}: pip install -c constraints.txt ." if wrong else None
    yield Line("packages", found, todo)
    here, absent = [], []
    for extra in EXTRAS:
        of_extra = [each for each in needed if each.marker and each.marker.evaluate({"extra": extra})]
        of_extra = [each for each in of_extra if each not in always]
        if of_extra:
            (here if all(map(_fits, of_extra)) else absent).append(extra)
    hint = f'; pip install "jaxlesion[{",".join(absent)}]" would add {", ".join(absent)}' if absent else ""
    yield Line("extras", (", ".join(here) or "none") + hint)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(requirement: "Requirement") -> bool:  # noqa: F821
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _devices() -> Iterator[Line]:
    """Say which devices JAX uses, in which type they compute, and whether a GPU lies idle."""
    devices = jax.devices()
    kind, platform_name = devices[0].device_kind, devices[0].platform
    number = f"{cores()} cores" if platform_name == "cpu" else f"{len(devices)} x {kind}"
    computes = "bfloat16" if platform_name == "gpu" else "float32"
    todo = None
    if NVIDIA.exists() and platform_name == "cpu":
        forced = os.environ.get("JAX_PLATFORMS")
        todo = f"unset JAX_PLATFORMS={forced}" if forced else 'pip install "jaxlesion[cuda13]", or cuda12'
        todo = f"there is an NVIDIA GPU that JAX does not use: {todo}"
    yield Line("devices", f"{platform_name}: {number}; --model.dtype auto computes in {computes}", todo)
    if limit := (devices[0].memory_stats() or {}).get("bytes_limit"):
        held = int(limit * HELD_SHARE) // (3 * 128**2)
        yield Line("GPU memory", f"{limit / 2**30:.1f} GiB for JAX on each; up to {held:,} crops of 128 px stay there")
    if platform_name == "gpu":
        # Of Adam's steps: Malladi et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms".
        fill = "--data.batch-size 256 fills it, with 2.8 times the --optim.learning-rate, the square root of 8"
        yield Line("batch", f"32 images leave a GPU waiting between kernels; {fill}")


def _memory() -> Line:
    """Return the memory that this process may have: the machine's, or less where its control group has a limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    free = next((int(line.split()[1]) * 1024 for line in _meminfo() if line.startswith("MemAvailable")), total)
    gib = min(total, free) / 2**30
    todo = f"training B1 takes about {LEAST_MEMORY} GiB: close other programs, or lower --data.batch-size"
    return Line("memory", f"{gib:.1f} of {total / 2**30:.1f} GiB free", todo if gib < LEAST_MEMORY else None)


def _meminfo() -> list[str]:
    path = Path("/proc/meminfo")
    return path.read_text().splitlines() if path.is_file() else []


def _disk(folder: Path) -> Line:
    """Return the space where runs are written by default."""
    free = shutil.disk_usage(folder).free / 2**30
    todo = f"a run with its caches takes up to {LEAST_DISK} GiB: give --run-dir another disk"
    return Line("disk", f"{free:,.0f} GiB free in {folder}", todo if free < LEAST_DISK else None)


def _compiled() -> Line:
    """Return where compiled programs are kept between starts."""
    try:
        folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or private_folder())
    except RuntimeError:
        return Line(
            "compiled programs", "not kept", "set HOME or XDG_CACHE_HOME to a folder, and later starts are faster"
        )
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return Line("compiled programs", f"{_size(files)} in {folder}; it can be deleted")


def folder_line(what: str, folder: Path, note: str = "") -> Line:
    """Return how much lies in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return Line(what, f"{_size(files)} in {folder}{note}" if files else f"none in {folder}{note}")


def _size(files: list[Path]) -> str:
    plural = "" if len(files) == 1 else "s"
    return f"{len(files):,} file{plural}, {sum(path.stat().st_size for path in files) / 2**20:,.0f} MiB"
