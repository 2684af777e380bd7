"""The prepared TFDS data equal the files: rows, folds, bytes and pixels; nothing uses the network."""

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

import jaxlesion.data.isic2024
from jaxlesion.core.config import FoldsConfig
from jaxlesion.core.errors import InputError
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.decode import decode
from jaxlesion.data.folds import assign
from jaxlesion.data.open import open_dataset
from jaxlesion.data.schema import is_label_side

VERSION = Path("isic2024") / "1.0.0"


def prepare(competition: Path, data_dir: Path, shards: int | None = None) -> Path:
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=competition, num_shards=shards)
    tfds.builder("isic2024", data_dir=data_dir).download_and_prepare(download_config=config)
    return data_dir


def refuse_network(*_: object) -> None:
    raise AssertionError("the network was asked")


@pytest.fixture(scope="module")
def prepared(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse_network)
        patch.setattr(socket.socket, "connect", refuse_network)
        return prepare(demo, tmp_path_factory.mktemp("tfds"), shards=3)


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    """Copy a version folder, so that tests may damage it."""
    return shutil.copytree(prepared / VERSION, tmp_path / "copy")


def assert_same(one: Dataset, other: Dataset) -> None:
    pd.testing.assert_frame_equal(one.lesions, other.lesions)
    for isic_id in one.lesions["isic_id"]:
        assert one.images.read(isic_id) == other.images.read(isic_id)
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("place", [Path(), VERSION], ids=["data_dir", "version"])
def test_same_as_from_hdf5(demo: Path, prepared: Path, place: Path, split: str) -> None:
    one, other = open_dataset(demo, split), open_dataset(prepared / place, split)
    assert_same(one, other)
    assert list(other.images.ids) == list(one.lesions["isic_id"])
    assert other.unused_images == 0


def test_same_folds_and_pixels(demo: Path, prepared: Path) -> None:
    one, other = open_dataset(demo), open_dataset(prepared)
    pd.testing.assert_frame_equal(assign(one.lesions, FoldsConfig()), assign(other.lesions, FoldsConfig()))
    for isic_id in one.lesions["isic_id"]:
        np.testing.assert_array_equal(*(decode(d.images.read(isic_id), isic_id) for d in (one, other)))


def test_real_crops(real: Path, tmp_path: Path) -> None:
    table = pd.read_csv(real / "train-metadata.csv").sample(300, random_state=0)
    competition = tmp_path / "competition"
    competition.mkdir()
    table.to_csv(competition / "train-metadata.csv", index=False)
    with h5py.File(real / "train-image.hdf5") as source, h5py.File(competition / "train-image.hdf5", "w") as target:
        for isic_id in table["isic_id"]:
            target[isic_id] = source[isic_id][()]
    one, other = open_dataset(competition), open_dataset(prepare(competition, tmp_path / "tfds"))
    assert_same(one, other)
    isic_id = table["isic_id"].iloc[0]
    np.testing.assert_array_equal(*(decode(d.images.read(isic_id), isic_id) for d in (one, other)))


def test_folder_of_images_and_an_odd_table(tmp_path: Path) -> None:
    """Prepare from an odd table (byte order mark, CRLF, mixed types, unknown columns), a PNG, and no test split."""
    competition = tmp_path / "competition"
    (competition / "train-image" / "image").mkdir(parents=True)
    for name in ("z.jpg", "a.png", "m.jpeg"):
        cv2.imwrite(str(competition / "train-image" / "image" / name), np.full((8, 9, 3), ord(name[0]), np.uint8))
    rows = ["isic_id,target,patient_id,age_approx,sex,note", "z,1,p1,,,7", 'a,0,p2,NA,male,"x,\ny"', "m,0,p2,55,,", ""]
    (competition / "train-metadata.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    data_dir = prepare(competition, tmp_path / "tfds")
    assert_same(open_dataset(competition), open_dataset(data_dir))
    records = list(tfds.as_numpy(tfds.load("isic2024", data_dir=data_dir, split="train")))
    assert [(r["isic_id"], r["target"], r["metadata"]["sex"]) for r in records] == [
        (b"z", 1, b""), (b"a", 0, b"male"), (b"m", 0, b""),
    ]  # fmt: skip
    assert [np.isnan(r["metadata"]["age_approx"]) for r in records] == [True, True, False]
    assert (records[1]["image"] == ord("a")).all()
    with pytest.raises(InputError, match=r"test-metadata\.csv"):
        open_dataset(data_dir, "test")


def test_load(demo: Path, prepared: Path) -> None:
    lesions = open_dataset(demo).lesions
    records = list(tfds.as_numpy(tfds.load("isic2024", data_dir=prepared, split="train")))
    for name in ("isic_id", "patient_id"):
        assert [r[name].decode() for r in records] == list(lesions[name])
    assert [r["target"] for r in records] == list(lesions["target"])
    assert all(r["image"].dtype == np.uint8 and r["image"].ndim == 3 for r in records)
    known = {**records[0]["metadata"], **records[0]["diagnosis"]}
    assert set(known) == set(lesions.columns[3:])
    assert not any(map(is_label_side, records[0]["metadata"]))
    for part in ("metadata", "diagnosis"):
        for name in records[0][part]:
            values = [r[part][name] for r in records]
            if isinstance(values[0], bytes):
                assert values == [v.encode() for v in lesions[name].astype(object).fillna("")], name
            else:
                np.testing.assert_array_equal(np.array(values), lesions[name].to_numpy(np.float32), err_msg=name)


def test_load_test_split(prepared: Path) -> None:
    supervised = tfds.load("isic2024", data_dir=prepared, split="test", as_supervised=True)
    assert [target for _, target in tfds.as_numpy(supervised)] == [-1] * 5


def test_read_by_many_threads(prepared: Path) -> None:
    dataset = open_dataset(prepared)
    ids = [*dataset.lesions["isic_id"]] * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(dataset.images.read, ids)) == [dataset.images.read(isic_id) for isic_id in ids]


def test_a_changed_pixel_is_not_taken_for_the_source(demo: Path, copy: Path) -> None:
    file = next(copy.glob("*train*-00001-of-00003"))
    image = open_dataset(copy).images.read(open_dataset(copy).lesions["isic_id"][60])
    data = bytearray(file.read_bytes())
    data[data.find(image) + len(image) // 2] ^= 1
    file.write_bytes(data)
    one, other = fingerprint(open_dataset(demo)), fingerprint(open_dataset(copy))
    assert one["metadata"] == other["metadata"]
    assert one["images"] != other["images"]


def remove_shard(folder: Path) -> None:
    next(folder.glob("*train*-00001-of-00003")).unlink()


def cut_shard(folder: Path) -> None:
    file = next(folder.glob("*train*-00002-of-00003"))
    file.write_bytes(file.read_bytes()[:-5])


def empty_shard(folder: Path) -> None:
    next(folder.glob("*train*-00000-of-00003")).write_bytes(b"")


@pytest.mark.parametrize("harm", [remove_shard, cut_shard, empty_shard])
def test_harm_is_refused(copy: Path, harm) -> None:
    harm(copy)
    with pytest.raises(InputError, match="prepare it again") as caught:
        open_dataset(copy)
    assert "\n" not in str(caught.value)


def test_another_order_of_rows_is_refused(copy: Path) -> None:
    table = pd.read_csv(copy / "train-metadata.csv")
    table.iloc[::-1].to_csv(copy / "train-metadata.csv", index=False)
    dataset = open_dataset(copy)
    with pytest.raises(InputError, match="not where its row"):
        dataset.images.read(dataset.lesions["isic_id"][0])


def test_damaged_record(copy: Path) -> None:
    file = next(copy.glob("*train*-00000-of-00003"))
    data = bytearray(file.read_bytes())
    data[12:40] = b"\xff" * 28
    file.write_bytes(data)
    dataset = open_dataset(copy)
    with pytest.raises(InputError, match="damaged record"):
        dataset.images.read(dataset.lesions["isic_id"][0])


def test_several_versions(prepared: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        shutil.copytree(prepared / VERSION, tmp_path / "isic2024" / version)
    with pytest.raises(InputError, match="several versions"):
        open_dataset(tmp_path)


def test_nothing_is_left_of_a_bad_folder(demo: Path, tmp_path: Path) -> None:
    competition = tmp_path / "competition"
    competition.mkdir()
    shutil.copy(demo / "train-image.hdf5", competition)
    table = (demo / "train-metadata.csv").read_text()
    (competition / "train-metadata.csv").write_text(table.replace("DEMO_0000007", "DEMO_9999999"))
    with pytest.raises(InputError, match="has no image 'DEMO_9999999'"):
        prepare(competition, tmp_path / "tfds")
    assert not any(path.is_file() for path in (tmp_path / "tfds").rglob("*"))


def test_registered() -> None:
    assert tfds.builder_cls("isic2024") is jaxlesion.data.isic2024.Isic2024
