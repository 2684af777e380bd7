import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

import jaxlesion
from jaxlesion import evaluate, knn
from jaxlesion.core.config import DataConfig, FoldsConfig, ModelConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Hooks, Meter
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.folds import assign
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.sources import open_images
from jaxlesion.evaluate import EvaluateConfig
from jaxlesion.inference.knn import KnnOptions, knn_predictions

TINY = {"weights": "none", "model": ModelConfig("tiny"), "data": DataConfig(image_size=32, batch_size=8, cache=False)}
PIXELS = KnnOptions(features="pixels", k=(5, 1, 3), fold=(0, 1))


def of(config: KnnOptions, **changes) -> dict[int, pd.DataFrame]:
    return knn_predictions(KnnOptions(**({**config.__dict__} | changes)))


@pytest.fixture(scope="module")
def lesions(demo) -> pd.DataFrame:
    return assign(read_lesions(demo / "train-metadata.csv"), FoldsConfig())


@pytest.fixture(scope="module")
def images(demo, lesions) -> np.ndarray:
    with open_images(demo / "train-image.hdf5") as images:
        return np.stack([resize(decode(images.read(i), i), 32) for i in lesions["isic_id"]])


def by_scikit_learn(features: np.ndarray, lesions: pd.DataFrame, fold: int, k: int) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    inside = (lesions["fold"] == fold).to_numpy()
    classifier = KNeighborsClassifier(k, algorithm="brute").fit(features[~inside], lesions["target"][~inside])
    return classifier.predict_proba(features[inside])[:, 1]


def test_shares_of_pixel_neighbours_are_those_of_scikit_learn(demo, lesions, images):
    tables = of(PIXELS, data_dir=demo)
    assert list(tables) == [1, 3, 5]
    for k, table in tables.items():
        assert table["model"].unique().tolist() == [f"knn-pixels-k{k}"]
        for fold in (0, 1):
            of_fold, held_out = table[table["fold"] == fold], lesions[lesions["fold"] == fold]
            assert of_fold["isic_id"].tolist() == held_out["isic_id"].tolist()
            assert of_fold["target"].tolist() == held_out["target"].tolist()
            pixels = images.reshape(len(images), -1).astype(float)
            np.testing.assert_allclose(of_fold["prediction"], by_scikit_learn(pixels, lesions, fold, k))


def test_all_neighbours_give_the_share_of_the_other_folds(demo, lesions):
    for fold in (0, 3):
        others = lesions["target"][lesions["fold"] != fold]
        [table] = of(PIXELS, data_dir=demo, k=(len(others),), fold=(fold,)).values()
        np.testing.assert_allclose(table["prediction"], others.mean())


def test_progress_and_notes_go_to_hooks_and_nothing_is_printed(demo, capsys):
    messages, meters = [], []

    class Noted(Meter):
        def __init__(self, *args):
            super().__init__(*args)
            meters.append(self)

    knn_predictions(KnnOptions(features="metadata", data_dir=demo, fold=(0,)), Hooks(messages.append, Noted))
    (note,), (meter,) = messages, meters
    assert "features of the metadata" in note
    assert meter.title == "fold 0: searching 96 rows"
    assert meter.done == meter.steps == 24
    assert capsys.readouterr() == ("", "")


def test_metadata_needs_no_images(demo, tmp_path):
    shutil.copy(demo / "train-metadata.csv", tmp_path)
    alone, beside = (of(PIXELS, features="metadata", data_dir=folder)[3] for folder in (tmp_path, demo))
    pd.testing.assert_frame_equal(alone, beside)
    with pytest.raises(InputError, match="must hold the images"):
        of(PIXELS, data_dir=tmp_path)


def test_embedding_of_a_run_is_that_of_each_folds_own_network(tiny_run, lesions, images):
    table = of(PIXELS, features="embedding", run=tiny_run, k=(3,), data=DataConfig(batch_size=8, cache=False))[3]
    for fold in (0, 1):
        model, variables = jaxlesion.load_run(tiny_run, fold)
        pooled = jax.jit(model.clone(num_classes=0).apply)
        features = pooled(variables, jaxlesion.normalise(images, model.variant))
        expected = by_scikit_learn(np.asarray(features, np.float64), lesions, fold, 3)
        np.testing.assert_allclose(table.loc[table["fold"] == fold, "prediction"], expected)


def test_embedding_of_given_weights_depends_on_no_batch_and_no_other_fold(demo):
    config = KnnOptions(data_dir=demo, **TINY)
    table = of(config, fold=(0, 1))[5]
    again = of(config, data=DataConfig(image_size=32, batch_size=16, cache=False))[5]
    np.testing.assert_array_equal(table.loc[table["fold"] == 0, "prediction"], again["prediction"])
    assert 0 < again["prediction"].mean() < 1


def test_held_out_targets_are_never_looked_at(demo, lesions, tmp_path):
    """Change all forbidden columns of the held-out fold; only metadata features could leak them."""
    changed, folder = lesions.drop(columns="fold"), tmp_path / "changed"
    held_out = (lesions["fold"] == 0).to_numpy()
    changed.loc[held_out, "target"] = 1 - changed.loc[held_out, "target"]
    changed.loc[:, "iddx_full"] = [f"{i}" for i in range(len(changed))]
    folder.mkdir()
    changed.to_csv(folder / "train-metadata.csv", index=False)
    (folder / "train-image.hdf5").symlink_to(demo / "train-image.hdf5")
    before, after = (of(PIXELS, features="metadata", data_dir=d, fold=(0,))[5] for d in (demo, folder))
    np.testing.assert_array_equal(before["prediction"], after["prediction"])
    np.testing.assert_array_equal(before["target"], 1 - after["target"])


def test_the_command_writes_tables_that_evaluate_agrees_with(demo, tmp_path, capsys):
    out, figures = tmp_path / "new" / "knn", tmp_path / "figures.json"
    options = ("--features", "metadata", "--fold", "all", "--k", "5", "10", "--bootstrap", "50")
    knn.main(["--data-dir", str(demo), *options, "--out", str(out), "--json", str(figures)])
    printed, notes = capsys.readouterr()
    assert "metadata, fold 0: 24 rows" in printed
    assert "image_type (the same in every training row)" in notes
    assert "by 50 draws of patients" in printed
    assert sorted(path.name for path in out.iterdir()) == ["knn-metadata-k10.csv", "knn-metadata-k5.csv"]
    written = json.loads(figures.read_text())
    assert written["bootstrap"]["draws"] == 50
    for k in (5, 10):
        path = out / f"knn-metadata-k{k}.csv"
        parts = evaluate.evaluate(EvaluateConfig(predictions=path, bootstrap=0))
        assert set(parts) == set(written["figures"])
        for part, rows in parts.items():
            found = written["figures"][part][f"k = {k}"]
            for name, figure in rows["all rows"].items():
                assert found[name]["value"] == (pytest.approx(figure.value) if figure.value == figure.value else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give --data-dir, the folder with train-metadata.csv, or --run"),
        ("--data-dir DEMO --k 0 5", "--k must be at least 1, not 0 5"),
        ("--data-dir DEMO --k", "--k must be at least 1, not nothing"),
        ("--data-dir DEMO --k 500 --features pixels", "500 neighbours are wanted of 96 rows"),
        ("--data-dir DEMO --fold 7", "--fold 7: the folds are 0 to 4, or all"),
        ("--data-dir DEMO --bootstrap -1", "--bootstrap is a number of draws"),
        (
            "--data-dir DEMO --features pixels --out DEMO/train-metadata.csv",
            "train-metadata.csv is not a folder; give another path",
        ),
        ("--data-dir DEMO --json nowhere/figures.json", "nowhere/figures.json: there is no such folder"),
        ("--data-dir DEMO --weights absent.safetensors", "--weights absent.safetensors: no such file"),
        ("--run RUN --folds.n 3", "--run has its own --folds: leave that out"),
        ("--run RUN --data.image-size 64", "--run has its own --data.image-size: leave that out"),
        ("--run RUN --fold 2", "fold 2 has not been trained"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, message, demo, tiny_run, capsys):
    with pytest.raises(SystemExit) as left:
        knn.main(options.replace("DEMO", str(demo)).replace("RUN", str(tiny_run)).split())
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
