"""The demo lesions: the challenge's layout, reproducible, learnable but not trivial, never half-written."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxlesion.core.errors import InputError
from jaxlesion.data import demo

SMALL = {"patients": 12, "lesions": 120, "malignant": 40, "test_lesions": 4, "seed": 3}
TINY = {"patients": 5, "lesions": 15, "malignant": 5, "test_lesions": 1}
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "slice3d"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_demo(tmp_path_factory.mktemp("demo") / "small", **SMALL)


@pytest.fixture(scope="module")
def train(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "train-metadata.csv")


def read_images(folder: Path, split: str) -> dict[str, np.ndarray]:
    with h5py.File(folder / f"{split}-image.hdf5") as file:
        return {key: cv2.imdecode(np.frombuffer(file[key][()], np.uint8), cv2.IMREAD_COLOR_RGB) for key in file}


def test_holds_what_was_asked_for(folder: Path, train: pd.DataFrame) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*demo.FILES, "README.txt"])
    test = pd.read_csv(folder / "test-metadata.csv")
    assert (len(train), train.patient_id.nunique(), train.target.sum(), len(test)) == (120, 12, 40, 4)
    assert train.isic_id.is_unique
    assert not set(test.isic_id) & set(train.isic_id)
    assert not set(test.patient_id) & set(train.patient_id)
    submission = pd.read_csv(folder / "sample_submission.csv")
    assert list(submission) == ["isic_id", "target"]
    assert list(submission.isic_id) == list(test.isic_id)


def test_columns(folder: Path, train: pd.DataFrame) -> None:
    test = pd.read_csv(folder / "test-metadata.csv")
    assert (len(train.columns), len(test.columns)) == (55, 44)
    assert list(train.columns[:3]) == ["isic_id", "target", "patient_id"]
    assert test.notna().any(axis=0).all()
    for column in ("age_approx", "sex", "anatom_site_general"):
        assert 0 < train[column].isna().sum() < 20, column
    complete = train[test.columns].drop(columns=["age_approx", "sex", "anatom_site_general"])
    assert complete.notna().all(axis=None)


def test_layout_equals_the_real_files(folder: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("the real lesions are not beside the repository")
    header = pd.read_csv(REAL / "test-metadata.csv", nrows=0).columns
    assert list(header) == list(pd.read_csv(folder / "test-metadata.csv", nrows=0).columns)
    with h5py.File(REAL / "train-image.hdf5") as real, h5py.File(folder / "train-image.hdf5") as drawn:
        one, other = (file[next(iter(file))] for file in (real, drawn))
        for dataset in (one, other):
            assert dataset.shape == ()
            assert dataset.dtype.kind == "S"
            assert dataset.id.get_storage_size() == dataset.dtype.itemsize == len(dataset[()])
        assert one.id.get_type().get_strpad() == other.id.get_type().get_strpad()
        assert one.id.get_create_plist().get_layout() == other.id.get_create_plist().get_layout()


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_square_jpegs_of_the_real_sizes(folder: Path, split: str) -> None:
    images = read_images(folder, split)
    assert list(images) == list(pd.read_csv(folder / f"{split}-metadata.csv").isic_id)
    for image in images.values():
        assert image.shape[0] == image.shape[1]
        assert 51 <= len(image) <= 239
    if split == "train":
        assert 115 < np.median([len(image) for image in images.values()]) < 140


def test_metadata_describe_their_own_image(folder: Path, train: pd.DataFrame) -> None:
    drawn = []
    for image in read_images(folder, "train").values():
        lab = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2Lab)
        middle = slice(int(0.47 * len(lab)), int(0.53 * len(lab)) + 1)
        drawn.append((np.median(lab[..., 0]), np.median(lab[middle, middle, 0])))
    for column, values in zip(("tbp_lv_Lext", "tbp_lv_L"), np.transpose(drawn), strict=True):
        assert np.corrcoef(train[column], values)[0, 1] > 0.85, column


def test_classes_differ_but_overlap(train: pd.DataFrame) -> None:
    features = train[["tbp_lv_areaMM2", "tbp_lv_area_perim_ratio", "tbp_lv_stdL", "tbp_lv_symm_2axis"]]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    score = cross_val_predict(
        model, features, train.target, groups=train.patient_id, cv=GroupKFold(5), method="predict_proba"
    )[:, 1]
    assert 0.8 < roc_auc_score(train.target, score) < 0.98


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("patients", "lesions"), [(5, 15), (10, 20)])
def test_every_fold_has_both_classes(tmp_path: Path, patients: int, lesions: int, seed: int) -> None:
    counts = {"patients": patients, "lesions": lesions, "malignant": 5, "test_lesions": 1}
    table = pd.read_csv(demo.write_demo(tmp_path / "demo", **counts, seed=seed) / "train-metadata.csv")
    for _, rows in GroupKFold(5).split(table, groups=table.patient_id):
        assert set(table.target[rows]) == {0, 1}


def test_same_seed_same_files(tmp_path: Path, folder: Path) -> None:
    again = demo.write_demo(tmp_path / "again", **SMALL)
    for name in ("train-metadata.csv", "test-metadata.csv", "sample_submission.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    for split in ("train", "test"):
        one, other = read_images(folder, split), read_images(again, split)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_another_seed_draws_another_demo(tmp_path: Path) -> None:
    one, other = (demo.write_demo(tmp_path / str(seed), **TINY, seed=seed) for seed in (0, 1))
    assert (one / "train-metadata.csv").read_bytes() != (other / "train-metadata.csv").read_bytes()
    assert (one / "train-image.hdf5").read_bytes() != (other / "train-image.hdf5").read_bytes()


def test_complete_demo_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()  # an empty folder is filled
    assert demo.write_demo(folder, **TINY) == folder
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert demo.write_demo(folder, **TINY) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_content_is_refused_and_kept(tmp_path: Path) -> None:
    folder = demo.write_demo(tmp_path / "demo", **TINY)
    with pytest.raises(InputError, match="not the demo asked for"):
        demo.write_demo(folder, **TINY, seed=1)
    (folder / "test-image.hdf5").unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match="remove it or name another"):
        demo.write_demo(folder, **TINY)
    assert sorted(folder.iterdir()) == before


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the pen broke")

    monkeypatch.setattr(cv2, "imencode", fail)
    with pytest.raises(RuntimeError, match="the pen broke"):
        demo.write_demo(tmp_path / "demo", **TINY)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [{"patients": 4}, {"malignant": 4}, {"lesions": 14}, {"test_lesions": 0}, {"seed": -1}]
)
def test_impossible_counts(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="give at least") as error:
        demo.write_demo(tmp_path / "demo", **{**TINY, "seed": 0, **change})
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
