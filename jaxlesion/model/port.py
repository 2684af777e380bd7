"""timm's EfficientNetV2 weights to Flax variables and back, and the safetensors files that carry them.

The names follow by rule: `blocks.3.1.conv_dw.weight` is `params/blocks_3_1/conv_dw/kernel`. Each tensor of either
side is used exactly once, or the error lists the difference.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.model.blocks import HEAD

LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
MAX_BYTES = 2**30  # of a file of weights; those of the largest variant are 52 MB
COUNTER = "num_batches_tracked"  # torch's counter beside each running_mean: of no use here


def timm_name(path: tuple[str, ...]) -> str:
    """Return timm's name of a variable: ("params", "blocks_3_1", "bn1", "scale") -> "blocks.3.1.bn1.weight"."""
    collection, *modules, leaf = path
    if modules[0].startswith("blocks_"):
        modules[0] = modules[0].replace("_", ".")
    return ".".join([*modules, LEAVES[collection, leaf]])


def timm_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in torch's layout: [h,w,i,o] -> [o,i,h,w], [i,o] -> [o,i], [c] as it is."""
    return tuple(shape[axis] for axis in _to_torch(len(shape)))


def _to_torch(rank: int) -> tuple[int, ...]:
    return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[rank]


def from_timm(state: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (`variables` with the weights of `state`, notes for the reader).

    `variables` is the template {"params", "batch_stats"}, concrete or abstract. A classifier of another size, or one
    that only one side has, is not ported: the template's stays, and a note says so. The other leaves are float32
    numpy arrays. Raises InputError where names or shapes differ, or a weight is not a finite float.
    """
    flat = flatten_dict(dict(variables))
    expected = {timm_name(path): path for path in flat}
    shapes = {name: timm_shape(flat[path].shape) for name, path in expected.items()}
    notes = _drop_other_head(state, shapes)
    counters = {_counter(name) for name in shapes if name.endswith(".running_mean")}
    given = {k: v for k, v in state.items() if k in shapes or not (notes and _is_head(k))}
    _check(given, shapes, counters)
    for name in shapes:
        flat[expected[name]] = _from_torch(_float32(given[name]))
    return unflatten_dict(flat), notes


def to_timm(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return timm's state dict of `variables`: float32, torch's layout, each batch counter 0 (int64)."""
    state = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        name, value = timm_name(path), np.asarray(leaf, np.float32)
        state[name] = np.ascontiguousarray(value.transpose(_to_torch(value.ndim)))
        if name.endswith(".running_mean"):
            state[_counter(name)] = np.zeros((), np.int64)
    return state


def _float32(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a float64 out of range becomes infinite, and is refused as such
        return np.asarray(value, np.float32)


def _from_torch(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(np.argsort(_to_torch(value.ndim))))


def _counter(name: str) -> str:
    return name.removesuffix("running_mean") + COUNTER


def _is_head(name: str) -> bool:
    return name.startswith(f"{HEAD}.")


def _drop_other_head(state: Mapping[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Take the classifier out of `shapes` where the two differ in size; return the note that says so."""
    ours = {k: v for k, v in shapes.items() if _is_head(k)}
    theirs = {k: v.shape for k, v in state.items() if _is_head(k)}
    whole = {f"{HEAD}.weight", f"{HEAD}.bias"}
    if ours == theirs or (theirs and theirs.keys() != whole):
        return []
    for name in ours:
        del shapes[name]
    sizes = [math.prod(side[f"{HEAD}.bias"]) if side else "no" for side in (theirs, ours)]
    return [f"{HEAD} not ported: the weights have {sizes[0]} classes, the model {sizes[1]}; the model's own is kept"]


def _check(given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], counters: set[str]) -> None:
    common = given.keys() & shapes.keys()
    wrong = (f"{k} {tuple(given[k].shape)} for {shapes[k]}" for k in common if tuple(given[k].shape) != shapes[k])
    faults = {
        "missing": shapes.keys() - given.keys(),
        "unexpected": given.keys() - shapes.keys() - counters,
        "wrong shape": list(wrong),
        "not floating": [k for k in common if not jnp.issubdtype(given[k].dtype, jnp.floating)],
    }
    if not any(faults.values()):
        faults = {"NaN or infinite": [k for k in common if not np.isfinite(_float32(given[k])).all()]}
    if any(faults.values()):
        listed = "; ".join(f"{what}: {_few(names)}" for what, names in faults.items() if names)
        raise InputError(f"weights do not fit the model: {listed}; give weights of this very model")


def _few(names: Iterable[str], most: int = 3) -> str:
    names = [repr(name)[1:-1] for name in sorted(names)]  # a name from a file may hold anything
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file. Raises InputError, naming the file, where it cannot be read."""
    try:
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise OSError(f"it has {size:,} bytes, where at most {MAX_BYTES:,} are read")
        return load_file(path)
    except (OSError, SafetensorError, TypeError, AttributeError) as error:  # the last two: a dtype numpy has not
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable safetensors file ({reason}); give timm's model.safetensors") from None


def write_safetensors(
    path: str | os.PathLike, state: Mapping[str, np.ndarray], about: dict[str, str] | None = None
) -> None:
    """Write `state` to a safetensors file, whole or not at all; `about` goes into its header."""
    write_atomic(Path(path), save({name: np.asarray(value, order="C") for name, value in state.items()}, about))
