"""The scale benchmark runs, shrunk; no time is asserted, and memory only by its growth per row."""

import re

import h5py
import pandas as pd
import pytest

from experiments import scale
from jaxlesion.core.config import FoldsConfig
from jaxlesion.data.folds import assign
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.schema import TRAIN_COLUMNS
from jaxlesion.data.sources import open_images


def test_the_data_have_the_counts_the_columns_and_the_bytes(demo, tmp_path):
    scale.write_lesions(tmp_path, "train", 500, patients=50, malignant=30, crops=demo)
    lesions = read_lesions(tmp_path / "train-metadata.csv")
    assert sorted(lesions) == sorted(TRAIN_COLUMNS)
    counts = lesions["patient_id"].value_counts()
    assert (len(lesions), lesions["target"].sum(), len(counts), counts.min() > 0) == (500, 30, 50, True)
    assert counts.max() > 2.5 * counts.mean()  # skewed
    assert assign(lesions, FoldsConfig())["fold"].nunique() == 5
    with h5py.File(demo / "train-image.hdf5") as old, h5py.File(tmp_path / "train-image.hdf5") as new:
        assert set(new) == set(lesions["isic_id"])
        assert {new[i][()] for i in new} <= {old[i][()] for i in old}
    assert not (lesions.groupby("target")["iddx_1"].nunique() > 1).any()


@pytest.mark.extra
def test_every_command_is_measured(tmp_path, capsys):
    scale.measure(
        scale.Scale(
            out=tmp_path / "scale.md",
            rows=(200, 400),
            table_rows=1500,
            patients=60,
            malignant=60,
            batch_size=16,
            shard_rows=64,
        )
    )
    table = (tmp_path / "scale.md").read_text()
    assert table in capsys.readouterr().out
    for command in ("load", "train", "evaluate", "report", "duplicates"):
        assert len(re.findall(rf"^\| {command}\b.* \| [\d.]+ \| [\d.]+ \| [\d,]+ \|$", table, re.M)) >= 1, command
    assert re.search(r"^\| 400 \| [\d.]+ \| [\d.]+ \| [\d,]+ \| [\d,]+ \|$", table, re.M)


@pytest.mark.extra
def test_memory_does_not_grow_with_the_images_that_are_predicted(demo, tiny_run, tmp_path, monkeypatch):
    """Add 58,000 rows: memory grows by ids and positions, some hundred bytes each, not by pixels or file.

    As many rows as that, since the peak of one and the same command varies by some 20 MB.
    """
    monkeypatch.chdir(tmp_path)
    peaks, few, many = {}, 2_000, 60_000
    for rows in (few, many):
        scale.write_lesions(tmp_path / f"{rows}", "test", rows, patients=20, malignant=10, crops=demo)
        metadata = tmp_path / f"{rows}" / "test-metadata.csv"
        pd.read_csv(metadata, usecols=["isic_id"]).to_csv(metadata, index=False)  # else its first chunk is the peak
        with open_images(tmp_path / f"{rows}" / "test-image.hdf5"):
            pass  # saves the index
        argv = ("-m", "jaxlesion.predict", "--run", tiny_run, "--data-dir", tmp_path / f"{rows}", "--shard-rows", 1024)
        peaks[rows] = scale.run_measured(f"{rows}", argv, tmp_path).megabytes * 2**20
    file = (tmp_path / f"{many}" / "test-image.hdf5").stat().st_size
    pixels = 32 * 32 * 3
    print(f"{(peaks[many] - peaks[few]) / (many - few):.0f} bytes of memory a row, {file / many:.0f} in the file")
    assert peaks[many] - peaks[few] < (many - few) * min(pixels, file / many) / 2
