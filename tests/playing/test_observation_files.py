"""Files of observations: read as NumPy wrote them, and refused in words if anything is wrong."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from rlarcade.errors import ConfigError
from rlarcade.playing.observation_files import open_observations

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 4, 84, 84), dtype=np.uint8)
HEADER = {"descr": "|u1", "fortran_order": False, "shape": FRAMES.shape}


def npy_bytes(header):
    """A `.npy` file of the frames with any header."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, header)
    return file.getvalue() + FRAMES.tobytes()


def npz_bytes(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def read(path, rows=3):
    with open_observations(path) as frames:
        batches = list(frames.batches(rows))
    assert all(len(batch) == rows for batch in batches[:-1])
    assert sum(map(len, batches)) == frames.count
    return np.concatenate(batches)


def refusal(path):
    with pytest.raises(ConfigError) as told:
        read(path)
    line = str(told.value)
    assert line.isprintable()
    assert line.startswith(f"cannot read observations from {path}: ")
    assert line.count("cannot read") == 1, "an error of ours is not told within another one"
    return line


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, np.save])
def test_what_numpy_wrote_is_read_in_batches_of_any_size(tmp_path, save, rows):
    path = tmp_path / ("frames.npy" if save is np.save else "frames.npz")
    save(path, FRAMES) if save is np.save else save(path, other=np.ones(3), observation=FRAMES)
    assert np.array_equal(read(path, rows), FRAMES)


def test_batches_can_be_written_as_torch_wants_it(tmp_path):
    np.save(tmp_path / "frames.npy", FRAMES)
    with open_observations(tmp_path / "frames.npy") as frames:
        assert all(batch.flags.writeable for batch in frames.batches(2))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (FRAMES.astype(np.float32), "it holds float32 (7, 4, 84, 84)"),
        (FRAMES[0], "it holds uint8 (4, 84, 84)"),
        (FRAMES[:, :3], "it holds uint8 (7, 3, 84, 84)"),
        (np.uint8(3), "it holds uint8 ()"),
        (FRAMES[:0], "it says that it holds 0 observations; 1 to 10,000,000 are allowed"),
        (np.asfortranarray(FRAMES), "Fortran order: save numpy.ascontiguousarray(array)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_other_arrays_are_refused_with_what_they_are(tmp_path, array, said, ending):
    path = tmp_path / f"frames.{ending}"
    np.save(path, array) if ending == "npy" else np.savez(path, observation=array)
    assert said in refusal(path)


def test_no_pickle_is_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    for name, save in (("frames.npy", np.save), ("frames.npz", np.savez)):
        given = {"observation": np.array([Trap()])}
        save(tmp_path / name, *given.values()) if save is np.save else save(
            tmp_path / name, **given
        )
        assert "it holds object (1,)" in refusal(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it holds no array of numbers"),
        (b"hello", "it holds no array of numbers"),
        (npy_bytes(HEADER)[:-1], "197,568 bytes, but it holds 197,567. It is cut off or damaged"),
        (npy_bytes(HEADER) + b"x", "197,568 bytes, but it holds 197,569. It is cut off or damaged"),
        (npy_bytes(HEADER | {"shape": (10**9, 4, 84, 84)}), "it says that it holds 1,000,000,000 "),
        (npy_bytes(HEADER | {"shape": (-1, 4, 84, 84)}), "it says that it holds -1 observations"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "version 2.0 of NumPy's format"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9_000) + b"-" * 9_000, "no array of numbers"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9_000) + b"(" * 9_000, "no array of numbers"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 2**16 - 1) + b" " * 2**16, "no array of numbers"),
    ],
)
def test_a_file_that_is_no_array_or_not_as_large_as_it_says_is_refused(tmp_path, content, said):
    path = tmp_path / "frames.npy"
    path.write_bytes(content)
    assert said in refusal(path)


ARRAY = npy_bytes(HEADER)


def altered(content, place, value):
    return content[:place] + bytes([value]) + content[place + 1 :]


ENCRYPTED = altered(npz_bytes({"observation.npy": ARRAY}, zipfile.ZIP_STORED), 6, 1)
ENCRYPTED = altered(ENCRYPTED, ENCRYPTED.rindex(b"PK\1\2") + 8, 1)
PLAIN = npz_bytes({"observation.npy": ARRAY}, zipfile.ZIP_STORED)
OF_THE_FUTURE = altered(PLAIN, PLAIN.rindex(b"PK\1\2") + 6, 99)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "it is no .npz file (File is not a zip file)"),
        (npz_bytes({}), "it has no array 'observation', only nothing"),
        (npz_bytes({"frames.npy": ARRAY, "\x1b[31m": b""}), "only 'frames', '\\x1b[31m'"),
        (npz_bytes({"observation": ARRAY}), "it has no array 'observation'"),
        (npz_bytes({"observation.npy": b"hello"}), "it holds no array of numbers"),
        (npz_bytes({"observation.npy": ARRAY[:-1]}), "It is cut off or damaged"),
        (npz_bytes({"observation.npy": ARRAY}, zipfile.ZIP_LZMA), "in a way that numpy does not"),
        (ENCRYPTED, "it is no .npz file"),
        (OF_THE_FUTURE, "it is no .npz file (zip file version 9.9)"),
    ],
)
def test_an_archive_without_that_array_is_refused(tmp_path, content, said):
    path = tmp_path / "frames.npz"
    path.write_bytes(content)
    assert said in refusal(path)


def test_altered_frames_in_an_archive_are_noticed(tmp_path):
    content = npz_bytes({"observation.npy": ARRAY}, zipfile.ZIP_STORED)
    path = tmp_path / "frames.npz"
    path.write_bytes(altered(content, 5_000, content[5_000] ^ 1))
    assert "it is damaged (Bad CRC-32" in refusal(path)


def test_a_stream_that_cannot_be_decompressed_is_told(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
        archive.writestr("observation.npy", ARRAY)
    content = bytearray(file.getvalue())
    content[5_000:105_000] = b"\xff" * 100_000  # some of it is where a block of DEFLATE begins
    path = tmp_path / "frames.npz"
    path.write_bytes(content)
    assert "it is damaged (Error -3 while decompressing" in refusal(path)


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "frames.npy"
    np.save(path, np.concatenate([FRAMES] * 100))
    with open_observations(path) as frames:
        batches = frames.batches(1)
        os.truncate(path, 50 * next(batches).nbytes)
        with pytest.raises(ConfigError, match="it ends in observation 49 of 700"):
            list(batches)


def test_a_pipe_a_folder_and_nothing_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npy").mkdir()
    assert "it is a FIFO" in refusal(tmp_path / "pipe.npz")
    assert "it is a folder" in refusal(tmp_path / "folder.npy")
    assert "No such file" in refusal(tmp_path / "none.npy")


def test_a_small_file_that_expands_takes_no_memory(tmp_path):
    path = tmp_path / "frames.npz"
    np.savez_compressed(path, observation=np.zeros((4_000, 4, 84, 84), dtype=np.uint8))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    with open_observations(path) as frames:
        assert sum(len(batch) for batch in frames.batches(16)) == 4_000
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_no_altered_byte_gives_anything_but_frames_or_a_refusal(tmp_path, ending):
    plain = np.tile(FRAMES[:1], (3, 1, 1, 1))
    path = tmp_path / f"frames.{ending}"
    np.save(path, plain) if ending == "npy" else np.savez_compressed(path, observation=plain)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    places = [*range(200), *range(len(content) - 200, len(content))]
    refused = 0
    for place in rng.permutation(places)[:200]:
        path.write_bytes(altered(content, int(place), int(rng.integers(256))))
        try:
            assert read(path).shape == plain.shape
        except ConfigError:
            refused += 1
    assert refused > 20
