"""The competition's folder: its tables, its images and their digest."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.data.decode import check
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.sources import ImageSource, open_images
from jaxlesion.data.tfrecord import PreparedImages

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """Holds one split: the Lesions table and the images of its rows."""

    lesions: pd.DataFrame
    images: ImageSource
    metadata: Path

    @property
    def unused_images(self) -> int:
        """Count the images that no row needs; they are ignored."""
        return len(self.images) - len(self.lesions)


def open_dataset(
    data_dir: Path, split: Split = "train", *, labelled: bool | None = None, columns: Collection[str] | None = None
) -> Dataset:
    """Open `<split>-metadata.csv` and `<split>-image.hdf5`, or the folder `<split>-image/image`, of `data_dir`.

    Args:
        data_dir: the folder, or one where the TensorFlow dataset isic2024 was prepared from it.
        split: train or test.
        labelled: whether targets and patients must be there; None: for train.
        columns: the wanted ones of the metadata; missing ones are ignored. None for every column.

    Raises:
        InputError: a file is missing or wrong, or a row has no image.
    """
    metadata, lesions = _table(data_dir, split, labelled, columns)
    folder = metadata.parent
    if (folder / "dataset_info.json").exists():
        images = PreparedImages(folder, split, lesions["isic_id"])
    else:
        images = open_images(_images_path(folder, split))
    images.require(lesions["isic_id"].tolist())
    return Dataset(lesions, images, metadata)


def read_table(data_dir: Path, split: Split = "train") -> pd.DataFrame:
    """Read the Lesions table of `<split>-metadata.csv`, as `open_dataset` does, where images are not needed.

    Raises:
        InputError: the file is missing or wrong.
    """
    return _table(data_dir, split)[1]


def _table(
    data_dir: Path, split: Split, labelled: bool | None = None, columns: Collection[str] | None = None
) -> tuple[Path, pd.DataFrame]:
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: give --data-dir the one that holds {split}-metadata.csv")
    folder = _folder(data_dir, split)
    metadata = folder / f"{split}-metadata.csv"
    if not metadata.is_file():
        raise InputError(f"{folder} has no {metadata.name}: give --data-dir the folder that holds it")
    return metadata, read_lesions(
        metadata, labelled=split == "train" if labelled is None else labelled, columns=columns
    )


def _folder(data_dir: Path, split: Split) -> Path:
    """Return the folder of `split`: `data_dir` itself, or the TensorFlow dataset that was prepared there."""
    prepared = sorted(data_dir.glob("isic2024/[0-9]*/dataset_info.json"))
    if not prepared or (data_dir / f"{split}-metadata.csv").exists():
        return data_dir
    if len(prepared) > 1:
        raise InputError(f"{data_dir} holds several versions of isic2024: give one, such as {prepared[-1].parent}")
    return prepared[0].parent


def _images_path(data_dir: Path, split: Split) -> Path:
    places = [data_dir / f"{split}-image.hdf5", data_dir / f"{split}-image" / "image"]
    for place in places:
        if place.exists():
            return place
    raise InputError(
        f"{data_dir} has neither {places[0].name} nor {split}-image/image/: one of them must hold the images"
    )


def fingerprint(dataset: Dataset, *, sound: bool = False) -> dict[str, str]:
    """Compute the SHA-256 of the metadata file, and of the needed images in the order of ids, however stored.

    With `sound`, InputError for the first image whose damage shows without decoding it.
    """
    digest = hashlib.sha256()
    for isic_id in sorted(dataset.lesions["isic_id"]):
        image = dataset.images.read(isic_id)
        if sound:
            check(image, isic_id)
        digest.update(isic_id.encode() + b"\0" + hashlib.sha256(image).digest())
    return {"metadata": sha256(dataset.metadata), "images": digest.hexdigest()}
