"""What the header of a JPEG or PNG claims, read without decoding anything."""

import struct
import zlib

from jaxlesion.data.hdf5 import Refused

# What one decoding takes stays below 200 MB: OpenCV holds 6 bytes a pixel at its height, Pillow 7.
MAX_PIXELS = 25_000_000
# Of a JPEG in several scans all coefficients are held too, and make it 10.
MAX_PIXELS_IN_SCANS = 16_000_000
MAX_SCANS = 100  # of one JPEG; an encoder makes about ten, and each costs a pass over all pixels


def claimed_size(data: bytes) -> tuple[int, int]:
    """Height and width by the header.

    Raises Refused for what is neither JPEG nor PNG, of an unusual kind, too large, or visibly not whole.
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
    """Walk the segments up to the first scan (ITU-T T.81, annex B): refuse whatever is not plain there.

    Height, width and how many pixels are allowed.
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
            return size
        at += 12 + length
