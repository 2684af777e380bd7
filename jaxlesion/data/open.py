"""From a folder as people have it to a Dataset: one function for each layout.

Every layout ends in the same Lesions table and images. `open_dataset` takes the first that fits.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from jaxlesion.core.config import Layout
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import ignore
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.identity import IMAGE_SUFFIX
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.sources import FolderImages, ImageSource, NoImages, holds_images, open_images
from jaxlesion.data.spellings import BENIGN, MALIGNANT, positives, recognise
from jaxlesion.data.tables import TABLE_SUFFIXES, read_header
from jaxlesion.data.tfrecord import PreparedImages

Split = Literal["train", "test"]
HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class _Wanted:
    """A split of a folder, and how to read it."""

    folder: Path
    split: Split
    layout: Layout
    labelled: bool
    columns: Collection[str] | None
    say: Callable[[str], None]

    def dataset(self, table: Path) -> Dataset:
        lesions = self.lesions(table)
        return Dataset(lesions, _images(self, lesions), table)

    def lesions(self, table: Path) -> pd.DataFrame:
        return read_lesions(table, labelled=self.labelled, columns=self.columns, layout=self.layout, say=self.say)


def open_dataset(
    data_dir: Path,
    split: Split = "train",
    layout: Layout | None = None,
    *,
    labelled: bool | None = None,
    columns: Collection[str] | None = None,
    say: Callable[[str], None] = ignore,
) -> Dataset:
    """Open one split of a folder.

    Args:
        data_dir: in the layout of the competition, or another one that docs/data.md lists.
        split: train or test.
        layout: the table and the meaning of its columns, where these do not follow from the folder.
        labelled: whether targets must be there; None: for train.
        columns: the wanted ones of the metadata; missing ones are ignored. None for every column.
        say: called with sentences on how the folder was understood.

    Raises:
        InputError: a file is missing or wrong, or a row has no image.
    """
    wanted = _wanted(data_dir, split, layout, labelled, columns, say)
    for read in (_named_table, _prepared, _competition, _class_folders, _other_table, _images_alone):
        if (dataset := read(wanted)) is not None:
            dataset.images.require(dataset.lesions["isic_id"].tolist())
            return dataset
    raise InputError(_nothing(wanted))


def open_metadata(
    data_dir: Path,
    split: Split = "train",
    layout: Layout | None = None,
    *,
    labelled: bool | None = None,
    columns: Collection[str] | None = None,
    say: Callable[[str], None] = ignore,
) -> Dataset:
    """Open the table that `open_dataset` would, where images are not needed; arguments as there.

    Raises:
        InputError: the file is missing or wrong.
    """
    wanted = _wanted(data_dir, split, layout, labelled, columns, say)
    if (table := _table_of(wanted)) is None:
        raise InputError(_nothing(wanted))
    return Dataset(wanted.lesions(table), NoImages(table), table)


def open_table(
    data_dir: Path,
    split: Split = "train",
    layout: Layout | None = None,
    *,
    columns: Collection[str] | None = None,
    say: Callable[[str], None] = ignore,
) -> pd.DataFrame:
    """Read the Lesions table of `open_metadata`."""
    return open_metadata(data_dir, split, layout, columns=columns, say=say).lesions


def read_from(data_dir: Path) -> Iterator[Path]:
    """Yield the files and folders of a folder that some layout reads, whether they are there or not."""
    if (data_dir / "dataset_info.json").exists():
        yield data_dir
    yield data_dir / "isic2024"
    for split in ("train", "test"):
        yield from (data_dir / f"{split}-{name}" for name in ("image", *(f"image{end}" for end in HDF5_SUFFIXES)))
        yield from (data_dir / f"{split}-metadata{suffix}" for suffix in TABLE_SUFFIXES)
    for path in sorted(data_dir.iterdir()) if data_dir.is_dir() else ():
        is_image = IMAGE_SUFFIX.search(path.name) or path.suffix.lower() in HDF5_SUFFIXES
        if is_image or (path.is_dir() and holds_images(path, deep=True)):
            yield path
    if data_dir.is_dir():
        yield from _known_tables(data_dir, Layout(), labelled=False)


def _wanted(
    data_dir: Path,
    split: Split,
    layout: Layout | None,
    labelled: bool | None,
    columns: Collection[str] | None,
    say: Callable[[str], None],
) -> _Wanted:
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: give --data-dir the one that holds {split}-metadata.csv")
    return _Wanted(
        data_dir, split, layout or Layout(), split == "train" if labelled is None else labelled, columns, say
    )


def _nothing(wanted: _Wanted) -> str:
    """Say that no layout fits, and what is there."""
    folder, name = wanted.folder, f"{wanted.split}-metadata.csv"
    if wanted.split == "test" and (train := _standard_table(folder, "train")) is not None:
        return f"{folder} has no {name}: give the folder that holds it, or --data.table {train} to predict its rows"
    if tables := _tables(folder):
        names = ", ".join(path.name for path in tables[:5])
        return (
            f"{folder} has no {name}, and {names} is no table that is known here: name the table by --data.table and "
            "its columns by --data.columns"
        )
    return f"{folder} has no {name}: give --data-dir the folder that holds it"


# The layouts


def _named_table(wanted: _Wanted) -> Dataset | None:
    """Open the table that is named, and the images of the folder."""
    table = wanted.layout.table
    return None if table is None else wanted.dataset(table)


def _prepared(wanted: _Wanted) -> Dataset | None:
    """Open the TensorFlow dataset `isic2024`."""
    if (folder := _prepared_folder(wanted)) is None:
        return None
    table = folder / f"{wanted.split}-metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} has no {table.name}: prepare it again from a folder that has one")
    lesions = wanted.lesions(table)
    return Dataset(lesions, PreparedImages(folder, wanted.split, lesions["isic_id"]), table)


def _competition(wanted: _Wanted) -> Dataset | None:
    """Open `<split>-metadata.csv` and `<split>-image.hdf5`, or the images of another file or folder beside it."""
    table = _standard_table(wanted.folder, wanted.split)
    return None if table is None else wanted.dataset(table)


def _class_folders(wanted: _Wanted) -> Dataset | None:
    """Open a folder for each class, such as `benign/` and `malignant/`, also within `train/` or `test/`."""
    root, classes = _classes(wanted)
    if len(classes) < 2 or _tables(root):
        return None
    malignant = positives(wanted.layout) or MALIGNANT
    known = {folder.name.casefold() for folder in classes} <= {*MALIGNANT, *BENIGN} or wanted.layout.positive
    chosen = [folder.name for folder in classes if folder.name.casefold() in malignant]
    names = ", ".join(folder.name for folder in classes[:10])
    if not (known and chosen):
        raise InputError(f"{root}: which of the folders {names} mean malignant? Name them by --data.positive")
    wanted.say(f"{root}: a folder for each class, {names}; malignant: {', '.join(chosen)}")
    images = FolderImages(root, classes, rename=True)
    ids = list(images.ids)
    target = [int(Path(images.file(isic_id)).parent.name in chosen) for isic_id in ids]
    lesions = pd.DataFrame({"isic_id": pd.array(ids, "string"), "target": np.array(target, np.int8)})
    return Dataset(lesions, images, root)


def _other_table(wanted: _Wanted) -> Dataset | None:
    """Open the only table of a folder that has one whose columns are known, and its images."""
    table = _known_table(wanted)
    return None if table is None else wanted.dataset(table)


def _images_alone(wanted: _Wanted) -> Dataset | None:
    """Open a folder of images without a table, to predict them all."""
    if wanted.labelled or _tables(wanted.folder) or not holds_images(wanted.folder):
        return None
    images = FolderImages(wanted.folder, rename=True)
    return Dataset(pd.DataFrame({"isic_id": pd.array(list(images.ids), "string")}), images, wanted.folder)


# Their parts


def _table_of(wanted: _Wanted) -> Path | None:
    """Return the file of the table that the first fitting layout reads."""
    if wanted.layout.table is not None:
        return wanted.layout.table
    if (folder := _prepared_folder(wanted)) is not None:
        return folder / f"{wanted.split}-metadata.csv"
    return _standard_table(wanted.folder, wanted.split) or _known_table(wanted)


def _prepared_folder(wanted: _Wanted) -> Path | None:
    """Return the folder of the TensorFlow dataset that `data_dir` is, or that was prepared in it."""
    if (wanted.folder / "dataset_info.json").exists():
        return wanted.folder
    prepared = sorted(wanted.folder.glob("isic2024/[0-9]*/dataset_info.json"))
    if not prepared or _standard_table(wanted.folder, wanted.split) is not None:
        return None
    if len(prepared) > 1:
        raise InputError(f"{wanted.folder} holds several versions of isic2024: give one, such as {prepared[-1].parent}")
    return prepared[0].parent


def _standard_table(folder: Path, split: Split) -> Path | None:
    paths = (folder / f"{split}-metadata{suffix}" for suffix in TABLE_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(TABLE_SUFFIXES))


def _known_table(wanted: _Wanted) -> Path | None:
    """Return the only table of the folder whose columns are known."""
    known = list(_known_tables(wanted.folder, wanted.layout, labelled=wanted.labelled))
    if len(known) > 1:
        raise InputError(
            f"{wanted.folder} has several tables of lesions ({', '.join(p.name for p in known[:5])}): name one by "
            "--data.table"
        )
    return known[0] if known else None


def _known_tables(folder: Path, layout: Layout, *, labelled: bool) -> Iterator[Path]:
    """Yield the tables of lesions under other names than the competition's; tables of predictions are none."""
    for path in _tables(folder):
        if path.name.startswith(("train-metadata.", "test-metadata.")):
            continue
        try:
            names = read_header(path)
        except InputError:  # not a table: said where it is named
            continue
        spelling = recognise(names, layout)
        needed = {spelling.isic_id, *(spelling.target if labelled else ())}
        if needed <= set(names) and (spelling.target or not labelled) and "prediction" not in names:
            yield path


def _classes(wanted: _Wanted) -> tuple[Path, list[Path]]:
    """Return the folder of the class folders, and these, by name."""
    inner = wanted.folder / wanted.split
    root = inner if inner.is_dir() else wanted.folder
    return root, sorted(path for path in root.iterdir() if path.is_dir() and holds_images(path))


def _image_places(folder: Path, split: Split) -> Iterator[Path]:
    name = f"{split}-image"
    yield from (folder / f"{name}{suffix}" for suffix in HDF5_SUFFIXES)
    yield folder / name / "image"
    yield folder / name


def _images(wanted: _Wanted, lesions: pd.DataFrame) -> ImageSource:
    """Open the images of a table: by their usual place, else the only HDF5 file, else all files of the folder."""
    folder, split = wanted.folder, wanted.split
    other: Split = "test" if split == "train" else "train"
    places = [place for place in _image_places(folder, split) if place.exists()]
    if wanted.layout.table is not None:  # which may be that of the other split
        places += [place for place in _image_places(folder, other) if place.exists()]
    for place in places:
        images = open_images(place)
        if len(places) == 1 or wanted.layout.table is None or lesions["isic_id"].iloc[0] in images:
            return images
        images.close()
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.stem != f"{other}-image")
    hdf5 = [path for path in files if path.suffix.lower() in HDF5_SUFFIXES]
    if len(hdf5) > 1:
        names = ", ".join(path.name for path in hdf5[:5])
        raise InputError(f"{folder}: which of {names} holds the images? Call it {split}-image.hdf5")
    if hdf5:
        return open_images(hdf5[0])
    if not holds_images(folder, deep=True):
        usual = [str(place.relative_to(folder)) for place in _image_places(folder, split)]
        raise InputError(f"{folder} has neither {usual[0]} nor {usual[2]}/: one of them must hold the images")
    return FolderImages(folder, deep=True)
