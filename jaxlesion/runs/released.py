"""A released model: the folder of a run without its rows, folds and checkpoints. One comes with a clone."""

from pathlib import Path

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.runs.hub import SUMS
from jaxlesion.runs.store import Run

FOLDER = Path(__file__).resolve().parents[2] / "ckpt" / "best-b1"  # beside the package, not in it


def open_released() -> Run:
    """Open the released model that predicts where no run is named.

    Raises:
        InputError: it is not there.
    """
    if not (FOLDER / "config.json").is_file():
        raise InputError(
            f"no run is named, and {FOLDER} holds no model (a wheel has none): clone the repository, or give --run the "
            "folder of a run of your own"
        )
    return Run.open(FOLDER)


def describe(run: Run) -> str:
    """Say which released model predicts, and what it was trained on."""
    malignant = run.manifest["released"]["malignant"]
    return (
        f"no --run is given: {run.folder} predicts, {run.config.model.variant} trained on {malignant:,} malignant "
        "lesions; for research, not a medical device"
    )


def check_digest(run: Run, path: Path) -> None:
    """Compare a file of a released model with its SHA-256 in SHA256SUMS; of other runs nothing is compared.

    Raises:
        InputError: it differs, or has no digest there.
    """
    if not run.released:
        return
    sums, name = run.folder / SUMS, path.relative_to(run.folder).as_posix()
    lines = sums.read_text(errors="replace").splitlines() if sums.is_file() else []
    if f"{sha256(path)}  {name}" not in lines:
        raise InputError(f"{path}: its SHA-256 is not the one in {sums}: download or clone the released model again")
