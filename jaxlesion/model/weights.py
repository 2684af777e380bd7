"""Sources of the first weights: a file, the hub, or chance."""

from pathlib import Path

import flax.linen as nn
import jax

from jaxlesion.core.errors import InputError
from jaxlesion.core.hub import Repository, download, repository_of
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.port import from_timm, read_safetensors
from jaxlesion.model.registry import find_backbone
from jaxlesion.model.variables import Variables, abstract_variables, init_variables, random_like

CACHE = Path("ckpt") / "weights"
FILE = "model.safetensors"


def find_weights(weights: str, variant: str, cache: Path = CACHE) -> Path | None:
    """Return the safetensors file that `weights` means; None for `none`.

    That is a file, a folder with a model.safetensors, hf://USER/NAME, or `imagenet` for the variant's repository of
    timm. What is downloaded comes from the Hugging Face hub, its SHA-256 is checked against the one the hub states, and
    it is kept in `cache`.

    Raises:
        InputError: no such file, or it cannot be downloaded.
    """
    if weights == "none":
        return None
    if (repository := repository_of(weights)) is not None:
        path = cache / f"{repository.folder}.safetensors"
        if not path.is_file():
            download(repository, FILE, path, ", or give a file by --weights")
        return path
    if weights != "imagenet":
        path = Path(weights) / FILE if Path(weights).is_dir() else Path(weights)
        if not path.is_file():
            raise InputError(f"--weights {path}: no such file (give imagenet, none or a .safetensors file)")
        return path
    if not (timm := find_backbone(variant).variant.timm):
        raise InputError(f"--model.variant {variant} has no ImageNet weights: use --weights none")
    path = cache / f"{timm}.safetensors"
    if not path.is_file():
        download(Repository(f"timm/{timm}"), FILE, path, ", or give that file by --weights (none: random ones)")
    return path


def read_variables(model: nn.Module, path: Path) -> tuple[Variables, list[str]]:
    """Read the variables in a file, and notes for the reader. A classifier that does not fit stays abstract.

    Raises:
        InputError: the file cannot be read or does not fit the model.
    """
    try:
        return from_timm(read_safetensors(path), abstract_variables(model))
    except InputError as e:
        raise InputError(f"{path}: {e}" if str(path) not in str(e) else str(e)) from None


def initial_variables(model: nn.Module, path: Path | None, seed: int) -> tuple[Variables, list[str]]:
    """Return the variables to start training from, and notes for the reader; random ones without a file.

    Raises:
        InputError: the file cannot be read or does not fit the model.
    """
    if path is None:
        return init_variables(model, seed), ["random weights, by --weights none"]
    variables, notes = read_variables(model, path)
    head = variables["params"].get(HEAD)
    if head is not None and isinstance(head["kernel"], jax.ShapeDtypeStruct):  # not ported: a fresh one
        variables["params"][HEAD] = random_like(head, seed)
    return variables, notes
