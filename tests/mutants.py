"""Malformed images and HDF5 files, made by seed; as a program, reads them and measures memory.

python tests/mutants.py opencv 0 1000
python tests/mutants.py hdf5 0 1000

prints number, kind and outcome of mutants 0 to 999, then the growth of the peak resident memory in bytes. Any outcome
but pixels or an InputError ends the process.
"""

import functools
import io
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

LARGE_EVERY = 150  # one in so many mutants has about the largest allowed size, and takes a second
PHOTO = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8).repeat(6, 0).repeat(9, 1)  # 48 x 54


# Sound files


def saved(mode: str, form: str, **options: object) -> bytes:
    """Encode the picture in one of Pillow's modes and formats."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with the correct checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def png(
    width: int, height: int, colour: int = 2, depth: int = 8, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """Return a PNG of any kind, using little memory; its first row is noise, all others are 0."""
    packed, rng = zlib.compressobj(6), random.Random(0)
    content = []
    for top, left, down, right in PASSES if interlaced else [(0, 0, 1, 1)]:
        if left >= width:
            continue
        row = bytes(1 + (-(-(width - left) // right) * CHANNELS[colour] * depth + 7) // 8)
        for y in range(top, height, down):
            content.append(packed.compress(row if y else b"\0" + rng.randbytes(len(row) - 1)))
    content.append(packed.flush())
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + palette + extra + chunk(b"IDAT", b"".join(content)) + chunk(b"IEND", b"")


KINDS_OF_PNG = [(0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]


@functools.cache
def sound_jpegs() -> list[bytes]:
    """Return the usual kinds of JPEG."""
    usual = [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 100}]
    return [saved("RGB", "JPEG", **options) for options in usual] + [saved("L", "JPEG")]


@functools.cache
def sound_pngs() -> list[bytes]:
    """Return every kind of PNG, interlaced too."""
    return [png(30, 20, colour, depth, interlaced) for colour, depth in KINDS_OF_PNG for interlaced in (False, True)]


def sound(rng: random.Random) -> bytes:
    return rng.choice([*sound_jpegs(), *sound_pngs()])


# Mutations, each a function of a random generator


def cut(rng: random.Random) -> bytes:
    data = sound(rng)
    return data[: rng.randrange(len(data))]


def flipped_bits(rng: random.Random) -> bytes:
    data = bytearray(sound(rng))
    for _ in range(rng.choice([1, 1, 2, 5, 50])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flipped_scan(rng: random.Random) -> bytes:
    """Return a JPEG with valid headers and a damaged scan."""
    data = bytearray(rng.choice(sound_jpegs()))
    start = data.index(b"\xff\xda") + 12
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(start, len(data) - 2)] = rng.randrange(255)
    return bytes(data)


def edited_header(rng: random.Random) -> bytes:
    """Return a JPEG with changed bytes before its first scan."""
    data = bytearray(rng.choice(sound_jpegs()))
    end = data.index(b"\xff\xda") + 12
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(2, end)] = rng.choice([0, 1, 2, 127, 128, 254, 255])
    return bytes(data)


def edited_chunk(rng: random.Random) -> bytes:
    """Return a PNG with changed bytes in a chunk and a matching checksum."""
    data = rng.choice(sound_pngs())
    at, places = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        places.append((at, length))
        at += 12 + length
    at, length = rng.choice(places)
    content = bytearray(data[at + 8 : at + 8 + length] or b"\0")
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] = rng.choice([0, 1, 2, 3, 8, 16, 127, 255])
    kind = rng.choice([data[at + 4 : at + 8]] * 5 + [b"IDAT", b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"fdAT"])
    return data[:at] + chunk(kind, bytes(content)) + data[at + 12 + length :]


def spliced(rng: random.Random) -> bytes:
    one, other = sound(rng), sound(rng)
    return one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]


def repeated(rng: random.Random) -> bytes:
    """Return an image with a piece left out or repeated several times."""
    data = sound(rng)
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:a] + data[a:b] * rng.choice([0, 2, 20]) + data[b:]


def other_format(rng: random.Random) -> bytes:
    """Return a file of another format, sometimes behind the first bytes of a JPEG or PNG."""
    form = rng.choice(["GIF", "ICO", "TGA", "JPEG2000", "text", "zip", "noise", ""])
    data = {"text": b"<svg><script>", "zip": b"PK\x03\x04", "noise": rng.randbytes(500), "": b""}.get(form)
    start = rng.choice([b"", b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"\x89PNG\r\n\x1a\n"])
    return start + (saved("P" if form == "GIF" else "RGB", form) if data is None else data)


def changed_format(rng: random.Random) -> bytes:
    """Return a WebP, BMP, TIFF or PPM with some changed bytes, or a part of one."""
    form = rng.choice(["WEBP", "BMP", "TIFF", "PPM"])
    options = {"compression": rng.choice([None, "tiff_lzw", "tiff_deflate", "packbits"])} if form == "TIFF" else {}
    data = bytearray(saved(rng.choice(["RGB", "L"]), form, **options))
    for _ in range(rng.choice([0, 1, 2, 5, 20])):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.choice([*range(60), *range(-200, 0)])
        data[at] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)


def cmyk(rng: random.Random) -> bytes:
    data = bytearray(saved("CMYK", "JPEG", progressive=rng.random() < 0.5))
    if (at := data.find(b"Adobe")) >= 0:
        data[at + 11] = rng.randrange(4)  # the transform: none, YCC, YCCK
    return bytes(data)


def sixteen_bit(rng: random.Random) -> bytes:
    return png(rng.randint(1, 60), rng.randint(1, 60), rng.choice([0, 2, 4, 6]), 16, rng.random() < 0.5)


def exif(rng: random.Random) -> bytes:
    """Return an image with an EXIF orientation, or with false types and counts, or a self-referring directory."""
    entries = [(0x0112, 3, 1, rng.randint(0, 9))] if rng.random() < 0.5 else []
    entries += [
        (rng.choice([0x8769, 0x0111, 0x927C, 0xB002]), rng.randrange(14), rng.choice([1, 2**31, 2**32 - 1]), 8)
        for _ in range(rng.randrange(4))
    ]
    order = rng.choice("<>")
    tiff = b"II*\0" if order == "<" else b"MM\0*"
    tiff += struct.pack(f"{order}IH", 8, rng.choice([len(entries), 65535]))
    tiff += b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries) + struct.pack(f"{order}I", 8)
    if rng.random() < 0.5:
        return png(9, 7, extra=chunk(b"eXIf", tiff))
    return with_segment(rng.choice(sound_jpegs()), rng.choice([0xFFE1] * 3 + [0xFFE2]), b"Exif\0\0" + tiff)


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">HH", marker, len(content) + 2) + content + jpeg[2:]


def segments(rng: random.Random) -> bytes:
    """Return a JPEG with a segment that decoders parse: multi-picture, profile, Adobe, Photoshop or JFIF."""
    name = rng.choice([b"MPF\0II*\0\x08\0\0\0", b"ICC_PROFILE\0\1\1", b"Adobe", b"Photoshop 3.0\x008BIM", b"JFIF\0"])
    marker = rng.choice([0xFFE0, 0xFFE1, 0xFFE2, 0xFFED, 0xFFEE, 0xFFFE])
    return with_segment(rng.choice(sound_jpegs()), marker, name + rng.randbytes(rng.choice([0, 10, 300, 65000])))


def many_scans(rng: random.Random) -> bytes:
    data = sound_jpegs()[2]
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * rng.choice([1, 10, 80, 100, 1000]) + data[-2:]


SIZES = (0, 1, 65535, 30000, 2**15, 4000)


def claim(rng: random.Random) -> bytes:
    """Return a small file with a false size, often 30000 x 30000, or zero."""
    width, height = (30000, 30000) if rng.random() < 0.3 else (rng.choice(SIZES), rng.choice(SIZES))
    if rng.random() < 0.5:
        return claiming(rng.choice(sound_jpegs()), width, height)
    kind = struct.pack(">BBBBB", rng.choice([1, 8, 16]), rng.choice([0, 2, 4, 6]), 0, 0, rng.randrange(2))
    big = rng.choice([1, 1, 2**16 - 1])
    return png(4, 4)[:8] + chunk(b"IHDR", struct.pack(">II", width * big, height) + kind) + png(4, 4)[33:]


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """Return the same JPEG with a changed size in its start of frame."""
    at = max(jpeg.find(b"\xff\xc0\x00"), jpeg.find(b"\xff\xc2\x00"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


@functools.cache
def zeros(megabytes: int) -> bytes:
    packed = zlib.compressobj(9)
    return b"".join([packed.compress(bytes(2**20)) for _ in range(megabytes)]) + packed.flush()


def text_bomb(rng: random.Random) -> bytes:
    """Return a PNG whose text or profile compresses 300 MB of zeros to 300 KB; once or twenty times."""
    kind, start = rng.choice([(b"zTXt", b"t\0\0"), (b"iTXt", b"t\0\1\0\0\0"), (b"iCCP", b"p\0\0")])
    return png(9, 7, extra=chunk(kind, start + zeros(300)) * rng.choice([1, 1, 1, 20]))


def odd_order(rng: random.Random) -> bytes:
    """Return a PNG whose chunks are reordered, missing, repeated or empty, or claim an animation."""
    data = png(20, 10, 3)
    parts = [chunk(b"IDAT", b""), chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"tRNS", bytes(rng.randrange(300)))]
    parts += [chunk(b"PLTE", bytes(rng.randrange(900))), data[33 : 33 + 12 + 768], data[33 + 12 + 768 : -12]]
    return data[:33] + b"".join(rng.choices(parts, k=rng.randint(1, 8))) + data[-12:]


def large(rng: random.Random) -> bytes:
    """Return an image of any kind, of a few KB, with the largest allowed number of pixels or just more."""
    few = rng.choice([0, 1, 5])
    if rng.random() < 0.5:
        jpeg = rng.choice(sound_jpegs())
        return claiming(jpeg, 5000, (3200 if jpeg == sound_jpegs()[2] else 5000) + few)
    colour, depth = rng.choice(KINDS_OF_PNG)
    return png(5000, 5000 + few, colour, depth, rng.random() < 0.3)


MUTATIONS: list[Callable[[random.Random], bytes]] = [
    *(cut, flipped_bits, flipped_scan, edited_header, edited_chunk, spliced, repeated, other_format, cmyk, sixteen_bit),
    *(exif, segments, many_scans, claim, text_bomb, odd_order, changed_format, changed_format),
]


def mutant(number: int) -> tuple[str, bytes]:
    """Return the kind and the bytes of one mutant; the kinds take turns."""
    rng = random.Random(number)
    make = large if number % LARGE_EVERY == LARGE_EVERY - 1 else MUTATIONS[number % len(MUTATIONS)]
    return make.__name__, make(rng)


def check(refusal: Exception, start: str) -> None:
    """Assert that a refusal is one line and starts with `start`."""
    assert str(refusal).startswith(start), refusal
    assert "\n" not in str(refusal), refusal


def outcomes(numbers: Iterable[int], opencv: bool) -> Iterable[tuple[int, str, str]]:
    """Yield number, kind, and `decoded` or `refused`; assert that a refusal is one line with the image's name."""
    from jaxlesion.core.errors import InputError
    from jaxlesion.data.decode import decode

    for number in numbers:
        kind, data = mutant(number)
        try:
            pixels = decode(data, f"ISIC_{number:07d}", opencv=opencv)
        except InputError as error:
            check(error, f"image ISIC_{number:07d} ")
            yield number, kind, "refused"
        else:
            assert pixels.dtype == np.uint8, pixels.dtype
            assert pixels.ndim == 3, pixels.shape
            assert pixels.shape[2] == 3, pixels.shape
            yield number, kind, "decoded"


# HDF5 files of images


def hdf5(path: Path, libver: str) -> bytes:
    """Return a file with images in every layout, and some objects that are not images."""
    import h5py

    with h5py.File(path, "w", libver=libver) as file:
        for i in range(6):
            file[f"plain{i}"] = np.void(bytes([i + 1]) * 300)
        for name, options in {"gzip": {"compression": "gzip"}, "chunks": {}, "longer": {"maxshape": (None,)}}.items():
            file.create_dataset(name, data=np.full(1000, 7, np.uint8), chunks=(100,), **options)
        file.create_dataset("filters", data=np.zeros(1000, np.uint8), shuffle=True, fletcher32=True, compression=4)
        file["soft"], file["external"] = h5py.SoftLink("/plain1"), h5py.ExternalLink("secret", "/plain1")
        file.create_group("group")
    return path.read_bytes()


def hdf5_outcomes(numbers: Iterable[int], folder: Path) -> Iterable[tuple[int, str, str]]:
    """Read files with changed or missing bytes; yield number, version, and `refused` or an outcome per image."""
    from jaxlesion.core.errors import InputError
    from jaxlesion.data.sources import open_images

    path = folder / "images.hdf5"
    good = {version: hdf5(path, version) for version in ("earliest", "latest")}
    for number in numbers:
        rng = random.Random(number)
        version = ("earliest", "latest")[number % 2]
        data = bytearray(good[version])
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
        try:
            with open_images(path) as source:
                for isic_id in source.ids:
                    try:
                        assert source.read(isic_id)
                        yield number, version, "read"
                    except InputError as error:
                        check(error, f"{path}: image {isic_id} ")
                        yield number, version, "image-refused"
        except InputError as error:
            check(error, str(path))
            yield number, version, "refused"


def most_resident() -> int:
    """Return the peak resident memory of this process, in bytes (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def main(reader: str, first: int, count: int) -> None:
    """Read `count` mutants from number `first`; `reader` is opencv or pillow for images, or hdf5 for files."""
    from jaxlesion.data.decode import decode

    numbers = range(first, first + count)
    with tempfile.TemporaryDirectory() as folder:
        if reader == "hdf5":
            list(hdf5_outcomes(range(2), Path(folder)))
            results = hdf5_outcomes(numbers, Path(folder))
        else:
            opencv = reader == "opencv"
            for data in [*sound_jpegs(), *sound_pngs()]:
                assert decode(data, "x", opencv=opencv).any()
            text_bomb(random.Random(0))
            results = outcomes(numbers, opencv)
        before = most_resident()
        for number, kind, outcome in results:
            print(number, kind, outcome, flush=True)
        print("growth", most_resident() - before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
