"""EfficientNetV2 (arXiv:2104.00298), B0 to B3, as timm's `tf_efficientnetv2_b*` define it.

variables = EfficientNetV2(VARIANTS["efficientnetv2_b1"]).init(key, images)
logits = EfficientNetV2(VARIANTS["efficientnetv2_b1"]).apply(variables, images)
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlesion.model.blocks import BLOCKS, HEAD, BatchNorm, Conv, Dropout
from jaxlesion.model.convolve import on_platform


@dataclass(frozen=True)
class Stage:
    """A run of equal blocks; the first one carries the stride and the change of width."""

    kind: Literal["conv", "fused", "inverted"]
    repeats: int
    width: int
    stride: int
    expansion: int


@dataclass(frozen=True)
class Variant:
    """One architecture and the preprocessing of its ImageNet weights: side in pixels, mean and std of RGB in [0,1]."""

    stages: tuple[Stage, ...]
    stem: int
    head: int
    train_pixels: int
    test_pixels: int
    crop: float = 0.875  # side of the centre crop over that of the resized image, at test time
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    timm: str = ""  # timm's model name and tag; empty where there are no published weights


def _stages(repeats: tuple[int, ...], widths: tuple[int, ...]) -> tuple[Stage, ...]:
    kinds = ("conv", "fused", "fused", "inverted", "inverted", "inverted")
    return tuple(map(Stage, kinds, repeats, widths, (1, 2, 2, 2, 1, 2), (1, 4, 4, 4, 6, 6)))


VARIANTS: dict[str, Variant] = {
    "efficientnetv2_b0": Variant(
        _stages((1, 2, 2, 3, 5, 8), (16, 32, 48, 96, 112, 192)), 32, 1280, 192, 224, timm="tf_efficientnetv2_b0.in1k"
    ),
    "efficientnetv2_b1": Variant(
        _stages((2, 3, 3, 4, 6, 9), (16, 32, 48, 96, 112, 192)),
        *(32, 1280, 192, 240, 0.882),
        timm="tf_efficientnetv2_b1.in1k",
    ),
    "efficientnetv2_b2": Variant(
        _stages((2, 3, 3, 4, 6, 10), (16, 32, 56, 104, 120, 208)),
        *(32, 1408, 208, 260, 0.890),
        timm="tf_efficientnetv2_b2.in1k",
    ),
    "efficientnetv2_b3": Variant(
        _stages((2, 3, 3, 5, 7, 12), (16, 40, 56, 112, 136, 232)),
        *(40, 1536, 240, 300, 0.9),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        timm="tf_efficientnetv2_b3.in21k_ft_in1k",
    ),
    "tiny": Variant(  # for tests: every kind, with and without stride, skip and change of width
        (
            Stage("conv", 1, 8, 1, 1),
            Stage("fused", 2, 8, 2, 4),
            Stage("inverted", 2, 16, 2, 4),
            Stage("inverted", 1, 24, 1, 6),
        ),
        *(8, 48, 32, 32),
    ),
}


class EfficientNetV2(nn.Module):
    """Logits [b,num_classes], or with `num_classes=0` the pooled features [b,c], of normalised images [b,h,w,3].

    `drop_path` grows linearly with depth from 0 and, like `dropout` (before the classifier), draws from the rng
    "dropout" in training; a rate of 0 needs no rng. With `frozen`, the backbone runs on its running BatchNorm
    statistics even in training, and no gradient reaches it. `dtype` is that of the computation: parameters, statistics
    and logits are float32. `axis_name` is that of the devices which share the batch, inside `shard_map`. `ghosts` is
    the number of parts of a training batch that BatchNorm normalises by themselves. `platform` is where it runs, "cpu"
    or "gpu", which decides the form of convolutions; by default JAX's.
    """

    variant: Variant
    num_classes: int = 1
    dropout: float = 0.0
    drop_path: float = 0.0
    frozen: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    ghosts: int = 1
    platform: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, intermediates: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Return the logits of images, or of features [b,c] from a call with `num_classes=0`.

        With `intermediates` also the maps stem, stage0 .. stage5 and head [b,h,w,c], and the features [b,c].
        """
        maps = {}
        if images.ndim == 2:
            features = images
        else:
            with on_platform(self.platform):
                maps = self._backbone(images.astype(self.dtype), train and not self.frozen)
            features = maps["head"].mean((1, 2), dtype=jnp.float32)
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        logits = features
        if self.num_classes:
            logits = Dropout(self.dropout, axis_name=self.axis_name)(features, train=train)
            logits = nn.Dense(self.num_classes, name=HEAD)(logits)
        return (logits, maps | {"features": features}) if intermediates else logits

    def _backbone(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, norm = partial(Conv, dtype=self.dtype), partial(BatchNorm, self.dtype, self.axis_name, self.ghosts)
        maps = {}
        x = conv(self.variant.stem, 3, 2, name="conv_stem")(x)
        x = maps["stem"] = norm(name="bn1")(x, train=train, silu=True)
        depth, total = 0, sum(stage.repeats for stage in self.variant.stages)
        for i, stage in enumerate(self.variant.stages):
            for j in range(stage.repeats):
                block = BLOCKS[stage.kind](
                    stage.width,
                    stage.stride if j == 0 else 1,
                    stage.expansion,
                    self.drop_path * depth / total,
                    self.dtype,
                    self.axis_name,
                    self.ghosts,
                    name=f"blocks_{i}_{j}",
                )
                x = block(x, train=train)
                depth += 1
            maps[f"stage{i}"] = x
        x = conv(self.variant.head, name="conv_head")(x)
        maps["head"] = norm(name="bn2")(x, train=train, silu=True)
        return maps
