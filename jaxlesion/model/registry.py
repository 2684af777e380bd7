"""Backbones by name.

A new backbone is one file beside this one and one line in `BACKBONES`. Its network is a linen module with the fields of
`EfficientNetV2`; its variant has `mean` and `std` of RGB in [0, 1], and `timm`, the name of its published weights;
its submodules carry timm's names, so that `port` needs no rule for it.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlesion.core.config import MAX_GROUPS, ModelConfig
from jaxlesion.core.errors import InputError
from jaxlesion.model import efficientnet


class Backbone(NamedTuple):
    """A network and what distinguishes it from its siblings."""

    network: type[nn.Module]
    variant: Any


BACKBONES: dict[str, Backbone] = {
    **{name: Backbone(efficientnet.EfficientNetV2, variant) for name, variant in efficientnet.VARIANTS.items()},
}


def find_backbone(name: str) -> Backbone:
    """Return the backbone of this name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in BACKBONES:
        raise InputError(f"there is no network {name}: choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_model(config: ModelConfig, platform: str | None = None) -> nn.Module:
    """Build the network of a configuration, with one logit, and more for each auxiliary column.

    Args:
        config: of the network.
        platform: "cpu" or "gpu", of the devices that will run it (`runtime.devices.platform_of` a mesh), which need
            not be this machine's. It decides the form of convolutions, and the type where that is "auto". By default
            that of JAX's default devices.

    Raises:
        InputError: no such backbone.
    """
    network, variant = find_backbone(config.variant)
    platform = platform or jax.default_backend()
    return network(
        variant,
        num_classes=1 + MAX_GROUPS * len(config.auxiliary),
        dropout=config.dropout,
        drop_path=config.drop_path,
        frozen=config.freeze,
        ghosts=config.ghost_batches,
        dtype=jnp.dtype(config.dtype if config.dtype != "auto" else "bfloat16" if platform == "gpu" else "float32"),
        platform=platform,
    )
