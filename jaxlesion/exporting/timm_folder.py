"""A folder that timm and the Hugging Face hub open: config.json, model.safetensors, and the model card as README.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.exporting.trained import Trained, card_of, refuse_existing
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.port import to_timm, write_safetensors
from jaxlesion.model.registry import find_backbone
from jaxlesion.runs.fold_dir import STEP
from jaxlesion.runs.hub import CONTENT, INSIDE
from jaxlesion.runs.store import Run

HEAD_OF_CARD = """---
license: apache-2.0
library_name: timm
pipeline_tag: image-classification
tags: [timm, jaxlesion, jax, dermatology, skin-lesion, isic-2024, research-only]
metrics: [roc_auc]
---

"""


def check_timm(run: Run, folds: Sequence[int], out: Path, *, hub: bool) -> None:
    """Check, before the work, that timm can have the networks of these folds.

    Raises:
        InputError: several networks, one that timm has not, no card for a hub, or a folder of something else.
    """
    to = "hub" if hub else "timm"
    if len(folds) > 1:
        listed = ", ".join(map(str, folds))
        raise InputError(f"--to {to} takes one network, and {run.folder} has folds {listed}: give --fold one of them")
    if hub and card_of(run) is None:
        raise InputError(f"{run.folder} has no model card, which a hub shows: write it by jaxlesion.report")
    if not find_backbone(run.config.model.variant).variant.timm:
        raise InputError(f"timm has no network {run.config.model.variant}: export it by --to onnx")
    refuse_existing(out, to)


def write_timm(trained: Trained, out: Path) -> None:
    """Write the folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens.

    Args:
        trained: one network, see `check_timm`.
        out: the folder.
    """
    (variables,) = trained.members
    out.mkdir(parents=True, exist_ok=True)
    state = to_timm(variables)
    state |= {name: value[:1] for name, value in state.items() if name.startswith(f"{HEAD}.")}  # without auxiliary ones
    write_safetensors(out / "model.safetensors", state, {"format": "pt", STEP: trained.models[0].split("/")[1]})
    write_atomic(out / "config.json", json.dumps(_config(trained, state), indent=2) + "\n")
    if (card := card_of(trained.run)) is not None:
        write_atomic(out / "README.md", HEAD_OF_CARD + card)


def _config(trained: Trained, state: dict[str, Any]) -> dict[str, Any]:
    """Return what timm reads: the architecture, and how images are prepared."""
    variant, size = trained.model.variant, trained.image_size
    return {
        "architecture": variant.timm.split(".")[0],
        "num_classes": 1,
        "num_features": state[f"{HEAD}.weight"].shape[1],
        "pretrained_cfg": {
            "tag": "jaxlesion",
            "input_size": [3, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(variant.mean),
            "std": list(variant.std),
            "num_classes": 1,
            "pool_size": [-(-size // 32)] * 2,
            "first_conv": "conv_stem",
            "classifier": HEAD,
            "license": "apache-2.0",
        },
        "label_names": ["malignant"],
        "about": {name: text for name, text in trained.about().items() if name != "card"},
    }


def write_hub(trained: Trained, out: Path) -> None:
    """Write the folder of `write_timm`; of a released model also what `hf://` runs are made of."""
    write_timm(trained, out)
    if trained.run.released:
        (out / INSIDE).mkdir(exist_ok=True)
        for name in CONTENT:
            write_atomic(out / INSIDE / name, (trained.run.folder / name).read_bytes())
        # The very file that SHA256SUMS names, so that what is downloaded can be checked.
        write_atomic(out / "model.safetensors", trained.run.fold(ALL_ROWS).model.read_bytes())


def push(out: Path, repository: str, *, public: bool) -> str:
    """Upload the folder to the Hugging Face hub, in one commit; return its address.

    Args:
        out: from `write_hub`.
        repository: USER/NAME, made if need be.
        public: whether a new repository is; otherwise only its owner sees it.

    Raises:
        InputError: nobody is logged in, or the hub refuses.
    """
    import huggingface_hub as hub

    try:
        address = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=out, commit_message="Upload a model of jaxlesion")
    except Exception as e:  # the hub's client raises its own, the transport's and the system's errors
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        raise InputError(f"--push {repository}: {reason}; log in by `hf auth login`, and own the repository") from None
    return str(address)
