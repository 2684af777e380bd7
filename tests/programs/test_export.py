"""Each export is opened by the other program, and predicts what the run predicts."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from by_timm import timm_logits

import jaxlesion
from jaxlesion import export, predict
from jaxlesion.core.errors import InputError
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.sources import open_images
from jaxlesion.export import ExportConfig

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def crops(demo):
    ids = pd.read_csv(demo / "test-metadata.csv")["isic_id"]
    with open_images(demo / "test-image.hdf5") as images:
        return np.stack([resize(decode(images.read(i), i), 32) for i in ids])


def predicted(run, demo, folder: Path, *options: str) -> np.ndarray:
    out = folder / "predictions.csv"
    predict.main(["--run", str(run), "--data-dir", str(demo), "--out", str(out), "--engine", "jax", *options])
    return pd.read_csv(out)["prediction"].to_numpy()


def outputs_of(path: Path, images: np.ndarray):
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {"images": images})
    return dict(zip((o.name for o in session.get_outputs()), found, strict=True)), session.get_modelmeta()


def test_onnx_predicts_as_the_run_does_calibrated_too(tiny_run, demo, crops, tmp_path):
    path = tmp_path / "model.onnx"
    export.main(["--to", "onnx", "--run", str(tiny_run), "--out", str(path)])
    outputs, meta = outputs_of(path, crops)
    np.testing.assert_allclose(outputs["prediction"], predicted(tiny_run, demo, tmp_path), atol=1e-6)
    np.testing.assert_allclose(outputs["calibrated"], predicted(tiny_run, demo, tmp_path, "--calibrated"), atol=1e-6)
    about = meta.custom_metadata_map
    assert about["checkpoints"].split() == sorted(pd.read_csv(tiny_run / "oof.csv")["model"].unique())
    assert len(about["sha256_of_variables"]) == 64
    assert 0 < float(about["threshold_of_prediction"]) < 1
    assert "not a medical device" in about["warning"].lower()


def test_one_fold_is_that_fold(tiny_run, crops, tmp_path):
    path = export.export(ExportConfig(to="onnx", run=tiny_run, fold=1, out=tmp_path / "one.onnx"))
    model, variables = jaxlesion.load_run(tiny_run, 1)
    logits = jax.jit(model.apply)(variables, jaxlesion.normalise(crops, model.variant))
    np.testing.assert_allclose(outputs_of(path, crops)[0]["logits"], logits[:, :1], atol=1e-5)


def test_stablehlo_runs_where_this_package_is_not(tiny_run, demo, crops, tmp_path):
    path = tmp_path / "model.stablehlo"
    export.main(["--to", "stablehlo", "--run", str(tiny_run), "--out", str(path)])
    np.save(tmp_path / "crops.npy", crops)
    code = (
        "import sys; sys.modules['jaxlesion'] = sys.modules['flax'] = None\n"
        "import json, numpy as np\n"
        "from jax import export\n"
        "program = export.deserialize(bytearray(open('model.stablehlo', 'rb').read()))\n"
        "found = program.call(np.load('crops.npy'))\n"
        "json.dump({k: np.asarray(v).tolist() for k, v in found.items()}, open('out.json', 'w'))\n"
        "assert set(program.platforms) == {'cpu', 'cuda'}\n"
        "assert 'convolution' in str(program.mlir_module())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)
    found = json.loads((tmp_path / "out.json").read_text())
    np.testing.assert_allclose(found["prediction"], predicted(tiny_run, demo, tmp_path), atol=1e-6)
    np.testing.assert_allclose(found["calibrated"], predicted(tiny_run, demo, tmp_path, "--calibrated"), atol=1e-6)


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """Return the released B1 as timm's folder."""
    return export.export(ExportConfig(to="timm", out=tmp_path_factory.mktemp("timm") / "b1"))


def test_timms_folder_is_read_back(timm_folder):
    model, released = jaxlesion.load_run()
    _, again = jaxlesion.create_model("efficientnetv2_b1", weights=timm_folder)
    for a, b in zip(jax.tree.leaves(released), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    config = json.loads((timm_folder / "config.json").read_text())
    assert config["architecture"] == "tf_efficientnetv2_b1"
    assert config["pretrained_cfg"]["input_size"] == [3, 128, 128]
    assert config["pretrained_cfg"]["mean"] == list(model.variant.mean)
    assert (timm_folder / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")


@pytest.mark.extra
@pytest.mark.b1
def test_timm_opens_it_with_equal_logits(timm_folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    logits = timm_logits(f"local-dir:{timm_folder}", images, tmp_path)
    model, variables = jaxlesion.load_run()
    expected = jax.jit(model.apply)(variables, jaxlesion.normalise(images, model.variant))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_mistakes_are_said_before_the_work(tiny_run, tabular_run, tmp_path):
    def refused(**options):
        with pytest.raises(InputError) as error:
            export.export(ExportConfig(**({"run": tiny_run, "out": tmp_path / "out"} | options)))
        return str(error.value)

    assert "give --fold one of them" in refused(to="timm")
    assert "timm has no network tiny" in refused(to="timm", fold=0)
    assert "has finished 0, 1; give one of them" in refused(to="onnx", fold=7)
    assert "no finished model of all rows" in refused(to="onnx", fold="none")
    assert "write it by jaxlesion.report" in refused(to="hub", fold=0)
    assert "is a tabular run" in refused(to="onnx", run=tabular_run)
    assert "--push uploads what --to hub writes" in refused(to="onnx", push="a/b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    assert "holds something else" in refused(to="timm", run=None, out=tmp_path / "full")
