"""Measures of a lesion made of several columns of the challenge's table.

Lengths are in millimetres, areas in square millimetres, colours in L*a*b* (CIE 1976) with hue in degrees, all as the
camera's software gives them; `ext` is the skin around. Each is skipped where a column that it needs is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

P = "tbp_lv_"
ABCD = "ABCD rule of dermoscopy (Nachbar et al. 1994)"
SHAPE = "form factors of image analysis (Cox 1927)"
SKIN = "individual typology angle (Chardon et al. 1991)"
CIE = "CIE 1976 L*a*b*"
HERE = "this package"

# What the columns and measures are about, by their names without the prefix; of others, "other".
TOPICS = {
    "size": "clin_size_long_diam_mm areaMM2 minorAxisMM perimeterMM log_area",
    "shape and border": "area_perim_ratio eccentricity norm_border symm_2axis symm_2axis_angle elongation roundness "
    "perimeter_to_area irregularity",
    "colour": "A B C H L norm_color color_std_mean radial_color_std_max stdL unevenness",
    "contrast to the skin": "deltaA deltaB deltaL deltaLB deltaLBnorm contrast hue_contrast lightness_contrast "
    "contrast_area mottling",
    "skin around": "Aext Bext Cext Hext Lext stdLExt skin_tone",
    "confidence of a nevus": "nevi_confidence nevus_size",
    "place on the body": "anatom_site_general location location_simple x y z distance_3d",
    "age and sex": "age_approx sex",
    "camera": "tbp_tile_type image_type",
}
TOPIC_OF = {name: topic for topic, names in TOPICS.items() for name in names.split()}


def topic(name: str) -> str:
    """Return what a feature is about, such as size; a comparison `KIND:COLUMN` has the topic of what is compared."""
    return TOPIC_OF.get(name.split(":", 1)[-1].removeprefix(P), "other")


@dataclass(frozen=True)
class Measure:
    """A measure: its name, unit, formula in words and code, the columns it needs, and where it comes from."""

    name: str
    unit: str
    words: str
    source: str
    needs: tuple[str, ...]
    formula: Callable[..., pd.Series]


def _measure(name: str, unit: str, words: str, source: str, needs: str, formula: Callable[..., pd.Series]) -> Measure:
    return Measure(name, unit, words, source, tuple(needs.format(P=P).split()), formula)


MEASURES = (
    _measure("elongation", "1", "minor axis / longest diameter", SHAPE,
             "{P}minorAxisMM clin_size_long_diam_mm", lambda minor, longest: minor / longest),
    _measure("roundness", "1", "4 pi area / perimeter^2; 1 for a circle", SHAPE,
             "{P}areaMM2 {P}perimeterMM", lambda area, perimeter: 4 * np.pi * area / perimeter**2),
    _measure("log_area", "ln mm^2", "natural logarithm of the area", HERE, "{P}areaMM2", np.log),
    _measure("perimeter_to_area", "1/mm", "perimeter / area", SHAPE,
             "{P}perimeterMM {P}areaMM2", lambda perimeter, area: perimeter / area),
    _measure("irregularity", "score", "border irregularity + asymmetry", ABCD,
             "{P}norm_border {P}symm_2axis", lambda border, asymmetry: border + asymmetry),
    _measure("contrast", "1", "distance in colour to the skin around: root of dL^2 + dA^2 + dB^2", CIE,
             "{P}deltaL {P}deltaA {P}deltaB", lambda *d: np.sqrt(sum(x**2 for x in d))),
    _measure("hue_contrast", "degrees", "hue - hue of the skin around", CIE, "{P}H {P}Hext", lambda h, ext: h - ext),
    _measure("lightness_contrast", "L*", "absolute value of L - L of the skin around", CIE,
             "{P}L {P}Lext", lambda lesion, ext: (lesion - ext).abs()),
    _measure("contrast_area", "mm^2", "area x normalised contrast", HERE,
             "{P}areaMM2 {P}deltaLBnorm", lambda area, delta: area * delta),
    _measure("unevenness", "1", "deviation of colour / the largest along a radius", ABCD,
             "{P}color_std_mean {P}radial_color_std_max", lambda mean, radial: mean / (radial + 1e-3)),
    _measure("mottling", "1", "deviation of L inside / outside", ABCD,
             "{P}stdL {P}stdLExt", lambda inside, ext: inside / ext.clip(lower=1e-3)),
    _measure("nevus_size", "mm", "confidence that it is a nevus (0 to 100) x diameter / 100", HERE,
             "{P}nevi_confidence clin_size_long_diam_mm", lambda nevus, longest: nevus * longest / 100),
    _measure("distance_3d", "mm", "distance to the origin of the body's coordinates", HERE,
             "{P}x {P}y {P}z", lambda *at: np.sqrt(sum(x**2 for x in at))),
    _measure("skin_tone", "degrees", "typology angle of the skin around: arctan((L - 50) / b)", SKIN,
             "{P}Lext {P}Bext", lambda lightness, b: np.degrees(np.arctan2(lightness - 50, b))),
)  # fmt: skip


def derived(numbers: pd.DataFrame) -> pd.DataFrame:
    """Compute the measures whose columns are there.

    Args:
        numbers: n rows of float64 columns.

    Returns:
        [n, measures] float64; NaN where a cell that is needed is missing or a divisor is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            measure.name: measure.formula(*(numbers[column] for column in measure.needs))
            for measure in MEASURES
            if set(measure.needs) <= set(numbers)
        }
    return pd.DataFrame(found, index=numbers.index).replace([np.inf, -np.inf], np.nan)
