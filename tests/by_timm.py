"""Networks as timm opens them, in a process of its own: torch brings its own OpenMP."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = """
from experiments.timm_alone import allow; allow()
import sys, numpy as np, timm, torch
name, folder = sys.argv[1:]
model = timm.create_model(name, pretrained=True).eval()
read = timm.data.resolve_model_data_config(model)
assert read["crop_mode"] == "squash" and list(read["input_size"]) == [3, 128, 128]
images = np.load(folder + "/images.npy") / 255
images = (images - np.array(read["mean"])) / np.array(read["std"])
with torch.no_grad():
    logits = model(torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2))
np.save(folder + "/logits.npy", logits.numpy())
"""


def timm_logits(name: str, images: np.ndarray, folder: Path, **variables: str) -> np.ndarray:
    """Return the logits [n, 1] of `timm.create_model(name)` on images [n, h, w, 3]; skip the test without timm.

    Args:
        name: such as `local-dir:FOLDER` or `hf-hub:USER/NAME`.
        images: uint8, which timm's own mean and deviation normalise.
        folder: for the arrays that pass between the processes.
        variables: of the environment.
    """
    if not (find_spec("timm") and find_spec("torch")):
        pytest.skip("needs timm and torch, which are not installed")
    np.save(folder / "images.npy", images)
    command = [sys.executable, "-c", CODE, name, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(folder / "logits.npy")
