"""Copies that were saved again or resized are found, other lesions are not, and the hashes are kept."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from jaxlesion.data.decode import decode
from jaxlesion.data.duplicates import pixel_digests
from jaxlesion.data.near import (
    NEAR,
    across_folds,
    groups_of,
    kept_hashes,
    near_pairs,
    perceptual_hash,
    perceptual_hashes,
)
from jaxlesion.data.open import open_dataset


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


COPIES = {
    "saved again": lambda image: saved_again(image, 40),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.fixture(scope="module")
def dataset(demo):
    return open_dataset(demo)


@pytest.fixture(scope="module")
def hashes(dataset) -> np.ndarray:
    return perceptual_hashes(dataset.images, dataset.lesions["isic_id"])


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ other).sum())


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_near(copy, dataset):
    for isic_id in dataset.lesions["isic_id"][:20]:
        pixels = decode(dataset.images.read(isic_id), isic_id)
        changed = np.asarray(COPIES[copy](Image.fromarray(pixels)).convert("RGB"))
        assert distance(perceptual_hash(pixels), perceptual_hash(changed)) <= NEAR


def test_other_lesions_are_not_near(hashes):
    assert hashes.shape == (120, 4)
    assert near_pairs(hashes).shape == (0, 2)


def test_real_crops_are_not_near_one_another(real):
    dataset = open_dataset(real)
    hashes = perceptual_hashes(dataset.images, dataset.lesions["isic_id"][:1500])
    assert len(near_pairs(hashes, most=60)) == 0


def test_pairs_are_those_of_brute_force(hashes):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (300, 256), np.uint8)
    bits[100:200] = bits[:100]
    for row in bits[100:200]:
        row[rng.choice(256, rng.integers(0, 80), replace=False)] ^= 1
    packed = np.packbits(bits, axis=1).view(np.uint64)
    far = (bits[:, None] != bits[None]).sum(-1)
    expected = [(i, j) for i in range(300) for j in range(i + 1, 300) if far[i, j] <= NEAR]
    assert near_pairs(packed).tolist() == [list(pair) for pair in expected]
    some = np.arange(90, 110)
    expected = [pair for pair in expected if {*pair} & {*some.tolist()}]
    assert near_pairs(packed, some).tolist() == [list(pair) for pair in expected]


def test_groups_are_connected():
    pairs = np.array([[0, 4], [4, 2], [3, 5]])
    assert groups_of(pairs, 7).tolist() == [0, -1, 0, 1, 0, 1, -1]
    assert groups_of(np.empty((0, 2), int), 3).tolist() == [-1, -1, -1]


def test_only_groups_in_several_folds_are_across():
    hashes = np.zeros((6, 4), np.uint64)
    hashes[2:4] = np.uint64(2**64 - 1)
    hashes[4], hashes[5] = [[0, 0, 2**64 - 1, 2**64 - 1], [2**64 - 1, 2**64 - 1, 0, 0]]
    lesions = pd.DataFrame({"isic_id": list("abcdef"), "target": [0] * 6, "fold": [0, 1, 0, 0, 1, 1]})
    assert across_folds(lesions, hashes)["isic_id"].tolist() == ["a", "b"]


def test_hashes_are_kept_and_more_are_added(dataset, hashes, tmp_path):
    ids, path, computed = dataset.lesions["isic_id"].tolist(), tmp_path / "new" / "hashes.npz", []
    for some, new in ((ids[:10], 10), (ids[5:20][::-1], 10), (ids[:20], 0)):
        found = kept_hashes(dataset.images, some, path, after=computed.append)
        assert found[:, :4].tolist() == hashes[[ids.index(isic_id) for isic_id in some]].tolist()
        assert sum(computed) == new
        computed.clear()
    path.write_bytes(b"damaged")
    for where in (path, None):
        found = kept_hashes(dataset.images, ids[:3], where)
        assert found[:, :4].tolist() == hashes[:3].tolist()
        assert list(map(bytes, found[:, 4:])) == pixel_digests(dataset.images, ids[:3])
    assert kept_hashes(dataset.images, [], path).shape == (0, 6)
