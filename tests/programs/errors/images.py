"""Mistakes in images and in what else training takes them with."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
from errors.case import IMAGE, SOUND, TRAIN, Case, change_row, changed_image, nothing

from jaxlesion import duplicates, train


def no_images() -> None:
    shutil.rmtree("data/train-image")


def without_tables(jpeg: bytes) -> bytes:
    """Whole, but no decoder can do with it."""
    return jpeg.replace(b"\xff\xdb", b"\xff\xfe")


def claiming(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + (30_000).to_bytes(2) * 2 + jpeg[at + 4 :]


def link_out_of_the_folder() -> None:
    Path("secret").write_bytes(IMAGE.read_bytes())
    IMAGE.unlink()
    IMAGE.symlink_to(Path("secret").resolve())


def pipe() -> None:
    IMAGE.unlink()
    os.mkfifo(IMAGE)


def link_out_of_the_file() -> None:
    with h5py.File("data/train-image.hdf5", "w") as file:
        for path in IMAGE.parent.iterdir():
            file[path.stem] = np.void(path.read_bytes())
        del file["ISIC_0007"]
        file["ISIC_0007"] = h5py.ExternalLink("secret.hdf5", "/ISIC_0007")


def damaged_hdf5() -> None:
    link_out_of_the_file()
    path = Path("data/train-image.hdf5")
    path.write_bytes(path.read_bytes()[:-1000])


GROUPS = {
    "Images": [
        Case(
            *("No images", no_images, train.main, TRAIN),
            "FOLDER/data has neither train-image.hdf5 nor train-image/image/: one of them must hold the images",
            "Put the competition's HDF5 file or its folder of JPEG files beside the table.",
        ),
        Case(
            *("A row without an image", change_row(0, "ISIC_9999"), train.main, TRAIN),
            "FOLDER/data/train-image/image: has no image 'ISIC_9999'; remove the row or add its image",
            "Add the image or remove the row. Images without a row are only counted.",
        ),
        Case(
            *("An image that is not whole", changed_image(lambda jpeg: jpeg[:-40]), train.main, TRAIN),
            f"image ISIC_0007 is cut short; {SOUND}",
            "Get the file again, or remove its row.",
        ),
        Case(
            *("An image of another format", changed_image(lambda jpeg: b"GIF89a" + jpeg), train.main, TRAIN),
            f"image ISIC_0007 is GIF, not JPEG, PNG, WebP, BMP or TIFF; {SOUND}",
            "Save it as JPEG or PNG; the ending of a file's name changes nothing.",
        ),
        Case(
            *("An image of very many pixels", changed_image(claiming), train.main, TRAIN),
            f"image ISIC_0007 claims 30000 x 30000 pixels, where 1 to 25000000 are allowed; {SOUND}",
            "Save it smaller: the network sees a few hundred pixels a side. A progressive JPEG may have 16 million.",
        ),
        Case(
            *("An image that cannot be decoded", changed_image(without_tables), train.main, TRAIN),
            f"image ISIC_0007 cannot be decoded; {SOUND}",
            "Get the file again, or remove its row.",
        ),
        Case(
            *("An image that is a link to elsewhere", link_out_of_the_folder, train.main, TRAIN),
            "FOLDER/data/train-image/image: image ISIC_0007 is a link that leads out of the folder; "
            "replace it or remove its row",
            "Put the file itself there. Links within the folder are followed.",
        ),
        Case(
            *("An image that is no file", pipe, train.main, TRAIN),
            "FOLDER/data/train-image/image: image ISIC_0007 is not a regular file; replace it or remove its row",
            "Put a file there; pipes, devices and folders are not read.",
        ),
        Case(
            *("A link in the HDF5 file", link_out_of_the_file, train.main, TRAIN),
            "FOLDER/data/train-image.hdf5: image ISIC_0007 is a link to somewhere else; replace it or remove its row",
            "Write the bytes themselves: links and data in other files are never followed.",
        ),
        Case(
            *("An HDF5 file that is cut short", damaged_hdf5, train.main, TRAIN),
            "FOLDER/data/train-image.hdf5: not a readable HDF5 file (...); give the file of images or get it again",
            "Get the file again.",
        ),
        Case(
            *("Fewer rows than a batch", nothing, train.main, (*TRAIN, "--data.batch-size", "22")),
            "20 training rows do not fill one batch: lower --data.batch-size",
            "Lower `--data.batch-size`, or keep more negatives.",
        ),
    ],
    "Duplicates": [
        Case(
            *("Neither data nor a run", nothing, duplicates.main, ()),
            "give --data-dir, a folder with train-metadata.csv, or --run, a run's folder",
            "Give one of the two.",
        ),
        Case(
            *("An image that cannot be decoded", changed_image(without_tables), duplicates.main),
            ("--data-dir", "data", "--out", "duplicates.csv"),
            f"image ISIC_0007 cannot be decoded; {SOUND}",
            "Get the file again, or remove its row.",
        ),
    ],
}
