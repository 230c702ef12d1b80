"""What the emulator that most tests play on has in common with ALE."""

import ale_py
import numpy as np
import pytest
from made_up_games import ALE, MadeUpEmulator

from rlarcade.games import GameVectorEnv, get_protocol

MASK = np.array([False, True])


@pytest.fixture(params=[ALE, MadeUpEmulator], ids=["ALE", "made up"], scope="module")
def emulator(request):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ale_py, "ALEVectorInterface", request.param)
        yield


def games(num_envs=2, *, frame_cap=80, protocol="nature", **settings):
    short = get_protocol(protocol).model_copy(update={"name": "short", "frame_cap": frame_cap})
    return GameVectorEnv("breakout", num_envs, protocol=short, **settings)


def played(env, steps, seed=0):
    """All that an agent of random actions is given."""
    actions = np.random.default_rng(seed).integers(4, size=(steps, env.num_envs))
    return [env.step(row) for row in actions]


def same(one, other):
    return all(
        np.array_equal(a, b)
        for step, twin in zip(one, other, strict=True)
        for a, b in zip((*step[:4], *step[4].values()), (*twin[:4], *twin[4].values()), strict=True)
    )


def test_screens_and_what_is_told_have_the_same_form(emulator):
    env = games()
    observation, info = env.reset(seed=3)
    assert observation.shape == (2, 4, 84, 84)
    assert observation.dtype == np.uint8
    assert env.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT")
    observation, rewards, terminated, truncated, told = env.step(np.array([1, 2]))
    assert observation.shape == (2, 4, 84, 84)
    assert rewards.dtype == np.int32
    assert terminated.dtype == truncated.dtype == np.bool_
    names = ["env_id", "lives", "frame_number", "episode_frame_number"]
    assert list(info) == list(told) == names
    assert {array.dtype for array in told.values()} == {np.dtype(np.int32)}
    pictures, _ = games(rgb=True).reset(seed=3)
    assert pictures.shape == (2, 1, 210, 160, 3)
    assert pictures.dtype == np.uint8


def test_an_episode_opens_with_one_screen_and_every_step_adds_one(emulator):
    env = games()
    first, _ = env.reset(seed=3)
    assert not first[:, :3].any()
    assert first[:, 3].any()
    second = env.step(np.array([0, 0]))[0]
    assert np.array_equal(second[:, :3], first[:, 1:])
    assert np.array_equal(first[:, :3], np.zeros_like(first[:, :3])), "what was given stays"


def test_a_seed_and_actions_are_a_game(emulator):
    env, twin = games(protocol="v5"), games(protocol="v5")
    env.reset(seed=3)
    twin.reset()
    played(twin, 5)
    twin.reset(seed=3)
    game = played(env, 60)
    assert same(game, played(twin, 60))
    twin.reset(seed=4)
    assert not same(game, played(twin, 60))


def test_a_lane_plays_what_it_plays_alone(emulator):
    env, alone = games(protocol="v5"), games(1, protocol="v5")
    env.reset(seed=3)
    alone.reset(seed=4)
    actions = np.random.default_rng(0).integers(4, size=(40, 2))
    for row in actions:
        both, one = env.step(row), alone.step(row[1:])
        assert all(np.array_equal(a[1:], b) for a, b in zip(both[:4], one[:4], strict=True))


def test_a_game_that_is_cut_off_opens_anew_in_the_next_step(emulator):
    env = games(frame_cap=18)
    _, info = env.reset(seed=3)
    begun = info["episode_frame_number"]
    *_, (_, _, terminated, truncated, info) = played(env, 5)
    assert truncated.all()
    assert not terminated.any()
    assert np.array_equal(info["episode_frame_number"], begun + 18), "within a step"
    observation, rewards, terminated, truncated, info = env.step(np.array([1, 1]))
    assert not terminated.any()
    assert not truncated.any()
    assert not rewards.any()
    assert not observation[:, :3].any()
    assert observation[:, 3].any()
    assert (info["episode_frame_number"] <= 30).all()


def test_a_game_that_is_over_is_not_cut_off(emulator):
    env = games(1, frame_cap=108_000)
    env.reset(seed=0)
    for _ in range(3000):
        *_, terminated, truncated, info = env.step(np.array([1]))
        if terminated[0]:
            break
    assert terminated[0]
    assert not truncated[0]
    assert info["lives"][0] == 0


def test_only_games_of_the_mask_are_reset(emulator):
    env, twin = games(), games()
    for each in (env, twin):
        each.reset(seed=3)
        played(each, 4)
    before = twin.step(np.array([0, 0]))[0]
    env.step(np.array([0, 0]))
    observation, _ = env.reset(seed=np.array([9], dtype=np.int32), options={"reset_mask": MASK})
    assert np.array_equal(observation[0], before[0])
    assert not observation[1, :3].any()


def test_no_ops_are_drawn_from_the_seed(emulator):
    env = games(4)
    _, info = env.reset(seed=0)
    noops = info["episode_frame_number"]
    assert len(set(noops.tolist())) > 1
    assert noops.max() <= 30
    assert np.array_equal(env.reset(seed=0)[1]["episode_frame_number"], noops)


def test_frame_by_frame_is_the_same_game(emulator):
    env, slow = games(protocol="v5", rgb=True), games(protocol="v5", rgb=True, every_frame=True)
    env.reset(seed=3)
    slow.reset(seed=3)
    actions = np.random.default_rng(0).integers(4, size=(30, 2))
    for row in actions:
        _, rewards, *_, info = env.step(row)
        frames = [slow.step(row) for _ in range(4)]
        assert np.array_equal(rewards, sum(frame[1] for frame in frames))
        assert np.array_equal(info["lives"], frames[-1][4]["lives"])
