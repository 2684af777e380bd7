"""The TensorFlow dataset `isic2024`: the competition's folder as TFRecord files.

Importing this module registers the builder. Prepare it once, from a folder that holds
`train-metadata.csv` with `train-image.hdf5` or `train-image/image/`, and the same for test if there:

    import tensorflow_datasets as tfds
    import jaxlesion.data.isic2024

    config = tfds.download.DownloadConfig(manual_dir="competition")
    tfds.builder("isic2024", data_dir="prepared").download_and_prepare(download_config=config)
    lesions = tfds.load("isic2024", data_dir="prepared", split="train")

Nothing is downloaded. `prepared` also serves as --data-dir: beside the records lies the CSV they
were made from, byte for byte, so that the Lesions table, its folds and all pixels are those of the
competition's files. (Typed features alone would lose empty cells, 64-bit floats and unknown columns.)
A run resumes with either, since `fingerprint` reads the images' content. Only the default format, TFRecord,
is read back (`data.tfrecord`). Preparing keeps the records in memory: all 401,059 lesions need, by extrapolation from
7,399, 5 GB, 2.1 GB of disk and five minutes.
"""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from jaxlesion.data.dataset import Dataset
from jaxlesion.data.open import open_dataset
from jaxlesion.data.schema import KEYS, TRAIN_COLUMNS, is_label_side, is_number

COLUMNS = [c for c in TRAIN_COLUMNS if c not in KEYS]
NUMBERS = [c for c in COLUMNS if is_number(c)]


class Isic2024(tfds.core.GeneratorBasedBuilder):
    """Builds ISIC 2024 (SLICE-3D): crops of 3D total body photography, split `train` and, if its files exist, `test`.

    Records come in the order of the CSV. `image` holds the encoded bytes as they are and is decoded to
    uint8 [h, w, 3]; `target` is -1 and `patient_id` empty where unknown. `metadata` has the columns that
    the competition gives at test time; `diagnosis` has the columns that leak the label and must not enter a
    model. Typed features, unlike one JSON text, batch and decode within tf.data.
    Numbers are float32, missing ones NaN; missing text is empty. Other columns are in the CSV only.
    """

    code_path = None  # where checksums of downloads would lie; the default fails where importlib_resources is missing
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get the files of the ISIC 2024 challenge (kaggle.com/competitions/isic-2024-challenge) and give their folder "
        "as manual_dir: train-metadata.csv with train-image.hdf5 or train-image/image/, and the same for test."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        types = {c: np.float32 if c in NUMBERS else tfds.features.Text() for c in COLUMNS}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Lesion crops from 3D total body photography, benign or malignant, with metadata.",
            homepage="https://doi.org/10.34970/2024-slice-3d",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "isic_id": tfds.features.Text(),
                    "patient_id": tfds.features.Text(),
                    "target": tfds.features.ClassLabel(names=["benign", "malignant"]),
                    "metadata": {c: types[c] for c in COLUMNS if not is_label_side(c)},
                    "diagnosis": {c: types[c] for c in COLUMNS if is_label_side(c)},
                }
            ),
            supervised_keys=("image", "target"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        folder = Path(dl_manager.manual_dir)
        splits = ["train", "test"] if (folder / "test-metadata.csv").exists() else ["train"]
        return {split: self._generate_examples(folder, split) for split in splits}

    def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with (dataset := open_dataset(folder, split)).images:
            shutil.copyfile(dataset.metadata, self.data_path / dataset.metadata.name)
            yield from enumerate(_examples(dataset))


def _examples(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Yield one record per row, in order."""
    lesions = dataset.lesions.reindex(columns=[*KEYS[:3], *COLUMNS])
    numbers = lesions[NUMBERS].apply(pd.to_numeric, errors="coerce").astype(np.float32)
    target = pd.to_numeric(lesions["target"], errors="coerce").fillna(-1).astype(int)
    text = lesions.drop(columns=[*NUMBERS, "target"]).astype(object).fillna("").astype(str)
    table = pd.concat([text, numbers, target], axis=1)
    for values in table.itertuples(index=False, name=None):
        row = dict(zip(table.columns, values, strict=True))
        yield {
            "image": io.BytesIO(dataset.images.read(row["isic_id"])),
            **{key: row[key] for key in KEYS[:3]},
            "metadata": {c: row[c] for c in COLUMNS if not is_label_side(c)},
            "diagnosis": {c: row[c] for c in COLUMNS if is_label_side(c)},
        }
