"""One split of a data set: its Lesions table, its images and their digest."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.data.decode import check
from jaxlesion.data.sources import NAMED, ImageSource, NoImages


@dataclass(frozen=True)
class Dataset:
    """Holds one split: the Lesions table and the images of its rows."""

    lesions: pd.DataFrame
    images: ImageSource
    metadata: Path
    """The file of the table; a folder where the table is made from the images' names."""

    @property
    def unused_images(self) -> int:
        """Count the images that no row needs; they are ignored."""
        return 0 if isinstance(self.images, NoImages) else len(self.images) - len(self.lesions)


def fingerprint(dataset: Dataset, *, sound: bool = False) -> dict[str, str]:
    """Compute the SHA-256 of the metadata file, and of the needed images in the order of ids, however stored.

    Of a table that was opened without images, the first alone.

    With `sound`, InputError that counts the images whose damage shows without decoding them, and names the first.
    """
    if isinstance(dataset.images, NoImages):
        return {"metadata": _table_digest(dataset)}
    digest, faults = hashlib.sha256(), []
    for isic_id in sorted(dataset.lesions["isic_id"]):
        try:
            image = dataset.images.read(isic_id)
            if sound:
                check(image, isic_id)
        except InputError as error:
            if not sound:
                raise
            faults.append(str(error))
            continue
        digest.update(isic_id.encode() + b"\0" + hashlib.sha256(image).digest())
    _refuse(dataset, faults)
    return {"metadata": _table_digest(dataset), "images": digest.hexdigest()}


def _refuse(dataset: Dataset, faults: list[str]) -> None:
    """Raise InputError for images that cannot be used: one in its own words, several counted and the first named."""
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        whats = (fault.removeprefix(f"{dataset.images.path}: ").removeprefix("image ") for fault in faults[:NAMED])
        named = ", ".join(what.rpartition("; ")[0] for what in whats) + (", ..." if len(faults) > NAMED else "")
        raise InputError(
            f"{dataset.images.path}: {len(faults):,} of {len(dataset.lesions):,} images cannot be used: {named}; "
            "replace them by sound images or remove their rows"
        )


def _table_digest(dataset: Dataset) -> str:
    if dataset.metadata.is_file():
        return sha256(dataset.metadata)
    return hashlib.sha256(dataset.lesions.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
