"""The manifest of a run: versions, data, weights and machine that its results depend on."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxlesion._version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pandas", "h5py"),
    *("tensorflow-cpu", "tensorflow", "albumentations", "opencv-python-headless", "lightgbm"),
)


def make_manifest(
    data: dict[str, str], rows: int, weights: dict[str, str | None], devices: list[str]
) -> dict[str, Any]:
    """Collect what the results of a run depend on: versions, data, weights and machine."""
    versions = {"python": platform.python_version(), "jaxlesion": __version__}  # which a plain checkout has too
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "devices": devices,
        "rows": rows,
        "data": data,
        "weights": weights,
    }


def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return head.stdout.strip() or None if head.returncode == 0 else None
