"""Real crops are read intact; misleading names, links and headers are refused by name."""

import io
import os
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image
from refusals import refused

from jaxlesion.core.errors import InputError
from jaxlesion.data.decode import check, decode, raw_image, resize
from jaxlesion.data.hdf5 import MAX_BYTES
from jaxlesion.data.headers import MAX_PIXELS, MAX_PIXELS_IN_SCANS, MAX_SCANS
from jaxlesion.data.schema import valid_id
from jaxlesion.data.sources import open_images

CROPS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "slice3d" / "train-image.hdf5"
SECRET = b"the contents of another file"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Draw a smooth picture, uint8 [40, 60, 3], blue first: JPEG keeps it within a few levels."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return cv2.GaussianBlur(noise, (15, 15), 5)


@pytest.fixture(scope="module")
def jpeg(photo) -> bytes:
    return encode(".jpg", photo)


@pytest.fixture(scope="module")
def png(photo) -> bytes:
    return encode(".png", photo)


def encode(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


# ids


@pytest.mark.parametrize("text", ["ISIC_0015670", "a", "0.b-c_", "x" * 64])
def test_good_ids(text):
    assert valid_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 65,
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "=1",
        "+1",
        "-1",
        "@x",
        "_x",
        "a b",
        "a\n",
        "a\0",
        "é",
        "٣",
        None,
        3,
    ],
)
def test_bad_ids(text):
    assert not valid_id(text)


# the real crops


@pytest.fixture(scope="module")
def crops():
    if not CROPS.exists():
        pytest.skip("the sample of ISIC 2024 crops is not beside the repository")
    with open_images(CROPS) as source:
        yield source


def test_every_real_crop_has_the_bytes_that_h5py_gives(crops):
    with h5py.File(CROPS) as file:
        assert list(crops.ids) == list(file)
        assert all(crops.read(isic_id) == file[isic_id][()] for isic_id in crops.ids)


def test_real_crops_decode_as_opencv_does(crops):
    for isic_id in list(crops.ids)[::20]:
        data = crops.read(isic_id)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        image = decode(data, isic_id)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected)


def test_eight_threads_read_the_same_bytes(crops):
    ids = list(crops.ids)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(crops.read, ids * 3, chunksize=50)) == [crops.read(isic_id) for isic_id in ids] * 3


# folders


def test_a_folder_lists_its_images_alone(tmp_path, jpeg, png):
    files = {"a.jpg": jpeg, "b.jpeg": jpeg, "c.PNG": png, "d.txt": b"", ".e.jpg": jpeg, "=f.jpg": jpeg, "g": jpeg}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with open_images(tmp_path) as source:
        assert list(source.ids) == ["a", "b", "c"]
        assert [source.read(isic_id) for isic_id in source.ids] == [jpeg, jpeg, png]
        refused(lambda: source.read("d"), "has no image 'd'")


@pytest.mark.fault(
    "input",
    "ids that are paths",
    tried="10",
    outcome="never read; refused by name",
)
@pytest.mark.parametrize(
    "isic_id",
    ["../outside", "..", ".", "/etc/passwd", "sub/inside", "sub\\inside", "good\0", "good.jpg/", "", "good\n"],
)
def test_an_id_is_no_path(tmp_path, jpeg, isic_id):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in [tmp_path / "outside.jpg", folder / "sub" / "inside.jpg", folder / "good.jpg"]:
        place.write_bytes(jpeg)
    with open_images(folder) as source:
        assert isic_id not in source
        refused(lambda: source.read(isic_id), "has no image")


@pytest.mark.fault(
    "input",
    "links that lead out of the folder, or to no regular file",
    tried="7",
    outcome="never read; refused by name",
)
def test_links_stay_within_the_folder(tmp_path, jpeg):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "inside.jpg").write_bytes(jpeg)
    (tmp_path / "secret").write_bytes(SECRET)
    links = {"in": "sub/inside.jpg", "out": "../secret", "absolute": str(tmp_path / "secret"), "loop": "loop.jpg"}
    links |= {"device": "/dev/zero", "standard_input": "/dev/stdin", "by_way_of": "sub/../../secret"}
    for name, target in (links | {"nowhere": "absent.jpg"}).items():
        (folder / f"{name}.jpg").symlink_to(target)
    (tmp_path / "other name").symlink_to(folder)
    with open_images(tmp_path / "other name") as source:
        assert source.read("in") == jpeg
        for name, reason in {
            "out": "leads out",
            "absolute": "leads out",
            "device": "leads out",
            "standard_input": "leads out",
            "by_way_of": "leads out",
            "loop": "regular",
            "nowhere": "regular",
        }.items():
            refused(lambda name=name: source.read(name), f"image {name} ", reason)


def test_odd_files_are_refused_by_name(tmp_path, jpeg):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    for name in ["twice.jpg", "twice.png", "gone.jpg"]:
        (tmp_path / name).write_bytes(jpeg)
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole: takes no room on the disk
    with open_images(tmp_path) as source:
        (tmp_path / "gone.jpg").unlink()
        reasons = {
            "folder": "regular",
            "pipe": "regular",
            "empty": "0 bytes",
            "huge": "over",
            "twice": "twice.jpg and twice.png",
        }
        for name, reason in (reasons | {"gone": "cannot be read"}).items():
            refused(lambda name=name: source.read(name), f"image {name} ", reason)


# pixels


def test_red_comes_first():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # OpenCV encodes blue first
    for suffix in [".png", ".jpg"]:
        np.testing.assert_allclose(decode(encode(suffix, red), "x")[0, 0].astype(int), [255, 0, 0], atol=2)


def test_png_of_every_kind_becomes_rgb(photo):
    grey = photo[..., 0]
    colour = photo[..., ::-1]
    repeated = np.repeat(grey[..., None], 3, 2)
    alpha = np.dstack([photo, grey])
    for pixels, expected in [(photo, colour), (grey, repeated), (alpha, colour)]:
        np.testing.assert_array_equal(decode(encode(".png", pixels), "x"), expected)
        np.testing.assert_array_equal(decode(encode(".png", pixels.astype(np.uint16) * 257), "x"), expected)


def test_jpeg_of_every_usual_kind_becomes_rgb(photo):
    quality = (cv2.IMWRITE_JPEG_QUALITY, 100)
    for options in [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]:
        image = decode(encode(".jpg", photo, *quality, *options), "x")
        np.testing.assert_allclose(image.astype(int), photo[..., ::-1], atol=12)
    image = decode(encode(".jpg", photo[..., 0], *quality), "x")
    np.testing.assert_allclose(image.astype(int), np.repeat(photo[..., :1], 3, 2), atol=3)


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">HH", marker, len(content) + 2) + content + jpeg[2:]


def test_exif_orientation_is_not_applied(jpeg):
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # rotate by 90 degrees
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + orientation + bytes(4)
    turned = with_segment(jpeg, 0xFFE1, exif)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (60, 40, 3)  # the tag is understood
    np.testing.assert_array_equal(decode(turned, "x"), decode(jpeg, "x"))


def test_fill_bytes_and_padding_are_harmless(jpeg):
    padded = jpeg[:2] + b"\xff\xff" + jpeg[2:] + bytes(10)
    np.testing.assert_array_equal(decode(padded, "x"), decode(jpeg, "x"))


def set_sof(jpeg: bytes, **fields: int) -> bytes:
    """Return the same file with a changed baseline start of frame."""
    at = jpeg.index(b"\xff\xc0\x00\x11\x08")
    claim = {"marker": 0xFFC0, "length": 17, "precision": 8, "height": 40, "width": 60, "channels": 3} | fields
    return jpeg[:at] + struct.pack(">HHBHHB", *claim.values()) + jpeg[at + 10 :]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"height": 30000, "width": 30000}, "30000 x 30000"),
        ({"height": 0}, "60 x 0"),
        ({"channels": 4}, "4 channels"),
        ({"channels": 2}, "2 channels"),
        ({"precision": 12}, "12 bit"),
        ({"marker": 0xFFC3}, "unusual kind"),
        ({"marker": 0xFFC9}, "unusual kind"),
    ],
)
def test_claims_of_a_jpeg_are_checked_before_decoding(jpeg, monkeypatch, fields, reason):
    data = set_sof(jpeg, **fields)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    refused(lambda: decode(data, "ISIC_1"), "image ISIC_1 ", reason)


def test_a_second_frame_cannot_hide_behind_a_small_one(jpeg):
    at = jpeg.index(b"\xff\xc0")
    frame = jpeg[at : at + 19]
    data = set_sof(jpeg[:at] + frame + jpeg[at:], height=41)
    refused(lambda: decode(data, "x"), "unusual kind")


def test_endless_scans_are_refused(photo):
    data = encode(".jpg", photo, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    start = data.rindex(b"\xff\xda")
    refused(lambda: decode(data[:-2] + data[start:-2] * MAX_SCANS + data[-2:], "x"), "scans")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_claims_of_a_png_are_checked_before_decoding(png, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    bomb = png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)) + png[33:]
    refused(lambda: decode(bomb, "x"), "30000 x 30000")
    animated = png[:33] + chunk(b"acTL", struct.pack(">II", 2, 0)) + png[33:]
    refused(lambda: decode(animated, "x"), "animated")
    refused(lambda: decode(png[:33] + png[8:], "x"), "damaged PNG")
    refused(lambda: decode(png[:8] + png[33:], "x"), "damaged PNG")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "is not JPEG"), (b"x", "is not JPEG"), (SECRET, "is not JPEG"), (b"GIF89a" + bytes(50), "is GIF"),
        (bytes(128) + b"DICM" + bytes(50), "is DICOM"), (b"\0\0\0\x18ftypheic" + bytes(50), "is HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(50), "is AVIF"), (b"%PDF-1.7", "is PDF"), (b"  <!DOCTYPE html>", "is HTML"),
        (b"PK\x03\x04" + bytes(50), "is a ZIP archive"), (b"RIFF\x10\0\0\0WAVEfmt " + bytes(50), "is not JPEG"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"RIFF\x10\0\0\0WEBPVP9 " + bytes(50), "has a damaged WebP header"), (b"BM" + bytes(90), "is a BMP of an"),
    ],
)  # fmt: skip
def test_other_formats_are_refused_by_name(data, name):
    refused(lambda: decode(data, "ISIC_1"), f"image ISIC_1 {name}")


def saved(photo: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize(
    ("form", "options"),
    [("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_lossless_formats_keep_their_pixels_and_a_cut_is_refused(photo, form, options, mode):
    data = saved(photo, form, mode, **options)
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(Image.fromarray(photo).convert(mode).convert("RGB")))
    for end in range(0, len(data) - 8, 11):
        refused(lambda end=end: decode(data[:end], "x"), "image x ")


def test_what_would_take_much_memory_is_refused_by_its_header(photo):
    height, width, _ = photo.shape
    bmp, tiff = saved(photo, "BMP"), saved(photo, "TIFF")
    for tag, side in ((256, width), (257, height)):
        for code, kind in ((3, "HH"), (4, "I")):
            found = struct.pack("<HHI" + kind, tag, code, 1, side, *([0] if kind == "HH" else []))
            tiff = tiff.replace(found, struct.pack("<HHII", tag, 4, 1, 30000))
    webp = struct.pack("<I4s4sIBI", 100, b"WEBP", b"VP8L", 90, 0x2F, 16383 | 16383 << 14)
    for data in (bmp[:18] + struct.pack("<ii", 30000, 30000) + bmp[26:], tiff, b"RIFF" + webp + bytes(90)):
        refused(lambda data=data: decode(data, "x"), "pixels, where 1 to")
    more = {"save_all": True, "append_images": [Image.fromarray(255 - photo)]}
    refused(lambda: decode(saved(photo, "TIFF", **more), "x"), "several pages")
    refused(lambda: decode(saved(photo, "WEBP", **more), "x"), "animated WebP")


def test_raw_pixels_come_back(photo):
    np.testing.assert_array_equal(decode(raw_image(photo), "x"), photo)
    refused(lambda: decode(raw_image(photo)[:-1], "x"), "cut short")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_cut_at_any_byte_is_refused(request, kind):
    data = request.getfixturevalue(kind)
    for end in range(0, len(data) - (kind == "jpeg"), 7):
        refused(lambda end=end: decode(data[:end], "ISIC_1"), "image ISIC_1 is ")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_changed_bytes_are_decoded_or_refused(request, kind, capfd):
    data, luck, outcomes = request.getfixturevalue(kind), random.Random(0), set()
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(luck.randint(1, 4)):
            changed[luck.randrange(len(data))] ^= luck.randint(1, 255)
        try:
            image = decode(bytes(changed), "ISIC_1")
            assert image.dtype == np.uint8
            assert image.ndim == 3
            outcomes.add("decoded")
        except InputError as error:
            outcomes.add(str(error)[:13])
    assert outcomes == ({"image ISIC_1 "} if kind == "png" else {"decoded", "image ISIC_1 "})  # a PNG has checksums
    capfd.readouterr()  # libjpeg's warnings


def test_what_needs_no_decoding_to_be_seen_is_seen_without(jpeg, png, monkeypatch):
    for data in (jpeg, png):
        check(data, "x")
    bad = [b"", SECRET, jpeg[:-5], png[:-5], set_sof(jpeg, height=30000, width=30000)]
    messages = []
    for data in bad:
        with pytest.raises(InputError) as caught:
            decode(data, "ISIC_1")
        messages.append(str(caught.value))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for data, message in zip(bad, messages, strict=True):
        refused(lambda data=data: check(data, "ISIC_1"), message)


def test_as_many_pixels_as_memory_allows(jpeg, photo):
    progressive = encode(".jpg", photo, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    at = progressive.index(b"\xff\xc2") + 5

    def claiming(height: int) -> bytes:
        return progressive[:at] + struct.pack(">HH", height, 5000) + progressive[at + 4 :]

    check(set_sof(jpeg, height=MAX_PIXELS // 5000, width=5000), "x")
    check(claiming(MAX_PIXELS_IN_SCANS // 5000), "x")
    refused(lambda: check(set_sof(jpeg, height=MAX_PIXELS // 5000 + 1, width=5000), "x"), f"1 to {MAX_PIXELS} are")
    refused(lambda: check(claiming(MAX_PIXELS_IN_SCANS // 5000 + 1), "x"), f"1 to {MAX_PIXELS_IN_SCANS} are")
    apart = jpeg.index(b"\xff\xda") + 4  # a baseline JPEG whose first scan has one of three channels
    several = jpeg[:apart] + b"\1" + jpeg[apart + 1 :]
    refused(lambda: check(set_sof(several, height=4000, width=5000), "x"), f"1 to {MAX_PIXELS_IN_SCANS} are")


# resizing


def test_resize_is_bilinear():
    step = np.zeros((2, 2, 3), np.uint8)
    step[:, 1] = 200
    # Pixel centres of the result lie at -0.25, 0.25, 0.75 and 1.25 of the input's.
    np.testing.assert_array_equal(resize(step, 4), np.tile(np.uint8([0, 50, 150, 200])[None, :, None], (4, 1, 3)))


@pytest.mark.parametrize("shape", [(1, 1), (51, 51), (7, 300), (224, 224)])
def test_resize_makes_a_square_and_keeps_a_constant(shape):
    image = np.full((*shape, 3), [10, 128, 255], np.uint8)
    resized = resize(image, 224)
    assert resized.shape == (224, 224, 3)
    assert resized.dtype == np.uint8
    assert (resized == [10, 128, 255]).all()


def test_resize_to_the_same_size_changes_nothing(photo):
    square = photo[:40, :40]
    np.testing.assert_array_equal(resize(square, 40), square)


def test_antialiasing_averages_stripes_and_changes_nothing_that_is_enlarged():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200
    inside = slice(1, -1)  # at the edge the filter sees other shares of the stripes
    assert (resize(stripes, 16)[:, inside] == 0).all()
    assert (resize(stripes, 16, antialias=True)[:, inside] == 50).all()
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    off = resize(image, 50, antialias=True).astype(int) - resize(image, 50)
    assert np.abs(off).max() <= 1


@pytest.mark.parametrize(("height", "width", "size"), [(51, 51, 224), (127, 127, 64), (239, 200, 225), (1, 3, 7)])
def test_resizing_without_opencv_is_the_same_within_a_level(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with_cv2, without = (resize(image, size, opencv=opencv) for opencv in (True, False))
    assert without.shape == with_cv2.shape == (size, size, 3)
    assert np.abs(without.astype(int) - with_cv2).max() <= 1


def test_decoding_without_opencv_is_the_same_within_a_level(demo):
    with open_images(demo / "train-image.hdf5") as source:
        data = [source.read(isic_id) for isic_id in list(source.ids)[:30]]
    for d in data:
        with_cv2, without = (decode(d, "a", opencv=opencv) for opencv in (True, False))
        assert np.abs(without.astype(int) - with_cv2).max() <= 1


def test_decoding_without_opencv_refuses_the_same():
    for data in (b"", b"GIF89a", b"\xff\xd8\xff garbage"):
        with pytest.raises(InputError, match="ISIC_7"):
            decode(data, "ISIC_7", opencv=False)
