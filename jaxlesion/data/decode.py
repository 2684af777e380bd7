"""Pixels of image files from untrusted sources: the header is checked before anything is decoded."""

import functools
import importlib.util
import io
import os
from typing import TYPE_CHECKING

import numpy as np

from jaxlesion.core.errors import InputError, Refused
from jaxlesion.data.headers import MAX_PIXELS, Claim, read_header

if TYPE_CHECKING:
    import PIL.Image

STRIP = 2**20  # pixels that Pillow converts at a time

# A second line behind the header check. OpenCV reads it once, while it is being imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))


def check(data: bytes, isic_id: str) -> None:
    """Raise the InputError of `decode` for bad headers or a missing end; takes 10 us for a crop."""
    try:
        read_header(data)
    except Refused as reason:
        raise _undecodable(isic_id, reason) from None


def _undecodable(isic_id: str, reason: Refused) -> InputError:
    return InputError(f"image {isic_id} {reason}; replace it by a sound image or remove its row")


def raw_image(pixels: np.ndarray) -> bytes:
    """Return uint8 [h, w, 3] as a file that `decode` gives back: the pixels behind a header (PPM)."""
    height, width, _ = pixels.shape
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def decode(data: bytes, isic_id: str, *, opencv: bool | None = None) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, BMP or TIFF to uint8 [h, w, 3], red first, as stored: no EXIF orientation is applied.

    Grey is repeated, transparency dropped, 16 bit cut to 8. Takes less than 200 MB.

    Args:
        data: the whole file.
        isic_id: named in errors.
        opencv: whether OpenCV decodes JPEG and PNG, or Pillow; None: OpenCV where it is installed.

    Raises:
        InputError: another kind (CMYK, animation, other formats), more than 25 megapixels (16 in a JPEG of several
            scans), or damage that shows.
    """
    try:
        claim = read_header(data)
        size = (claim.height, claim.width)
        if claim.form == "PPM":
            return np.frombuffer(data, np.uint8)[-3 * size[0] * size[1] :].reshape(*size, 3)
        with_opencv = claim.form in ("JPEG", "PNG") and _use_opencv(opencv)
        pixels = _decode_cv2(data) if with_opencv else _decode_pillow(data, claim)
        if pixels is None or pixels.shape != (*size, 3):
            raise Refused("cannot be decoded")
    except Refused as reason:
        raise _undecodable(isic_id, reason) from None
    return pixels


def resize(image: np.ndarray, size: int, *, antialias: bool = False, opencv: bool | None = None) -> np.ndarray:
    """Resize a whole crop, uint8 [h, w, 3], to uint8 [size, size, 3] by bilinear interpolation.

    Its shape is not kept. Nothing is averaged when it shrinks (crops are 51 to 239 px wide), unless with `antialias`,
    where the filter widens with the factor, as Pillow does it. `opencv` as in `decode`; numpy, the other way, differs
    by one level at most.
    """
    if antialias:
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    if not _use_opencv(opencv):
        return _resize_numpy(image, size)
    import cv2

    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _use_opencv(wanted: bool | None) -> bool:
    return _has_opencv() if wanted is None else wanted


@functools.cache
def _has_opencv() -> bool:
    """Return whether OpenCV is installed. On accelerators it often is not: Pillow decodes and numpy resizes there."""
    return importlib.util.find_spec("cv2") is not None


def _decode_cv2(data: bytes) -> np.ndarray | None:
    import cv2

    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def _decode_pillow(data: bytes, claim: Claim) -> np.ndarray | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=(claim.form,)) as image:
            if (image.height, image.width) != (claim.height, claim.width):  # Pillow reads the header otherwise
                return None
            pixels = np.empty((image.height, image.width, 3), np.uint8)
            rows = max(1, STRIP // image.width)
            for top in range(0, image.height, rows):  # since Pillow copies an image three times to convert it
                bottom = min(top + rows, image.height)
                pixels[top:bottom] = _rgb(image.crop((0, top, image.width, bottom)))
            return pixels
    except MemoryError:
        raise
    except Exception:  # for damage, readers of TIFF and BMP raise nearly anything
        return None


def _rgb(image: "PIL.Image.Image") -> np.ndarray:
    """Convert to uint8 [h, w, 3], or [h, w, 1] where the image is 16-bit grey."""
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip instead of scale
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    return np.asarray(image.convert("RGB"))


def _resize_numpy(image: np.ndarray, size: int) -> np.ndarray:
    """Resize as cv2.INTER_LINEAR does, within one level: pixel centres aligned, edges repeated."""
    for axis in (0, 1):
        length = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = at.astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        weight = (at - low).astype(np.float32).reshape(-1, *(1,) * (2 - axis))
        image = np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
    return np.rint(image).astype(np.uint8)
