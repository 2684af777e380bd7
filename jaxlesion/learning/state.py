"""The state of a training as one pytree."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxlesion.core.config import TrainConfig
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables, abstract_variables


@flax.struct.dataclass
class TrainState:
    """Counter, weights, BatchNorm statistics, optimiser state and, if wanted, the moving average that predicts."""

    step: jax.Array  # int32 [], steps done
    params: Any
    batch_stats: Any
    opt_state: optax.OptState  # of what `trainable` gives, as one vector
    steps_per_epoch: jax.Array  # int32 []; with the next one in the state, folds of any length share a compiled step
    total_steps: jax.Array  # int32 []
    loss_sum: jax.Array  # float32 [], sum of the batch losses since the epoch began
    ema: Variables | None = None

    @property
    def variables(self) -> Variables:
        """The variables that predict: the moving average where there is one."""
        return {"params": self.params, "batch_stats": self.batch_stats} if self.ema is None else self.ema


def trainable(variables: Variables, *, frozen: bool) -> Variables:
    """Return the variables that training changes: with `frozen` the classifier's, else all."""
    return {"params": {HEAD: variables["params"][HEAD]}, "batch_stats": {}} if frozen else variables


def merge(variables: Variables, part: Variables) -> Variables:
    """Return `variables` with the modules of `part` in place of their own."""
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
    """Return the state before the first step."""
    size = sum(leaf.size for leaf in jax.tree.leaves(trainable(variables, frozen=frozen)["params"]))
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


def abstract_state(config: TrainConfig, sharding: jax.sharding.Sharding) -> TrainState:
    """Return the shapes, types and sharding of a run's state, for restoring a checkpoint into."""
    model = build_model(config.model)
    make = functools.partial(create_state, frozen=model.frozen, ema=config.optim.ema is not None)
    state = jax.eval_shape(lambda variables: make(variables, make_optimiser(config.optim)), abstract_variables(model))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
