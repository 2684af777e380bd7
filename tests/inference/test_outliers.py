import numpy as np
import pandas as pd
import pytest

from jaxlesion import outliers
from jaxlesion.core.config import DataConfig, FoldsConfig, ModelConfig
from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import read_predictions
from jaxlesion.inference.knn import KnnOptions
from jaxlesion.inference.outliers import distances
from jaxlesion.inference.outliers import outliers as find

TINY = {"weights": "none", "model": ModelConfig("tiny"), "data": DataConfig(image_size=32, batch_size=8, cache=False)}


def test_distances_are_those_of_scipy():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    embeddings, patients = rng.normal(size=(50, 8)), rng.integers(0, 6, 50).astype(str)
    found = distances(embeddings, patients)
    for row in range(50):
        others = np.flatnonzero((patients == patients[row]) & (np.arange(50) != row))
        apart = cdist(embeddings[[row]], embeddings[others], "cosine")[0]
        assert found.mean[row] == pytest.approx(apart.mean())
        assert found.nearest[row] == pytest.approx(apart.min())
        mine = found.mean[patients == patients[row]]
        assert found.rank[row] == pytest.approx(((mine < found.mean[row]).sum() + 0.5) / len(mine))


def test_scales_order_and_other_patients_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    embeddings, patients = rng.normal(size=(40, 5)), rng.integers(0, 5, 40)
    found, order = distances(embeddings, patients), rng.permutation(40)
    shuffled = distances(embeddings[order] * rng.uniform(1, 3, (40, 1)), patients[order])
    np.testing.assert_allclose(np.array(shuffled), np.array(found)[:, order], atol=1e-12)
    mine = patients == 2
    np.testing.assert_allclose(
        np.array(distances(embeddings[mine], patients[mine])), np.array(found)[:, mine], atol=1e-12
    )
    monkeypatch.setattr("jaxlesion.inference.outliers.CHUNK", 3)
    np.testing.assert_allclose(np.array(distances(embeddings, patients)), np.array(found), atol=1e-12)


def test_the_odd_one_is_the_first_and_the_only_one_has_no_rank():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [3.0, 3.0], [0.0, 0.0]])
    found = distances(embeddings, ["a", "a", "a", "a", "b", None])
    assert found.rank[:4].argmax() == 3
    assert np.isnan(np.array(found)[:, 4:]).all()


def test_the_command_writes_ranks_and_distances(demo, tmp_path, capsys):
    options = ["--weights", "none", "--model.variant", "tiny", "--data.image-size", "32", "--data.no-cache"]
    outliers.main(["--data-dir", str(demo), "--out", str(tmp_path / "o"), "--bootstrap", "20", *options])
    table = read_predictions(tmp_path / "o" / "ugly-duckling.csv")
    apart = pd.read_csv(tmp_path / "o" / "distances.csv").set_index("isic_id").loc[table["isic_id"]]
    assert len(table) == 120
    several = table.groupby("patient_id")["isic_id"].transform("size") > 1
    np.testing.assert_allclose(table["prediction"][several], apart["distance_rank"].to_numpy()[several])
    assert (table["prediction"][~several] == 0.5).all()
    assert "rank within the patient" in capsys.readouterr().out


def test_a_run_compares_by_the_network_of_the_fold(tiny_run):
    table, apart = find(KnnOptions(run=tiny_run, fold=(0, 1)))
    assert sorted(table["fold"].unique()) == [0, 1]
    assert apart["distance_mean"].between(0, 2).sum() == apart["distance_mean"].notna().sum()


@pytest.mark.parametrize("known", ["nobody", "malignant"])
def test_patients_that_are_not_known_are_refused(demo, tmp_path, known):
    table = pd.read_csv(demo / "train-metadata.csv", low_memory=False)
    table["patient_id"] = table["isic_id"]
    if known == "malignant":
        malignant = table["target"] == 1
        table.loc[malignant, "patient_id"] = [f"P{number // 3}" for number in range(malignant.sum())]
    table.to_csv(tmp_path / "train-metadata.csv", index=False)
    (tmp_path / "train-image.hdf5").symlink_to(demo / "train-image.hdf5")
    with pytest.raises(InputError, match="nothing to compare" if known == "nobody" else "tells the label"):
        find(KnnOptions(data_dir=tmp_path, fold="all", folds=FoldsConfig(stratify=True), **TINY))
