"""What training changes, as one pytree."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlesion.config import ModelConfig, TrainConfig
from jaxlesion.errors import InputError
from jaxlesion.model.blocks import IMPL, kernel_std
from jaxlesion.model.efficientnet import HEAD, VARIANTS, EfficientNetV2, Variant
from jaxlesion.optim import make_optimiser

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}


@flax.struct.dataclass
class TrainState:
    """Counter, weights, BatchNorm statistics, optimiser state and, if wanted, the moving average that predicts."""

    step: jax.Array  # int32 [], steps done
    params: Any
    batch_stats: Any
    opt_state: optax.OptState  # of what `moving` gives, as one vector
    steps_per_epoch: jax.Array  # int32 []; with the next one in the state, folds of any length share a compiled step
    total_steps: jax.Array  # int32 []
    loss_sum: jax.Array  # float32 [], sum of the batch losses since the epoch began
    ema: Variables | None = None

    @property
    def variables(self) -> Variables:
        """What predictions are made with: the moving average where there is one."""
        return {"params": self.params, "batch_stats": self.batch_stats} if self.ema is None else self.ema


def init_variables(model: EfficientNetV2, seed: int) -> Variables:
    """Random variables, a function of the seed; their shapes do not depend on the image size."""
    return drawn(abstract_variables(model), seed)


def drawn(abstract: Any, seed: int) -> Any:
    """Random variables for a tree of shapes, a function of the seed.

    Distributed as those of `model.init`, and drawn by numpy: to compile the draws of 150 kernels takes half a minute.
    """
    rng = np.random.default_rng(seed)
    constants = {"scale": 1, "var": 1, "bias": 0, "mean": 0}

    def draw(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in constants:
            return np.full(leaf.shape, constants[path[-1].key], leaf.dtype)
        std = kernel_std(leaf.shape) if leaf.ndim == 4 else leaf.shape[0] ** -0.5  # a classifier's: Lecun's normal
        return (std * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


@functools.cache
def abstract_variables(model: EfficientNetV2) -> Variables:
    """Shapes and types of the variables, computing nothing."""
    with IMPL("shapes"):
        return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def moving(variables: Variables, *, frozen: bool) -> Variables:
    """The part of the variables that training changes: with `frozen` the classifier, else all."""
    return {"params": {HEAD: variables["params"][HEAD]}, "batch_stats": {}} if frozen else variables


def merged(variables: Variables, part: Variables) -> Variables:
    """`variables` with the modules of `part` in place of their own."""
    return {name: {**modules, **part.get(name, {})} for name, modules in variables.items()}


def create_state(
    variables: Variables,
    optimiser: optax.GradientTransformation,
    *,
    frozen: bool = False,
    steps_per_epoch: int = 1,
    total_steps: int = 1,
    ema: bool = False,
) -> TrainState:
    """The state before the first step."""
    size = sum(leaf.size for leaf in jax.tree.leaves(moving(variables, frozen=frozen)["params"]))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimiser.init(jnp.zeros(size)),
        steps_per_epoch=jnp.asarray(steps_per_epoch, jnp.int32),
        total_steps=jnp.asarray(total_steps, jnp.int32),
        loss_sum=jnp.zeros((), jnp.float32),
        ema=jax.tree.map(jnp.copy, dict(variables)) if ema else None,
    )


def normalise(images: jax.Array, variant: Variant) -> jax.Array:
    """uint8 [b, h, w, 3] to the float32 that the variant's weights were trained on: (x / 255 - mean) / std."""
    mean, std = jnp.asarray(variant.mean, jnp.float32), jnp.asarray(variant.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]


def build_model(config: ModelConfig) -> EfficientNetV2:
    """The network of a configuration, with one logit.

    Raises:
        InputError: no such variant.
    """
    if config.variant not in VARIANTS:
        raise InputError(f"--model.variant {config.variant}: choose from {', '.join(VARIANTS)}")
    on_gpu = jax.default_backend() == "gpu"
    return EfficientNetV2(
        VARIANTS[config.variant],
        dropout=config.dropout,
        drop_path=config.drop_path,
        frozen=config.freeze,
        dtype=jnp.dtype(config.dtype if config.dtype != "auto" else "bfloat16" if on_gpu else "float32"),
    )


def abstract_state(config: TrainConfig, sharding: jax.sharding.Sharding) -> TrainState:
    """Shapes, types and sharding of a run's state, for restoring a checkpoint into."""
    model = build_model(config.model)
    make = functools.partial(create_state, frozen=model.frozen, ema=config.optim.ema is not None)
    state = jax.eval_shape(lambda variables: make(variables, make_optimiser(config.optim)), abstract_variables(model))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
