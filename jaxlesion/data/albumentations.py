"""The augmentation recipes by Albumentations, on the host.

Pixels are a function of (seed, epoch, row) alone, whatever the threads.
"""

import os
import random
import threading
from collections.abc import Callable

import numpy as np

from jaxlesion.core.recipes import RecipeSpec

Augment = Callable[[np.ndarray, int, int], np.ndarray]


def compose(spec: RecipeSpec, height: int, width: int):
    """Build the Albumentations `Compose` of a recipe, on uint8 [h, w, 3]; None when it leaves images as they are.

    Rotation, scale and shift are one affine map, so that a pixel is interpolated once. Uncovered
    corners are filled by reflection, since a black corner never occurs in a real crop.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import sends a request otherwise
    import albumentations as A
    import cv2

    steps = []
    if spec.crop:
        steps += [A.RandomResizedCrop((height, width), scale=(1 - spec.crop, 1), ratio=(3 / 4, 4 / 3), p=1.0)]
    if spec.flips:
        steps += [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    if spec.rot90:
        steps += [A.RandomRotate90(p=1.0)]
    if spec.rotate or spec.scale or spec.shift:
        steps += [
            A.Affine(
                rotate=(-spec.rotate, spec.rotate),
                scale=(1 - spec.scale, 1 + spec.scale),
                keep_ratio=True,
                translate_percent=(-spec.shift, spec.shift),
                border_mode=cv2.BORDER_REFLECT_101,
                p=1.0,
            )
        ]
    if spec.brightness or spec.contrast:
        steps += [A.RandomBrightnessContrast(brightness_limit=spec.brightness, contrast_limit=spec.contrast, p=1.0)]
    often = spec.often
    if spec.distort:
        steps += [A.GridDistortion(5, spec.distort, border_mode=cv2.BORDER_REFLECT_101, p=often)]
    if spec.blur:
        steps += [A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, spec.blur), p=often)]
    if spec.saturation or spec.hue:
        still = {"brightness": (1, 1), "contrast": (1, 1)}
        steps += [A.ColorJitter(**still, saturation=spec.saturation, hue=spec.hue, p=often)]
    if spec.noise:
        steps += [A.GaussNoise(std_range=(0, spec.noise), p=often)]
    if spec.erase:
        steps += [A.Erasing(scale=(0.02, spec.erase), ratio=(0.5, 2), fill="random_uniform", p=often)]
    return A.Compose(steps) if steps else None


def augmenter(spec: RecipeSpec, seed: int) -> Augment:
    """Return a function (image uint8 [h, w, 3], epoch, row) -> image, safe to call from many threads.

    All images have the size of the first.

    One `Compose` per thread: a shared one races on its random state and gives wrong pixels. Its
    transforms share one stream: `set_random_seed` would give each the same numbers, so that both
    flips happen or none.
    """
    local = threading.local()

    def augment(image: np.ndarray, epoch: int, row: int) -> np.ndarray:
        if not hasattr(local, "compose"):
            local.compose = compose(spec, *image.shape[:2])
        if local.compose is None:
            return image
        words = np.random.SeedSequence((seed, epoch, row))
        stream = random.Random(int(words.generate_state(1, np.uint64)[0]))  # the transforms draw from it
        local.compose.set_random_state(np.random.default_rng(words), stream)
        return local.compose(image=image)["image"]

    return augment
