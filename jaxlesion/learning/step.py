"""The jitted steps: `(state, batch) -> (state, metrics)`, and `(variables, batch)` to probabilities or features."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxlesion.core.config import OptimConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.data.batch import Batch
from jaxlesion.learning.augment import augment
from jaxlesion.learning.losses import binary_cross_entropy, group_cross_entropy
from jaxlesion.learning.mix import Mixing, mix
from jaxlesion.learning.optim import decaying, descend, factors, learning_rate
from jaxlesion.learning.state import TrainState, merge, trainable
from jaxlesion.model.efficientnet import EfficientNetV2
from jaxlesion.model.gradcam import grad_cam
from jaxlesion.model.variables import Variables, normalise
from jaxlesion.runtime.devices import DATA, compiler_options, platform_of

Metrics = dict[str, jax.Array]
Step = Callable[[Variables, Batch], jax.Array]


def make_train_step(
    model: EfficientNetV2,
    optimiser: optax.GradientTransformation,
    config: OptimConfig,
    *,
    recipe: RecipeSpec,
    mesh: Mesh,
    mixing: Mixing = Mixing(),  # noqa: B008 - a constant
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Return the jitted optimiser step on one batch with the seed, uint32 [], which donates its input state.

    Dropout, stochastic depth and mixing draw from (seed, step), augmentation by `recipe` from (seed, epoch, row), so
    that a resumed run repeats them; all seeds share a program. Metrics are `loss` and `grad_norm`, both []: where
    either is not finite, the new state is worthless.

    Args:
        model: the network.
        optimiser: from `make_optimiser`.
        config: schedule, weight of the positives and moving average.
        recipe: augmentation of uint8 images; `RecipeSpec()` where the host has augmented them.
        mesh: that the batch is split over.
        mixing: of images and labels.
    """
    differentiate = _make_differentiate(model, config, mesh)

    def step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images, label, mask = batch["image"], batch["label"], batch["mask"]
        if config.label_smoothing:
            label = label * (1 - config.label_smoothing) + config.label_smoothing / 2
        if images.ndim == 4:  # else the features of a frozen backbone
            images = augment(images, recipe, seed, state.step // state.steps_per_epoch, batch["row"])
            images = normalise(images, model.variant)
            images, label = mix(images, label, mask, mixing, jax.random.fold_in(key, 1), mesh)
            mask = _after(mask, label) if any(mixing) else mask

        whole = {"params": state.params, "batch_stats": state.batch_stats}
        before = trainable(whole, frozen=model.frozen)["params"]
        groups = [batch["groups"]] if model.num_classes > 1 else []
        loss, gradient, batch_stats = differentiate(whole, images, label, mask, key, *groups)
        kernels = decaying(before) if config.weight_decay else None
        direction, opt_state = optimiser.update(gradient, state.opt_state, kernels)
        rate = learning_rate(config, state.step, state.total_steps)
        in_head = state.step < config.head_epochs * state.steps_per_epoch
        after = descend(before, direction, rate, factors(before, config, in_head))
        whole = merge(whole, {"params": after, "batch_stats": batch_stats})
        averaged = state.ema
        if config.ema is not None:
            averaged = _average(state, whole, config.ema, frozen=model.frozen)
        state = state.replace(
            **whole,
            step=state.step + 1,
            opt_state=opt_state,
            loss_sum=state.loss_sum + loss,
            ema=averaged,
        )
        return state, {"loss": loss, "grad_norm": jnp.linalg.norm(gradient)}

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options(platform_of(mesh)))


def _average(state: TrainState, whole: Variables, most: float, *, frozen: bool) -> Variables:
    """Return the moving average of the variables after a step, with a decay of at most `most`.

    Early on a fixed decay would keep the initial weights: it is (1 + t) / (10 + t), as in TensorFlow's average.
    """
    decay = jnp.minimum(most, (1.0 + state.step) / (10.0 + state.step))
    new, old = (trainable(variables, frozen=frozen) for variables in (whole, state.ema))
    return merge(state.ema, optax.incremental_update(new, old, 1 - decay))


def _after(x: jax.Array, first: jax.Array) -> jax.Array:
    """Return x, once `first` is there: 0 is added, which no compiler sees.

    Exchanges between devices that do not need each other may begin in any order. XLA on the CPU has a thread for each
    device, so two that have begun different ones wait for ever.
    """
    return x + jnp.minimum(jnp.abs(first), 0)


def _make_differentiate(model: EfficientNetV2, config: OptimConfig, mesh: Mesh):
    """Return (variables, images, label, mask, key) -> loss [], gradient as one vector, and new statistics.

    With auxiliary outputs, the groups [b, columns] are one more argument.

    Every device differentiates its share of the batch, and one sum over them ends it: left to the compiler, a sum
    between devices would stand in each turn of the loops in which kernels' gradients are added up. As one vector,
    gradients are exchanged, measured and smoothed by one operation each instead of by hundreds, which all are compiled.

    Raises:
        InputError: the ghost batches cannot be spread evenly over the devices.
    """
    if model.ghosts % mesh.size and mesh.size % model.ghosts:
        raise InputError(
            f"--model.ghost-batches {model.ghosts} is neither a multiple nor a divisor of the {mesh.size} devices: "
            "give another"
        )
    split_model = model.clone(axis_name=DATA)
    specs = (P(), P(DATA), P(DATA), P(DATA), P(), *([P(DATA)] if model.num_classes > 1 else []))

    @partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    def differentiate(
        whole: Variables, images: jax.Array, label: jax.Array, mask: jax.Array, key: jax.Array, *groups: jax.Array
    ):
        count = lax.psum(jnp.sum(mask), DATA)
        images = _after(images, count)

        def loss_of(params):
            variables, rngs = merge(whole, {"params": params}), {"dropout": key}
            logits, updated = split_model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
            loss = binary_cross_entropy(logits[:, 0], label, mask, config.pos_weight, count)
            for known in groups:
                loss += config.auxiliary_weight * group_cross_entropy(logits[:, 1:], known, mask, count)
            return loss, updated["batch_stats"]

        params = trainable(whole, frozen=model.frozen)["params"]
        (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        loss, gradient = lax.psum((loss, ravel_pytree(gradient)[0]), DATA)
        if model.ghosts > 1:  # the devices' statistics differ
            flat, as_before = ravel_pytree(batch_stats)
            batch_stats = as_before(lax.pmean(_after(flat, loss), DATA))
        return loss, gradient, batch_stats

    return differentiate


def make_predict_step(model: EfficientNetV2, views: int = 1) -> Step:
    """Return the jitted step to probabilities of malignancy [b], float32: the sigmoid of the logit, uncorrected.

    Args:
        model: the network.
        views: 8 for the sigmoid of the mean logit over the `symmetries` of each image, 1 for the image alone.
    """

    def step(variables: Variables, batch: Batch) -> jax.Array:
        def logits(images: jax.Array) -> jax.Array:
            if images.ndim == 4:  # else the features of a frozen backbone
                images = normalise(images, model.variant)
            return model.apply(variables, images)[:, 0]

        if views == 1:
            return jax.nn.sigmoid(logits(batch["image"]))
        return jax.nn.sigmoid(lax.map(logits, symmetries(batch["image"])).mean(0))  # one compiled network for all

    return jax.jit(step, compiler_options=compiler_options(model.platform))


def symmetries(images: jax.Array) -> jax.Array:
    """Return square images [b, h, h, 3] in their eight exact symmetries [8, b, h, h, 3]: quarter turns and mirrors."""
    both = (images, jnp.flip(images, 2))
    return jnp.stack([jnp.rot90(image, turns, (1, 2)) for image in both for turns in range(4)])


def make_feature_step(model: EfficientNetV2) -> Step:
    """Return the jitted step to the pooled features [b, c], float32, of a batch of images."""

    def step(variables: Variables, batch: Batch) -> jax.Array:
        features = model.clone(num_classes=0)
        return features.apply(variables, normalise(batch["image"], model.variant))

    return jax.jit(step)


def make_grad_cam_step(model: EfficientNetV2) -> Step:
    """Return the jitted step to the Grad-CAM of a batch, float32 [b, h, w], upsampled and scaled to [0, 1] each.

    All 0 where nothing in the image speaks for a malignant lesion.
    """
    model = model.clone(frozen=False)  # which would stop the gradient; without `train` it changes nothing else

    def step(variables: Variables, batch: Batch) -> jax.Array:
        images = batch["image"]
        maps = grad_cam(model, variables, normalise(images, model.variant))
        maps = jax.image.resize(maps, images.shape[:3], "bilinear")
        most = maps.max((1, 2), keepdims=True)
        return maps / jnp.where(most > 0, most, 1)

    return jax.jit(step)
