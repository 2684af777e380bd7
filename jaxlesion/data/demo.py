"""Demo lesions: drawn, not photographed, in the layout of the ISIC 2024 challenge's own files.

A run without real data trains on these through the same reader, folds and batches as on real
data. Malignant lesions are larger, more asymmetric, ragged and mottled *on average*: the two
classes overlap, as the real ones do, but no figure obtained here means anything clinically.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.schema import TEST_COLUMNS, TRAIN_COLUMNS

FIELD_MM = 15.0  # a SLICE-3D crop shows 15 mm x 15 mm of skin, whatever its number of pixels
SHIFT = 1.3  # mean of each malignant trait in benign standard deviations; four traits: ideal AUC 0.967
FOLDS = 5  # so many largest patients get both classes; GroupKFold(5) puts them into different folds
FILES = ("train-metadata.csv", "train-image.hdf5", "test-metadata.csv", "test-image.hdf5", "sample_submission.csv")
README = """Demo lesions of jaxlesion, in the layout of the ISIC 2024 challenge: {}

These images are drawn by a program. No person, hospital or diagnosis stands behind them, and no figure
obtained with them means anything clinically. They show that training, evaluation and reporting run.
"""
DIAGNOSES = (  # by target
    ("Benign", "Benign", "Benign::Benign melanocytic proliferations::Nevus"),
    (
        "Malignant::Malignant melanocytic proliferations (Melanoma)::Melanoma Invasive",
        "Malignant::Malignant adnexal epithelial proliferations - Follicular::Basal cell carcinoma",
    ),
)
PLACES = (  # tbp_lv_location, tbp_lv_location_simple, anatom_site_general, height above the floor in mm
    ("Head & Neck", "Head & Neck", "head/neck", 1560),
    ("Torso Front Top Half", "Torso Front", "anterior torso", 1330),
    ("Torso Back Top Third", "Torso Back", "posterior torso", 1400),
    ("Left Arm - Upper", "Left Arm", "upper extremity", 1250),
    ("Right Leg - Lower", "Right Leg", "lower extremity", 340),
)
PIGMENTS = ((-15.0, 2.0, 4.0), (-9.0, 13.0, -1.0), (-17.0, -4.0, -13.0))  # brown, red, blue: L, a, b against the skin


class Traits(NamedTuple):
    """What tells the classes apart, in standard deviations of the benign lesions."""

    asymmetry: float
    border: float
    color: float
    size: float


def write_demo(
    folder: Path, *, patients: int = 60, lesions: int = 600, malignant: int = 60, test_lesions: int = 12, seed: int = 0
) -> Path:
    """Write the five files of the challenge and a README.txt to `folder`, and return it.

    The same arguments give the same files. They appear under a temporary name and are renamed when
    complete; a folder that already holds this very demo is left as it is. Every fold of a
    `GroupKFold(5)` over `patient_id` has both classes.

    Raises InputError for counts that cannot be drawn and for a folder that holds something else.
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
        draft = Path(scratch) / "demo"
        draft.mkdir()
        rng = np.random.default_rng([seed, 0])
        owner, target = _assign(rng, patients, lesions, malignant)
        _write_split(draft, "train", seed, 1, _people(rng, patients, 1), owner, target)
        owner, target = np.arange(test_lesions) // 3, rng.random(test_lesions) < malignant / lesions
        others = _people(rng, int(owner[-1]) + 1, patients + 1)
        table = _write_split(draft, "test", seed, lesions + 1, others, owner, target)
        table[["isic_id"]].assign(target=0.3).to_csv(draft / "sample_submission.csv", index=False)
        (draft / "README.txt").write_text(readme, encoding="utf-8")
        if not _holds(folder, readme):  # another process may have been faster
            draft.rename(folder)
    return folder


def _holds(folder: Path, readme: str) -> bool:
    """Whether the folder is this very demo; InputError if it is anything else but absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    note = folder / "README.txt"
    if note.is_file() and note.read_bytes() == readme.encode() and all((folder / name).is_file() for name in FILES):
        return True
    raise InputError(f"{folder}: exists and is not the demo asked for; remove it or name another folder")


def _assign(rng: np.random.Generator, patients: int, lesions: int, malignant: int) -> tuple[np.ndarray, np.ndarray]:
    """Patient index [lesions], a few patients having many, and target [lesions]."""
    share = rng.lognormal(sigma=0.9, size=patients)
    counts = 1 + rng.multinomial(lesions - patients - FOLDS, share / share.sum())
    largest = np.argsort(counts, kind="stable")[-FOLDS:]
    counts[largest] += 1  # strictly more than the sixth: no tie decides who is spread over the folds
    owner = np.repeat(np.arange(patients), counts)
    rank = np.arange(lesions) - np.repeat(np.cumsum(counts) - counts, counts)
    target = (rank == 0) & np.isin(owner, largest)
    free = np.flatnonzero(~target & (rank != 1))  # the second lesion of a patient is always benign
    target[rng.choice(free, malignant - FOLDS, replace=False)] = True
    order = rng.permutation(lesions)
    return owner[order], target[order]


def _people(rng: np.random.Generator, count: int, first: int) -> pd.DataFrame:
    """One row per patient: what the metadata say, and how skin (CIE L*a*b*) and hair are drawn."""
    light = rng.normal(61, 8, count).clip(33, 80)
    return pd.DataFrame(
        {
            "patient_id": [f"DEMO_P{first + i:07d}" for i in range(count)],
            "age_approx": (rng.normal(58, 13, count) / 5).round().clip(3, 17) * 5,
            "sex": rng.choice(["male", "female"], count, p=[0.6, 0.4]),
            "tbp_tile_type": rng.choice(["3D: white", "3D: XP"], count),
            "image_type": "TBP tile: close-up",
            "copyright_license": "CC-0",
            "attribution": rng.choice([f"Demo hospital {letter}" for letter in "ABCD"], count),
            "L": light,
            "a": rng.normal(14.5, 2.5, count),
            "b": rng.normal(20, 3, count) - (light - 61).clip(0) * 0.2,
            "hairs": rng.gamma(0.5, 14, count),
        }
    )


def _write_split(
    folder: Path, split: str, seed: int, first: int, people: pd.DataFrame, owner: np.ndarray, target: np.ndarray
) -> pd.DataFrame:
    """Draw and write one split, each lesion from a random stream of its own; return its table."""
    import cv2

    rows, persons = [], list(people.itertuples())
    with h5py.File(folder / f"{split}-image.hdf5", "w") as images:
        for number, (patient, label) in enumerate(zip(owner, target.astype(int).tolist(), strict=True), start=first):
            rng, person = np.random.default_rng([seed, number]), persons[patient]
            traits = Traits(*(rng.standard_normal(4) + SHIFT * label))
            image, measured = _draw(rng, person, traits)
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 91))]
            row = {"isic_id": f"DEMO_{number:07d}", "target": label} | people.iloc[patient].to_dict()
            rows.append(row | measured | _noted(rng, traits) | _diagnosis(rng, number, label))
            jpeg = cv2.imencode(".jpg", image[..., ::-1], quality)[1]
            images[row["isic_id"]] = np.bytes_(jpeg.tobytes())  # a scalar of fixed length, as the challenge has it
    table = pd.DataFrame(rows, columns=TRAIN_COLUMNS if split == "train" else TEST_COLUMNS)
    vague = ["age_approx", "sex", "anatom_site_general"]
    table[vague] = table[vague].mask(np.random.default_rng([seed, first, 1]).random((len(table), 3)) < 0.03)
    table.round(6).to_csv(folder / f"{split}-metadata.csv", index=False)
    return table


def _noise(rng: np.random.Generator, side: int, along: float, across: float, angle: float = 0.0) -> np.ndarray:
    """Noise [side, side] of mean 0 and deviation 1, smooth over `along` x `across` mm, turned by `angle` degrees."""
    import cv2

    wide, scale = int(1.42 * side), side / FIELD_MM  # the diagonal, so that a turned square still covers the crop
    noise = rng.standard_normal((wide, wide), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=along * scale, sigmaY=across * scale)
    turn = cv2.getRotationMatrix2D((wide / 2, wide / 2), angle, 1.0)
    turn[:, 2] -= (wide - side) / 2
    noise = cv2.warpAffine(noise, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    return (noise - noise.mean()) / noise.std()


def _edge(rng: np.random.Generator, traits: Traits, place: np.ndarray) -> np.ndarray:
    """Distance in mm to the outline, positive inside: an ellipse, bent by slow waves and frayed by noise."""
    angle, turn, stretch = np.angle(place), rng.uniform(0, np.pi), rng.uniform(1.0, 1.6)
    ellipse = 1 / np.sqrt(np.cos(angle - turn) ** 2 / stretch + np.sin(angle - turn) ** 2 * stretch)
    height = 0.07 * np.exp(0.5 * traits.asymmetry)
    bend = sum(height * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    radius = 1.45 * np.exp(0.12 * rng.normal() + 0.27 * traits.size)
    outline = (radius * ellipse * (1 + bend).clip(0.4, 1.8)).clip(0.6, 6.3)
    fray = 0.09 * np.sqrt(radius) * np.exp(0.55 * traits.border) * _noise(rng, len(place), 0.3, 0.3)
    return outline - np.abs(place) + fray.clip(-0.4 * outline, 1)


def _skin(rng: np.random.Generator, person: Any, place: np.ndarray) -> np.ndarray:
    """Skin in CIE L*a*b* [side, side, 3]: tone, mottling, furrows, freckles and shade."""
    tone = np.float32(rng.normal([person.L, person.a, person.b], 2))
    mottle = np.float32([-rng.uniform(0.4, 1.6), rng.uniform(0.3, 1.3), 0.3])
    skin = tone + mottle * _noise(rng, len(place), 0.6, 0.6)[..., None]
    skin[..., 0] += rng.uniform(0.4, 1.5) * _noise(rng, len(place), rng.uniform(0.15, 0.5), 0.1, rng.uniform(0, 180))
    for _ in range(rng.poisson(3)):
        spot = np.exp(-(np.abs(place - complex(*rng.uniform(-7.5, 7.5, 2))) ** 2) / rng.uniform(0.05, 0.7))
        skin += spot[..., None] * np.float32([-rng.uniform(2, 9), rng.uniform(0, 6), 2])
    skin[..., 0] += (place * complex(*rng.normal(0, 0.4, 2))).real - rng.uniform(0, 0.07) * np.abs(place) ** 2
    return skin


def _pigment(rng: np.random.Generator, traits: Traits, place: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """What the lesion adds to the skin in CIE L*a*b* [side, side, 3]."""
    kind = np.float32(PIGMENTS[rng.choice(3, p=[0.78, 0.16, 0.06])])
    lean = 0.08 * np.exp(0.4 * traits.asymmetry + 1j * rng.uniform(0, 2 * np.pi))
    strength = rng.lognormal(-0.1, 0.4) * (0.8 + 0.4 * edge.clip(0) / edge.max()) * (1 + (place * lean).real)
    dark, hue = (_noise(rng, len(place), 0.5, 0.4, rng.uniform(0, 180))[..., None] for _ in range(2))
    patches = np.exp(0.45 * traits.color) * (dark * np.float32([2.8, 0.3, 0.5]) + hue * np.float32([0, 1.2, -1.2]))
    inside = 1 / (1 + np.exp(-edge / rng.uniform(0.06, 0.25)))
    return inside[..., None] * (strength.clip(0.2, 2)[..., None] * kind + patches)


def _add_hairs(rng: np.random.Generator, person: Any, skin: np.ndarray) -> None:
    """Draw bent hairs over `skin` (CIE L*a*b*) in place, dark or, on some patients, light."""
    import cv2

    side, bundle = len(skin), rng.uniform(0, np.pi)
    tone = np.float32([26, 5, 8] if person.Index % 4 else [80, 4, 14])
    t = np.linspace(-0.5, 0.5, 16)
    for _ in range(rng.poisson(person.hairs)):
        hair = rng.uniform(0.2, 0.7) * t + 1j * rng.normal(0, 0.25) * t**2
        hair = side * (hair * np.exp(1j * rng.normal(bundle, 0.4)) + complex(*rng.uniform(0, 1, 2)))
        points = np.int32([np.stack([hair.real, hair.imag], axis=-1) * 16])  # 4 fractional bits
        cover = cv2.polylines(np.zeros((side, side), np.uint8), points, False, 255, 1, cv2.LINE_AA, shift=4)
        skin += np.float32(rng.uniform(0.15, 0.6) / 255) * cover[..., None] * (tone - skin)


def _draw(rng: np.random.Generator, person: Any, traits: Traits) -> tuple[np.ndarray, dict]:
    """One crop, uint8 RGB [side, side, 3] with 51 <= side <= 239, and its measured metadata columns."""
    import cv2

    side = int(np.clip(127 * np.exp(0.12 * rng.standard_t(4)), 51, 239))  # the real crops' quartiles: 119, 127, 137
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * FIELD_MM
    place = axis + 1j * axis[:, None]  # x + iy in mm: turning is a product
    edge = _edge(rng, traits, place)
    lab = (_skin(rng, person, place) + _pigment(rng, traits, place, edge)).astype(np.float32)
    measured = _measure(lab, edge, place)
    _add_hairs(rng, person, lab)
    lab = cv2.GaussianBlur(lab, (0, 0), sigmaX=rng.uniform(0.3, 0.7))
    grain = rng.standard_normal(lab.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 4))
    return (cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * 255 + grain).round().clip(0, 255).astype(np.uint8), measured


def _measure(lab: np.ndarray, edge: np.ndarray, place: np.ndarray) -> dict:
    """The columns that follow from the drawing: sizes in mm, colours in CIE L*a*b* inside and around the lesion."""
    import cv2

    mask, pixel = edge > 0, FIELD_MM / len(edge)
    inside, around = lab[mask], lab[(edge < -0.3) & (edge > -2)]
    (light, a, b), (light_ext, a_ext, b_ext) = inside.mean(0), around.mean(0)
    minor, major = 4 * np.sqrt(np.linalg.eigvalsh(np.cov(place[mask].real, place[mask].imag)))
    curves, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    perimeter, area = pixel * sum(cv2.arcLength(curve, True) for curve in curves), pixel**2 * mask.sum()
    values = {
        "A": a, "Aext": a_ext, "B": b, "Bext": b_ext, "L": light, "Lext": light_ext,
        "C": np.hypot(a, b), "Cext": np.hypot(a_ext, b_ext),
        "H": np.rad2deg(np.arctan2(b, a)), "Hext": np.rad2deg(np.arctan2(b_ext, a_ext)),
        "deltaA": a - a_ext, "deltaB": b - b_ext, "deltaL": light - light_ext,
        "deltaLB": np.hypot(light - light_ext, b - b_ext),
        "deltaLBnorm": np.linalg.norm(inside.mean(0) - around.mean(0)),
        "areaMM2": area, "perimeterMM": perimeter, "area_perim_ratio": perimeter**2 / area,
        "minorAxisMM": minor, "eccentricity": np.sqrt(1 - (minor / major) ** 2),
        "stdL": inside[:, 0].std(), "stdLExt": around[:, 0].std(), "color_std_mean": inside[:, 1:].std(0).mean(),
    }  # fmt: skip
    return {"clin_size_long_diam_mm": major.round(2)} | {f"tbp_lv_{name}": float(v) for name, v in values.items()}


def _noted(rng: np.random.Generator, traits: Traits) -> dict:
    """The columns that a camera's software or a person would add: place and scores."""
    location, simple, site, height = PLACES[rng.integers(len(PLACES))]
    return {
        "anatom_site_general": site,
        "tbp_lv_location": location,
        "tbp_lv_location_simple": simple,
        "tbp_lv_nevi_confidence": 100 / (1 + np.exp(-rng.normal(1, 3))),
        "tbp_lv_norm_border": np.clip(3 + traits.border + rng.normal(0, 0.8), 0, 10),
        "tbp_lv_norm_color": np.clip(2.5 + traits.color + rng.normal(0, 0.8), 0, 10),
        "tbp_lv_radial_color_std_max": np.clip(0.8 + 0.4 * traits.color + rng.normal(0, 0.3), 0, None),
        "tbp_lv_symm_2axis": np.clip(0.3 + 0.07 * traits.asymmetry + rng.normal(0, 0.05), 0.05, 0.95),
        "tbp_lv_symm_2axis_angle": 5 * int(rng.integers(36)),
        "tbp_lv_x": rng.normal(0, 90) + 250 * (simple.startswith("Left") - simple.startswith("Right")),
        "tbp_lv_y": height + rng.normal(0, 60),
        "tbp_lv_z": rng.normal(0, 80),
    }


def _diagnosis(rng: np.random.Generator, number: int, target: int) -> dict:
    """The columns that only the training file has; all of them leak the label."""
    full = DIAGNOSES[target][rng.integers(len(DIAGNOSES[target]))]
    row = {"iddx_full": full, "tbp_lv_dnn_lesion_confidence": 100 * rng.beta(12, 1)}
    row |= {f"iddx_{level}": part for level, part in enumerate(full.split("::"), start=1)}
    if full.endswith("Invasive"):
        row |= {"mel_thick_mm": round(rng.lognormal(-0.7, 0.5), 1), "mel_mitotic_index": "0/mm^2"}
    return row | ({"lesion_id": f"DEMO_L{number:07d}"} if "::" in full else {})
