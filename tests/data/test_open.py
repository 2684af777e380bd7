"""Every layout that people have ends in the same lesions and pixels."""

import gzip
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from refusals import refused

from jaxlesion.core.config import FoldsConfig, Layout
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.decode import decode
from jaxlesion.data.folds import assign
from jaxlesion.data.open import open_dataset, open_table


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    """Return 12 pictures by id."""
    rng = np.random.default_rng(0)
    return {f"img{i:02d}": rng.integers(0, 256, (9 + i, 8 + i, 3), np.uint8) for i in range(12)}


TARGET = {f"img{i:02d}": int(i % 3 == 0) for i in range(12)}
PATIENT = {f"img{i:02d}": f"P{i // 2}" for i in range(12)}


def write_images(folder: Path, pixels: dict[str, np.ndarray], suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in pixels.items():
        cv2.imwrite(str(folder / f"{name}{suffix}"), image[..., ::-1])
    return folder


def same(dataset: Dataset, pixels: dict[str, np.ndarray], names: dict[str, str] | None = None) -> None:
    """Assert that a dataset has these pictures and their targets."""
    lesions = dataset.lesions
    assert sorted(lesions["isic_id"]) == sorted((names or {}).get(name, name) for name in pixels)
    ours = {theirs: name for name, theirs in (names or {}).items()}
    for isic_id, target in lesions[["isic_id", "target"]].itertuples(index=False):
        name = ours.get(isic_id, isic_id)
        assert target == TARGET[name]
        np.testing.assert_array_equal(decode(dataset.images.read(isic_id), isic_id), pixels[name])


# Tables of others


def one_hot(columns: str, malignant: str) -> pd.DataFrame:
    names = columns.split()
    cells = {name: [float(name == (malignant if t else "NV")) for t in TARGET.values()] for name in names}
    return pd.DataFrame({"image": list(TARGET), **cells})


def labels(malignant: str, benign: str) -> list[str]:
    return [malignant if target else benign for target in TARGET.values()]


TABLES = {
    "ISIC 2020": pd.DataFrame(
        {"image_name": list(TARGET), "patient_id": list(PATIENT.values()), "sex": "male", "diagnosis": "unknown",
         "benign_malignant": labels("malignant", "benign"), "target": list(TARGET.values())}
    ),
    "ISIC 2019": one_hot("MEL NV BCC AK BKL DF VASC SCC UNK", "SCC"),
    "ISIC 2018": one_hot("MEL NV BCC AKIEC BKL DF VASC", "AKIEC"),
    "HAM10000": pd.DataFrame(
        {"lesion_id": list(PATIENT.values()), "image_id": list(TARGET), "dx": labels("bcc", "nv"), "dx_type": "histo",
         "age": 50.0, "sex": "male", "localization": "back"}
    ),
    "PAD-UFES-20": pd.DataFrame(
        {"patient_id": list(PATIENT.values()), "lesion_id": range(12), "diagnostic": labels("SCC", "ACK"),
         "img_id": [f"{name}.png" for name in TARGET], "biopsed": True}
    ),
    "ISIC archive": pd.DataFrame(
        {"isic_id": list(TARGET), "attribution": "x", "diagnosis_1": labels("Malignant", "Benign"),
         "patient_id": list(PATIENT.values())}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("where", [".", "images", "train/part_1"])
def test_published_tables_are_known_by_their_columns(tmp_path, pixels, name, where):
    TABLES[name].to_csv(tmp_path / "metadata.csv", index=False)
    write_images(tmp_path / where, pixels)
    said = []
    dataset = open_dataset(tmp_path, say=said.append)
    same(dataset, pixels)
    assert f"a table of {name}:" in said[0]
    patients = dict(zip(dataset.lesions["isic_id"], dataset.lesions.get("patient_id", []), strict=False))
    assert patients in (PATIENT, {})
    assert ("patient_id is not known" in said[0]) == (patients == {})


def test_lesions_without_a_label_are_left_out_and_counted(tmp_path, pixels):
    table = TABLES["ISIC archive"].copy()
    table.loc[[1, 2], "diagnosis_1"] = ["Indeterminate", None]
    table.loc[4, "patient_id"] = None
    table.to_csv(tmp_path / "metadata.csv", index=False)
    write_images(tmp_path, pixels)
    said = []
    dataset = open_dataset(tmp_path, say=said.append)
    same(dataset, {name: image for name, image in pixels.items() if name not in ("img01", "img02")})
    assert "2 of 12 lesions are neither benign nor malignant: left out" in said[1]
    assert "1 of 10 lesions have no patient_id" in said[2]
    assert dataset.lesions.set_index("isic_id")["patient_id"]["img04"] == "img04"


def test_any_table_is_read_with_its_columns_named(tmp_path, pixels):
    write_images(tmp_path / "crops", pixels, ".bmp")
    frame = {
        "file": [f"{name}.bmp" for name in TARGET],
        "who": list(PATIENT.values()),
        "finding": labels("Mel", "naevus"),
    }
    pd.DataFrame(frame).to_csv(tmp_path / "my.csv", index=False)
    refused(lambda: open_dataset(tmp_path), "my.csv is no table that is known", "--data.table", "--data.columns")
    columns = "isic_id=file,target=finding,patient_id=who"
    refused(lambda: open_dataset(tmp_path, layout=Layout(tmp_path / "my.csv", columns)), "'Mel'", "--data.positive")
    dataset = open_dataset(tmp_path, layout=Layout(tmp_path / "my.csv", columns, "melanoma, mel"))
    same(dataset, pixels)
    assert dict(zip(dataset.lesions["isic_id"], dataset.lesions["patient_id"], strict=True)) == PATIENT
    for bad in ("isic_id", "isic_id=a,isic_id=b", "sex=b", "isic_id="):
        refused(
            lambda bad=bad: open_dataset(tmp_path, layout=Layout(tmp_path / "my.csv", bad)), "--data.columns", "pairs"
        )


@pytest.mark.parametrize("words", ["True False", "malignant benign", "1.0 0.0", "MALIGNANT Benign", "1 0"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_targets_in_words_in_every_kind_of_file(tmp_path, pixels, words, suffix):
    malignant, benign = words.split()
    table = pd.DataFrame(
        {"isic_id": list(TARGET), "target": labels(malignant, benign), "patient_id": [*PATIENT.values()]}
    )
    path = tmp_path / f"train-metadata{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_bytes((gzip.compress if suffix == ".csv.gz" else bytes)(table.to_csv(index=False).encode()))
    write_images(tmp_path / "train-image" / "image", pixels)
    same(open_dataset(tmp_path), pixels)
    assert open_table(tmp_path)["target"].tolist() == list(TARGET.values())


@pytest.mark.parametrize("content", [b"PAR1", b"", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_parquet_or_gzip_is_one_line(tmp_path, content):
    for name in ("train-metadata.parquet", "train-metadata.csv.gz"):
        (tmp_path / name).write_bytes(content)
        refused(lambda: open_table(tmp_path), name, "not a readable")
        (tmp_path / name).unlink()


# Folders


@pytest.mark.parametrize("inner", ["", "train"])
def test_class_folders_are_a_table(tmp_path, pixels, inner):
    for name, image in pixels.items():
        write_images(tmp_path / inner / ("malignant" if TARGET[name] else "benign"), {name: image})
    same(open_dataset(tmp_path), pixels)
    before = fingerprint(open_dataset(tmp_path))
    assert before == fingerprint(open_dataset(Path(shutil.copytree(tmp_path, tmp_path.parent / f"{inner}copy"))))


def test_class_folders_of_any_name_need_to_know_which_is_malignant(tmp_path, pixels):
    for name, image in pixels.items():
        write_images(tmp_path / ("Melanoma" if TARGET[name] else "naevus"), {name: image})
    refused(lambda: open_dataset(tmp_path), "which of the folders Melanoma, naevus mean malignant", "--data.positive")
    refused(lambda: open_dataset(tmp_path, layout=Layout(positive="bcc")), "which of the folders")
    same(open_dataset(tmp_path, layout=Layout(positive="melanoma")), pixels)


def test_one_name_in_two_class_folders_is_two_lesions(tmp_path, pixels):
    images = list(pixels.values())
    write_images(tmp_path / "benign", {"1": images[0], "a b": images[1]})
    write_images(tmp_path / "malignant", {"1": images[2]})
    dataset = open_dataset(tmp_path)
    assert dict(zip(dataset.lesions["isic_id"], dataset.lesions["target"], strict=True)) == {
        "benign_1": 0, "benign_a_b": 0, "malignant_1": 1,
    }  # fmt: skip


def test_a_folder_of_images_alone_can_be_predicted(tmp_path, pixels):
    write_images(tmp_path / "all", pixels)
    assert open_dataset(tmp_path / "all", "test").lesions["isic_id"].tolist() == list(pixels)
    refused(lambda: open_dataset(tmp_path / "all"), "has no train-metadata.csv")


def test_without_patients_folds_are_made_when_told_so(tmp_path, pixels):
    for name, image in pixels.items():
        write_images(tmp_path / ("malignant" if TARGET[name] else "benign"), {name: image})
    lesions = open_dataset(tmp_path).lesions
    refused(lambda: assign(lesions, FoldsConfig(n=2)), "no patient_id", "--folds.group none")
    folded = assign(lesions, FoldsConfig(n=2, group="none", stratify=True))
    assert folded["patient_id"].tolist() == folded["isic_id"].tolist()
    known = lesions.assign(patient_id="one")
    refused(lambda: assign(known, FoldsConfig(n=2, group="none")), "patient one is in 2 folds")


@pytest.mark.parametrize("other", ["p0", "P0.0", "\u0420O", "PO"])
def test_patients_that_read_alike_are_refused_or_taken_as_they_are(other):
    table = pd.DataFrame(
        {
            "isic_id": list(TARGET),
            "target": list(TARGET.values()),
            "patient_id": ["P0", other, *[*PATIENT.values()][2:]],
        }
    )
    refused(lambda: assign(table, FoldsConfig(n=2)), "'P0'", repr(other), "--folds.group-as-is")
    assert len(assign(table, FoldsConfig(n=2, stratify=True, group_as_is=True))) == 12


def test_a_named_table_finds_the_images_of_either_split(demo):
    for table, split in (("train", "test"), ("test", "train")):
        layout = Layout(demo / f"{table}-metadata.csv")
        dataset = open_dataset(demo, split, layout, labelled=table == "train")
        assert dataset.images.path.name == f"{table}-image.hdf5"


# HDF5


def write_table(folder: Path) -> None:
    columns = {"isic_id": list(TARGET), "target": list(TARGET.values()), "patient_id": list(PATIENT.values())}
    pd.DataFrame(columns).to_csv(folder / "train-metadata.csv", index=False)


@pytest.mark.parametrize("name", ["train-image.hdf5", "train-image.h5", "crops.h5"])
def test_raw_pixels_by_id(tmp_path, pixels, name):
    write_table(tmp_path)
    with h5py.File(tmp_path / name, "w") as file:
        for isic_id, image in pixels.items():
            file[f"{isic_id}.png" if name == "crops.h5" else isic_id] = image
    same(open_dataset(tmp_path), pixels)


@pytest.mark.parametrize("ids", ["ids", "names"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (5, 4, 3, 1)},
        {"chunks": True, "compression": "gzip"},
        {"chunks": (1, 16, 16, 3), "shuffle": True},
    ],
)
def test_one_array_beside_its_ids(tmp_path, ids, options):
    images = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), np.uint8)
    write_table(tmp_path)
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        file.create_dataset("images", data=images, **options)
        file[ids] = [f"{name} " for name in TARGET] if ids == "ids" else np.array(list(TARGET), "S")
        file["labels"] = np.zeros(12 if ids == "ids" else 3, np.int64)
    same(open_dataset(tmp_path), dict(zip(TARGET, images, strict=True)))


def test_an_array_that_is_damaged_or_leads_elsewhere_is_refused(tmp_path):
    write_table(tmp_path)
    path = tmp_path / "train-image.hdf5"
    images = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=(2, 16, 16, 3), compression="gzip")
        file["ids"] = list(TARGET)
        at = file["images"].id.get_chunk_info(2).byte_offset
    data = bytearray(path.read_bytes())
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    dataset = open_dataset(tmp_path)
    refused(lambda: dataset.images.read("img04"), "image img04 has a damaged chunk")
    np.testing.assert_array_equal(decode(dataset.images.read("img06"), "x"), images[6])
    with h5py.File(path, "w") as file:
        file["images"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/images")
        file["ids"] = list(TARGET)
    refused(lambda: open_dataset(tmp_path), "has no image for 12 of 12 rows")


# Messages


def test_bad_images_are_counted_and_named_for_what_they_are(tmp_path, pixels):
    write_table(tmp_path)
    folder = write_images(tmp_path / "train-image", pixels)
    (folder / "img03.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(90))
    (folder / "img05.png").write_bytes(bytes(128) + b"DICM" + bytes(90))
    refused(
        lambda: fingerprint(open_dataset(tmp_path), sound=True),
        "2 of 12 images cannot be used: img03 is HEIC", "img05 is DICOM", "replace them",
    )  # fmt: skip


@pytest.mark.parametrize("rename", [str.upper, lambda name: name.replace("img0", "imgO")])
def test_ids_that_read_like_those_of_the_images_are_named(tmp_path, pixels, rename):
    write_table(tmp_path)
    write_images(tmp_path / "train-image", {rename(name): image for name, image in pixels.items()})
    refused(lambda: open_dataset(tmp_path), "the table says 'img00'", f"the image is called '{rename('img00')}'")


def test_images_that_are_missing_are_counted(tmp_path, pixels):
    write_table(tmp_path)
    write_images(tmp_path / "train-image", dict(list(pixels.items())[:9]))
    refused(lambda: open_dataset(tmp_path), "has no image for 3 of 12 rows: 'img09', 'img10', 'img11'; remove")
