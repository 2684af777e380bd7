"""The augmentation recipes: what each does, the same for every back end."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Recipe = Literal["none", "light", "full", "strong"]


@dataclass(frozen=True)
class RecipeSpec:
    """One augmentation recipe, the same for every back end. Angles in degrees, the rest as fractions."""

    flips: bool = False
    rot90: bool = False
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    crop: float = 0.0
    """Largest share of the area that is cut off before the rest is enlarged."""
    often: float = 1.0
    """Chance of each of the following, in an image."""
    distort: float = 0.0
    """Change of the widths and heights of a grid of 5 x 5 cells."""
    saturation: float = 0.0
    hue: float = 0.0
    """Of the whole circle."""
    blur: float = 0.0
    """Largest standard deviation, in pixels of the resized image, up to 1."""
    noise: float = 0.0
    """Largest standard deviation, of the range of levels."""
    erase: float = 0.0
    """Largest area of a rectangle that gets one random colour."""


LIGHT = RecipeSpec(flips=True, rot90=True, rotate=30.0, brightness=0.2, contrast=0.2)
RECIPES: Mapping[str, RecipeSpec] = types.MappingProxyType(
    {
        "none": RecipeSpec(),
        "light": LIGHT,
        "full": dataclasses.replace(LIGHT, scale=0.1, shift=0.1),
        "strong": dataclasses.replace(
            LIGHT,
            rotate=45.0,
            scale=0.2,
            shift=0.1,
            often=0.5,
            distort=0.3,
            saturation=0.3,
            hue=0.03,
            blur=1.0,
            noise=0.04,
            erase=0.15,
        ),
    }
)
