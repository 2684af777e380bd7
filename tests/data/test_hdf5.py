"""All HDF5 layouts of the same bytes read alike; links out of the file are refused by name."""

import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from refusals import refused

from jaxlesion.core.errors import InputError
from jaxlesion.data import hdf5
from jaxlesion.data.hdf5 import MAX_BYTES, MAX_CHUNKS, index_hdf5, kept_index
from jaxlesion.data.sources import open_images

IMAGE = bytes(range(256)) * 6  # any bytes will do
SECRET = b"the contents of another file"


def add_plain(file):
    file["x"] = np.bytes_(IMAGE)


def add_opaque(file):
    file["x"] = np.void(IMAGE)


def add_uint8(file):
    file["x"] = np.frombuffer(IMAGE, np.uint8)


def add_chunked(file):
    file.create_dataset("x", data=np.frombuffer(IMAGE, np.uint8), chunks=(100,))


def add_compressed(file):
    file.create_dataset("x", data=np.frombuffer(IMAGE, np.uint8), compression="gzip", shuffle=True)


def add_compressed_text(file):
    file.create_dataset("x", data=np.array([IMAGE[:512], IMAGE[512:1024], IMAGE[1024:]]), chunks=(2,), compression=1)


def add_shuffled(file):
    file.create_dataset("x", data=np.frombuffer(IMAGE, np.uint8), chunks=(1000,), shuffle=True)


def add_chunk_left_as_it_is(file):
    """Add a chunk that HDF5 stores without its filter, as compression would not shrink it."""
    image = np.frombuffer(IMAGE, np.uint8)
    dataset = file.create_dataset("x", image.shape, np.uint8, chunks=image.shape, compression="gzip", shuffle=True)
    dataset.id.write_direct_chunk((0,), IMAGE, filter_mask=2)


def add_compact(file):
    properties, value = h5py.h5p.create(h5py.h5p.DATASET_CREATE), np.frombuffer(IMAGE, np.uint8)
    properties.set_layout(h5py.h5d.COMPACT)
    dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, h5py.h5s.create_simple(value.shape), properties)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, value)


def add_utf8(file):
    file.create_dataset("x", data=np.array(IMAGE, h5py.string_dtype("utf-8", len(IMAGE))))


def add_hard_link(file):
    file["folder/original"] = np.bytes_(IMAGE)
    file["x"] = file["folder/original"]


READABLE = [
    *(add_plain, add_opaque, add_uint8, add_chunked, add_compressed, add_compressed_text, add_shuffled),
    *(add_chunk_left_as_it_is, add_compact, add_utf8, add_hard_link),
]


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("add", READABLE)
def test_every_layout_of_bytes_reads_the_same(tmp_path, add, userblock):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        add(file)
    with open_images(path) as source, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, ["x"] * 40)) == [IMAGE] * 40


def test_the_competitions_layout_is_indexed_by_offset(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        file["b"], file["a"] = np.bytes_(IMAGE), np.bytes_(IMAGE * 2)
    index = index_hdf5(path)
    assert index.ids.tolist() == ["a", "b"]
    assert index.size.tolist() == [2 * len(IMAGE), len(IMAGE)]
    assert (index.offset > 0).all()
    assert index.reason.tolist() == ["", ""]


def add_soft_link(file, secret):
    file["folder/original"] = np.bytes_(SECRET)
    file["x"] = h5py.SoftLink("/folder/original")


def add_external_link(file, secret):
    file["x"] = h5py.ExternalLink(str(secret.with_suffix(".hdf5")), "/secret")


def add_external_storage(file, secret):
    file.create_dataset("x", (len(SECRET),), np.uint8, external=[(str(secret), 0, len(SECRET))])


def add_virtual(file, secret):
    layout = h5py.VirtualLayout((len(SECRET),), np.uint8)
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".hdf5")), "bytes", (len(SECRET),))
    file.create_virtual_dataset("x", layout)


def add_group(file, secret):
    file.create_group("x")


def add_named_type(file, secret):
    file["x"] = np.dtype("S8")


def add_reference(file, secret):
    file["y"] = np.bytes_(SECRET)
    file["x"] = file["y"].ref


def add_text_of_any_length(file, secret):
    file["x"] = "text"


def add_wrong_type(file, secret):
    file["x"] = np.float32(1)


def add_signed(file, secret):
    file["x"] = np.zeros(8, np.int8)


def add_two_dimensional(file, secret):
    file["x"] = np.zeros((4, 4), np.uint8)


def add_no_value(file, secret):
    file["x"] = h5py.Empty("S4")


def add_zero_length(file, secret):
    file["x"] = np.zeros(0, np.uint8)


def add_never_written(file, secret):
    file.create_dataset("x", (100,), np.uint8)


def add_huge(file, secret):
    file.create_dataset("x", (MAX_BYTES + 1,), np.uint8, chunks=(1000,), compression="gzip")


def add_huge_claim(file, secret):
    file.create_dataset("x", (2**50,), np.uint8)


def add_huge_chunk(file, secret):
    file.create_dataset("x", (100,), np.uint8, maxshape=(None,), chunks=(2**31,), compression="gzip")


def add_array_of_references(file, secret):
    file["y"] = np.bytes_(SECRET)
    file["x"] = np.array([file["y"].ref], h5py.ref_dtype)


def add_region_reference(file, secret):
    file["y"] = np.frombuffer(SECRET, np.uint8)
    file["x"] = np.array([file["y"].regionref[2:5]], h5py.regionref_dtype)


def add_link_to_itself(file, secret):
    file["x"] = h5py.SoftLink("/x")


def add_link_to_nothing(file, secret):
    file["x"] = h5py.SoftLink("/absent")


def add_external_link_to_a_device(file, secret):
    file["x"] = h5py.ExternalLink("/dev/zero", "/x")


def add_group_in_itself(file, secret):
    file["x"] = file["/"]


def add_bytes_of_any_length(file, secret):
    file.create_dataset("x", (1,), h5py.vlen_dtype(np.uint8))[0] = np.frombuffer(SECRET, np.uint8)


def add_compound(file, secret):
    file["x"] = np.zeros(3, [("a", np.uint8), ("b", np.uint8)])


def add_enumeration(file, secret):
    file["x"] = np.zeros(3, bool)


def add_array_type(file, secret):
    file.create_dataset("x", (2,), "(4,)u1")


def add_other_compression(file, secret):
    file.create_dataset("x", data=np.zeros(1000, np.uint8), compression="lzf")


def add_checksums(file, secret):
    file.create_dataset("x", data=np.zeros(1000, np.uint8), fletcher32=True)


def add_compressed_twice(file, secret):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((100,))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((100,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, space, properties).write(space, space, np.zeros(100, np.uint8))


def add_shuffled_text(file, secret):
    file.create_dataset("x", data=np.array([SECRET] * 2), chunks=(2,), compression="gzip", shuffle=True)


def add_tiny_chunks(file, secret):
    file.create_dataset("x", data=np.zeros(MAX_CHUNKS + 1, np.uint8), chunks=(1,))


def bomb(megabytes: int) -> bytes:
    packed = zlib.compressobj(1)
    return b"".join(packed.compress(bytes(2**20)) for _ in range(megabytes)) + packed.flush()


def add_compressed_bomb(file, secret):
    """Add 200 KB that HDF5 inflates to 200 MB, although dataset and chunk declare 1 MiB."""
    dataset = file.create_dataset("x", (2**20,), np.uint8, chunks=(2**20,), compression="gzip")
    dataset.id.write_direct_chunk((0,), bomb(200))


def add_chunk_that_is_short(file, secret):
    dataset = file.create_dataset("x", (1000,), np.uint8, chunks=(1000,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(999)))


def add_chunk_without_its_checksum(file, secret):
    """Add a chunk with one flipped bit, without the four-byte checksum by which zlib would detect it."""
    noise = (
        np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    )  # incompressible: flipped bits still decode
    packed = bytearray(zlib.compress(noise)[:-4])
    packed[500] ^= 1
    dataset = file.create_dataset("x", (1000,), np.uint8, chunks=(1000,), compression="gzip")
    dataset.id.write_direct_chunk((0,), bytes(packed))


def add_chunks_never_written(file, secret):
    file.create_dataset("x", (1000,), np.uint8, chunks=(100,))[:500] = 1


REFUSED = {
    add_soft_link: "link",
    add_external_link: "link",
    add_external_storage: "another file",
    add_virtual: "another file",
    add_group: "not a dataset",
    add_named_type: "not a dataset",
    add_reference: "neither bytes",
    add_text_of_any_length: "neither bytes",
    add_wrong_type: "neither bytes",
    add_signed: "neither bytes",
    add_two_dimensional: "neither bytes",
    add_no_value: "0 bytes",
    add_zero_length: "0 bytes",
    add_never_written: "no data",
    add_huge: "over 33554432 bytes",
    add_huge_claim: "over 33554432 bytes",
    add_huge_chunk: "too large a chunk",
    add_array_of_references: "neither bytes",
    add_region_reference: "neither bytes",
    add_link_to_itself: "link",
    add_link_to_nothing: "link",
    add_external_link_to_a_device: "link",
    add_group_in_itself: "not a dataset",
    add_bytes_of_any_length: "neither bytes",
    add_compound: "neither bytes",
    add_enumeration: "neither bytes",
    add_array_type: "neither bytes",
    add_other_compression: "otherwise than by gzip",
    add_checksums: "otherwise than by gzip",
    add_compressed_twice: "otherwise than by gzip",
    add_shuffled_text: "otherwise than by gzip",
    add_tiny_chunks: "too many chunks",
}
# Faults that appear only when the image is read.
REFUSED_IN_READING = {
    add_compressed_bomb: "damaged chunk",
    add_chunk_that_is_short: "damaged chunk",
    add_chunk_without_its_checksum: "damaged chunk",
    add_chunks_never_written: "less than it claims",
}


@pytest.mark.fault(
    "input",
    "HDF5: external and soft links, external and virtual data sets, references, other "
    "compressions, wrong types, huge claims",
    tried="each in turn",
    outcome="refused by id; other images are still read",
)
@pytest.mark.parametrize("add", REFUSED)
def test_what_leads_astray_is_refused_by_name_and_spares_the_rest(tmp_path, add):
    secret, path = tmp_path / "secret", tmp_path / "images.hdf5"
    secret.write_bytes(SECRET)
    with h5py.File(secret.with_suffix(".hdf5"), "w") as file:
        file["secret"], file["bytes"] = np.bytes_(SECRET), np.frombuffer(SECRET, np.uint8)
    with h5py.File(path, "w") as file:
        add(file, secret)
        file["good"] = np.bytes_(IMAGE)
    with open_images(path) as source:
        assert "x" in source
        assert source.read("good") == IMAGE
        source.require(["good"])
        refused(lambda: source.read("x"), str(path), "image x ", REFUSED[add])
        refused(lambda: source.require(["good", "x"]), "image x ", REFUSED[add])


def most_resident() -> int:
    """Return the peak resident memory of this process, in bytes (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


@pytest.mark.fault(
    "input",
    "HDF5: compressed bombs, short or missing chunks",
    tried="each in turn",
    outcome="refused by id, without using memory",
)
@pytest.mark.parametrize("add", REFUSED_IN_READING)
def test_what_shows_in_reading_is_refused_by_name_and_takes_no_memory(tmp_path, add):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        add(file, tmp_path)
        file["good"] = np.bytes_(IMAGE)
    with open_images(path) as source:
        source.require(["good", "x"])
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak of resident memory (Linux)
        resident = most_resident()
        refused(lambda: source.read("x"), str(path), "image x ", REFUSED_IN_READING[add])
        assert most_resident() - resident < 50e6
        assert source.read("good") == IMAGE


def test_keys_that_are_no_ids_are_left_out(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        for key in ["good", "=1+1", "é", "..x", "a b", "-x"]:
            file[key] = np.bytes_(IMAGE)
    with open_images(path) as source:
        assert list(source.ids) == ["good"]
        assert len(source) == 1
        refused(lambda: source.read("=1+1"), "has no image '=1+1'")


def test_a_link_put_in_after_opening_is_not_followed(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        add_compressed(file)
    with open_images(path) as source:
        path.unlink()
        with h5py.File(path, "w") as file:
            file["x"] = h5py.ExternalLink("elsewhere.hdf5", "/secret")
        refused(lambda: source.read("x"), "image x ", "link")


@pytest.mark.fault(
    "input",
    "an HDF5 file that shrinks while it is open",
    tried="4 layouts",
    outcome="refused by id; the process continues",
)
@pytest.mark.parametrize("add", [add_plain, add_chunked, add_compressed, add_compact])
def test_cut_short_after_opening_it_is_refused_and_the_process_lives(tmp_path, add):
    """Read a page that no longer exists: with a memory map, a signal would end the process."""
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        file["before"] = np.zeros(100_000, np.uint8)
        add(file)
    with open_images(path) as source:
        assert source.read("x") == IMAGE
        with open(path, "r+b") as file:
            file.truncate(1000)
        refused(lambda: source.read("x"), str(path), "image x ", "replace it")
        refused(lambda: source.read("before"), str(path), "image before ", "replace it")


def test_damage_within_compressed_data_is_named(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        add_compressed(file)
        chunk = file["x"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 40] = bytes(20)
    path.write_bytes(content)
    with open_images(path) as source:
        refused(lambda: source.read("x"), "image x ")


@pytest.mark.parametrize("content", [b"", b"isic_id,target\n", b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_a_file_that_is_no_hdf5_is_named(tmp_path, content):
    path = tmp_path / "images.hdf5"
    path.write_bytes(content)
    refused(lambda: open_images(path), str(path), "HDF5")


def test_a_cut_hdf5_is_named(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        add_plain(file)
    path.write_bytes(path.read_bytes()[:-200])
    refused(lambda: open_images(path), str(path), "HDF5")


def test_nothing_and_empty_places_are_named(tmp_path):
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    refused(lambda: open_images(tmp_path / "absent"), str(tmp_path / "absent"), "no such file or folder")
    refused(lambda: open_images(tmp_path / "empty.hdf5"), "holds no image")
    (tmp_path / "folder").mkdir()
    refused(lambda: open_images(tmp_path / "folder"), "holds no image")


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    """Return an HDF5 file whose index is saved, the index's folder, and a list that grows at each rebuild."""
    path, folder = tmp_path / "images.hdf5", tmp_path / "cache"
    write_images(path, ["a", "b", "c", "d"])
    kept_index(path, folder, at_least=3)
    made = []
    monkeypatch.setattr(hdf5, "index_hdf5", lambda path: made.append(path) or index_hdf5(path))
    return path, folder, made


def write_images(path, ids, size=100):
    with h5py.File(path, "w") as file:
        for isic_id in ids:
            file[isic_id] = np.void(isic_id.encode() * size)
        file.create_dataset("packed", data=np.frombuffer(IMAGE, np.uint8), compression="gzip")


def assert_true(index, path):
    """Assert that the index has the same images as h5py reads."""
    with h5py.File(path) as file:
        assert sorted(index.ids) == sorted(file)
        for isic_id, offset, size in zip(index.ids, index.offset, index.size, strict=True):
            if offset >= 0:
                assert path.read_bytes()[offset : offset + size] == file[isic_id][()].tobytes()
        assert index.offset[index.ids.tolist().index("packed")] == -1


def test_an_index_is_found_once(indexed):
    path, folder, made = indexed
    again = kept_index(path, folder, at_least=3)
    assert_true(again, path)
    assert not made
    for kept, fresh in zip(again, index_hdf5(path), strict=True):
        np.testing.assert_array_equal(kept, fresh)
        assert kept.dtype == fresh.dtype


def test_another_file_of_the_same_name_size_and_time_is_noticed(indexed):
    path, folder, made = indexed
    before = path.stat()
    write_images(path, ["d", "c", "b", "a"])  # the same positions under other names
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert_true(kept_index(path, folder, at_least=3), path)
    assert len(made) == 1
    assert_true(kept_index(path, folder, at_least=3), path)
    assert len(made) == 1  # the new index is saved in its place


def test_other_pixels_in_the_same_places_need_no_other_index(indexed):
    path, folder, made = indexed
    with h5py.File(path, "r+") as file:
        file["b"][()] = np.void(b"B" * 100)
    assert_true(kept_index(path, folder, at_least=3), path)
    with h5py.File(path, "r+") as file:
        file["e"] = np.void(b"e")
    assert_true(kept_index(path, folder, at_least=3), path)
    assert len(made) == 1


def test_a_damaged_index_is_made_anew(indexed):
    path, folder, made = indexed
    kept = next(folder.iterdir())
    whole, rng = kept.read_bytes(), np.random.default_rng(0)
    damaged = [b"", whole[: len(whole) // 2], whole[:-1], b"text"]
    for at in rng.integers(0, len(whole), 100):
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << rng.integers(8))]) + whole[at + 1 :])
    for content in damaged:
        kept.write_bytes(content)
        assert_true(kept_index(path, folder, at_least=3), path)
    assert made  # some flips are in unread bytes, such as the archive's timestamps
    kept.write_bytes(b"")
    kept_index(path, folder, at_least=3)
    assert kept.read_bytes() == whole


def test_a_small_file_or_a_folder_that_cannot_be_written_to_does_without(indexed, tmp_path):
    path, _, made = indexed
    (tmp_path / "file").touch()
    for _ in range(2):
        assert_true(kept_index(path, tmp_path / "file", at_least=3), path)
    assert_true(kept_index(path, tmp_path / "other", at_least=6), path)
    assert not (tmp_path / "other").exists()
    assert len(made) == 3


def test_a_file_that_another_process_writes_is_locked(tmp_path):
    path = tmp_path / "a.hdf5"
    script = "import sys, h5py; file = h5py.File(sys.argv[1], 'w'); file.flush(); print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(InputError, match=r"is locked: .* HDF5_USE_FILE_LOCKING=FALSE"):
            index_hdf5(path)
        writer.stdin.close()
