"""Images, and HDF5 files of images, as nobody should send them, made by seed; as a program, what reading them takes.

python tests/mutants.py opencv 0 1000
python tests/mutants.py hdf5 0 1000

prints number, kind and outcome of mutants 0 to 999, then by how much the most memory it ever had resident grew, in
bytes. Anything but pixels or an InputError ends it, and so a crash shows as the end of its process.
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

LARGE_EVERY = 150  # of so many mutants one is as large as is allowed, or just larger: it takes a second
PHOTO = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8).repeat(6, 0).repeat(9, 1)  # 48 x 54


# Sound files


def saved(mode: str, form: str, **options: object) -> bytes:
    """Encode the picture in a mode and a format of Pillow's."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG, with its right check sum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type


def png(width: int, height: int, colour: int = 2, depth: int = 8, tied: bool = False, extra: bytes = b"") -> bytes:
    """Write a PNG of any kind, in little memory; its first row is noise, all others are 0. `tied` is interlaced."""
    packed, luck = zlib.compressobj(6), random.Random(0)
    content = []
    for top, left, down, right in PASSES if tied else [(0, 0, 1, 1)]:
        if left >= width:
            continue
        row = bytes(1 + (-(-(width - left) // right) * CHANNELS[colour] * depth + 7) // 8)
        for y in range(top, height, down):
            content.append(packed.compress(row if y else b"\0" + luck.randbytes(len(row) - 1)))
    content.append(packed.flush())
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, tied))
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
    return [png(30, 20, colour, depth, tied) for colour, depth in KINDS_OF_PNG for tied in (False, True)]


def sound(luck: random.Random) -> bytes:
    return luck.choice([*sound_jpegs(), *sound_pngs()])


# Mutations, each a function of the luck it has


def cut(luck: random.Random) -> bytes:
    data = sound(luck)
    return data[: luck.randrange(len(data))]


def flipped_bits(luck: random.Random) -> bytes:
    data = bytearray(sound(luck))
    for _ in range(luck.choice([1, 1, 2, 5, 50])):
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
    return bytes(data)


def flipped_scan(luck: random.Random) -> bytes:
    """Return a JPEG whose headers are good."""
    data = bytearray(luck.choice(sound_jpegs()))
    start = data.index(b"\xff\xda") + 12
    for _ in range(luck.randint(1, 20)):
        data[luck.randrange(start, len(data) - 2)] = luck.randrange(255)
    return bytes(data)


def edited_header(luck: random.Random) -> bytes:
    """Return a JPEG with other bytes before its first scan."""
    data = bytearray(luck.choice(sound_jpegs()))
    end = data.index(b"\xff\xda") + 12
    for _ in range(luck.randint(1, 8)):
        data[luck.randrange(2, end)] = luck.choice([0, 1, 2, 127, 128, 254, 255])
    return bytes(data)


def edited_chunk(luck: random.Random) -> bytes:
    """Return a PNG with other bytes in a chunk, and the check sum to them."""
    data = luck.choice(sound_pngs())
    at, places = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        places.append((at, length))
        at += 12 + length
    at, length = luck.choice(places)
    content = bytearray(data[at + 8 : at + 8 + length] or b"\0")
    for _ in range(luck.randint(1, 4)):
        content[luck.randrange(len(content))] = luck.choice([0, 1, 2, 3, 8, 16, 127, 255])
    kind = luck.choice([data[at + 4 : at + 8]] * 5 + [b"IDAT", b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"fdAT"])
    return data[:at] + chunk(kind, bytes(content)) + data[at + 12 + length :]


def spliced(luck: random.Random) -> bytes:
    one, other = sound(luck), sound(luck)
    return one[: luck.randrange(len(one))] + other[luck.randrange(len(other)) :]


def repeated(luck: random.Random) -> bytes:
    """Leave a piece out, or repeat it several times."""
    data = sound(luck)
    a, b = sorted(luck.randrange(len(data)) for _ in range(2))
    return data[:a] + data[a:b] * luck.choice([0, 2, 20]) + data[b:]


def other_format(luck: random.Random) -> bytes:
    """Under the name of an image: another format, perhaps behind the first bytes of a JPEG or PNG."""
    form = luck.choice(["GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "text", "zip", "noise", ""])
    data = {"text": b"<svg><script>", "zip": b"PK\x03\x04", "noise": luck.randbytes(500), "": b""}.get(form)
    start = luck.choice([b"", b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"\x89PNG\r\n\x1a\n"])
    return start + (saved("P" if form == "GIF" else "RGB", form) if data is None else data)


def cmyk(luck: random.Random) -> bytes:
    data = bytearray(saved("CMYK", "JPEG", progressive=luck.random() < 0.5))
    if (at := data.find(b"Adobe")) >= 0:
        data[at + 11] = luck.randrange(4)  # the transform: none, YCC, YCCK
    return bytes(data)


def sixteen_bit(luck: random.Random) -> bytes:
    return png(luck.randint(1, 60), luck.randint(1, 60), luck.choice([0, 2, 4, 6]), 16, luck.random() < 0.5)


def exif(luck: random.Random) -> bytes:
    """An orientation, or a directory of nonsense, of a type and a count that lie, or one that leads to itself."""
    entries = [(0x0112, 3, 1, luck.randint(0, 9))] if luck.random() < 0.5 else []
    entries += [
        (luck.choice([0x8769, 0x0111, 0x927C, 0xB002]), luck.randrange(14), luck.choice([1, 2**31, 2**32 - 1]), 8)
        for _ in range(luck.randrange(4))
    ]
    order = luck.choice("<>")
    tiff = b"II*\0" if order == "<" else b"MM\0*"
    tiff += struct.pack(f"{order}IH", 8, luck.choice([len(entries), 65535]))
    tiff += b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries) + struct.pack(f"{order}I", 8)
    if luck.random() < 0.5:
        return png(9, 7, extra=chunk(b"eXIf", tiff))
    return with_segment(luck.choice(sound_jpegs()), luck.choice([0xFFE1] * 3 + [0xFFE2]), b"Exif\0\0" + tiff)


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">HH", marker, len(content) + 2) + content + jpeg[2:]


def segments(luck: random.Random) -> bytes:
    """Segments that decoders look into: pictures in pictures, profiles, Adobe's and Photoshop's."""
    name = luck.choice([b"MPF\0II*\0\x08\0\0\0", b"ICC_PROFILE\0\1\1", b"Adobe", b"Photoshop 3.0\x008BIM", b"JFIF\0"])
    marker = luck.choice([0xFFE0, 0xFFE1, 0xFFE2, 0xFFED, 0xFFEE, 0xFFFE])
    return with_segment(luck.choice(sound_jpegs()), marker, name + luck.randbytes(luck.choice([0, 10, 300, 65000])))


def many_scans(luck: random.Random) -> bytes:
    data = sound_jpegs()[2]
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * luck.choice([1, 10, 80, 100, 1000]) + data[-2:]


SIZES = (0, 1, 65535, 30000, 2**15, 4000)


def claim(luck: random.Random) -> bytes:
    """Return a small file that claims another size: 30000 x 30000 above all, or none."""
    width, height = (30000, 30000) if luck.random() < 0.3 else (luck.choice(SIZES), luck.choice(SIZES))
    if luck.random() < 0.5:
        return claiming(luck.choice(sound_jpegs()), width, height)
    kind = struct.pack(">BBBBB", luck.choice([1, 8, 16]), luck.choice([0, 2, 4, 6]), 0, 0, luck.randrange(2))
    big = luck.choice([1, 1, 2**16 - 1])
    return png(4, 4)[:8] + chunk(b"IHDR", struct.pack(">II", width * big, height) + kind) + png(4, 4)[33:]


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """Return the same JPEG with another size in its start of frame."""
    at = max(jpeg.find(b"\xff\xc0\x00"), jpeg.find(b"\xff\xc2\x00"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


@functools.cache
def zeros(megabytes: int) -> bytes:
    packed = zlib.compressobj(9)
    return b"".join([packed.compress(bytes(2**20)) for _ in range(megabytes)]) + packed.flush()


def text_bomb(luck: random.Random) -> bytes:
    """Return a PNG whose text or profile is 300 MB of zeros, in 300 KB; once or twenty times."""
    kind, start = luck.choice([(b"zTXt", b"t\0\0"), (b"iTXt", b"t\0\1\0\0\0"), (b"iCCP", b"p\0\0")])
    return png(9, 7, extra=chunk(kind, start + zeros(300)) * luck.choice([1, 1, 1, 20]))


def odd_order(luck: random.Random) -> bytes:
    """Chunks of a PNG in another order, left out, twice or empty; an animation."""
    data = png(20, 10, 3)
    parts = [chunk(b"IDAT", b""), chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"tRNS", bytes(luck.randrange(300)))]
    parts += [chunk(b"PLTE", bytes(luck.randrange(900))), data[33 : 33 + 12 + 768], data[33 + 12 + 768 : -12]]
    return data[:33] + b"".join(luck.choices(parts, k=luck.randint(1, 8))) + data[-12:]


def large(luck: random.Random) -> bytes:
    """As many pixels as are allowed, or just more, from a few KB; of every kind."""
    few = luck.choice([0, 1, 5])
    if luck.random() < 0.5:
        jpeg = luck.choice(sound_jpegs())
        return claiming(jpeg, 5000, (3200 if jpeg == sound_jpegs()[2] else 5000) + few)
    colour, depth = luck.choice(KINDS_OF_PNG)
    return png(5000, 5000 + few, colour, depth, luck.random() < 0.3)


MUTATIONS: list[Callable[[random.Random], bytes]] = [
    *(cut, flipped_bits, flipped_scan, edited_header, edited_chunk, spliced, repeated, other_format, cmyk, sixteen_bit),
    *(exif, segments, many_scans, claim, text_bomb, odd_order),
]


def mutant(number: int) -> tuple[str, bytes]:
    """Return the kind and the bytes of one mutant; the kinds take turns."""
    luck = random.Random(number)
    make = large if number % LARGE_EVERY == LARGE_EVERY - 1 else MUTATIONS[number % len(MUTATIONS)]
    return make.__name__, make(luck)


def check(refusal: Exception, start: str) -> None:
    """Check that a refusal is one line with the right start."""
    assert str(refusal).startswith(start), refusal
    assert "\n" not in str(refusal), refusal


def outcomes(numbers: Iterable[int], opencv: bool) -> Iterable[tuple[int, str, str]]:
    """Yield number, kind, and `decoded` or `refused`; AssertionError unless a refusal is one line that names it."""
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
    """Return a file with images in every layout, and some things that are no image."""
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
    """Yield number, version, and `refused`, or an outcome for each image, of files with bytes changed or cut."""
    from jaxlesion.core.errors import InputError
    from jaxlesion.data.sources import open_images

    path = folder / "images.hdf5"
    good = {version: hdf5(path, version) for version in ("earliest", "latest")}
    for number in numbers:
        luck = random.Random(number)
        version = ("earliest", "latest")[number % 2]
        data = bytearray(good[version])
        for _ in range(luck.choice([1, 1, 2, 5, 20])):
            data[luck.randrange(len(data))] = luck.choice([0, 1, 2, 127, 128, 255, luck.randrange(256)])
        path.write_bytes(data[: luck.randrange(len(data))] if luck.random() < 0.1 else data)
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
    """Return the most memory that this process ever had resident, in bytes (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def main(reader: str, first: int, count: int) -> None:
    """Read `count` mutants from number `first` on, images by `opencv` or `pillow`, or files of them by `hdf5`."""
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
