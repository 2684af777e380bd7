"""The columns of the ISIC 2024 challenge's tables, which of them a model may see, and the form of an id."""

import re
from collections.abc import Iterable

KEYS = ("isic_id", "patient_id", "target", "fold")
SOURCE = ("attribution", "copyright_license")
# Known only after a biopsy, or computed from it: absent at test time, and a model that sees one sees the label. Of this
# challenge and of other files of ISIC, HAM10000 and PAD-UFES-20.
LABEL_SIDE_PREFIXES = ("lesion_id", "iddx", "mel_", "tbp_lv_dnn_lesion_confidence", "diagnos", "histopath", "patholog")
LABEL_SIDE = {
    *("benign_malignant", "malignant", "benign", "melanoma", "seborrheic_keratosis", "label", "class", "ground_truth"),
    *("dx", "dx_type", "concomitant_biopsy", "biopsied", "biopsed", "melanocytic", "nevus_type", "confirm_type"),
    *("mel", "nv", "bcc", "ak", "akiec", "bkl", "df", "vasc", "scc", "unk"),
}
TEST_COLUMNS = (
    "isic_id", "patient_id", "age_approx", "sex", "anatom_site_general", "clin_size_long_diam_mm", "image_type",
    "tbp_tile_type", *(f"tbp_lv_{channel}{where}" for channel in "ABCHL" for where in ("", "ext")), "tbp_lv_areaMM2",
    "tbp_lv_area_perim_ratio", "tbp_lv_color_std_mean", "tbp_lv_deltaA", "tbp_lv_deltaB", "tbp_lv_deltaL",
    "tbp_lv_deltaLB", "tbp_lv_deltaLBnorm", "tbp_lv_eccentricity", "tbp_lv_location", "tbp_lv_location_simple",
    "tbp_lv_minorAxisMM", "tbp_lv_nevi_confidence", "tbp_lv_norm_border", "tbp_lv_norm_color", "tbp_lv_perimeterMM",
    "tbp_lv_radial_color_std_max", "tbp_lv_stdL", "tbp_lv_stdLExt", "tbp_lv_symm_2axis", "tbp_lv_symm_2axis_angle",
    "tbp_lv_x", "tbp_lv_y", "tbp_lv_z", "attribution", "copyright_license",
)  # fmt: skip
TRAIN_COLUMNS = (
    "isic_id", "target", *TEST_COLUMNS[1:], "lesion_id", "iddx_full", *(f"iddx_{level}" for level in range(1, 6)),
    "mel_mitotic_index", "mel_thick_mm", "tbp_lv_dnn_lesion_confidence",
)  # fmt: skip

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def is_number(column: str) -> bool:
    """Return whether the challenge's column holds numbers, such as millimetres, and not text."""
    return column in ("age_approx", "clin_size_long_diam_mm", "mel_thick_mm") or (
        column.startswith("tbp_lv_") and not column.startswith("tbp_lv_location")
    )


def is_label_side(column: str) -> bool:
    """Return whether a column leaks the label."""
    name = column.strip().lower()
    return name in LABEL_SIDE or name.startswith(LABEL_SIDE_PREFIXES)


def feature_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns, or those of a table, that a model may use: no key, and nothing that leaks the label.

    Nor who gave an image, and under which licence: this is no property of the lesion, and names the hospital.
    """
    return [c for c in columns if c not in KEYS and c not in SOURCE and not is_label_side(c)]


def valid_id(text: object) -> bool:
    """Return whether `text` is 1 to 64 of `A-Z a-z 0-9 _ . -`, the first one a letter or digit.

    An id becomes a file name, an HDF5 key and a cell of a spreadsheet: none leaves a folder (`../x`), and none is a
    formula (`=`, `+`, `-`, `@`).
    """
    return isinstance(text, str) and ID_PATTERN.fullmatch(text) is not None
