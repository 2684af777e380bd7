"""For use from Python: a network with its weights, and a trained fold.

model, variables = jaxlesion.create_model("efficientnetv2_b1", weights="imagenet", num_classes=0)
features = model.apply(variables, jaxlesion.normalise(images, model.variant))
"""

from pathlib import Path
from typing import Literal

import flax.linen as nn

from jaxlesion.inference.predictor import restore_variables
from jaxlesion.model.registry import build_model, find_backbone
from jaxlesion.model.variables import Variables
from jaxlesion.model.weights import find_weights, initial_variables
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
    variables, _ = initial_variables(model, find_weights(str(weights), name), seed)
    return model, variables


def load_run(
    run: str | Path, fold: int = 0, *, checkpoint: Literal["last", "best"] = "last"
) -> tuple[nn.Module, Variables]:
    """Load a trained fold: its network and the variables that predict. A logit's sigmoid is the probability.

    Raises:
        InputError: no such run, fold or checkpoint.
    """
    opened = Run.open(Path(run))
    variables, _ = restore_variables(opened, fold, checkpoint)
    return build_model(opened.config.model), variables
