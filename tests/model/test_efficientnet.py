"""Sizes of the variants, and effects of training, freezing, dropout and dtype on the tiny one."""

from dataclasses import replace
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.model.blocks import HEAD
from jaxlesion.model.convolve import FORMS, IMPL
from jaxlesion.model.efficientnet import VARIANTS, EfficientNetV2

TINY = VARIANTS["tiny"]
SMALL = replace(TINY, stages=(TINY.stages[0], TINY.stages[1], TINY.stages[3]))  # a stage of each kind: compiles soon
IMAGES = jax.random.normal(jax.random.key(1), (4, 33, 33, 3))


@pytest.fixture(scope="module")
def variables():
    """Return random variables, including all vectors; numpy avoids compilation."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(EfficientNetV2(SMALL).init, jax.random.key(0), IMAGES))


@partial(jax.jit, static_argnums=0)
def evaluate(model, variables, images=IMAGES):
    return model.apply(variables, images, intermediates=True)


def forward(model, variables, rngs=None):
    return model.apply(variables, IMAGES, train=True, intermediates=True, rngs=rngs, mutable=["batch_stats"])


def train_step(model, variables):
    """Return logits, gradients of the logits' mean square, and batch_stats after one training pass."""

    def loss(params):
        (logits, _), updated = forward(model, variables | {"params": params})
        return (logits**2).mean(), (logits, updated.get("batch_stats", variables["batch_stats"]))

    (_, (logits, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    return logits, gradients, stats


train_forward = jax.jit(forward, static_argnums=0)
jitted_step = jax.jit(train_step, static_argnums=0)


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("efficientnetv2_b0", 1, 5_859_985),
        ("efficientnetv2_b1", 1, 6_861_333),
        ("efficientnetv2_b1", 1000, 8_141_052),
        ("efficientnetv2_b2", 1, 8_688_495),
        ("efficientnetv2_b3", 1, 12_822_943),
    ],
)
def test_parameter_counts(name, classes, count):
    model = EfficientNetV2(VARIANTS[name], num_classes=classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_intermediates_have_the_names_and_shapes_promised():
    model = EfficientNetV2(TINY)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    logits, maps = jax.eval_shape(partial(model.apply, intermediates=True), variables, IMAGES)
    assert logits.shape == (4, 1)
    assert maps.pop("features").shape == (4, TINY.head)
    sides = {name: leaf.shape[1] for name, leaf in maps.items()}
    stages = {f"stage{i}": side for i, side in enumerate((17, 9, 5, 5))}
    assert sides == {"stem": 17} | stages | {"head": 5}


def test_without_classes_the_features_come_out(variables):
    logits, maps = evaluate(EfficientNetV2(SMALL), variables)
    params = {key: value for key, value in variables["params"].items() if key != HEAD}
    features, _ = evaluate(EfficientNetV2(SMALL, num_classes=0), variables | {"params": params})
    np.testing.assert_allclose(features, maps["features"], atol=1e-6)
    np.testing.assert_allclose(features, maps["head"].mean((1, 2)), atol=1e-6)
    head = variables["params"][HEAD]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"][None], atol=1e-6)


def test_an_image_does_not_see_its_batch_in_evaluation(variables):
    model, order = EfficientNetV2(SMALL), jnp.array([2, 0, 3, 1])
    logits, _ = evaluate(model, variables)
    np.testing.assert_allclose(evaluate(model, variables, IMAGES[order])[0], logits[order], atol=1e-5)
    np.testing.assert_allclose(evaluate(model, variables, IMAGES[:1])[0], logits[:1], atol=1e-5)


def test_all_forms_of_convolutions_train_alike(variables):
    results, programs = [], set()
    step = jax.jit(lambda variables: train_step(EfficientNetV2(SMALL), variables))
    for form in FORMS:
        with IMPL(form):
            results.append(step(variables))
            programs.add(step.lower(variables).as_text())
    assert len(programs) == len(FORMS)
    for native, *others in zip(*map(jax.tree.leaves, results), strict=True):
        for other in others:
            np.testing.assert_allclose(other, native, rtol=0, atol=1e-4 * float(jnp.abs(native).max()) + 1e-6)


def test_a_frozen_backbone_learns_nothing_and_changes_nothing(variables):
    logits, gradients, stats = jitted_step(EfficientNetV2(SMALL, frozen=True, drop_path=0.5), variables)
    assert all((leaf == 0).all() for key in gradients if key != HEAD for leaf in jax.tree.leaves(gradients[key]))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients[HEAD]))
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    np.testing.assert_allclose(logits, evaluate(EfficientNetV2(SMALL), variables)[0], atol=1e-6)


def test_an_unfrozen_one_does(variables):
    _, gradients, stats = jitted_step(EfficientNetV2(SMALL), variables)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients))
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (stats, variables["batch_stats"])), strict=True))


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"drop_path": 0.5}])
def test_only_a_positive_rate_needs_an_rng(variables, rates):
    model = EfficientNetV2(SMALL, **rates)
    with pytest.raises(flax.errors.InvalidRngError):
        jax.eval_shape(partial(forward, model), variables)
    (first, _), (second, _) = (train_forward(model, variables, {"dropout": jax.random.key(i)})[0] for i in range(2))
    assert (first != second).any()
    np.testing.assert_allclose(evaluate(model, variables)[0], evaluate(EfficientNetV2(SMALL), variables)[0], atol=1e-6)


def test_drop_path_grows_with_depth_from_zero(variables):
    rngs = {"dropout": jax.random.key(0)}
    none, some = (train_forward(EfficientNetV2(SMALL, drop_path=rate), variables, rngs)[0][1] for rate in (0.0, 0.9))
    np.testing.assert_allclose(some["stage0"], none["stage0"], atol=1e-6)
    assert jnp.abs(some["stage2"] - none["stage2"]).max() > 0.1


def test_bfloat16_keeps_parameters_and_logits_float32(variables):
    model = EfficientNetV2(SMALL, dtype=jnp.bfloat16)
    logits, maps = evaluate(model, variables)
    assert (logits.dtype, maps["head"].dtype, maps["features"].dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    exact, _ = evaluate(EfficientNetV2(SMALL), variables)
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(jnp.abs(exact).max()) + 0.01)
    _, gradients, stats = jax.eval_shape(partial(train_step, model), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, stats))} == {jnp.dtype("float32")}
