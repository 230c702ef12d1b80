"""How often a checkpoint's bytes are opened and hashed on the way to the championship."""

import hashlib
import os
import sys
from collections import Counter

import numpy as np
import pytest
from promoting import quick_gate, saved_agent
from registry_helpers import blob_file, flip_a_byte, tiny, whole

from rlarcade.checkpoint import Counters, save_checkpoint
from rlarcade.errors import CheckpointError, UnusableRegistryError
from rlarcade.games import get_protocol
from rlarcade.promotion.pipeline import move_alias_at_once, run_pipeline, send_checkpoint
from rlarcade.registry import registration
from rlarcade.registry.registry import Registry

_opened: Counter[str] | None = None


def _note_opening(event, arguments):
    if event == "open" and _opened is not None and isinstance(arguments[0], str | os.PathLike):
        _opened[os.fspath(arguments[0])] += os.path.exists(arguments[0])  # noqa: PTH110


sys.addaudithook(_note_opening)  # Python cannot remove it again; it counts only for `opened`


@pytest.fixture
def opened():
    """How often each file was opened, under any name, by any module."""
    global _opened  # noqa: PLW0603
    _opened = Counter()
    yield _opened
    _opened = None


@pytest.fixture
def hashed(monkeypatch):
    """The number of bytes given to each sha256."""
    lengths = []
    real = hashlib.sha256

    class Counted:
        def __init__(self, data=b""):
            self._real = real(data)
            self._place = len(lengths)
            lengths.append(len(data))

        def update(self, data):
            lengths[self._place] += len(data)
            self._real.update(data)

        def hexdigest(self):
            return self._real.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Counted)
    return lengths


def large(path, content=0):
    """A checkpoint whose weights are larger than all else that is hashed: a megabyte."""
    tensor = np.full(131_072, content, dtype=np.int64)
    save_checkpoint(
        path,
        {"w": tensor},
        game="pong",
        protocol=get_protocol("v5"),
        num_actions=6,
        network={},
        counters=Counters(),
        config={},
    )
    return path


def test_registering_opens_and_hashes_the_weights_once(registry, tmp_path, opened, hashed):
    path = large(tmp_path / "c")
    hashed.clear()
    opened.clear()
    version = registry.register(path)
    assert opened[str(path / "weights.safetensors")] == 1
    assert [length for length in hashed if length >= 2**20] == [version.weights_bytes]
    assert whole(registry)


def test_registering_again_reads_the_stored_bytes_once(registry, folder, tmp_path, opened, hashed):
    path = large(tmp_path / "c")
    version = registry.register(path)
    hashed.clear()
    opened.clear()
    assert registry.register(path) == version
    assert opened[str(path / "weights.safetensors")] == 1
    assert opened[str(blob_file(folder, version.digest))] == 1
    assert [length for length in hashed if length >= 2**20] == [version.weights_bytes] * 2


def test_bytes_left_by_a_killed_registration_are_checked_before_they_are_used(
    registry, folder, tmp_path
):
    """They have a name and no row yet; a damaged file is written again."""
    path = large(tmp_path / "c")
    candidate = registration.read(path)
    digest = registry._blobs.put(candidate.weights)
    flip_a_byte(blob_file(folder, digest))
    assert registry.register(path).digest == digest
    assert whole(registry)


def test_a_checkpoint_becomes_the_champion_after_three_reads(tmp_path, folder, opened):
    """Of the checkpoint's file, and of the stored file for the gate and for the alias."""
    path = saved_agent(tmp_path / "agent")
    opened.clear()
    done = send_checkpoint(folder, path, "deployment", quick_gate(smoke={"enabled": False}))
    assert done.state == "promoted"
    assert opened[str(path / "weights.safetensors")] == 1
    assert opened[str(blob_file(folder, done.digest))] == 2


def test_damage_between_the_gate_and_the_alias_is_noticed(registry, folder, tmp_path):
    """With the file's size and time as they were: only its bytes tell."""
    version = registry.register(saved_agent(tmp_path / "agent"))
    path = blob_file(folder, version.digest)

    def damaged(registry, approved, actor):
        before = path.stat()
        flip_a_byte(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return move_alias_at_once(registry, approved, actor)

    with pytest.raises(UnusableRegistryError, match="version 1 is broken and cannot be used"):
        run_pipeline(
            registry, version, "deployment", quick_gate(smoke={"enabled": False}), release=damaged
        )
    assert registry.alias("pong") is None


def test_what_was_checked_is_what_is_stored_though_the_file_changes_afterwards(registry, tmp_path):
    path = tiny(tmp_path / "c", 1)
    candidate = registration.read(path)
    flip_a_byte(path / "weights.safetensors")
    assert registry.register(candidate).digest == candidate.record["digest"]
    assert whole(registry)
    with pytest.raises(CheckpointError, match="is damaged"):
        registry.register(path)


def test_a_checkpoint_that_is_damaged_leaves_no_registry_behind(tmp_path, folder):
    path = saved_agent(tmp_path / "agent")
    flip_a_byte(path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        send_checkpoint(folder, path, "ci", quick_gate())
    assert not folder.exists()
    assert not list(tmp_path.glob("registry*"))
    with Registry.open(folder) as registry, pytest.raises(CheckpointError):
        registry.register(path)
