"""Show malignant lesions beside several augmented versions of each, by both back ends.

    python experiments/augmentation_sheet.py --out sheet.png
    python experiments/augmentation_sheet.py --data-dir isic-2024 --recipe full --out sheet.png

One row per lesion: the resized crop, then versions by Albumentations, then as many by JAX. Both sample from the same
distributions with separate random numbers, so their columns do not correspond. Without --data-dir the synthetic demo
lesions are shown. Takes seconds on one core.
"""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import tyro

from jaxlesion.core.files import write_atomic
from jaxlesion.core.recipes import RECIPES, Recipe
from jaxlesion.data.albumentations import augmenter
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.open import open_dataset
from jaxlesion.learning.augment import augment
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.terminal import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Sheet:
    """Draw malignant lesions beside several augmented versions by both back ends."""

    out: Path
    """PNG to write."""
    data_dir: Path | None = None
    """Folder with train-metadata.csv and its images [default: drawn lesions]."""
    recipe: Recipe = "full"
    """Recipe to show."""
    lesions: int = 6
    """Malignant lesions, one per row."""
    draws: int = 5
    """Draws per lesion and back end."""
    size: int = 128
    """Side in pixels that every crop is resized to."""
    seed: int = 0
    """Which lesions, and the draws."""


def malignant(folder: Path, count: int, size: int, seed: int) -> list[np.ndarray]:
    """Return `count` random malignant crops of the folder, each uint8 [size, size, 3]."""
    dataset = open_dataset(folder)
    ids = dataset.lesions.loc[dataset.lesions["target"] == 1, "isic_id"].to_numpy()
    chosen = np.random.default_rng(seed).permutation(ids)[:count]
    return [resize(decode(dataset.images.read(isic_id), isic_id), size) for isic_id in chosen]


def draws(images: list[np.ndarray], sheet: Sheet) -> dict[str, np.ndarray]:
    """Return each back end's augmented images, uint8 [lesions, draws, size, size, 3]."""
    spec, rows = RECIPES[sheet.recipe], np.arange(len(images), dtype=np.int32)
    host = augmenter(spec, sheet.seed)
    step = jax.jit(lambda images, epoch: augment(images, spec, sheet.seed, epoch, rows))
    stacked = np.stack(images)
    by_host = [[host(images[row], epoch, row) for epoch in range(sheet.draws)] for row in rows]
    by_jax = np.stack([step(stacked, np.int32(epoch)) for epoch in range(sheet.draws)], 1)
    return {"Albumentations": np.array(by_host), "JAX": by_jax}


def draw_sheet(sheet: Sheet) -> None:
    """Write the sheet as a picture to `sheet.out`."""
    with tempfile.TemporaryDirectory() as folder:
        if sheet.data_dir is None:
            from jaxlesion.data.demo import write_demo

            write_demo(Path(folder) / "demo")
        images = malignant(sheet.data_dir or Path(folder) / "demo", sheet.lesions, sheet.size, sheet.seed)
    picture = io.BytesIO()
    sheet_figure(images, sheet).savefig(picture, dpi=120, format=sheet.out.suffix[1:] or "png")
    write_atomic(sheet.out, picture.getvalue())
    show(f"recipe {sheet.recipe}: {sheet.out}")


def sheet_figure(images: list[np.ndarray], sheet: Sheet) -> "Figure":
    """Draw each image [size, size, 3] in a row, with its draws by both back ends."""
    from matplotlib.figure import Figure

    columns = [("original", np.array(images))]
    for name, drawn in draws(images, sheet).items():
        columns += [(f"{name} {k + 1}", drawn[:, k]) for k in range(sheet.draws)]
    figure = Figure(figsize=(1.2 * len(columns), 1.25 * len(images) + 0.3), layout="constrained")
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for j, (name, column) in enumerate(columns):
        axes[0, j].set_title(name, fontsize=7)
        for i, image in enumerate(column):
            axes[i, j].imshow(image)
            axes[i, j].axis("off")
    return figure


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: draw_sheet(tyro.cli(Sheet)))
