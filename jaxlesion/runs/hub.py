"""Released models on the Hugging Face hub: `hf://USER/NAME` in place of the folder of a run.

The repository holds what timm reads (config.json and model.safetensors), and in `jaxlesion/` the files of the run.
"""

from pathlib import Path

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.core.hub import Repository, download
from jaxlesion.runs.fold_dir import MODEL

CACHE = Path("ckpt") / "hub"
INSIDE = "jaxlesion"  # folder of the repository with the files of the run
SUMS = "SHA256SUMS"  # of a released model: a line a file, its digest and name
CONTENT = (SUMS, "README.md", "calibration.json", "manifest.json", "pixels.csv", "config.json")


def fetch_run(repository: Repository, cache: Path = CACHE) -> Path:
    """Download a released model once; return its folder, which is kept in `cache`.

    Raises:
        InputError: it cannot be had, is no run, or its files are not those that SHA256SUMS names.
    """
    folder = cache / repository.folder
    if (folder / "config.json").is_file():
        return folder
    model = folder / "fold_none" / MODEL
    otherwise = f"; or give --run a folder ({repository} must hold a model released by jaxlesion)"
    for name in CONTENT[:-1]:
        download(repository, f"{INSIDE}/{name}", folder / name, otherwise)
    download(repository, MODEL, model, otherwise)
    config = folder / "config.json.downloaded"
    download(repository, f"{INSIDE}/config.json", config, otherwise)
    lines = (folder / SUMS).read_text(errors="replace").splitlines()
    files = {name: folder / name for name in CONTENT[1:-1]} | {f"fold_none/{MODEL}": model, "config.json": config}
    for name, path in files.items():
        if f"{sha256(path)}  {name}" not in lines:
            raise InputError(f"{repository}: the SHA-256 of {name} is not the one in its {SUMS}: do not use it")
    config.replace(folder / "config.json")  # last: with it the folder is a run
    return folder
