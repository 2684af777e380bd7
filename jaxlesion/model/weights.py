"""Sources of the first weights: a file, the hub, or chance."""

from pathlib import Path

import flax.linen as nn
import jax

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.port import from_timm, read_safetensors
from jaxlesion.model.registry import find_backbone
from jaxlesion.model.variables import Variables, abstract_variables, init_variables, random_like

CACHE = Path("ckpt") / "weights"


def find_weights(weights: str, variant: str, cache: Path = CACHE) -> Path | None:
    """Return the safetensors file that `weights` means: a path, or `imagenet`; None for `none`.

    ImageNet weights are downloaded once from the variant's repository on the Hugging Face hub, their
    SHA-256 checked against the one the hub states, and kept in `cache`.

    Raises:
        InputError: no such file, or it cannot be downloaded.
    """
    if weights == "none":
        return None
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise InputError(f"--weights {weights}: no such file (give imagenet, none or a .safetensors file)")
        return Path(weights)
    if not (timm := find_backbone(variant).variant.timm):
        raise InputError(f"--model.variant {variant} has no ImageNet weights: use --weights none")
    path = cache / f"{timm}.safetensors"
    if not path.is_file():
        _download(f"timm/{timm}", path)
    return path


def _download(repository: str, path: Path) -> None:
    import huggingface_hub as hub

    address = hub.hf_hub_url(repository, "model.safetensors")
    try:
        stated = hub.get_hf_file_metadata(address).etag
        fetched = Path(hub.hf_hub_download(repository, "model.safetensors", local_dir=path.parent / "download"))
    except Exception as e:  # the hub's client raises its own, the transport's and the system's errors
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        raise InputError(
            f"ImageNet weights could not be downloaded ({reason}): fetch {address} elsewhere and save it as {path}, "
            "or give that file by --weights (none: random ones)"
        ) from None
    if (digest := sha256(fetched)) != stated:
        fetched.unlink()
        raise InputError(f"{address}: the download's SHA-256 is {digest}, the hub states {stated}; try again")
    fetched.replace(path)


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
