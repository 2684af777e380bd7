import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.data.cache import ImageCache

IDS = ["b", "d", "a", "c"]
DIGEST = "0" * 64


def image(isic_id: str) -> np.ndarray:
    """Stand in for decoding: return a different image for each id."""
    return np.random.default_rng(ord(isic_id)).integers(0, 256, (6, 6, 3), dtype=np.uint8)


def test_rows_are_decoded_once_and_read_back(tmp_path):
    calls = []

    def counted(isic_id):
        calls.append(isic_id)
        return image(isic_id)

    cache = ImageCache(tmp_path, DIGEST, IDS, 6)
    cache.fill(["d", "c"], counted, workers=2)
    assert sorted(calls) == ["c", "d"]
    assert [isic_id in cache for isic_id in IDS] == [False, True, False, True]
    again = ImageCache(tmp_path, DIGEST, IDS, 6)
    again.fill(IDS, counted, workers=2)
    assert sorted(calls) == ["a", "b", "c", "d"]
    for isic_id in IDS:
        np.testing.assert_array_equal(again.read(isic_id), image(isic_id))


def test_a_table_in_another_order_shares_the_file(tmp_path):
    ImageCache(tmp_path, DIGEST, IDS, 6).fill(IDS, image, workers=1)
    other = ImageCache(tmp_path, DIGEST, sorted(IDS), 6)
    np.testing.assert_array_equal(other.read("a"), image("a"))


def test_another_dataset_or_size_has_another_file(tmp_path):
    ImageCache(tmp_path, DIGEST, IDS, 6).fill(IDS, image, workers=1)
    assert "a" in ImageCache(tmp_path, DIGEST, IDS, 6)
    assert "a" not in ImageCache(tmp_path, "1" * 64, IDS, 6)
    assert "a" not in ImageCache(tmp_path, DIGEST, IDS, 5)
    assert "a" not in ImageCache(tmp_path, DIGEST, IDS, 6, antialias=True)


def test_a_row_is_there_only_once_its_chunk_is_whole(tmp_path):

    def broken(isic_id):
        if isic_id == "c":
            raise InputError("image c cannot be decoded")
        return image(isic_id)

    with pytest.raises(InputError, match="cannot be decoded"):
        ImageCache(tmp_path, DIGEST, IDS, 6).fill(IDS, broken, workers=1, chunk=2)
    again = ImageCache(tmp_path, DIGEST, IDS, 6)
    assert [isic_id in again for isic_id in IDS] == [True, True, False, False]


def test_a_flipped_byte_is_found(tmp_path):
    ImageCache(tmp_path, DIGEST, IDS, 6).fill(IDS, image, workers=1)
    path = next(tmp_path.glob("*.u8"))
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    cache = ImageCache(tmp_path, DIGEST, IDS, 6)
    with pytest.raises(InputError, match="damaged"):
        cache.read("a")  # the first of the sorted ids
    cache.read("b")


def test_an_image_of_zeros_counts_as_there(tmp_path):
    cache = ImageCache(tmp_path, DIGEST, IDS, 6)
    cache.fill(["a"], lambda isic_id: np.zeros((6, 6, 3), np.uint8), workers=1)
    assert "a" in cache
