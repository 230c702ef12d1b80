"""The copy of a run's folder is the same as there, and can be resumed at any moment."""

import os
import shutil

import pytest

from rlarcade.checkpoint import load_checkpoint
from rlarcade.runs.folder import RunFolder
from rlarcade.runs.training_run import TrainingRun
from rlarcade.sweeps import mirror
from rlarcade.sweeps.mirror import Mirror, listing, part_of, parts_of, received, to_resume


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def fetch_from(folder, counted=None):
    def fetch(path, position, length):
        if counted is not None:
            counted.append((path, position))
        return part_of(folder, path, position, length)

    return fetch


def written(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "there"
    written(
        folder,
        {
            "run.json": "{}",
            "lock": "77",
            "metrics.jsonl": "one\n",
            "state/rows/000000000000-000000000100.safetensors": "rows",
            "state/step-000000000100/arrays.safetensors": "arrays",
            "state/step-000000000100/state.json": "state",
            "checkpoints/step-000000000100/weights.safetensors": "weights",
            "checkpoints/step-000000000100/manifest.json": "manifest",
            "tensorboard/events.1": "events",
        },
    )
    return folder


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def test_everything_but_the_lock_arrives(there, here):
    Mirror(here, {}).update(listing(there), fetch_from(there))
    assert files_of(here) == files_of(there)
    assert not (here / "lock").exists()


def test_files_longer_than_a_part_arrive_whole(there, here, monkeypatch):
    monkeypatch.setattr(mirror, "PART", 3)
    Mirror(here, {}).update(listing(there), fetch_from(there))
    assert files_of(here) == files_of(there)
    assert list(parts_of(there / "run.json")) == [b"{}"]
    assert b"".join(parts_of(there / "tensorboard/events.1")) == b"events"


def test_only_what_has_changed_travels_again_and_of_a_grown_file_its_end(there, here):
    copy = Mirror(here, {})
    copy.update(listing(there), fetch_from(there))
    with (there / "metrics.jsonl").open("a") as file:
        file.write("two\n")
    written(there, {"state/rows/000000000100-000000000200.safetensors": "more"})
    fetched = []
    copy.update(listing(there), fetch_from(there, fetched))
    assert fetched == [
        ("state/rows/000000000100-000000000200.safetensors", 0),
        ("metrics.jsonl", 4),
    ]
    assert files_of(here) == files_of(there)
    fetched.clear()
    copy.update(listing(there), fetch_from(there, fetched))
    assert fetched == []


def test_a_file_that_was_replaced_travels_whole(there, here):
    copy = Mirror(here, {})
    copy.update(listing(there), fetch_from(there))
    (there / "new").write_text("another, longer one\n")
    (there / "new").replace(there / "metrics.jsonl")
    copy.update(listing(there), fetch_from(there))
    assert (here / "metrics.jsonl").read_text() == "another, longer one\n"


def test_a_grown_file_whose_copy_was_cut_short_travels_whole(there, here):
    copy = Mirror(here, {})
    copy.update(listing(there), fetch_from(there))
    (here / "metrics.jsonl").write_text("on")
    with (there / "metrics.jsonl").open("a") as file:
        file.write("two\n")
    copy.update(listing(there), fetch_from(there))
    assert (here / "metrics.jsonl").read_text() == "one\ntwo\n"


def test_a_state_that_the_run_has_removed_goes_here_too_and_a_checkpoint_stays(there, here):
    copy = Mirror(here, {})
    copy.update(listing(there), fetch_from(there))
    shutil.rmtree(there / "state" / "step-000000000100")
    shutil.rmtree(there / "checkpoints" / "step-000000000100")
    written(there, {"state/step-000000000200/state.json": "newer"})
    (there / "state/rows/000000000000-000000000100.safetensors").unlink()
    copy.update(listing(there), fetch_from(there))
    assert sorted(path.name for path in (here / "state").iterdir()) == [
        "rows",
        "step-000000000200",
    ]
    assert not list((here / "state" / "rows").iterdir())
    assert (here / "checkpoints" / "step-000000000100" / "manifest.json").exists()


def test_files_that_are_no_ones_affair_are_left_out(there, here):
    written(there, {".run.json.0123abcd.writing": "x", "state/.step-000000000200.writing/a": "x"})
    (there / "link").symlink_to("/etc/passwd")
    os.mkfifo(there / "pipe")
    names = set(listing(there))
    assert names == set(files_of(there)) - {
        ".run.json.0123abcd.writing",
        "state/.step-000000000200.writing/a",
        "link",
    }


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "."])
def test_no_path_leads_out_of_the_folder(there, here, path):
    with pytest.raises((ValueError, OSError)):
        part_of(there, path, 0, 10)
    with pytest.raises((ValueError, OSError)):
        received(here, path, b"x", first=True)
    assert not (here.parent / "x").exists()


def test_a_file_that_shrinks_or_goes_while_it_is_fetched_is_an_error_and_comes_later(there, here):
    copy, before = Mirror(here, {}), listing(there)
    (there / "metrics.jsonl").write_text("o")
    with pytest.raises(FileNotFoundError):
        copy.update(before, fetch_from(there))
    (there / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        copy.update(before, fetch_from(there))
    written(there, {"metrics.jsonl": "again\n"})
    copy.update(listing(there), fetch_from(there))
    assert files_of(here) == files_of(there)


def test_what_a_machine_needs_to_go_on_is_all_but_videos_and_older_checkpoints(there):
    written(
        there,
        {"checkpoints/step-000000000050/manifest.json": "old", "videos/step-1.mp4": "film"},
    )
    left = set(files_of(there)) - set(to_resume(there))
    assert left == {"checkpoints/step-000000000050/manifest.json", "videos/step-1.mp4"}


def test_what_is_sent_arrives(there, here):
    for path in to_resume(there):
        for number, part in enumerate(parts_of(there / path)):
            received(here, path, part, first=number == 0)
    assert files_of(here) == files_of(there)


# With a real run


def trained_to(config, folder, steps):
    with TrainingRun.open(config, folder, save_interval=400) as run:
        for progress in run:
            if progress.steps >= steps:
                break


@pytest.mark.parametrize("copied", [0, 500], ids=["the first copy", "a later one"])
def test_a_copy_that_was_interrupted_anywhere_resumes_to_the_same_weights(
    tmp_path, tiny_config, copied
):
    """The copy is cut off after every file; each time the run goes on from it."""
    there, known = tmp_path / "there", {}
    (tmp_path / "first").mkdir()
    if copied:
        trained_to(tiny_config, there, copied)
        Mirror(tmp_path / "first", {}).update(listing(there), fetch_from(there))
        known = listing(there)
    trained_to(tiny_config, there, 900)
    states = {copied, *(int(path.name[5:]) for path in (there / "state").glob("step-*"))}

    class CutOff(Exception):
        pass

    def cut_after(count):
        left = [count]

        def fetch(path, position, length):
            if not left[0]:
                raise CutOff
            left[0] -= 1
            return part_of(there, path, position, length)

        return fetch

    count, resumed, ends = 0, [], set()
    whole = False
    while not whole:
        copy = tmp_path / f"copy-{count}"
        shutil.copytree(tmp_path / "first", copy)
        try:
            Mirror(copy, {**known}).update(listing(there), cut_after(count))
            whole = True
        except CutOff:
            count += 1
        resumed.append(resumed_at(tiny_config, copy))
        if len(ends) < len(set(resumed)) or whole:
            ends.add((resumed[-1], weights_at_the_end(tiny_config, copy)))
        shutil.rmtree(copy)
    assert count > 5
    assert set(resumed) == states
    assert resumed == sorted(resumed), "no later cut loses what an earlier one had"
    assert {digest for _, digest in ends} == {weights_at_the_end(tiny_config, tmp_path / "one")}


def weights_at_the_end(config, folder):
    with TrainingRun.open(config, folder) as run:
        for _ in run:
            pass
        return load_checkpoint(run.save()).manifest.weights_sha256


def resumed_at(config, folder):
    with TrainingRun.open(config, folder) as run:
        return run.steps


def test_a_lock_that_is_held_stays_with_its_holder(tmp_path, there):
    folder = RunFolder(tmp_path / "run")
    Mirror(tmp_path / "run", {}).update(listing(there), fetch_from(there))
    assert (tmp_path / "run" / "lock").read_text().split()[0] == str(os.getpid())
    folder.close()
