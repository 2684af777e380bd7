"""Images with the same pixels are found in any file format; all other images are not."""

import shutil

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from jaxlesion import duplicates as program
from jaxlesion.data.decode import decode
from jaxlesion.data.duplicates import CHUNK, count, duplicates, pixel_digest, pixel_digests
from jaxlesion.data.sources import open_images


@pytest.fixture(scope="module")
def doubled(demo, tmp_path_factory):
    """Write the demo with lesion 1 also as 5 (as PNG) and as 119, and lesion 2 also as 3; and its table."""
    folder = tmp_path_factory.mktemp("doubled") / "data"
    shutil.copytree(demo, folder)
    ids = pd.read_csv(folder / "train-metadata.csv")["isic_id"]
    with h5py.File(folder / "train-image.hdf5", "r+") as images:
        data = {i: images[ids[i]][()] for i in (1, 2)}
        pixels = decode(bytes(data[1]), "one")
        png = np.void(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        for i, value in ((5, png), (119, data[1]), (3, data[2])):
            del images[ids[i]]
            images[ids[i]] = value
    return folder, pd.read_csv(folder / "train-metadata.csv")


def test_duplicates_are_found_by_their_pixels(doubled, tmp_path, capsys):
    folder, lesions = doubled
    program.main(["--data-dir", str(folder), "--out", str(tmp_path / "duplicates.csv")])
    table = pd.read_csv(tmp_path / "duplicates.csv")
    expected = lesions.iloc[[1, 5, 119, 2, 3]]
    assert table["group"].tolist() == [0, 0, 0, 1, 1]
    for column in ("isic_id", "patient_id", "target"):
        assert table[column].tolist() == expected[column].tolist()
    printed = capsys.readouterr().out
    assert "120 lesions: 5 share their pixels, in 2 groups" in printed
    assert f"group 1: {lesions['isic_id'][2]} {lesions['isic_id'][3]}" in printed
    assert "folds" not in printed


def test_a_run_says_which_are_in_two_folds(tiny_run, doubled, capsys):
    folder, _ = doubled
    table = program.find_duplicates(program.DuplicatesConfig(run=tiny_run, data_dir=folder))
    folds = pd.read_csv(tiny_run / "folds.csv").set_index("isic_id")["fold"]
    assert table["fold"].tolist() == folds[table["isic_id"]].tolist()
    across = sum(rows["fold"].nunique() > 1 for _, rows in table.groupby("group"))
    assert f"groups across folds: {across}\n" in capsys.readouterr().out


def test_an_undoubled_set_has_none(tiny_run):
    table = program.find_duplicates(program.DuplicatesConfig(run=tiny_run))
    assert list(table) == ["group", "isic_id", "patient_id", "target", "fold"]
    assert count(table) == dict.fromkeys(("lesions", "groups", "across_folds", "across_patients", "across_targets"), 0)


def test_real_crops_have_none(real):
    """Compare only the malignant crops and 200 others, to save time."""
    lesions = pd.read_csv(real / "train-metadata.csv", dtype={"isic_id": str})
    some = pd.concat([lesions[lesions["target"] == 1], lesions.iloc[:200]])["isic_id"]
    with open_images(real / "train-image.hdf5") as images:
        assert len(set(pixel_digests(images, some))) == some.nunique()


def test_counts_are_of_groups():
    lesions = pd.DataFrame(
        {
            "isic_id": list("abcdefg"),
            "patient_id": ["p", "p", "q", "r", "p", "s", "s"],
            "target": [0, 0, 1, 1, 0, 0, 1],
            "fold": [0, 0, 1, 2, 0, 1, 1],
        }
    )
    table = duplicates(lesions, [b"2", b"2", b"1", b"1", b"9", b"0", b"0"])
    assert table["isic_id"].tolist() == list("abcdfg")
    assert table["group"].tolist() == [0, 0, 1, 1, 2, 2]
    assert count(table) == {
        "lesions": 6, "groups": 3, "across_folds": 1, "across_patients": 1, "across_targets": 1
    }  # fmt: skip
    assert count(duplicates(lesions[["isic_id"]], list(map(bytes, range(7))))) == {"lesions": 0, "groups": 0}


def test_a_digest_knows_shape_pixels_and_nothing_else():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert pixel_digest(image) == pixel_digest(image.copy()) == pixel_digest(np.asfortranarray(image))
    others = [image.reshape(4, 2, 3), image + np.uint8(1), image[::-1]]
    assert len({pixel_digest(other) for other in [image, *others]}) == 4


def test_digests_come_in_order_whatever_the_number_of_threads(demo):
    with open_images(demo / "train-image.hdf5") as images:
        ids, ticks = [*images.ids] * 3, []
        one = pixel_digests(images, ids, 1)
        assert pixel_digests(images, ids, 4, ticks.append) == one
        assert one[7] == pixel_digest(decode(images.read(ids[7]), ids[7]))
    assert ticks == [CHUNK, len(ids) - CHUNK]


@pytest.mark.parametrize("argv", [[], ["--data-dir", "absent"], ["--run", "absent"]])
def test_what_cannot_be_read_is_one_line(argv, capsys):
    with pytest.raises(SystemExit) as left:
        program.main(argv)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
