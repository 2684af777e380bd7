"""For use from Python: a network with its weights, and a trained fold.

model, variables = jaxlesion.create_model("efficientnetv2_b1", weights="imagenet", num_classes=0)
features = model.apply(variables, jaxlesion.normalise(images, model.variant))
"""

from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError
from jaxlesion.inference.predictor import restore_variables
from jaxlesion.model import variables
from jaxlesion.model.efficientnet import Variant
from jaxlesion.model.registry import build_model, find_backbone
from jaxlesion.model.variables import Variables
from jaxlesion.model.weights import find_weights, initial_variables
from jaxlesion.runs.released import open_released
from jaxlesion.runs.store import Run


def create_model(
    name: str = "efficientnetv2_b1", *, weights: str | Path = "imagenet", num_classes: int = 1, seed: int = 0, **options
) -> tuple[nn.Module, Variables]:
    """Build a network and its variables, for `model.apply(variables, images)`.

    Args:
        name: efficientnetv2_b0 to _b3, or tiny.
        weights: imagenet, a .safetensors file in timm's names, or none for random ones.
        num_classes: logits; 0 gives the pooled features [b, c]. Another number than the weights' has
            a fresh classifier.
        seed: of what is random.
        **options: of `EfficientNetV2`, such as `frozen` or `dtype`.

    Raises:
        InputError: no such variant, or the weights cannot be had or do not fit.
    """
    network, variant = find_backbone(name)
    model = network(variant, num_classes=num_classes, **options)
    initial, _ = initial_variables(model, find_weights(str(weights), name), seed)
    return model, initial


def normalise(images: ArrayLike, variant: Variant) -> jax.Array:
    """Scale images to the float32 [b, h, w, 3] that a variant's weights were trained on.

    Args:
        images: [b, h, w, 3] or [h, w, 3], red first: uint8 of 0 to 255, or floats of 0 to 1.
        variant: of the model, as `model.variant`.

    Raises:
        InputError: another type, shape or range, whose predictions would mean nothing.
    """
    if isinstance(images, jax.core.Tracer):
        dtype, shape, within = images.dtype, images.shape, True
    else:
        images = np.asarray(images)
        dtype, shape = images.dtype, images.shape
        within = images.size == 0 or (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1)
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise InputError(f"images have the shape {list(shape)}, not [b, h, w, 3] or [h, w, 3] with red first")
    floats = jnp.issubdtype(dtype, jnp.floating)
    if dtype != np.uint8 and not (floats and within):
        what = "outside 0 to 1" if floats else "no pixels"
        raise InputError(f"images are {dtype}, {what}: give uint8 of 0 to 255, or floats of 0 to 1")
    batch = jnp.asarray(images)[None] if len(shape) == 3 else jnp.asarray(images)
    return variables.normalise(batch * 255 if floats else batch, variant)


def load_run(
    run: str | Path | None = None,
    fold: int | Literal["none"] | None = None,
    *,
    checkpoint: Literal["last", "best"] = "last",
) -> tuple[nn.Module, Variables]:
    """Load a trained fold: its network and the variables that predict. A logit's sigmoid is the probability.

    Args:
        run: its folder; None for the released model, ckpt/best-b1 of the clone.
        fold: its number, or none for the model of all rows; None for fold 0, and for the model of all rows where it is
            finished and fold 0 is not begun.
        checkpoint: of the fold.

    Raises:
        InputError: no such run, fold or checkpoint.
    """
    opened = open_released() if run is None else Run.open(Path(run))
    opened.check_network("predict by jaxlesion.predict")
    if fold is None:
        fold = "none" if opened.has_all_rows and not opened.fold(0).started else 0
    restored, _ = restore_variables(opened, ALL_ROWS if fold == "none" else fold, checkpoint)
    return build_model(opened.config.model), restored
