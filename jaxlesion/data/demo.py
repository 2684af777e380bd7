"""Demo lesions: drawn, not photographed, in the layout of the ISIC 2024 challenge's own files.

A run without real data trains on these through the same reader, folds and batches as on real data. Malignant lesions
are larger, more asymmetric, ragged and mottled *on average*: no figure obtained here means anything clinically.
"""

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.folds import group_kfold
from jaxlesion.data.schema import TEST_COLUMNS, TRAIN_COLUMNS, is_number

FIELD_MM = 15.0  # a SLICE-3D crop shows 15 mm x 15 mm of skin, whatever its number of pixels
SHIFT = 1.3  # mean of each malignant trait in benign standard deviations: the classes overlap
FOLDS = 5  # each of so many folds by patient gets both classes
FILES = ("train-metadata.csv", "train-image.hdf5", "test-metadata.csv", "test-image.hdf5", "sample_submission.csv")
README = """Demo lesions of jaxlesion, in the layout of the ISIC 2024 challenge: {}

These images are drawn by a program. No person, hospital or diagnosis stands behind them, and no figure
obtained with them means anything clinically. They show that training, evaluation and reporting run.
"""
NUMBERS = {  # from z, the traits in standard deviations; a column that is not listed is noise
    "clin_size_long_diam_mm": lambda z: (3 * np.exp(0.27 * z.width)).clip(1.2, 9),
    "tbp_lv_areaMM2": lambda z: 7 * np.exp(0.54 * z.width + 0.1 * z.noise),
    "tbp_lv_area_perim_ratio": lambda z: 13 * np.exp(0.1 * z.border + 0.1 * z.noise),
    "tbp_lv_norm_border": lambda z: (3 + z.border + 0.8 * z.noise).clip(0, 10),
    "tbp_lv_stdL": lambda z: 2 * np.exp(0.45 * z.mottling + 0.1 * z.noise),
    "tbp_lv_symm_2axis": lambda z: (0.3 + 0.07 * z.asymmetry + 0.03 * z.noise).clip(0.05, 0.95),
    "tbp_lv_Lext": lambda z: (61 + 8 * z.skin).clip(33, 80),
    "tbp_lv_deltaL": lambda z: -13 * np.exp(0.4 * z.pigment),
    "tbp_lv_L": lambda z: z.tbp_lv_Lext + z.tbp_lv_deltaL,
}
OF_PATIENTS = {  # one of these; the first three are empty now and then
    "age_approx": range(20, 90, 5), "sex": ["male", "female"], "anatom_site_general": ["head/neck", "anterior torso"],
    "tbp_lv_location_simple": ["Head & Neck", "Torso Front"], "tbp_lv_location": ["Head & Neck", "Torso Front Top"],
    "tbp_tile_type": ["3D: white", "3D: XP"], "image_type": ["TBP tile: close-up"], "copyright_license": ["CC-0"],
    "attribution": [f"Demo hospital {letter}" for letter in "ABCD"],
}  # fmt: skip
TRAITS = ["asymmetry", "border", "mottling", "width"]
DIAGNOSES = ("Benign", "Malignant::Malignant melanocytic proliferations (Melanoma)::Melanoma Invasive")  # by target


def write_demo(
    folder: Path, *, patients: int = 60, lesions: int = 600, malignant: int = 60, test_lesions: int = 12, seed: int = 0
) -> Path:
    """Write the five files of the challenge and a README.txt to `folder`, and return it.

    The same arguments give the same files, renamed into place when complete. A folder that already holds this very
    demo is left as it is. Every fold of a `GroupKFold(5)` over `patient_id` has both classes.

    Raises:
        InputError: the counts cannot be drawn, or the folder holds something else.
    """
    folder = Path(folder)
    wanted = f"{lesions} lesions ({malignant} malignant) of {patients} patients, {test_lesions} to test, seed {seed}"
    if min(patients, malignant) < FOLDS or lesions < patients + malignant + FOLDS or test_lesions < 1 or seed < 0:
        needed = f"{FOLDS} patients, {FOLDS} malignant, {FOLDS} lesions more than both, 1 to test, seed 0"
        raise InputError(f"demo data of {wanted}: give at least {needed}")
    readme = README.format(wanted)
    if _holds(folder, readme):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        (draft := Path(scratch) / "demo").mkdir()
        rng = np.random.default_rng(seed)
        owner, target = _assign(rng, patients, lesions, malignant)
        owner = np.append(owner, patients + np.arange(test_lesions) // 3)
        table = _table(rng, owner, np.append(target, rng.random(test_lesions) < malignant / lesions))
        for split, rows, columns in ("train", table[:lesions], TRAIN_COLUMNS), ("test", table[lesions:], TEST_COLUMNS):
            with h5py.File(draft / f"{split}-image.hdf5", "w") as images:
                for lesion in rows.itertuples():
                    images[lesion.isic_id] = np.bytes_(_draw(rng, lesion))  # a scalar, as the challenge has it
            rows.reindex(columns=columns).to_csv(draft / f"{split}-metadata.csv", index=False)
        table[lesions:][["isic_id"]].assign(target=0.3).to_csv(draft / "sample_submission.csv", index=False)
        (draft / "README.txt").write_text(readme, encoding="utf-8")
        if not _holds(folder, readme):  # another process may have been faster
            draft.rename(folder)
    return folder


def _holds(folder: Path, readme: str) -> bool:
    """Return whether the folder is this very demo; InputError if it is anything else but absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    note = folder / "README.txt"
    if note.is_file() and note.read_bytes() == readme.encode() and all((folder / name).is_file() for name in FILES):
        return True
    raise InputError(f"{folder}: exists and is not the demo asked for; remove it or name another folder")


def _assign(rng: np.random.Generator, patients: int, lesions: int, malignant: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the patient [lesions], the first ones having the most, and the target [lesions]."""
    many = (patients * rng.random(lesions - patients - FOLDS) ** 2).astype(int)
    owner = rng.permutation(np.concatenate([np.arange(patients), np.arange(FOLDS), many]))
    fold, target = group_kfold(owner, FOLDS), np.zeros(lesions, bool)
    kept = np.array([np.flatnonzero(fold == k)[:2] for k in range(FOLDS)])  # of each fold one of either class
    target[kept[:, 0]] = True
    target[rng.choice(np.delete(np.arange(lesions), kept.ravel()), malignant - FOLDS, replace=False)] = True
    return owner, target


def _table(rng: np.random.Generator, owner: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    """Draw the traits of n lesions by patient and target [n], and derive every column of the challenge."""
    n, people = len(owner), owner.max() + 1
    z = pd.DataFrame(rng.standard_normal((n, 6)), columns=[*TRAITS, "pigment", "noise"])
    z[TRAITS] += SHIFT * target[:, None]
    z["skin"], z["target"] = rng.standard_normal(people)[owner], target.astype(int)
    z["isic_id"] = [f"DEMO_{number:07d}" for number in range(1, n + 1)]
    z["patient_id"] = [f"DEMO_P{number:07d}" for number in owner + 1]
    for column, choices in OF_PATIENTS.items():
        z[column] = rng.choice(choices, people)[owner]
    for column in [*NUMBERS, *(c for c in TRAIN_COLUMNS if is_number(c) and c not in z and c not in NUMBERS)]:
        z[column] = NUMBERS[column](z) if column in NUMBERS else rng.normal(50, 10, n)
    z["iddx_full"] = np.array(DIAGNOSES)[z["target"]]
    z[["iddx_1", "iddx_2", "iddx_3"]] = z["iddx_full"].str.split("::", expand=True)
    z["lesion_id"], z["mel_thick_mm"] = z["isic_id"].where(target), (z["mel_thick_mm"] / 50).where(target)
    vague = [*OF_PATIENTS][:3]
    return z.assign(**z[vague].mask(rng.random((n, 3)) < 0.03)).round(6)


def _draw(rng: np.random.Generator, lesion: Any) -> bytes:
    """Draw one crop of 51 to 239 pixels a side, a ragged and mottled dark ellipse on skin, and encode it as JPEG."""
    import cv2

    def smooth(mm: float) -> np.ndarray:
        blurred = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), mm * side / FIELD_MM)
        return (blurred / blurred.std())[..., None]

    side = int(np.clip(127 * np.exp(0.12 * rng.standard_t(4)), 51, 239))  # the real crops' quartiles: 119, 127, 137
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * FIELD_MM
    place = (axis + 1j * axis[:, None])[..., None]  # x + iy in mm
    angle = np.angle(place) + rng.uniform(0, 2 * np.pi)
    bend = 0.1 * np.exp(0.5 * lesion.asymmetry) * np.cos(angle) + 0.15 * np.cos(2 * angle)
    outline = lesion.clin_size_long_diam_mm / 2 * (1 + bend).clip(0.4, 1.8)
    edge = outline - np.abs(place) + 0.1 * np.exp(0.5 * lesion.border) * smooth(0.3)
    skin = np.float32([lesion.tbp_lv_Lext, 14, 20]) + smooth(0.6) * [-1, 0.7, 0.3]  # CIE L*a*b*
    pigment = [lesion.tbp_lv_deltaL, 2, 4] + 2.5 * np.exp(0.45 * lesion.mottling) * smooth(0.5) * [1, 0.3, -0.3]
    lab = np.float32(skin + pigment / (1 + np.exp(-edge / 0.15)))
    pixels = (cv2.cvtColor(lab, cv2.COLOR_Lab2BGR) * 255 + rng.normal(0, 2, lab.shape)).round().clip(0, 255)
    _, jpeg = cv2.imencode(".jpg", pixels.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return jpeg.tobytes()
