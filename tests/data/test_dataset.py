"""One folder, two layouts, the same lesions; every row has its image and every byte counts."""

import shutil
from pathlib import Path

import h5py
import pandas as pd
import pytest
from refusals import refused

from jaxlesion.data.dataset import fingerprint
from jaxlesion.data.open import open_dataset


@pytest.fixture
def hdf5(demo, tmp_path) -> Path:
    """Copy the demo lesions to a folder that tests may damage."""
    return Path(shutil.copytree(demo, tmp_path / "hdf5"))


@pytest.fixture
def files(demo, tmp_path) -> Path:
    """Write the same lesions with one file per image."""
    for split in ("train", "test"):
        folder = tmp_path / "files" / f"{split}-image" / "image"
        folder.mkdir(parents=True)
        shutil.copy(demo / f"{split}-metadata.csv", tmp_path / "files")
        with h5py.File(demo / f"{split}-image.hdf5") as images:
            for isic_id, data in images.items():
                (folder / f"{isic_id}.jpg").write_bytes(data[()])
    return tmp_path / "files"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_layouts_give_the_same_rows_and_bytes(hdf5, files, split):
    one, other = open_dataset(hdf5, split), open_dataset(files, split)
    pd.testing.assert_frame_equal(one.lesions, other.lesions)
    assert len(one.lesions) == {"train": 120, "test": 5}[split]
    for isic_id in one.lesions["isic_id"]:
        assert one.images.read(isic_id) == other.images.read(isic_id)
    assert one.unused_images == other.unused_images == 0
    assert fingerprint(one)["metadata"] == fingerprint(other)["metadata"]


def test_the_real_crops_open(real):
    dataset = open_dataset(real)
    assert (len(dataset.lesions), dataset.lesions["target"].sum(), dataset.unused_images) == (7399, 237, 0)
    assert len(open_dataset(real, "test").lesions) == 3


def test_images_without_a_row_are_ignored_and_counted(hdf5, files):
    for folder in (hdf5, files):
        path = folder / "train-metadata.csv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-7]))
        dataset = open_dataset(folder)
        assert (len(dataset.lesions), dataset.unused_images) == (113, 7)


def test_a_row_without_an_image_is_refused_by_name(hdf5, files):
    for folder in (hdf5, files):
        path = folder / "train-metadata.csv"
        first = open_dataset(folder).lesions["isic_id"][0]
        path.write_text(path.read_text().replace(first, "ISIC_absent"))
        refused(lambda folder=folder: open_dataset(folder), "'ISIC_absent'")


def test_the_test_split_needs_the_id_alone(hdf5):
    path = hdf5 / "test-metadata.csv"
    ids = pd.read_csv(path)["isic_id"]
    path.write_text("\n".join(["isic_id", *ids]))
    dataset = open_dataset(hdf5, "test")
    assert list(dataset.lesions) == ["isic_id"]
    assert dataset.lesions["isic_id"].tolist() == ids.tolist()
    refused(lambda: open_dataset(hdf5, "test", labelled=True), "target is missing")


def test_training_needs_labels_unless_told(hdf5):
    path = hdf5 / "train-metadata.csv"
    pd.read_csv(path).drop(columns=["target"]).to_csv(path, index=False)
    refused(lambda: open_dataset(hdf5), "target is missing")
    assert len(open_dataset(hdf5, labelled=False).lesions) == 120


@pytest.mark.parametrize("layout", ["hdf5", "files"])
def test_the_fingerprint_changes_with_one_byte_of_either(layout, request):
    folder = request.getfixturevalue(layout)
    before = fingerprint(open_dataset(folder))
    assert {len(digest) for digest in before.values()} == {64}
    assert fingerprint(open_dataset(folder)) == before
    isic_id = open_dataset(folder).lesions["isic_id"][60]
    if layout == "files":
        flip(folder / "train-image" / "image" / f"{isic_id}.jpg", -3)
    else:
        with h5py.File(folder / "train-image.hdf5") as images:
            at = images[isic_id].id.get_offset()
        flip(folder / "train-image.hdf5", at + 100)
    pixels = fingerprint(open_dataset(folder))
    assert pixels["metadata"] == before["metadata"]
    assert pixels["images"] != before["images"]
    with open(folder / "train-metadata.csv", "a") as file:
        file.write("\n")
    table = fingerprint(open_dataset(folder))
    assert table["metadata"] != before["metadata"]
    assert table["images"] == pixels["images"]


def test_the_fingerprint_does_not_depend_on_how_images_are_stored(hdf5, files):
    assert fingerprint(open_dataset(hdf5)) == fingerprint(open_dataset(files))


def test_the_fingerprint_of_files_knows_only_those_that_are_needed(files):
    before = fingerprint(open_dataset(files))
    folder = files / "train-image" / "image"
    (folder / "unused.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert fingerprint(open_dataset(files)) == before


def test_what_is_not_there_is_named(tmp_path, hdf5):
    refused(lambda: open_dataset(tmp_path / "absent"), "absent is not a folder", "--data-dir")
    refused(lambda: open_dataset(hdf5 / "train-metadata.csv"), "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: open_dataset(tmp_path / "empty"), "train-metadata.csv", "--data-dir")
    (hdf5 / "train-image.hdf5").unlink()
    refused(lambda: open_dataset(hdf5), "train-image.hdf5", "train-image/image")


def test_an_image_file_that_is_none(hdf5):
    (hdf5 / "train-image.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    refused(lambda: open_dataset(hdf5), "train-image.hdf5", "not a readable HDF5 file")
