"""A state that somebody altered, and whose digests fit again, is noticed; the older one is used."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load, save
from test_state_store import run_until

from rlarcade.errors import CheckpointError
from rlarcade.games.lanes import TrainingLanes
from rlarcade.learning.state import TrainingState, resolved
from rlarcade.runs.state_store import StateStore

OLD, NEW = 240, 320

pytestmark = pytest.mark.usefixtures("older_games_stand")


@pytest.fixture(scope="module")
def config(tiny_config):
    changes = {"prioritized": True, "total_timesteps": 800, "buffer_size": 300, "train_freq": 16}
    return resolved(tiny_config.model_copy(update=changes))


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    store, state = StateStore(folder), TrainingState.create(config)
    for steps in (OLD, NEW):
        store.save(run_until(state, steps))
    return folder


@pytest.fixture
def older_games_stand(saved, monkeypatch):
    """The older state's games are taken to stand where they stood: a quarter of a second for each.

    That they do is tested in test_state_store; the newer state's are played, if it comes to that.
    """
    arrays = load((saved / f"step-{OLD:012d}" / "arrays.safetensors").read_bytes())
    older, real = arrays["lanes.actions"], TrainingLanes.rebuild

    def rebuild(lanes, state, progress=None):
        if not np.array_equal(state["actions"], older):
            real(lanes, state, progress)

    monkeypatch.setattr(TrainingLanes, "rebuild", rebuild)


def sealed(body):
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "body": body}, indent=1)


def alter(folder, change):
    """Changes the newest state and makes its digests fit."""
    state = folder / f"step-{NEW:012d}"
    body = json.loads((state / "state.json").read_text())["body"]
    arrays = load((state / "arrays.safetensors").read_bytes())
    newest = folder / "rows" / "{:012d}-{:012d}.safetensors".format(*body["segments"][-1][:2])
    rows = load(newest.read_bytes())
    change(body, arrays, rows)
    data = save({name: np.asarray(array, order="C") for name, array in rows.items()})
    if data != newest.read_bytes():
        newest.write_bytes(data)
        body["segments"][-1][2] = hashlib.sha256(data).hexdigest()
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    (state / "arrays.safetensors").write_bytes(data)
    body.setdefault("arrays_sha256", "")
    if body["arrays_sha256"] is not None:
        body["arrays_sha256"] = hashlib.sha256(data).hexdigest()
    (state / "state.json").write_text(sealed(body))


def put(part, key, value):
    """Returns a change of one entry of the document (0), the arrays (1) or the rows (2)."""

    def change(*parts):
        old = parts[part][key]
        parts[part][key] = value(old) if callable(value) else value

    return change


def drop(part, key):
    return lambda *parts: parts[part].pop(key)


def inside(key, name, value):
    return lambda body, *_: body[key].update({name: value})


def filled(number):
    return lambda array: np.full_like(array, number)


def as_type(kind):
    return lambda array: array.astype(kind)


def shorter(array):
    return array[:-1]


WEIGHT = "agent.online.head.values.weight"
MOMENT = "agent.adam.exp_avg_sq.head.values.weight"
HUGE = 2**70

ALTERED = {
    **{
        f"{name} {value!r}"[:40]: put(0, name, value)
        for name in ("steps", "updates", "rows_added")
        for value in (-1, 10**30, "3", 1.5, None, [])
    },
    **{
        f"{name} {shown}": put(0, name, value)
        for name in ("explore_rng", "replay_rng", "agent_rng")
        for shown, value in {"none": None, "empty": {}, "text": "PCG64", "list": [1, 2]}.items()
    },
    "rng of another kind": inside("explore_rng", "bit_generator", "MT19937"),
    "rng state as text": inside("explore_rng", "state", {"state": "1", "inc": 3}),
    "rng state negative": inside("replay_rng", "state", {"state": -1, "inc": 3}),
    "rng state beyond 128 bits": inside("replay_rng", "state", {"state": 2**128, "inc": 3}),
    "rng increment even": inside("agent_rng", "state", {"state": 5, "inc": 2}),
    "rng half used beyond 32 bits": inside("explore_rng", "uinteger", HUGE),
    "rng flag": inside("explore_rng", "has_uint32", 7),
    "parent a number": put(0, "parent", 3),
    "no segments": put(0, "segments", []),
    "segments none": put(0, "segments", None),
    "segments of text": put(0, "segments", ["abc"]),
    "segments deep": put(0, "segments", [[[[[]]]]]),
    "a segment twice": put(0, "segments", lambda old: [*old, old[-1]]),
    "a segment missing": put(0, "segments", lambda old: old[1:-1] or [[7, 9, old[0][2]]]),
    "a segment backwards": put(0, "segments", lambda old: [[b, a, s] for a, b, s in old]),
    "a segment negative": put(0, "segments", lambda old: [[-5, old[0][1], old[0][2]], *old[1:]]),
    "a segment huge": put(0, "segments", lambda old: [*old[:-1], [old[-1][0], HUGE, old[-1][2]]]),
    "a segment elsewhere": put(0, "segments", lambda old: [["../x", 3, old[0][2]], *old[1:]]),
    "updates more than are due": put(0, "updates", lambda old: old + 5),
    **{
        f"seconds {value!r}": put(0, "seconds", {"total": value})
        for value in (-1.0, float("inf"), float("nan"), 1e300, "long", None)
    },
    "digest none": put(0, "arrays_sha256", None),
    "no weights": drop(1, WEIGHT),
    "no optimizer": lambda body, arrays, rows: [
        arrays.pop(name) for name in [*arrays] if name.startswith("agent.adam.")
    ],
    "half of the optimizer": drop(1, MOMENT),
    "weights float64": put(1, WEIGHT, as_type(np.float64)),
    "weights of another shape": put(1, WEIGHT, shorter),
    "weights flat": put(1, WEIGHT, np.ravel),
    "weights nan": put(1, WEIGHT, filled(np.nan)),
    "weights inf": put(1, "agent.target.head.values.weight", filled(np.inf)),
    "moment negative": put(1, MOMENT, filled(-1.0)),
    "moment of another shape": put(1, MOMENT, shorter),
    "moment nan": put(1, "agent.adam.exp_avg.head.values.weight", filled(np.nan)),
    "optimizer step negative": put(1, "agent.adam.step.head.values.weight", filled(-3.0)),
    **{f"no lanes.{x}": drop(1, f"lanes.{x}") for x in ("since", "actions", "observation")},
    "actions beyond the game": put(1, "lanes.actions", filled(200)),
    "actions of one lane": put(1, "lanes.actions", lambda array: array[:, :1]),
    "actions float": put(1, "lanes.actions", as_type(np.float32)),
    "no actions": put(1, "lanes.actions", lambda array: array[:0]),
    "since negative": put(1, "lanes.since", filled(-(10**12))),
    "since huge": put(1, "lanes.since", filled(10**12)),
    "reseeds negative": put(1, "lanes.num_reseeds", filled(-1)),
    "age of three lanes": put(1, "lanes.age", lambda array: np.append(array, 0)),
    "age of no lane": put(1, "lanes.age", lambda array: array[:0]),
    "ended as numbers": put(1, "lanes.ended", as_type(np.int64)),
    "another screen": put(1, "lanes.observation", lambda array: 255 - array),
    "score nan": put(1, "tracker.score", filled(np.nan)),
    "score of three lanes": put(1, "tracker.score", lambda array: np.append(array, 0)),
    "steps of games negative": put(1, "tracker.steps", filled(-1)),
    "no tracker": drop(1, "tracker.score"),
    "no priorities": drop(1, "replay.priority"),
    "priorities nan": put(1, "replay.priority", filled(np.nan)),
    "priorities negative": put(1, "replay.priority", filled(-1.0)),
    "priorities all zero": put(1, "replay.priority", filled(0.0)),
    "priorities of half the ring": put(1, "replay.priority", lambda array: array[:150, None]),
    "largest priority nan": put(1, "replay.largest_priority", filled(np.nan)),
    "largest priority zero": put(1, "replay.largest_priority", filled(0.0)),
    **{f"rows without {name}": drop(2, name) for name in ("frames", "action", "reset")},
    "frames empty": put(2, "frames", lambda array: array[:0]),
    "frames cut": put(2, "frames", lambda array: array[: len(array) // 2]),
    "frames not compressed": put(2, "frames", lambda array: array[::-1]),
    "frames two-dimensional": put(2, "frames", lambda array: array[None]),
    "rows of actions that do not exist": put(2, "action", filled(99)),
    "rows float": put(2, "action", as_type(np.float32)),
    "rows too few": put(2, "reward", shorter),
    "rows of one lane": put(2, "reset", lambda array: array[:, :1]),
    "rewards nan": put(2, "reward", filled(np.nan)),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_state_is_told_and_the_older_one_used(config, saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "state")
    alter(folder, ALTERED[name])
    state, problems = StateStore(folder).load(config)
    assert state.steps == OLD
    assert len(problems) == 1
    assert str(folder) in problems[0]
    assert "\n" not in problems[0]


def test_a_state_resealed_without_a_change_is_used(config, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "state")
    alter(folder, lambda *parts: None)
    state, problems = StateStore(folder).load(config)
    assert (state.steps, problems) == (NEW, [])


def test_rows_that_hold_no_transition_do_not_hang_the_draw(config, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "state")
    for path in (folder / "rows").iterdir():  # both states' rows
        rows = load(path.read_bytes())
        rows["reset"][:] = True
        path.write_bytes(save(rows))
    for state in folder.glob("step-*/state.json"):
        body = json.loads(state.read_text())["body"]
        for segment in body["segments"]:
            data = (folder / "rows" / "{:012d}-{:012d}.safetensors".format(*segment)).read_bytes()
            segment[2] = hashlib.sha256(data).hexdigest()
        state.write_text(sealed(body))
    with pytest.raises(CheckpointError, match=r"none of the 2 .*only 0% of the cells in replay"):
        StateStore(folder).load(config)


@pytest.mark.parametrize("text", ["[" * 20_000, '{"sha256": 1, "body": ' + "9" * 5_000 + "}", "3"])
def test_a_document_that_is_no_state_is_told(config, saved, tmp_path, text):
    folder = shutil.copytree(saved, tmp_path / "state")
    (folder / f"step-{NEW:012d}" / "state.json").write_text(text)
    state, problems = StateStore(folder).load(config)
    assert state.steps == OLD
    assert "is damaged: not a training state" in problems[0]


@pytest.mark.parametrize("name", ["state.json", "arrays.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "sparse", "link", "device"])
def test_what_is_no_file_of_a_state_is_neither_waited_for_nor_read(
    config, saved, tmp_path, name, kind
):
    folder = shutil.copytree(saved, tmp_path / "state")
    path = folder / f"step-{NEW:012d}" / name
    whole = tmp_path / "elsewhere"
    path.rename(whole)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(60_000_000_000)
    else:
        path.symlink_to(whole if kind == "link" else "/dev/zero")
    state, problems = StateStore(folder).load(config)
    assert state.steps == OLD
    assert f"cannot read {path}: it " in problems[0]


def test_a_state_that_fits_no_memory_is_this_machines_trouble_not_the_states(
    config, saved, tmp_path, monkeypatch
):
    from rlarcade import machine
    from rlarcade.errors import ResourceError

    folder = shutil.copytree(saved, tmp_path / "state")
    monkeypatch.setattr(machine, "free_memory", lambda: 1_000)
    with pytest.raises(ResourceError, match="of memory"):
        StateStore(folder).load(config)
