import hashlib
import json
import os
import pickle

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from rlarcade.checkpoint import (
    Counters,
    canonical_bytes,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from rlarcade.errors import CheckpointError
from rlarcade.files import write_file, write_folder
from rlarcade.games import get_protocol

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(1, dtype=np.float32)}


def save(path, tensors=TENSORS):
    return save_checkpoint(
        path,
        tensors,
        game="pong",
        protocol=get_protocol("v5"),
        num_actions=6,
        network={"hidden_units": 3},
        counters=Counters(steps=10, frames=40, updates=2),
        config={"game": "pong"},
        seed=1,
    )


def test_what_is_saved_is_loaded(tmp_path):
    manifest = save(tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.manifest == manifest
    assert loaded.manifest.counters == Counters(steps=10, frames=40, updates=2)
    assert loaded.manifest.protocol == get_protocol("v5")
    assert set(loaded.tensors) == {"a", "b"}
    np.testing.assert_array_equal(loaded.tensors["a"], TENSORS["a"])


def test_a_checkpoint_is_two_files_and_leaves_nothing_else_behind(tmp_path):
    save(tmp_path / "c")
    save(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "manifest.json",
        "weights.safetensors",
    ]


def test_transposed_tensors_keep_their_values(tmp_path):
    save(tmp_path / "c", {"t": TENSORS["a"].T})
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "c").tensors["t"], TENSORS["a"].T)


def test_any_flipped_bit_of_the_weights_is_noticed(tmp_path):
    save(tmp_path / "c")
    path = tmp_path / "c" / "weights.safetensors"
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(bad))
        with pytest.raises(CheckpointError, match="weights.safetensors is damaged: its sha256 is"):
            load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("left", [0, 4, -1])
def test_weights_that_were_cut_short_are_noticed(tmp_path, left):
    save(tmp_path / "c")
    path = tmp_path / "c" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match="weights.safetensors is damaged: its sha256 is"):
        load_checkpoint(tmp_path / "c")


class Bomb:
    """Unpickling it would raise the alarm."""

    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was unpickled",))


def test_a_pickle_is_never_executed_even_with_a_matching_digest(tmp_path):
    import hashlib

    save(tmp_path / "c")
    data = pickle.dumps({"weights": Bomb()})
    (tmp_path / "c" / "weights.safetensors").write_bytes(data)
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    manifest["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is not a safetensors file.*Nothing in it was exec"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"format_version": 99}, "format version 99; this rlarcade reads version 1"),
        (lambda m: {k: v for k, v in m.items() if k != "game"}, "damaged: 'game' is missing"),
        (
            lambda m: m | {"num_actions": "six"},
            "damaged: 'num_actions' must be a whole number, not 'six'",
        ),
        (lambda m: m | {"surprise": 1}, "damaged: 'surprise' is unknown"),
        (lambda m: m | {"x" * 10**6: 1}, "damaged: 'x+…x+' is unknown"),
        (lambda m: m | {"num_actions": 10**9}, "damaged: 'num_actions' must be at most 18, not 10"),
        (
            lambda m: m | {"counters": {"steps": -1}},
            "damaged: 'counters.steps' must be at least 0, not -1",
        ),
        (
            lambda m: m | {"protocol": m["protocol"] | {"sticky": 2.0}},
            "damaged: 'protocol.sticky' must be at most 1, not 2",
        ),
        (
            lambda m: m | {"protocol": m["protocol"] | {"sticky": 0.1}},
            "damaged: protocol v5 has sticky 0.25, not 0.1",
        ),
        (lambda m: [m], "format version None"),
    ],
)
def test_an_altered_manifest_is_refused(tmp_path, change, message):
    save(tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c")


def stored(path, data):
    """Puts other weights into a checkpoint, with the digest that they have."""
    (path / "weights.safetensors").write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def header_and_data(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(text, data):
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def other_forms(good):
    header, data = header_and_data(good)
    plain = json.dumps(header, separators=(",", ":"))
    yield with_header(json.dumps({"__metadata__": {"x": "y"}} | header), data)
    yield with_header(json.dumps(dict(reversed(header.items()))), data)
    yield with_header(json.dumps(header, indent=1), data)
    yield with_header(plain + " " * 64, data)
    twice = plain[:-1] + "," + plain[1:]
    yield with_header(twice, data)
    moved = {
        "b": header["b"] | {"data_offsets": [0, 4]},
        "a": header["a"] | {"data_offsets": [4, 28]},
    }
    yield with_header(json.dumps(moved), data[24:] + data[:24])


def test_the_same_tensors_in_another_form_are_no_other_version_but_refused(tmp_path):
    save(tmp_path / "c")
    good = (tmp_path / "c" / "weights.safetensors").read_bytes()
    for data in other_forms(good):
        stored(tmp_path / "c", data)
        with pytest.raises(CheckpointError) as refused:
            load_checkpoint(tmp_path / "c")
        assert "in another form" in str(refused.value) or "not a safetensors" in str(refused.value)

    stored(tmp_path / "c", good)
    load_checkpoint(tmp_path / "c")


@given(
    st.dictionaries(
        st.text(max_size=8),
        npst.arrays(
            st.sampled_from(
                ["f4", "f8", "f2", "i8", "i4", "i2", "u1", "i1", "?", "u2", "u4", "u8"]
            ),
            npst.array_shapes(min_dims=0, max_dims=3, max_side=3),
        ),
        max_size=6,
    )
)
def test_the_one_form_is_what_safetensors_writes(tensors):
    assert canonical_bytes(tensors) == safetensors.numpy.save(tensors)


@pytest.mark.parametrize("dtype", ["c8", ">f4", "U1"])
def test_a_tensor_that_no_checkpoint_holds_is_refused(dtype):
    with pytest.raises(ValueError, match="tensor x has dtype .* which no checkpoint holds"):
        canonical_bytes({"x": np.zeros(2, dtype)})


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "sparse"])
def test_what_is_no_file_of_a_fit_size_is_refused_at_once(tmp_path, name, kind):
    save(tmp_path / "c")
    path = tmp_path / "c" / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(60_000_000_000)
    with pytest.raises(CheckpointError, match=r"it is a (FIFO|folder|device)|60,000,000,000"):
        load_checkpoint(tmp_path / "c")


def test_a_path_that_no_file_system_takes_is_one_line():
    with pytest.raises(CheckpointError, match="File name too long"):
        load_checkpoint("x" * 300)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"format_version": ' + "1" * 5000 + "}", "\xff"]
)
def test_a_manifest_that_is_not_json_is_refused(tmp_path, text):
    save(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        load_checkpoint(tmp_path / "c")


def test_a_huge_manifest_is_not_read(tmp_path):
    save(tmp_path / "c")
    with (tmp_path / "c" / "manifest.json").open("ab") as file:
        file.truncate(20_000_000)
    with pytest.raises(CheckpointError, match="it has 20,000,000 bytes, more than the 10,000,000"):
        load_checkpoint(tmp_path / "c")


def test_a_missing_half_is_named(tmp_path):
    save(tmp_path / "c")
    (tmp_path / "c" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*weights\.safetensors: No such file"):
        load_checkpoint(tmp_path / "c")
    save(tmp_path / "d")
    (tmp_path / "d" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*manifest\.json: No such file"):
        load_checkpoint(tmp_path / "d")


def test_a_run_folder_means_its_newest_checkpoint(tmp_path):
    for steps in (500, 20_000, 3_000):
        save(checkpoint_path(tmp_path, steps))
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "step-000000000500",
        "step-000000003000",
        "step-000000020000",
    ]
    assert find_checkpoint(tmp_path).name == "step-000000020000"
    newest = find_checkpoint(tmp_path)
    assert find_checkpoint(newest / "weights.safetensors") == newest


def test_a_path_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint. Name a folder with"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_write_that_fails_leaves_the_old_files_and_no_others(tmp_path, monkeypatch):
    write_folder(tmp_path / "f", {"x": b"old"})
    write_file(tmp_path / "g", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlarcade.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "f", {"x": b"new"})
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "g", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "g"]
    assert (tmp_path / "f" / "x").read_bytes() == b"old"
    assert (tmp_path / "g").read_bytes() == b"old"
