import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlesion.core.config import ModelConfig, OptimConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.recipes import RECIPES, RecipeSpec
from jaxlesion.learning.loop import NotFinite, StepHooks, predict_batches, train_batches
from jaxlesion.learning.losses import group_cross_entropy
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.state import create_state
from jaxlesion.learning.step import make_predict_step, make_train_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import init_variables, normalise
from jaxlesion.runtime.devices import data_mesh, replicated, shard_batch


def make_batch(n: int = 8, size: int = 32, seed: int = 0, real: int | None = None):
    rng = np.random.default_rng(seed)
    mask = (np.arange(n) < (n if real is None else real)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "label": (rng.random(n) < 0.5).astype(np.float32),
        "mask": mask,
        "row": np.where(mask > 0, np.arange(n), -1).astype(np.int32),
    }


def train_step(*args, seed: int = 0, **options):
    """Return a jitted train step with its seed."""
    return functools.partial(make_train_step(*args, **options), seed=np.uint32(seed))


@functools.cache
def parts(ema: float | None = None, **options):
    """Return initial variables, optimiser, train step and predict step; built once per set of options."""
    model = build_model(ModelConfig(**{"variant": "tiny", "dtype": "float32", **options}))
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant", ema=ema)
    optimiser = make_optimiser(config)
    step = train_step(model, optimiser, config, recipe=RecipeSpec(), mesh=data_mesh(8))
    return jax.tree.map(np.asarray, init_variables(model, 0)), optimiser, step, make_predict_step(model)


def start(ema: float | None = None, **options):
    """Return a fresh state on two devices, its train and predict steps, and the mesh."""
    variables, optimiser, step, predict = parts(ema, **options)
    mesh = data_mesh(8)
    state = create_state(variables, optimiser, frozen=options.get("freeze", False), ema=ema is not None)
    return jax.device_put(state, replicated(mesh)), step, predict, mesh


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_normalise_is_imagenets_and_zero_at_the_mean():
    variant = build_model(ModelConfig(variant="efficientnetv2_b1")).variant
    image = np.array([[[[0, 128, 255]]]], np.uint8)
    expected = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalise(jnp.asarray(image), variant), expected, rtol=1e-5)


def test_training_on_one_batch_learns_it():
    state, step, _, mesh = start()
    batch, losses = make_batch(), []
    state = train_batches(step, state, [batch] * 30, shard_batch(mesh), StepHooks(losses.append))
    assert losses[-1] < 0.1 * losses[0]
    assert int(state.step) == 30
    assert np.isclose(float(state.loss_sum), sum(losses), rtol=1e-5)


@pytest.mark.parametrize("ghosts", [1, 2, 4])
def test_one_device_and_two_give_the_same_step(ghosts):
    """Use plain gradient descent: Adam would turn rounding errors of zero gradients into full steps."""
    variables = parts()[0]
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
    model = build_model(ModelConfig("tiny", dtype="float32", dropout=0.5, drop_path=0.5, ghost_batches=ghosts))
    results = []
    for devices in (1, 2):
        mesh = data_mesh(8, jax.devices()[:devices])
        step = train_step(model, optax.identity(), config, recipe=RECIPES["full"], mesh=mesh)
        state, losses = jax.device_put(create_state(variables, optax.identity()), replicated(mesh)), []
        state = train_batches(
            step, state, [make_batch(seed=k) for k in range(3)], shard_batch(mesh), StepHooks(losses.append)
        )
        results.append((losses, leaves(state.variables)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for one, two in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_ghost_batches_of_a_device_need_no_exchange_of_statistics_and_others_are_refused():
    mesh, config = data_mesh(8), OptimConfig()
    sums = {}
    for ghosts in (1, 2, 4):
        model = build_model(ModelConfig("tiny", dtype="float32", ghost_batches=ghosts))
        step = make_train_step(model, optax.identity(), config, recipe=RecipeSpec(), mesh=mesh)
        lowered = step.lower(create_state(parts()[0], optax.identity()), make_batch(), np.uint32(0)).as_text()
        sums[ghosts] = lowered.count("all_reduce")
    assert sums[1] > 2 * 15  # two for each BatchNorm
    assert sums[2] == sums[4] < 6
    model = build_model(ModelConfig("tiny", dtype="float32", ghost_batches=3))
    with pytest.raises(InputError, match=r"--model.ghost-batches 3 .* 2 devices"):
        make_train_step(model, optax.identity(), config, recipe=RecipeSpec(), mesh=mesh)


def test_another_seed_draws_otherwise_by_the_same_program():
    model = build_model(ModelConfig(variant="tiny", dtype="float32", dropout=0.5))
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
    mesh = data_mesh(8, jax.devices()[:1])
    step = make_train_step(model, optax.identity(), config, recipe=RECIPES["light"], mesh=mesh)
    losses = []
    for seed in (0, 1, 2**32 - 1, 0):
        state = jax.device_put(create_state(parts()[0], optax.identity()), replicated(mesh))
        losses.append(float(step(state, shard_batch(mesh)(make_batch()), np.uint32(seed))[1]["loss"]))
    assert len(set(losses)) == 3
    assert losses[0] == losses[3]
    assert step._cache_size() == 1


@pytest.mark.parametrize("ema", [None, 0.9])
def test_frozen_backbone_moves_in_nothing_but_the_classifier(ema):
    state, step, _, mesh = start(ema, freeze=True)
    before = jax.tree.map(np.asarray, state.variables)
    state = train_batches(step, state, [make_batch(seed=k) for k in range(3)], shard_batch(mesh))
    after = jax.tree.map(np.asarray, state.variables)  # the moving average, if there is one
    head_before, head_after = before["params"].pop("classifier"), after["params"].pop("classifier")
    for a, b in zip(leaves(before), leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.any(a != b) for a, b in zip(leaves(head_before), leaves(head_after), strict=True))
    assert sum(leaf.size for leaf in leaves(state.opt_state) if leaf.ndim) == 2 * (
        48 + 1
    )  # two moments of the classifier


def test_a_frozen_step_is_that_of_the_whole_network_with_the_rest_held():
    """Compute the classifier's gradient on features by hand, and one step of Adam with decay and clipping."""
    model = build_model(ModelConfig(variant="tiny", dtype="float32", freeze=True))
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant", clip=0.01, weight_decay=0.1)
    optimiser = make_optimiser(config)
    mesh = data_mesh(8)
    step = train_step(model, optimiser, config, recipe=RecipeSpec(), mesh=mesh)
    variables, rng = parts()[0], np.random.default_rng(3)
    batch = make_batch() | {"image": rng.standard_normal((8, 48)).astype(np.float32)}  # features
    head = variables["params"]["classifier"]
    error = jax.nn.sigmoid(batch["image"] @ head["kernel"] + head["bias"])[:, 0] - batch["label"]
    gradient = {"kernel": (batch["image"].T @ error)[:, None] / 8, "bias": jnp.mean(error)[None]}
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in gradient.values()))
    state = jax.device_put(create_state(variables, optimiser, frozen=True), replicated(mesh))
    after, metrics = step(state, shard_batch(mesh)(batch))
    assert np.isclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert norm > 0.01  # clipping takes effect
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        clipped = gradient[name] * 0.01 / norm
        expected = head[name] - 1e-2 * (clipped / (jnp.abs(clipped) + 1e-8) + decay * head[name])
        np.testing.assert_allclose(after.params["classifier"][name], expected, rtol=1e-5, atol=1e-6)


def test_a_step_in_bfloat16_learns_and_keeps_float32_parameters():
    """Check that the first loss equals float32's within bfloat16's 8 bits over a dozen layers, and later ones fall."""
    losses: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for dtype, of_dtype in losses.items():
        state, step, _, mesh = start(dtype=dtype)
        state = train_batches(step, state, [make_batch()] * 30, shard_batch(mesh), StepHooks(of_dtype.append))
        assert {leaf.dtype.name for leaf in leaves(state.variables)} == {"float32"}
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.03)
    assert losses["bfloat16"][-1] < 0.1 * losses["bfloat16"][0]


def test_masked_rows_carry_no_loss():
    outcomes = []
    for filler in (0, 255):
        batch = make_batch(real=5)
        batch["image"][5:] = filler
        batch["label"][5:] = 1
        state, step, _, mesh = start(freeze=True)  # frozen: BatchNorm does not mix the rows either
        losses = []
        train_batches(step, state, [batch], shard_batch(mesh), StepHooks(losses.append))
        outcomes += losses
    assert outcomes[0] == outcomes[1]


def test_every_row_is_predicted_once_whatever_the_batch_size():
    state, _, predict, mesh = start()
    images = np.random.default_rng(1).integers(0, 256, (21, 32, 32, 3), dtype=np.uint8)

    def batches(size):
        for first in range(0, 21, size):
            row = np.full(size, -1, np.int32)
            part = np.arange(first, min(21, first + size))
            row[: len(part)] = part
            yield {
                "image": images[row],
                "label": np.zeros(size, np.float32),
                "mask": (row >= 0).astype(np.float32),
                "row": row,
            }

    seen = []
    whole = predict_batches(predict, state.variables, batches(8), shard_batch(mesh), seen.append)
    assert whole.shape == (21,)
    assert seen == [8, 8, 5]
    for size in (2, 22):
        np.testing.assert_allclose(
            predict_batches(predict, state.variables, batches(size), shard_batch(mesh)), whole, atol=1e-5
        )


def test_eight_views_are_all_mirrors_and_turns_and_change_with_none_of_them():
    """Compare with the network on each view, turned by numpy, and predict a turned image."""
    model = build_model(ModelConfig(variant="tiny", dtype="float32"))
    variables, predict = init_variables(model, 0), make_predict_step(model, 8)
    batch = make_batch(4)
    images = batch["image"]
    views = [np.rot90(images[:, :, ::mirror], turns, (1, 2)) for mirror in (1, -1) for turns in range(4)]
    assert len({view.tobytes() for view in views}) == 8
    logits = [model.apply(variables, normalise(jnp.asarray(view), model.variant))[:, 0] for view in views]
    found = predict(variables, batch)
    np.testing.assert_allclose(found, jax.nn.sigmoid(np.mean(logits, 0)), rtol=1e-5)
    for view in views:
        np.testing.assert_allclose(predict(variables, {**batch, "image": view}), found, rtol=1e-5)


def test_smoothed_labels_are_nearer_to_one_half():
    """Compare with a step that smooths nothing, on labels that are smoothed by hand."""
    variables, optimiser, plain, _ = parts()
    model, mesh, batch = build_model(ModelConfig(variant="tiny", dtype="float32")), data_mesh(8), make_batch()
    smoothing = train_step(model, optimiser, OptimConfig(label_smoothing=0.2), recipe=RecipeSpec(), mesh=mesh)
    by_hand = batch | {"label": batch["label"] * np.float32(0.8) + np.float32(0.1)}
    losses = []
    for step, given in ((smoothing, batch), (plain, by_hand), (plain, batch)):
        state = jax.device_put(create_state(variables, optimiser), replicated(mesh))
        losses.append(float(step(state, shard_batch(mesh)(given))[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[0] - losses[2]) > 1e-3


def test_dropout_and_stochastic_depth_repeat_at_the_same_step_and_differ_at_the_next():
    losses = []
    for batches in ([make_batch()], [make_batch()], [make_batch(), make_batch()]):
        state, step, _, mesh = start(dropout=0.5, drop_path=0.5)
        train_batches(step, state, batches, shard_batch(mesh), StepHooks(losses.append))
    assert losses[0] == losses[1] == losses[2]
    assert losses[3] != losses[2]


def test_the_average_follows_the_weights_and_predicts():
    state, step, _, mesh = start(ema=0.5)
    first = jax.tree.map(np.asarray, state.variables)
    state = train_batches(step, state, [make_batch()], shard_batch(mesh))
    # the first step's decay is (1 + 0) / (10 + 0)
    for old, new, average in zip(
        leaves(first),
        leaves({"batch_stats": state.batch_stats, "params": state.params}),
        leaves(state.variables),
        strict=True,
    ):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [1, 3])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_its_rows(at):
    state, step, _, mesh = start()
    batches = [make_batch(seed=k, real=6) for k in range(4)]
    batches[at - 1]["label"][2] = np.nan
    with pytest.raises(NotFinite) as caught:
        train_batches(step, state, batches, shard_batch(mesh))
    assert caught.value.step == at
    assert caught.value.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_state_that_is_saved_is_finite_and_is_that_of_its_step():
    state, step, _, mesh = start()
    saved = []
    batches = [make_batch(seed=k) for k in range(4)]
    batches[3]["label"][0] = np.nan
    every_step = StepHooks(due=lambda step, rows: True, save=lambda state: saved.append(int(state.step)))
    with pytest.raises(NotFinite):
        train_batches(step, state, batches, shard_batch(mesh), every_step)
    assert saved == [1, 2, 3]


def test_groups_are_scored_by_column_and_unknown_ones_by_nothing():
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(5, 8)).astype(np.float32), np.float32([1, 1, 0.5, 0, 2])
    groups = np.int32([[0, 3], [1, -1], [-1, -1], [2, 2], [3, 0]])
    expected = 0.0
    for row, column in zip(*np.nonzero(groups >= 0), strict=True):
        part = logits[row, 4 * column : 4 * column + 4].astype(np.float64)
        expected += mask[row] * (np.log(np.exp(part).sum()) - part[groups[row, column]])
    assert group_cross_entropy(logits, groups, mask, jnp.float32(4.5)) == pytest.approx(expected / 4.5, rel=1e-5)


@pytest.mark.extra
def test_a_core_holds_at_most_75_mb_an_image_in_a_training_step_of_b1():
    """As compiled, at 224 px in float32: 8 images a core, and the gradient, of which Adam has further copies."""
    mesh = data_mesh(8, jax.devices()[:1])
    optimiser, config = make_optimiser(OptimConfig()), OptimConfig()
    model = build_model(ModelConfig("efficientnetv2_b1", dtype="float32"))
    state = create_state(init_variables(model, 0), optimiser)
    step = make_train_step(model, optimiser, config, recipe=RecipeSpec(), mesh=mesh)
    compiled = step.lower(state, make_batch(8, 224), np.uint32(0)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes / 8 < 75e6
