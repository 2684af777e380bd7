import hashlib
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlesion.core.config import ModelConfig
from jaxlesion.core.errors import InputError
from jaxlesion.model.port import to_timm, write_safetensors
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import init_variables
from jaxlesion.model.weights import find_weights, initial_variables


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(variant="tiny"))


def test_a_file_written_from_one_network_starts_another(tmp_path, model):
    variables = init_variables(model, 3)
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, to_timm(variables))
    loaded, notes = initial_variables(model, path, seed=0)
    assert notes == []
    for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_classifier_of_another_size_is_fresh_and_said_so(tmp_path, model):
    variables = init_variables(model, 3)
    variables["params"]["classifier"] = {"kernel": np.ones((48, 1000), np.float32), "bias": np.ones(1000, np.float32)}
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, to_timm(variables))
    loaded, notes = initial_variables(model, path, seed=0)
    assert "1000" in notes[0]
    fresh, other = loaded["params"]["classifier"], initial_variables(model, path, seed=1)[0]["params"]["classifier"]
    assert fresh["kernel"].shape == (48, 1)
    assert abs(fresh["kernel"].var() * 48 - 1) < 4 * (2 / 48) ** 0.5  # LeCun's normal, four standard errors
    assert (fresh["kernel"] != other["kernel"]).any()
    np.testing.assert_array_equal(fresh["bias"], [0])


def test_none_is_random_by_seed_and_says_so(model):
    assert find_weights("none", "tiny") is None
    first, notes = initial_variables(model, None, seed=0)
    again, _ = initial_variables(model, None, seed=0)
    other, _ = initial_variables(model, None, seed=1)
    assert "random" in notes[0]
    kernels = [np.asarray(v["params"]["classifier"]["kernel"]) for v in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


def test_random_variables_are_those_of_the_modules(model):
    """Compare shapes, types and constants, and the variances of kernels with those of He and LeCun."""
    drawn = init_variables(model, 0)
    expected = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    block, norm = drawn["params"]["blocks_2_1"], drawn["batch_stats"]["blocks_2_1"]["bn1"]
    for values, constant in (
        (block["bn1"]["scale"], 1),
        (block["bn1"]["bias"], 0),
        (block["se"]["conv_reduce"]["bias"], 0),
        (norm["mean"], 0),
        (norm["var"], 1),
    ):
        assert (values == constant).all()
    for kernel, variance in (
        (block["conv_pw"]["kernel"], 2 / 64),  # to 64 channels
        (block["conv_dw"]["kernel"], 2 / 9),  # depthwise: nine weights to one channel
        (drawn["params"]["blocks_1_0"]["conv_exp"]["kernel"], 2 / (9 * 32)),
        (drawn["params"]["classifier"]["kernel"], 1 / 48),  # from 48 features
    ):
        assert abs(kernel.var() / variance - 1) < 4 * (2 / kernel.size) ** 0.5  # four standard errors
        assert abs(kernel.mean()) < 4 * (variance / kernel.size) ** 0.5


class Hub:
    """A stand-in for huggingface_hub with one file of `content`; `stated` is the hash that the hub reports."""

    def __init__(self, content: bytes, stated: str | None = None):
        self.content, self.stated, self.calls = content, stated or hashlib.sha256(content).hexdigest(), []

    def hf_hub_url(self, repository: str, name: str, revision: str | None) -> str:
        return f"https://hub/{repository}/{name}"

    def get_hf_file_metadata(self, url: str):
        return SimpleNamespace(etag=self.stated)

    def hf_hub_download(self, repository: str, name: str, revision: str | None, local_dir: Path) -> str:
        self.calls.append(repository)
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(self.content)
        return str(local_dir / name)


@pytest.fixture
def hub(monkeypatch):
    def install(hub):
        import huggingface_hub

        for name in ("hf_hub_url", "get_hf_file_metadata", "hf_hub_download"):
            monkeypatch.setattr(huggingface_hub, name, getattr(hub, name))
        return hub

    return install


def test_imagenet_is_downloaded_once(tmp_path, hub):
    used = hub(Hub(b"weights"))
    path = find_weights("imagenet", "efficientnetv2_b1", tmp_path)
    assert path == tmp_path / "tf_efficientnetv2_b1.in1k.safetensors"
    assert path.read_bytes() == b"weights"
    find_weights("imagenet", "efficientnetv2_b1", tmp_path)
    assert used.calls == ["timm/tf_efficientnetv2_b1.in1k"]


@pytest.mark.parametrize("stated", ["0" * 64, "another-kind-of-digest"])
def test_a_download_with_another_hash_is_refused_and_not_kept(tmp_path, hub, stated):
    hub(Hub(b"tampered", stated=stated))
    with pytest.raises(InputError, match="SHA-256"):
        find_weights("imagenet", "efficientnetv2_b1", tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_offline_says_what_to_fetch_and_where_to_put_it(tmp_path, hub):
    broken = Hub(b"")

    def refuse(url):
        raise ConnectionError("no route to host")

    broken.get_hf_file_metadata = refuse
    hub(broken)
    with pytest.raises(InputError) as caught:
        find_weights("imagenet", "efficientnetv2_b1", tmp_path)
    message = str(caught.value)
    for part in (
        "no route to host",
        "model.safetensors",
        str(tmp_path / "tf_efficientnetv2_b1.in1k.safetensors"),
        "none",
    ):
        assert part in message
    assert "\n" not in message


def test_what_has_no_weights_says_so(tmp_path):
    with pytest.raises(InputError, match="--weights none"):
        find_weights("imagenet", "tiny", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        find_weights(str(tmp_path / "absent.safetensors"), "tiny")
