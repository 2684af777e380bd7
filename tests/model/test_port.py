"""timm's weights in Flax: equal outputs at every stage, all names, exact round trips, refusals.

The files in `golden/` were made by `experiments/port_parity.py --make-golden`.
"""

import json
import random
import struct
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.efficientnet import VARIANTS, EfficientNetV2
from jaxlesion.model.port import (
    MAX_BYTES,
    from_timm,
    read_safetensors,
    timm_name,
    timm_shape,
    to_timm,
    write_safetensors,
)

GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared" / "weights"
MODEL = EfficientNetV2(VARIANTS["tiny"], num_classes=3)


def template(model: EfficientNetV2) -> dict:
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return read_safetensors(GOLDEN / "state.safetensors")


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "outputs.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def variables(state) -> dict:
    return from_timm(state, template(MODEL))[0]


def close(ours: jax.Array, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("size", [16, 33])
def test_every_stage_equals_timm(variables, outputs, size):
    images = outputs[f"{size}/input"].astype(np.float32)
    logits, maps = jax.jit(lambda images: MODEL.apply(variables, images, intermediates=True))(images)
    assert {f"{size}/{name}" for name in maps | {"logits": 0, "input": 0}} == {
        name for name in outputs if name.startswith(f"{size}/")
    }
    for name, ours in (maps | {"logits": logits}).items():
        close(ours, outputs[f"{size}/{name}"])


def test_a_training_step_equals_timm(variables, outputs):
    """Compare logits, running statistics, and gradients of the logits' mean square (golden: only of vectors)."""
    images = outputs["33/input"].astype(np.float32)

    @jax.jit
    def step(params):
        def loss(params):
            logits, updated = MODEL.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            return (logits**2).mean(), (logits, updated)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (logits, updated)), gradients = step(variables["params"])
    close(logits, outputs["train/logits"])
    flat = to_timm({"params": gradients})
    close(np.concatenate([flat[name] for name in sorted(flat) if flat[name].ndim == 1]), outputs["train/grad"])
    flat = {name: value for name, value in to_timm(updated).items() if "running" in name}
    close(np.concatenate([flat[name] for name in sorted(flat)]), outputs["train/running"])


def test_round_trip_is_exact(state, variables, tmp_path):
    write_safetensors(tmp_path / "out.safetensors", to_timm(variables))
    back = read_safetensors(tmp_path / "out.safetensors")
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value, strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out.safetensors"]


def test_the_result_has_the_structure_of_the_template(variables):
    expected = template(MODEL)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    assert all(
        (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        for ours, theirs in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True)
    )


def test_names_and_shapes_of_b1_are_timms():
    expected = {}
    for line in (GOLDEN / "b1_keys.txt").read_text().splitlines():
        name, *shape = line.split()
        expected[name] = tuple(map(int, shape))
    flat = jax.tree_util.tree_leaves_with_path(template(EfficientNetV2(VARIANTS["efficientnetv2_b1"], 1000)))
    ours = {timm_name(tuple(key.key for key in path)): timm_shape(leaf.shape) for path, leaf in flat}
    counters = {name.replace("running_mean", "num_batches_tracked"): () for name in ours if "running_mean" in name}
    assert len(expected) == 516
    assert ours | counters == expected


@pytest.mark.parametrize("model", [EfficientNetV2(VARIANTS["tiny"], num_classes=n) for n in (0, 1)])
def test_a_classifier_of_another_size_stays_the_templates(state, model):
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, np.float32), template(model))
    ported, notes = from_timm(state, fresh)
    assert len(notes) == 1
    assert notes[0].startswith("classifier not ported: the weights have 3 classes")
    assert jax.tree.structure(ported) == jax.tree.structure(fresh)
    if model.num_classes:
        np.testing.assert_array_equal(ported["params"][HEAD]["kernel"], fresh["params"][HEAD]["kernel"])
    np.testing.assert_array_equal(ported["params"]["bn1"]["scale"], state["bn1.weight"])


def test_weights_without_classifier_or_counters_are_taken(state):
    headless = {k: v for k, v in state.items() if not k.startswith(HEAD) and "num_batches" not in k}
    assert from_timm(headless, template(MODEL))[1] == [
        "classifier not ported: the weights have no classes, the model 3; the model's own is kept"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.weight": None}, "missing: bn1.weight;"),
        ({"extra.weight": np.zeros(1, "f4")}, "unexpected: extra.weight;"),
        ({"extra.num_batches_tracked": np.zeros((), "i8")}, "unexpected: extra.num_batches_tracked;"),
        ({f"extra{i}": np.zeros(1) for i in range(5)}, "unexpected: extra0, extra1, extra2 and 2 more;"),
        ({"conv_stem.weight": np.zeros((8, 3, 3, 1), "f4")}, r"wrong shape: conv_stem.weight \(8, 3, 3, 1\) for"),
        ({"bn1.weight": np.zeros(8, "i4")}, "not floating: bn1.weight;"),
        ({"bn1.weight": np.full(8, np.nan, "f4")}, "NaN or infinite: bn1.weight;"),
        ({"bn1.running_var": np.full(8, np.inf, "f4")}, "NaN or infinite: bn1.running_var;"),
        ({"bn1.weight": np.full(8, 1e300)}, "NaN or infinite: bn1.weight;"),
        ({"classifier.bias": None}, "missing: classifier.bias;"),
        ({"bn1.weight": None, "bn1.wieght": np.zeros(8)}, "missing: bn1.weight; unexpected: bn1.wieght;"),
    ],
)
def test_any_difference_is_refused_and_listed(state, change, message):
    changed = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(InputError, match=message) as error:
        from_timm(changed, template(MODEL))
    assert "\n" not in str(error.value)


def test_half_precision_weights_become_float32(state, tmp_path):
    for dtype in (np.float16, jnp.bfloat16):
        half = {name: value.astype(dtype) if value.ndim else value for name, value in state.items()}
        write_safetensors(tmp_path / "half.safetensors", half)
        ported, _ = from_timm(read_safetensors(tmp_path / "half.safetensors"), template(MODEL))
        assert {leaf.dtype for leaf in jax.tree.leaves(ported)} == {np.dtype("float32")}
        np.testing.assert_array_equal(ported["params"]["bn1"]["scale"], half["bn1.weight"].astype(np.float32))


def entry(shape: list[int], *offsets: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD = {
    "empty": b"",
    "garbage": b"not a weight file at all",
    "huge header": struct.pack("<Q", 1 << 60),
    "no JSON": struct.pack("<Q", 4) + b"spam",
    "no object": struct.pack("<Q", 2) + b"[]",
    "no UTF-8": struct.pack("<Q", 4) + b"{\xff\xfe}",
    "header beyond the file": struct.pack("<Q", 99) + b"{}",
    "endless brackets": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "cut in its length": struct.pack("<Q", 2)[:5],
    "overlap": {"a": entry([2], 0, 8), "b": entry([2], 4, 12)},
    "hole": {"a": entry([1], 0, 4), "b": entry([1], 8, 12)},
    "short": {"a": entry([9], 0, 36)},
    "wrong size": {"a": entry([9], 0, 12)},
    "backwards": {"a": entry([1], 4, 0), "b": entry([3], 0, 12)},
    "negative offset": {"a": entry([3], -4, 8)},
    "negative shape": {"a": entry([-3], 0, 12)},
    "shape that overflows": {"a": entry([2**62, 4], 0, 0), "b": entry([3], 0, 12)},
    "offset that overflows": {"a": entry([3], 0, 2**64)},
    "more than is claimed": {"a": entry([1], 0, 4)},
    "no dtype": {"a": entry([3], 0, 12, dtype="O")},
    "no entry": {"a": None, "b": entry([3], 0, 12)},
    "odd dtype": {"a": entry([12], 0, 12, dtype="F8_E8M0")},
}


@pytest.mark.fault(
    "input",
    "safetensors: headers cut, huge, not JSON or endlessly nested; offsets that overlap, "
    "leave holes or run backwards; shapes that overflow",
    tried="22",
    outcome="refused by file",
)
@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(tmp_path, case):
    path, content = tmp_path / "bad.safetensors", BAD[case]
    if isinstance(content, dict):
        header = json.dumps(content).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(12)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.safetensors: not a readable safetensors file") as error:
        read_safetensors(path)
    assert "\n" not in str(error.value)


def test_a_changed_header_is_weights_or_one_line(tmp_path):
    good, luck, path = (GOLDEN / "state.safetensors").read_bytes(), random.Random(0), tmp_path / "bad.safetensors"
    (length,), outcomes, like = struct.unpack_from("<Q", good), Counter(), template(MODEL)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(luck.randint(1, 3)):
            data[luck.randrange(8 + length)] = luck.choice(b'\0\xff"9-{[,: ')
        path.write_bytes(data if luck.random() < 0.9 else data[: luck.randrange(len(data))])
        try:
            from_timm(read_safetensors(path), like)
            outcomes["taken"] += 1
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - the other outcome is weights
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200


def test_a_file_larger_than_any_weights_is_not_read(tmp_path):
    with open(tmp_path / "bad.safetensors", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole: takes no room on the disk
    with pytest.raises(InputError, match="at most"):
        read_safetensors(tmp_path / "bad.safetensors")


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(InputError, match="not a readable safetensors file"):
            read_safetensors(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.safetensors"
    write_safetensors(path, {"a": np.ones(2, np.float32)})
    with pytest.raises(Exception, match="dtype"):
        write_safetensors(path, {"a": np.array(["text"])})
    assert [file.name for file in tmp_path.iterdir()] == ["out.safetensors"]
    np.testing.assert_array_equal(read_safetensors(path)["a"], [1, 1])


@pytest.mark.b1
@pytest.mark.parametrize(
    ("variant", "file"),
    [
        ("efficientnetv2_b0", "tf_efficientnetv2_b0.in1k.safetensors"),
        ("efficientnetv2_b1", "tf_efficientnetv2_b1.grown_from_b0.safetensors"),
    ],
)
def test_real_weights_load_strictly(variant, file):
    if not (WEIGHTS / file).exists():
        pytest.skip(f"shared/weights/{file} is not beside the repository")
    state = read_safetensors(WEIGHTS / file)
    variables, notes = from_timm(state, template(EfficientNetV2(VARIANTS[variant], 1000)))
    assert notes == []
    back = to_timm(variables)
    assert back.keys() == state.keys()
    for name in (name for name in state if not name.endswith("num_batches_tracked")):
        np.testing.assert_array_equal(back[name], state[name], strict=True)
