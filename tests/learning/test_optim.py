import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlesion.core.config import OptimConfig
from jaxlesion.learning.losses import binary_cross_entropy
from jaxlesion.learning.optim import decaying, descend, factors, learning_rate, make_optimiser

PARAMS = {
    "blocks_0_0": {"conv": {"kernel": jnp.ones((1, 1, 2, 2))}, "bn1": {"scale": jnp.ones(2)}},
    "classifier": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)},
}


def test_loss_is_the_mean_over_unmasked_rows():
    logits, labels = jnp.array([0.3, -2.0, 5.0]), jnp.array([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-np.array([0.3, -2.0])))
    expected = -(np.log(p[0]) + np.log(1 - p[1])) / 2
    assert np.isclose(binary_cross_entropy(logits, labels, jnp.array([1.0, 1.0, 0.0])), expected, rtol=1e-6)


def test_loss_anchors():
    mask = jnp.ones(2)
    labels = jnp.array([1.0, 0.0])
    assert binary_cross_entropy(jnp.array([50.0, -50.0]), labels, mask) < 1e-6
    assert np.isclose(binary_cross_entropy(jnp.zeros(2), labels, mask), np.log(2), rtol=1e-6)
    assert np.isclose(binary_cross_entropy(jnp.array([-50.0, 50.0]), labels, mask), 50, rtol=1e-6)
    assert binary_cross_entropy(jnp.ones(2), labels, jnp.zeros(2)) == 0


def test_positives_weigh_more_by_pos_weight():
    one = [binary_cross_entropy(jnp.zeros(1), jnp.array([y]), jnp.ones(1), 3.0) for y in (0.0, 1.0)]
    assert np.isclose(one[1], 3 * one[0])


def test_loss_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="rank"):
        binary_cross_entropy(jnp.zeros((4, 1)), jnp.zeros(4), jnp.ones(4))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_schedule_warms_up_then_falls_or_stays(schedule):
    config = OptimConfig(learning_rate=0.5, schedule=schedule, warmup_steps=10)
    rate = lambda step: learning_rate(config, step, 110)  # noqa: E731
    assert rate(0) == 0
    assert np.isclose(rate(5), 0.25)
    assert np.isclose(rate(10), 0.5)
    assert np.isclose(rate(60), 0.25 if schedule == "cosine" else 0.5)
    assert np.isclose(rate(110), 0.0 if schedule == "cosine" else 0.5, atol=1e-7)


def test_short_training_still_reaches_the_peak():
    rates = [float(learning_rate(OptimConfig(learning_rate=0.5, warmup_steps=40), k, 8)) for k in range(8)]
    assert max(rates) == 0.5
    assert learning_rate(OptimConfig(learning_rate=0.5, warmup_steps=0), 0, 8) == 0.5


def test_first_direction_of_adam_is_the_sign_of_the_gradient():
    optimiser = make_optimiser(OptimConfig())
    direction, _ = optimiser.update(jnp.array([7.0, -7.0, 1e-3]), optimiser.init(jnp.zeros(3)))
    np.testing.assert_allclose(direction, [1, -1, 1], rtol=1e-4)


def test_descent_goes_against_the_direction_in_the_order_of_the_tree():
    size = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    after = descend(PARAMS, jnp.arange(size, dtype=jnp.float32), 0.5)
    assert jax.tree.structure(after) == jax.tree.structure(PARAMS)
    moved = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(after)])
    np.testing.assert_allclose(moved, 1 - 0.5 * np.arange(size))


def test_rates_fall_from_the_classifier_to_the_stem():
    names = ("conv_stem", "bn1", "blocks_0_0", "blocks_1_0", "blocks_1_1", "conv_head", "bn2", "classifier")
    params = {name: {"kernel": jnp.ones(2)} for name in names}
    found = factors(params, OptimConfig(layer_decay=0.5), jnp.bool_(False))
    expected = {"conv_stem": 4, "bn1": 4, "blocks_0_0": 3, "blocks_1_0": 2, "blocks_1_1": 2, "conv_head": 1, "bn2": 1}
    assert found == {name: 0.5 ** expected.get(name, 0) for name in names}
    moved = descend(params, jnp.ones(16), 0.1, found)
    for name in names:
        np.testing.assert_allclose(moved[name]["kernel"], 1 - 0.1 * found[name], rtol=1e-6)
    assert factors(params, OptimConfig(), jnp.bool_(False)) is None


@pytest.mark.parametrize("in_head", [True, False])
def test_a_head_start_moves_the_classifier_alone(in_head):
    found = factors(PARAMS, OptimConfig(head_epochs=2), jnp.bool_(in_head))
    moved = descend(PARAMS, jnp.ones(9), 0.1, found)
    assert (moved["classifier"]["kernel"] < 1).all()
    for leaf in jax.tree.leaves(moved["blocks_0_0"]):
        assert (np.asarray(leaf) == 1).all() == in_head


def test_weight_decay_reaches_kernels_alone():
    optimiser, kernels = make_optimiser(OptimConfig(weight_decay=0.5)), decaying(PARAMS)
    zero = jnp.zeros_like(kernels)
    direction, state = optimiser.update(zero, optimiser.init(zero), kernels)
    assert isinstance(state[-1], optax.MaskedState)  # else old checkpoints with weight decay would not fit
    for path, leaf in jax.tree.leaves_with_path(descend(PARAMS, direction, 0.1)):
        np.testing.assert_allclose(leaf, 0.95 if "kernel" in jax.tree_util.keystr(path) else 1.0, rtol=1e-5)


def test_clipping_bounds_what_adam_sees():
    optimiser = make_optimiser(OptimConfig(clip=1.0))
    _, state = optimiser.update(jnp.full(9, 1e6), optimiser.init(jnp.zeros(9)))
    norm = optax.tree.norm(optax.tree.get(state, "mu")) / 0.1  # the first moment is 0.1 of the first gradient
    assert np.isclose(norm, 1.0, rtol=1e-5)
