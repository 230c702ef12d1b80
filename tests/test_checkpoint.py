import json
import pickle

import numpy as np
import pytest

from rlarcade.checkpoint import (
    Counters,
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
        (lambda m: {k: v for k, v in m.items() if k != "game"}, "damaged: game: Field required"),
        (lambda m: m | {"num_actions": "six"}, "damaged: num_actions: "),
        (lambda m: m | {"surprise": 1}, "damaged: surprise: Extra inputs"),
        (lambda m: [m], "format version None"),
    ],
)
def test_an_altered_manifest_is_refused(tmp_path, change, message):
    save(tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_not_json_is_refused(tmp_path, text):
    save(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        load_checkpoint(tmp_path / "c")


def test_a_huge_manifest_is_not_read(tmp_path):
    save(tmp_path / "c")
    with (tmp_path / "c" / "manifest.json").open("ab") as file:
        file.truncate(20_000_000)
    with pytest.raises(CheckpointError, match="is no manifest: it has 20,000,000 bytes"):
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
