"""Saving and going on: the same bits as if nothing had happened."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from tiers import quick
from torch import nn
from toy_games import CatchLanes, weights_digest

from rlarcade.errors import CheckpointError, DivergenceError
from rlarcade.learning.custom import Custom
from rlarcade.learning.state import TrainingState, resolved
from rlarcade.learning.training import train_agent
from rlarcade.runs import saved_rows, state_store
from rlarcade.runs.state_store import StateStore


@pytest.fixture(scope="module")
def config(tiny_config):
    return resolved(tiny_config)


def run_until(state, steps):
    for progress in train_agent(state):
        if progress.steps >= steps:
            break
    return state


def saved_run(config, folder, at):
    """A run that was saved at some steps; returns its store."""
    store = StateStore(folder)
    state = TrainingState.create(config)
    for steps in at:
        run_until(state, steps)
        store.save(state)
    return store


@pytest.fixture(scope="module")
def saved_twice(config, tmp_path_factory):
    """A folder with states at steps 600 and 800; tests work on copies."""
    folder = tmp_path_factory.mktemp("saved")
    saved_run(config, folder, (600, 800))
    return folder


@pytest.fixture
def store_folder(saved_twice, tmp_path):
    return shutil.copytree(saved_twice, tmp_path / "state")


@pytest.fixture(scope="module")
def uninterrupted(config):
    state = TrainingState.create(config)
    list(train_agent(state))
    return weights_digest(state)


@pytest.mark.parametrize(
    "at", [pytest.param((150,), marks=pytest.mark.slow), (300, 700, 1100)], ids=str
)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    config, tmp_path, uninterrupted, at
):
    # the ring of 500 cells wraps at step 500, lanes are seeded anew about every 100 of theirs
    saved_run(config, tmp_path, at)
    state, problems = StateStore(tmp_path).load(config)
    assert not problems
    assert state.steps == at[-1]
    list(train_agent(state))
    assert weights_digest(state) == uninterrupted


def test_every_part_of_the_state_comes_back(config, tmp_path):
    state = run_until(TrainingState.create(config), 640)
    StateStore(tmp_path).save(state)
    back, _ = StateStore(tmp_path).load(config)
    for name in ("steps", "updates", "parent"):
        assert getattr(back, name) == getattr(state, name)
    assert back.explore_rng.bit_generator.state == state.explore_rng.bit_generator.state
    assert back.replay_rng.bit_generator.state == state.replay_rng.bit_generator.state
    for part in ("learner", "lanes", "tracker"):
        old, new = getattr(state, part).state(), getattr(back, part).state()
        assert set(old) == set(new)
        for key in old:
            np.testing.assert_array_equal(old[key], new[key], err_msg=f"{part} {key}")
    rows = (state.replay.rows_added - state.replay.num_rows, state.replay.rows_added)
    old, new = state.replay.export(*rows), back.replay.export(*rows)
    for key in old:
        np.testing.assert_array_equal(old[key], new[key], err_msg=key)


def test_many_rows_are_saved_in_several_files_and_come_back(config, tmp_path, monkeypatch):
    monkeypatch.setattr(state_store, "_SEGMENT_CELLS", 64)
    monkeypatch.setattr(saved_rows, "CHUNK_CELLS", 10)
    state = run_until(TrainingState.create(config), 330)
    StateStore(tmp_path).save(state)
    rows = sorted(path.stem for path in (tmp_path / "rows").iterdir())
    assert [row.split("-")[0] for row in rows] == [f"{first:012d}" for first in range(0, 165, 32)]
    assert rows[-1].endswith(f"-{165:012d}")
    back, problems = StateStore(tmp_path).load(config)
    assert not problems
    old, new = state.replay.export(0, 165), back.replay.export(0, 165)
    for key in old:
        np.testing.assert_array_equal(old[key], new[key], err_msg=key)


def test_saving_changes_nothing(config, tmp_path, uninterrupted):
    state = saved_run_state(config, tmp_path, range(100, 1200, 100))
    list(train_agent(state))
    assert weights_digest(state) == uninterrupted


def saved_run_state(config, folder, at):
    store = StateStore(folder)
    state = TrainingState.create(config)
    for steps in at:
        store.save(run_until(state, steps))
    return state


# Every composition


COMPOSITIONS = {
    "priorities": {"prioritized": True},
    "average": {"target_tau": 0.1, "target_update_interval": 4, "acting_network": "target"},
    "falling": {
        "learning_rate_final": 0.0,
        "n_steps": 10,
        "n_steps_final": 2,
        "n_steps_duration": 500,
    },
    "laptop": {
        "prioritized": True,
        "norm": "layer",
        "head": "quantile",
        "num_quantiles": 11,
        "n_steps": 10,
        "n_steps_final": 3,
        "n_steps_duration": 800,
    },
    "rainbow": {
        "prioritized": True,
        "noisy": True,
        "head": "categorical",
        "num_atoms": 11,
        "dueling": True,
        "importance_steps": 600,
    },
    "munchausen-iqn": {
        "double": False,
        "munchausen": True,
        "head": "implicit",
        "num_taus": 4,
        "prioritized": True,
    },
    "impala": {  # spectral norm keeps vectors beside the weights
        "torso": "impala",
        "spectral_norm": True,
        "pool_size": 3,
        "noisy": True,
        "head": "quantile",
        "num_quantiles": 5,
        "total_timesteps": 240,
        "learning_starts": 60,
        "train_freq": 20,
        "target_update_interval": 70,
        "batch_size": 4,
        "buffer_size": 150,
    },
    "rollouts": {
        "memory": "none",
        "double": False,
        "rollout_steps": 20,
        "batch_size": 8,
        "optimizer": "radam",
        "norm": "channel",
        "noisy": True,
    },
}


QUICK = ("laptop", "average", "rollouts")


def whole(state):
    """Everything that decides how a run goes on, by name."""
    found = {f"agent {name}": array for name, array in state.learner.state().items()}
    found |= {f"replay {name}": array for name, array in state.replay.priorities().items()}
    found |= {f"lanes {name}": array for name, array in state.lanes.state().items()}
    generators = {
        "agent": state.learner.rng,
        "explore": state.explore_rng,
        "replay": state.replay_rng,
    }
    found |= {
        f"{name} rng": np.array(str(rng.bit_generator.state)) for name, rng in generators.items()
    }
    return found | {"steps": np.array(state.steps), "updates": np.array(state.updates)}


def assert_same(one, other):
    one, other = whole(one), whole(other)
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize(
    "name",
    quick(COMPOSITIONS, QUICK),
)
def test_every_composition_goes_on_with_the_same_bits(config, tmp_path, name):
    parts = {"total_timesteps": 480, "buffer_size": 300, "reseed_interval": 200}
    parts |= COMPOSITIONS[name]
    config = resolved(config.model_copy(update=parts))
    uninterrupted = TrainingState.create(config)
    list(train_agent(uninterrupted))
    half = config.total_timesteps * 3 // 4  # the ring has wrapped
    saved = run_until(TrainingState.create(config), half)
    assert saved.updates > 5
    StateStore(tmp_path).save(saved)
    back, problems = StateStore(tmp_path).load(config)
    assert not problems
    assert_same(saved, back)
    list(train_agent(back))
    assert_same(uninterrupted, back)
    assert weights_digest(saved) != weights_digest(back)


class Thinned(nn.Module):
    """A torso that leaves out some of its features while it learns."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.pool, self.layer = nn.AvgPool2d(12), nn.Linear(4 * 49, 16)
        self.dropout = nn.Dropout(0.3)

    def forward(self, frames):
        return self.dropout(self.layer(self.pool(frames.float() / 255).flatten(1)).relu())


def test_a_run_with_dropout_in_a_torso_of_ones_own_goes_on_with_the_same_bits(config, tmp_path):
    config = resolved(config.model_copy(update={"total_timesteps": 480, "buffer_size": 300}))
    uninterrupted = TrainingState.create(config, torso=Thinned())
    list(train_agent(uninterrupted))
    saved = run_until(TrainingState.create(config, torso=Thinned()), 360)
    assert saved.updates > 5
    StateStore(tmp_path).save(saved)
    torch.manual_seed(11)  # another process
    back, _ = StateStore(tmp_path).load(config, custom=Custom(torso=Thinned()))
    assert_same(saved, back)
    list(train_agent(back))
    assert_same(uninterrupted, back)


def test_priorities_go_on_with_the_run(config, tmp_path):
    config = resolved(config.model_copy(update=COMPOSITIONS["priorities"]))
    state = run_until(TrainingState.create(config), 640)
    priority = state.replay.priorities()["priority"]
    assert len(set(priority.tolist())) > 20, "the test needs priorities that differ"
    StateStore(tmp_path).save(state)
    back, _ = StateStore(tmp_path).load(config)
    one, other = (
        each.replay.sample(64, np.random.default_rng(0), importance_exponent=0.5)
        for each in (state, back)
    )
    np.testing.assert_array_equal(one.cell, other.cell)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.observation, other.observation)


def test_a_state_without_replay_is_small_however_often_it_is_saved(config, tmp_path):
    config = resolved(config.model_copy(update=COMPOSITIONS["rollouts"]))
    saved_run(config, tmp_path, range(40, 401, 40))
    kept = [int(path.name[13:25]) - int(path.name[:12]) for path in (tmp_path / "rows").iterdir()]
    assert sum(kept) <= 2 * (config.rollout_steps + 5 + config.rollout_steps)


@pytest.mark.parametrize("loss", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)])
def test_a_state_that_diverged_is_not_saved_and_the_older_ones_stay(config, store_folder, loss):
    store = StateStore(store_folder)
    state, _ = store.load(config)
    run_until(state, 840)
    before = {path: path.read_bytes() for path in store_folder.rglob("*") if path.is_file()}
    state.newest = dataclasses.replace(state.newest, loss=torch.tensor(loss))
    with pytest.raises(DivergenceError, match=f"the loss became {loss} at step 840"):
        store.save(state)
    assert before == {p: p.read_bytes() for p in store_folder.rglob("*") if p.is_file()}
    back, problems = StateStore(store_folder).load(config)
    assert back.steps == 800
    assert not problems


# On the disk


def test_a_save_writes_only_rows_that_are_new_and_prunes_old_ones(config, tmp_path):
    store = saved_run(config, tmp_path, (200, 400, 600, 800, 1000))
    rows = sorted(path.name for path in (tmp_path / "rows").iterdir())
    # 250 rows of 2 lanes fit the ring; the two kept states (800, 1000) need rows from 150 on
    assert rows[0].startswith("000000000100-")
    firsts = [int(name[:12]) for name in rows]
    lasts = [int(name[13:25]) for name in rows]
    assert firsts[1:] == lasts[:-1]  # no row twice, none missing
    assert lasts[-1] == 500
    assert [p.name for p in sorted(tmp_path.glob("step-*"))] == [
        "step-000000000800",
        "step-000000001000",
    ]
    assert store.kept == [800, 1000]


def test_nothing_saved_means_nothing_loaded(config, tmp_path):
    assert StateStore(tmp_path).load(config) == (None, [])


DAMAGE = {
    "truncated arrays": ("step-000000000800/arrays.safetensors", lambda data: data[:-1]),
    "a flipped bit in arrays": (
        "step-000000000800/arrays.safetensors",
        lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    ),
    "a changed counter": (
        "step-000000000800/state.json",
        lambda data: data.replace(b'"updates": 75', b'"updates": 76'),
    ),
    "not JSON": ("step-000000000800/state.json", lambda data: b"\x80\x04pickle"),
    "another format": (
        "step-000000000800/state.json",
        lambda data: resealed(data, format_version=1),
    ),
    "a sealed state without rows": (
        "step-000000000800/state.json",
        lambda data: resealed(data, segments=None),
    ),
    "a missing file": ("step-000000000800/state.json", None),
    "damaged rows": ("rows/000000000300-000000000400.safetensors", lambda data: data[::-1]),
    "missing rows": ("rows/000000000300-000000000400.safetensors", None),
}


def resealed(data, **changes):
    from rlarcade.runs.saved_state import sealed

    return sealed(json.loads(data)["body"] | changes)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_noticed_and_the_older_one_used(config, store_folder, damage):
    name, change = DAMAGE[damage]
    path = store_folder / name
    if change is None:
        path.unlink()
    else:
        data = path.read_bytes()
        assert change(data) != data, "the damage must change something"
        path.write_bytes(change(data))
    state, problems = StateStore(store_folder).load(config)
    assert state.steps == 600
    assert len(problems) == 1
    assert str(path if "sealed" not in damage else path.parent) in problems[0]


def test_a_run_that_fell_back_to_an_older_state_ends_with_the_same_bits(
    config, store_folder, uninterrupted
):
    (store_folder / "step-000000000800" / "state.json").write_text("damaged")
    store = StateStore(store_folder)
    state, _ = store.load(config)
    store.save(run_until(state, 800))
    assert sorted(p.name for p in store_folder.glob("step-*")) == [
        "step-000000000600",
        "step-000000000800",
    ]
    list(train_agent(state))
    assert weights_digest(state) == uninterrupted


def test_when_every_state_is_damaged_nothing_is_started_over_silently(config, store_folder):
    for path in store_folder.glob("step-*/arrays.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 training states .*--init-from"):
        StateStore(store_folder).load(config)


@pytest.mark.slow
def test_a_disk_that_fills_up_in_any_write_of_a_save_leaves_the_last_good_state(
    config, saved_twice, tmp_path, monkeypatch
):
    import os

    real = os.fsync
    failures = 0
    for nth in range(1, 30):
        folder = tmp_path / f"n{nth}"
        shutil.copytree(saved_twice, folder)
        store = StateStore(folder)
        state, _ = store.load(config)
        run_until(state, 840)
        calls = iter(range(1, 100))

        def full(descriptor, calls=calls, nth=nth):
            if next(calls) == nth:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr("rlarcade.files.os.fsync", full)
        try:
            store.save(state)
        except OSError:
            failures += 1
        else:
            break
        finally:
            monkeypatch.setattr("rlarcade.files.os.fsync", real)
        back, problems = StateStore(folder).load(config)
        assert back.steps in (800, 840), nth  # 840 only if the folder already had its final name
        assert not problems
        store.save(state)  # once there is space again, the same run can save
        assert StateStore(folder).saved_steps() == [800, 840]
    assert failures >= 5


def test_only_games_that_can_be_rebuilt_are_saved(tiny_config, tmp_path):
    config = tiny_config.model_copy(update={"game": "pong"})
    state = TrainingState.create(config, lanes=CatchLanes(2))
    with pytest.raises(
        TypeError, match="only runs on TrainingLanes can be saved, not on CatchLanes"
    ):
        StateStore(tmp_path).save(state)


# A run that goes on otherwise than it began


def drawable(replay, n_steps=3):
    """Every transition that may be drawn, or could with shorter returns, by what it is made of."""
    low, _ = replay._rows_to_draw()
    found = set()
    for row in range(low, replay.rows_added - n_steps):
        for lane in range(replay.num_envs):
            if not replay._reset[row % replay.num_rows, lane]:
                batch = replay.at(np.array([row]), np.array([lane]), n_steps)
                parts = (batch.observation, batch.next_observation, batch.action, batch.reward)
                found.add(b"".join(part.numpy().tobytes() for part in (*parts, batch.discount)))
    return found


@pytest.mark.parametrize("prioritized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_larger_ring_keeps_what_the_smaller_one_held(config, tmp_path, prioritized):
    config = resolved(config.model_copy(update={"buffer_size": 300, "prioritized": prioritized}))
    state = run_until(TrainingState.create(config), 640)
    StateStore(tmp_path).save(state)
    larger = config.model_copy(update={"buffer_size": 900})
    store = StateStore(tmp_path)
    back, problems = store.load(larger)
    assert (problems, store.games_began_anew) == ([], False)
    assert back.replay.num_rows == 450
    assert drawable(state.replay) <= drawable(back.replay)
    old, new = state.replay.export(170, 320), back.replay.export(170, 320)
    for key in old:
        np.testing.assert_array_equal(old[key], new[key], err_msg=key)
    if prioritized:
        assert back.replay.total_priority == pytest.approx(state.replay.total_priority)
        rows, lanes = np.arange(174, 317), np.arange(2)
        places = [
            (rows[:, None] % ring.num_rows * 2 + lanes).reshape(-1)
            for ring in (state.replay, back.replay)
        ]
        one, other = (
            ring.priorities()["priority"][place]
            for ring, place in zip((state.replay, back.replay), places, strict=True)
        )
        np.testing.assert_array_equal(one, other)
        assert back.replay.total_priority == pytest.approx(other.sum(), rel=0.05)
    # it learns, is saved and goes on with the same bits
    run_until(back, 700)
    store.save(back)
    again, problems = StateStore(tmp_path).load(larger)
    assert not problems
    for either in (back, again):
        run_until(either, 1_000)
    assert weights_digest(back) == weights_digest(again)
    assert len(back.replay) > 600


@pytest.fixture(scope="module", params=quick([True, False], [True]), ids=["prioritized", "uniform"])
def of_two_lanes(request, config, tmp_path_factory):
    """A run's configuration, its state at step 640, and the folder where that was saved."""
    changes = {"buffer_size": 900, "prioritized": request.param}
    config = resolved(config.model_copy(update=changes))
    folder = tmp_path_factory.mktemp("lanes")
    state = run_until(TrainingState.create(config), 640)
    StateStore(folder).save(state)
    return config, state, folder


@pytest.mark.parametrize("lanes", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_another_number_of_lanes_keeps_the_transitions_that_were_played(
    of_two_lanes, tmp_path, lanes
):
    config, state, folder = of_two_lanes
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    other = config.model_copy(update={"num_envs": lanes})
    store = StateStore(tmp_path)
    back, problems = store.load(other)
    assert (problems, store.games_began_anew) == ([], True)
    assert (back.steps, back.updates, back.replay.num_envs) == (640, state.updates, lanes)
    before, after = drawable(state.replay), drawable(back.replay)
    # where a lane ends, returns have fewer rewards than three, as where a game is cut
    shorter = drawable(state.replay, 1) | drawable(state.replay, 2)
    assert after <= before | shorter, "nothing was made up, and no two games were mixed"
    # at each end of a lane, old or new, some are lost
    assert len(before) - len(after) <= (2 + lanes) * (config.n_steps + 8)
    assert back.replay.share_of_transitions() > 0.9
    if config.prioritized:
        priority = back.replay.priorities()["priority"].reshape(-1, lanes)
        assert (priority[back.replay._reset] == 0).all()
        assert 0.8 * state.replay.total_priority < back.replay.total_priority
    np.testing.assert_array_equal(back.lanes.age, 0)
    assert not (state.lanes.observation[0] == back.lanes.observation[0]).all()
    run_until(back, 700)
    store.save(back)
    again, problems = StateStore(tmp_path).load(other)
    assert (problems, again.steps) == ([], back.steps)
    for either in (back, again):
        run_until(either, 760)
    assert weights_digest(back) == weights_digest(again)


def test_without_replay_other_numbers_of_lanes_go_on_too(config, tmp_path):
    config = resolved(config.model_copy(update=COMPOSITIONS["rollouts"]))
    state = run_until(TrainingState.create(config), 400)
    # with 3 lanes, and then with 5, fewer updates would have been due by now
    for lanes, steps in ((4, 560), (3, 680), (5, 780)):
        StateStore(tmp_path).save(state)
        other = config.model_copy(update={"num_envs": lanes})
        back, problems = StateStore(tmp_path).load(other)
        assert problems == []
        assert back.updates == state.updates
        assert run_until(back, steps).updates > state.updates
        state = back
