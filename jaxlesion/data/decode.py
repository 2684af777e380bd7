"""Pixels of JPEG and PNG files from untrusted sources: the header is checked before anything is decoded."""

import functools
import importlib.util
import io
import os
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from jaxlesion.core.errors import InputError, Refused

if TYPE_CHECKING:
    import PIL.Image

STRIP = 2**20  # pixels that Pillow converts at a time
# One decoding takes less than 200 MB: OpenCV holds 6 bytes a pixel at its height, Pillow 7.
MAX_PIXELS = 25_000_000
# Of a JPEG in several scans all coefficients are held too, and make it 10.
MAX_PIXELS_IN_SCANS = 16_000_000
MAX_SCANS = 100  # of one JPEG; an encoder makes about ten, and each costs a pass over all pixels

# A second line behind the header check. OpenCV reads it once, while it is being imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))


def claimed_size(data: bytes) -> tuple[int, int]:
    """Read height and width from the header.

    Raises:
        Refused: neither JPEG nor PNG, of an unusual kind, too large, or visibly not whole.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            height, width, most = _jpeg_size(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            height, width, most = *_png_size(data), MAX_PIXELS
        else:
            raise Refused("is neither JPEG nor PNG")
    except struct.error:
        raise Refused("is cut short") from None
    if not 0 < height * width <= most:
        raise Refused(f"claims {width} x {height} pixels, where 1 to {most} are allowed")
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Walk the segments up to the first scan (ITU-T T.81, annex B), and refuse everything unusual there.

    Returns height, width and the number of pixels allowed.
    """
    at, size = 2, None
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFFFF:  # a fill byte
            at += 1
            continue
        if marker < 0xFFC0 or 0xFFD0 <= marker <= 0xFFD9 or length < 2:
            raise Refused("has a damaged JPEG header")
        if marker == 0xFFDA:
            (in_scan,) = struct.unpack_from(">B", data, at + 4)
            break
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # a start of frame
            precision, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if size or marker > 0xFFC2 or precision != 8 or channels not in (1, 3):
                raise Refused(f"is a JPEG of an unusual kind ({channels} channels, {precision} bit)")
            size, together = (height, width), None if marker == 0xFFC2 else channels
        at += 2 + length
    if size is None:
        raise Refused("has a damaged JPEG header")
    # Inside a scan 0xFF is always escaped, so these two are markers.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise Refused("is cut short (no end marker)")
    if data.count(b"\xff\xda", at) > MAX_SCANS:
        raise Refused(f"has over {MAX_SCANS} scans")
    return *size, MAX_PIXELS if in_scan == together else MAX_PIXELS_IN_SCANS


def _png_size(data: bytes) -> tuple[int, int]:
    """Walk all chunks, check their sums (PNG specification, 3rd edition, section 5), and return height and width."""
    at, size = 8, None
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if crc != zlib.crc32(data[at + 4 : at + 8 + length]) or (kind == b"IHDR") != (at == 8):
            raise Refused("is a damaged PNG")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            size = height, width
        elif kind == b"acTL":
            raise Refused("is an animated PNG")
        elif kind == b"IEND":
            return size
        at += 12 + length


def check(data: bytes, isic_id: str) -> None:
    """Raise the InputError of `decode` for a JPEG or PNG with bad headers or a missing end; 10 us for a crop."""
    try:
        claimed_size(data)
    except Refused as reason:
        raise _undecodable(isic_id, reason) from None


def _undecodable(isic_id: str, reason: Refused) -> InputError:
    return InputError(f"image {isic_id} {reason}; replace it by a sound JPEG or PNG or remove its row")


def decode(data: bytes, isic_id: str, *, opencv: bool | None = None) -> np.ndarray:
    """Decode a JPEG or PNG to uint8 [h, w, 3], red first, as stored: an EXIF orientation is not applied.

    Grey is repeated, transparency dropped, 16 bit cut to 8. Takes less than 200 MB.

    Args:
        data: the whole file.
        isic_id: named in errors.
        opencv: whether OpenCV decodes, or Pillow; None: OpenCV where it is installed.

    Raises:
        InputError: another kind (CMYK, animation, other formats), more than 25 megapixels (16 in a JPEG of several
            scans), or damage that shows.
    """
    try:
        size = claimed_size(data)
        pixels = _decode_cv2(data) if _use_opencv(opencv) else _decode_pillow(data, size)
        if pixels is None or pixels.shape != (*size, 3):
            raise Refused("cannot be decoded")
    except Refused as reason:
        raise _undecodable(isic_id, reason) from None
    return pixels


def resize(image: np.ndarray, size: int, *, opencv: bool | None = None) -> np.ndarray:
    """Resize a whole crop, uint8 [h, w, 3], to uint8 [size, size, 3] by bilinear interpolation.

    Its shape is not kept. Nothing is averaged when it shrinks: crops are 51 to 239 px wide. `opencv` as in `decode`;
    numpy, the other way, differs by one level at most.
    """
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


def _decode_pillow(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if (image.height, image.width) != size:  # Pillow reads the header otherwise
                return None
            pixels = np.empty((*size, 3), np.uint8)
            rows = max(1, STRIP // image.width)
            for top in range(0, image.height, rows):  # since Pillow copies an image three times to convert it
                bottom = min(top + rows, image.height)
                pixels[top:bottom] = _rgb(image.crop((0, top, image.width, bottom)))
            return pixels
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
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
