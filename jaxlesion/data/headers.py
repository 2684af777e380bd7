"""Headers of image files from untrusted sources: kind, size and completeness, before anything is decoded."""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from jaxlesion.core.errors import Refused

# One decoding takes less than 200 MB: OpenCV holds 6 bytes a pixel at its height, Pillow 7.
MAX_PIXELS = 25_000_000
# Of a JPEG in several scans all coefficients are held too, and make it 10.
MAX_PIXELS_IN_SCANS = 16_000_000
MAX_SCANS = 100  # of one JPEG; an encoder makes about ten, and each costs a pass over all pixels

# Other files that are found among images: where their mark is, and what they are.
_OTHERS = (
    (4, b"ftypavif", "AVIF"), (4, b"ftyp", "HEIC, or a video"), (128, b"DICM", "DICOM"), (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"), (0, b"PK\x03\x04", "a ZIP archive"), (0, b"\x1f\x8b", "gzip"), (0, b"\x89HDF", "HDF5"),
    (0, b"8BPS", "Photoshop"), (0, b"\0\0\0\x0cjP", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"<svg", "SVG"), (0, b"<!DOCTYPE", "HTML"), (0, b"<html", "HTML"), (0, b"<?xml", "XML"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself"), (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
)  # fmt: skip


class Claim(NamedTuple):
    """Format and size that the header of an image claims."""

    form: str
    """Name of the format, as Pillow calls it."""
    height: int
    width: int


def read_header(data: bytes) -> Claim:
    """Read format, height and width from the header.

    Raises:
        Refused: no image of a known format, of an unusual kind, too large, or visibly not whole.
    """
    for magic, form, size in _FORMATS:
        if data.startswith(magic) and (form != "WEBP" or data[8:12] == b"WEBP"):
            try:
                height, width, most = size(data)
            except struct.error:
                raise Refused("is cut short") from None
            if not (height > 0 < width and height * width <= most):
                raise Refused(f"claims {width} x {height} pixels, where 1 to {most} are allowed")
            return Claim(form, height, width)
    start = data[:200].lstrip()
    for at, mark, name in _OTHERS:
        if (data if at else start)[at:].startswith(mark):
            raise Refused(f"is {name}, not JPEG, PNG, WebP, BMP or TIFF")
    raise Refused("is not JPEG, PNG, WebP, BMP or TIFF")


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


def _png_size(data: bytes) -> tuple[int, int, int]:
    """Walk all chunks and check their sums (PNG specification, 3rd edition, section 5)."""
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
            return *size, MAX_PIXELS
        at += 12 + length


def _webp_size(data: bytes) -> tuple[int, int, int]:
    """Read the first chunk (RFC 9649); an animation is refused."""
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data):
        raise Refused("is cut short")
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 2:
            raise Refused("is an animated WebP")
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise Refused("has a damaged WebP header")
    return height, width, MAX_PIXELS


def _bmp_size(data: bytes) -> tuple[int, int, int]:
    """Read the header of a bitmap without compression, and check that all its rows are there."""
    start, header, width, height, _, depth, packed = struct.unpack_from("<IIiiHHI", data, 10)
    if header not in (40, 108, 124) or depth not in (1, 4, 8, 24, 32) or packed not in (0, 3):
        raise Refused("is a BMP of an unusual kind")
    height = abs(height)  # negative where the first row is at the top
    if 0 < width * height <= MAX_PIXELS and start + (width * depth + 31) // 32 * 4 * height > len(data):
        raise Refused("is cut short")
    return height, width, MAX_PIXELS


def _tiff_size(data: bytes) -> tuple[int, int, int]:
    """Read the tags of the only page (TIFF 6.0, sections 2 and 8); tiles and rare compressions are refused."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
        code, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if code and values <= 4:
            place = entry + 8 if values * size <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
            tags[tag] = struct.unpack_from(f"{order}{values}{code}", data, place)
        else:
            tags[tag] = ()
    (more,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)
    if more:
        raise Refused("is a TIFF of several pages")
    first = {tag: values[0] for tag, values in tags.items() if values}
    depths, samples = set(tags.get(258, (1,))), first.get(277, 1)
    usual = (
        (depths == {8} and samples in (1, 3, 4)) or (depths <= {1, 16} and samples == 1),
        first.get(259, 1) in (1, 5, 8, 32773, 32946),  # none, LZW, deflate, PackBits, deflate
        first.get(262) in (0, 1, 2, 3),  # grey, RGB, palette
        first.get(339, 1) == 1,  # whole numbers
        322 not in tags,  # no tiles
    )
    if not all(usual) or 256 not in first or 257 not in first:
        raise Refused("is a TIFF of an unusual kind")
    return first[257], first[256], MAX_PIXELS


def _ppm_size(data: bytes) -> tuple[int, int, int]:
    """Read the header of raw pixels, as `raw_image` writes it."""
    try:
        magic, size, most, _ = data.split(b"\n", 3)
        width, height = map(int, size.split(b" "))
    except ValueError:
        raise Refused("is a PPM of an unusual kind") from None
    if most != b"255" or len(data) != len(magic + size + most) + 3 + 3 * height * width:
        raise Refused("is a PPM of an unusual kind, or cut short")
    return height, width, MAX_PIXELS


_FORMATS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int, int]]], ...] = (
    (b"\xff\xd8\xff", "JPEG", _jpeg_size),
    (b"\x89PNG\r\n\x1a\n", "PNG", _png_size),
    (b"RIFF", "WEBP", _webp_size),
    (b"BM", "BMP", _bmp_size),
    (b"II*\0", "TIFF", _tiff_size),
    (b"MM\0*", "TIFF", _tiff_size),
    (b"P6\n", "PPM", _ppm_size),
)
