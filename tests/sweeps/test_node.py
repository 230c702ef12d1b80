"""What runs on a node, without a cluster: whose storage it uses, and what it leaves behind."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rlarcade.cluster.nodes import facts_of_this_process
from rlarcade.errors import ConfigError
from rlarcade.locks import try_lock
from rlarcade.runs.folder import RunFolder
from rlarcade.sweeps import node
from rlarcade.sweeps.node import HeldToken, NodeTrainer, Order, Token, is_shared

FLAGS = [
    *("--game", "SpaceInvaders", "--device", "cpu", "--num-envs", "2", "--total-timesteps", "600"),
    *("--learning-starts", "300", "--buffer-size", "600", "--batch-size", "16"),
    *("--conv-channels", "4", "4", "4", "--hidden-units", "16", "--eval-episodes", "1"),
]


@pytest.fixture(autouse=True)
def disk(tmp_path, monkeypatch):
    """A folder for the node's own folders."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def held(tmp_path):
    token = HeldToken(tmp_path / "sweep")
    yield token
    token.close()


def order(tmp_path, **changes):
    settings = {
        "label": "run",
        "flags": FLAGS,
        "preset": "quick",
        "preset_text": None,
        "run_folder": str(tmp_path / "sweep" / "run"),
        "directory": str(tmp_path),
        "threads": 1,
        "gpu": False,
    }
    return Order(**(settings | changes))


def ended(trainer, seconds=60):
    end = time.monotonic() + seconds
    while (code := trainer.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return code


# Storage


def test_a_machine_that_sees_the_token_and_its_lock_shares_the_storage(held):
    assert is_shared(held.token)


def test_a_machine_that_sees_no_token_another_one_or_no_lock_does_not(held, tmp_path):
    assert not is_shared(Token(str(tmp_path / "nowhere"), held.token.content))
    assert not is_shared(held.token._replace(content="other"))
    (tmp_path / "unlocked").write_text("abc")
    assert not is_shared(Token(str(tmp_path / "unlocked"), "abc"))
    (tmp_path / "link").symlink_to(held.token.path)
    assert not is_shared(held.token._replace(path=str(tmp_path / "link")))


def test_a_token_goes_with_its_driver_and_one_of_a_killed_driver_with_the_next(tmp_path):
    left = tmp_path / "sweep" / ".shared-00000000"
    left.parent.mkdir()
    left.write_text("left")
    first, second = HeldToken(tmp_path / "sweep"), HeldToken(tmp_path / "sweep")
    assert not left.exists()
    assert is_shared(first.token)
    assert is_shared(second.token)
    first.close()
    second.close()
    assert list((tmp_path / "sweep").iterdir()) == []


# Training


@pytest.mark.slow
def test_a_node_that_shares_the_storage_trains_in_the_runs_folder(tmp_path, held, disk):
    trainer = NodeTrainer(facts_of_this_process())
    place = trainer.ready(held.token, order(tmp_path), fetched=False)
    assert place.shared
    assert place.folder == str(tmp_path / "sweep" / "run")
    trainer.start()
    assert ended(trainer) == 0
    assert (tmp_path / "sweep" / "run" / "result.json").exists()
    assert "600 steps" in (tmp_path / "sweep" / "run.log").read_text()
    trainer.clean()
    assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("why", ["it must", "it sees nothing"])
def test_another_node_trains_on_its_own_disk(tmp_path, held, disk, why):
    trainer = NodeTrainer(facts_of_this_process())
    token = held.token if why == "it must" else held.token._replace(content="unseen")
    own = order(tmp_path, preset="mine", preset_text="gamma = 0.5\nhidden_units = 8\n")
    place = trainer.ready(token, own, fetched=why == "it must")
    assert not place.shared
    assert Path(place.folder).is_relative_to(disk)
    assert trainer.start() == {}
    assert ended(trainer) == 0
    assert not (tmp_path / "sweep" / "run").exists()
    assert "result.json" in trainer.listing()
    record = trainer.fetch("run.json", 0, 100_000).decode()
    assert '"preset": "mine"' in record
    assert '"gamma": 0.5' in record
    assert '"hidden_units": 16' in record  # the flag's, not the preset's
    assert b"600 steps" in trainer.log(0)
    assert trainer.log(len(trainer.log(0))) == b""
    trainer.clean()
    assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_a_stop_reaches_the_training_although_ray_blocks_the_signal(tmp_path, held):
    import signal

    long = [*FLAGS, "--total-timesteps", "500000"]
    trainer = NodeTrainer(facts_of_this_process())
    trainer.ready(held.token, order(tmp_path, flags=long), fetched=False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        trainer.start()
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    log = tmp_path / "sweep" / "run.log"
    end = time.monotonic() + 60
    while not log.exists() or "run folder" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    trainer.stop()
    assert ended(trainer) == 130
    assert "the same command resumes" in log.read_text()


def test_a_node_with_other_versions_is_refused(tmp_path, held):
    trainer = NodeTrainer(dict(facts_of_this_process()) | {"torch": "1.0"})
    with pytest.raises(ConfigError, match=r"has torch \S+ instead of 1\.0"):
        trainer.ready(held.token, order(tmp_path), fetched=False)


def test_a_training_without_a_gpu_of_its_own_sees_none(tmp_path, held, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for gpu, seen in ((False, ""), (True, "3")):
        trainer = NodeTrainer(facts_of_this_process())
        trainer.ready(held.token, order(tmp_path, gpu=gpu, threads=5), fetched=True)
        environment = trainer._environment()
        assert environment["CUDA_VISIBLE_DEVICES"] == seen
        assert environment["OMP_NUM_THREADS"] == "5"
        code = "import rlarcade; print(rlarcade.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd="/",
            check=True,
            capture_output=True,
            text=True,
        )
        assert Path(done.stdout.strip()).parent == Path(node.rlarcade.__file__).parent
        trainer.clean()


# What a killed trainer leaves


def test_a_folder_of_a_killed_trainer_goes_once_its_training_has_ended(tmp_path, held, disk):
    left = disk / "rlarcade-sweep-left"
    run = RunFolder(left / "run")
    (left / "run" / "run.json").write_text("{}")
    (left / "mark").touch()
    other = disk / "rlarcade-sweep-other"
    other.mkdir()
    (other / "mark").touch()
    foreign = disk / "rlarcade-sweep-foreign"
    foreign.mkdir()

    def begin():
        trainer = NodeTrainer(facts_of_this_process())
        trainer.ready(held.token, order(tmp_path), fetched=True)
        trainer.clean()

    descriptor = os.open(other / "mark", os.O_RDWR)
    assert try_lock(descriptor)
    begin()
    assert left.exists()  # its training goes on
    assert other.exists()  # its trainer does
    run.close()
    os.close(descriptor)
    begin()
    assert not left.exists()
    assert not other.exists()
    assert foreign.exists()  # it has no mark, so it is nobody's


def test_a_trainer_that_begins_meanwhile_leaves_a_folder_that_is_being_made(
    tmp_path, held, disk, monkeypatch
):
    begun = []

    def late(descriptor):
        if not begun:
            begun.append(True)
            node._remove_left_over()  # as another trainer does between mkdir and lock
        return try_lock(descriptor)

    monkeypatch.setattr(node, "try_lock", late)
    trainer = NodeTrainer(facts_of_this_process())
    place = trainer.ready(held.token, order(tmp_path), fetched=True)
    assert begun
    assert Path(place.folder).parent.is_dir()
    node._remove_left_over()
    assert Path(place.folder).parent.is_dir(), "its mark is locked"
    trainer.clean()
    assert list(disk.iterdir()) == []
