"""Every frame, reward and flag, against Gymnasium's own Atari preprocessing.

ALE's vector environment and `gymnasium.make("ALE/...")` draw sticky actions from the same emulator
RNG, so equal emulator seeds give equal games, sticky ones too. Gymnasium hands the emulator the
second word of `SeedSequence(seed)` as an int32, though; `emulator_seed` does the same sum, and
`gymnasium_seeds` skips the seeds for which it would be negative.
"""

from collections.abc import Iterator

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from rlarcade.games import (
    GameVectorEnv,
    Protocol,
    all_games,
    get_protocol,
    make_env,
    make_vec_env,
)

GAMES_OF = "Atari"

gymnasium.register_envs(ale_py)

GYMNASIUM_IDS = {
    spec.kwargs["game"]: spec.id for spec in gymnasium.registry.values() if spec.namespace == "ALE"
}
DEFAULT_GAMES = [
    # game, protocol, changes: odd frame caps end episodes in the middle of a skip
    ("breakout", "nature", {"max_noops": 0, "frame_cap": 701}),
    ("space_invaders", "v5", {"frame_cap": 834}),
    ("seaquest", "machado", {"frame_cap": 902}),
    pytest.param("pong", "v5", {"frame_cap": 603}, marks=pytest.mark.slow),
    pytest.param("boxing", "v5", {"frame_cap": 402}, marks=pytest.mark.slow),
]


class NoOpStart(gymnasium.Wrapper):
    """Plays a fixed number of one-frame no-ops after each reset."""

    def __init__(self, env: gymnasium.Env, count: int) -> None:
        super().__init__(env)
        self.count = count

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.count):
            observation, *_, info = self.env.step(0)
        return observation, info


def oracle_env(game: str, protocol: Protocol, *, noops: int = 0, started: int = 0) -> gymnasium.Env:
    """Gymnasium's preprocessing, after `noops` no-ops.

    `started` frames have been played when an episode shows its first observation: no-ops, and what
    ALE itself plays to start some games. Gymnasium counts them against the frame cap, ALE's vector
    environment does not.
    """
    env = gymnasium.make(
        GYMNASIUM_IDS[game],
        frameskip=1,
        repeat_action_probability=protocol.sticky,
        full_action_space=protocol.full_action_space,
        max_num_frames_per_episode=protocol.frame_cap + started,
    )
    if noops:
        env = NoOpStart(env, noops)
    env = AtariPreprocessing(env, noop_max=0, frame_skip=4, screen_size=84)
    return FrameStackObservation(env, 4, padding_type="zero")


def emulator_seed(seed: int) -> int:
    return int(np.random.SeedSequence(seed).generate_state(2)[1])


def gymnasium_seeds() -> Iterator[int]:
    return (seed for seed in range(1_000) if emulator_seed(seed) < 2**31)


def changed(name: str, **changes: object) -> Protocol:
    return get_protocol(name).model_copy(update={"name": "mine", **changes})


def seeded(*seeds: int) -> np.ndarray:
    return np.array(seeds, dtype=np.int32)


def assert_same_games(game: str, protocol: Protocol, *, steps: int, seed: int) -> int:
    """Steps both, through endings and their autoresets. Returns the number of endings."""
    rng = np.random.default_rng(seed)
    env = make_vec_env(game, 1, protocol=protocol)
    observation, vec_info = env.reset(seed=seeded(emulator_seed(seed)))
    oracle = oracle_env(game, protocol, started=int(vec_info["episode_frame_number"][0]))
    assert env.num_actions == oracle.action_space.n
    expected, info = oracle.reset(seed=seed)
    np.testing.assert_array_equal(observation[0], expected)
    assert vec_info["lives"][0] == info["lives"]
    over, endings = False, 0
    for step in range(steps):
        action = int(rng.integers(env.num_actions))
        if over:
            expected, info = oracle.reset()
            reward, terminated, truncated = 0.0, False, False
        else:
            expected, reward, terminated, truncated, info = oracle.step(action)
        over = terminated or truncated
        endings += over
        observation, rewards, terminations, truncations, vec_info = env.step(np.array([action]))
        found = (rewards[0], terminations[0], truncations[0], vec_info["lives"][0])
        assert found == (reward, terminated, truncated, info["lives"]), (game, step)
        np.testing.assert_array_equal(observation[0], expected, err_msg=f"{game} at step {step}")
    return endings


@pytest.mark.parametrize(("game", "name", "changes"), DEFAULT_GAMES)
def test_vector_env_plays_the_games_of_gymnasiums_preprocessing(game, name, changes):
    seed = next(gymnasium_seeds())

    endings = assert_same_games(game, changed(name, **changes), steps=240, seed=seed)

    assert endings >= 1


@pytest.mark.slow
@pytest.mark.recorded
@pytest.mark.parametrize(
    ("game", "name"),
    [("breakout", "v5"), ("space_invaders", "v5"), ("pong", "v5"), ("seaquest", "machado")],
)
def test_vector_env_plays_long_games_of_gymnasiums_preprocessing(game, name):
    seed = list(gymnasium_seeds())[1]

    endings = assert_same_games(game, changed(name), steps=2_000, seed=seed)

    assert endings >= 2


@pytest.mark.slow
@pytest.mark.recorded
def test_every_game_begins_as_in_gymnasiums_preprocessing():
    seed = list(gymnasium_seeds())[2]
    for game in all_games():
        assert_same_games(game, changed("v5", frame_cap=90), steps=26, seed=seed)


@pytest.mark.parametrize("game", ["pong", pytest.param("space_invaders", marks=pytest.mark.slow)])
def test_nature_starts_are_no_ops_and_then_gymnasiums_preprocessing(game):
    protocol = changed("nature", frame_cap=203)
    env = make_vec_env(game, 1, protocol=protocol)
    rng = np.random.default_rng(3)
    seeds = gymnasium_seeds()
    started = 0
    while not started:  # an episode that starts with at least one no-op
        seed = next(seeds)
        observation, vec_info = env.reset(seed=seeded(emulator_seed(seed)))
        started = int(vec_info["episode_frame_number"][0])
    oracle = oracle_env(game, protocol, noops=started, started=started)

    expected, _ = oracle.reset(seed=seed)

    np.testing.assert_array_equal(observation[0], expected)
    truncated = False
    while not truncated:
        action = int(rng.integers(env.num_actions))
        expected, reward, terminated, truncated, _ = oracle.step(action)
        observation, rewards, terminations, truncations, _ = env.step(np.array([action]))
        np.testing.assert_array_equal(observation[0], expected)
        assert (rewards[0], terminations[0], truncations[0]) == (reward, terminated, truncated)


def test_make_env_plays_the_games_of_gymnasiums_preprocessing():
    protocol = changed("v5", frame_cap=502)
    env, oracle = make_env("Seaquest", protocol=protocol), oracle_env("seaquest", protocol)
    rng = np.random.default_rng(4)
    for seed in list(gymnasium_seeds())[:2]:
        expected, expected_info = oracle.reset(seed=seed)
        observation, info = env.reset(seed=emulator_seed(seed))
        assert info == {
            "seed": emulator_seed(seed),
            "lives": expected_info["lives"],
            "episode_frame_number": expected_info["episode_frame_number"],
        }
        over = False
        while not over:
            np.testing.assert_array_equal(observation, expected)
            action = int(rng.integers(env.action_space.n))
            expected, *outcome, expected_info = oracle.step(action)
            observation, *found, info = env.step(action)
            assert found == outcome
            assert info == {"lives": expected_info["lives"]}
            over = outcome[1] or outcome[2]
        np.testing.assert_array_equal(observation, expected)
        assert found[1:] == [False, True]


def test_rewards_are_raw_points():
    env = make_vec_env("space_invaders", 1, protocol="v5")
    rng = np.random.default_rng(0)
    env.reset(seed=seeded(0))

    rewards = {int(env.step(np.array([rng.integers(6)]))[1][0]) for _ in range(300)}

    assert rewards <= {0, 5, 10, 15, 20, 25, 30}  # invaders are worth 5 a row
    assert max(rewards) > 1


def lives_until_the_end(env: GameVectorEnv) -> list[int]:
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=seeded(1))
    lives, terminated = [int(info["lives"][0])], False
    while not terminated:
        _, _, (terminated,), (truncated,), info = env.step(np.array([rng.integers(4)]))
        assert not truncated
        lives.append(int(info["lives"][0]))
    return lives


@pytest.mark.parametrize("protocol", ["v5", "nature"])
def test_a_lost_life_never_ends_an_episode(protocol):
    lives = lives_until_the_end(make_vec_env("breakout", 1, protocol=protocol))

    assert lives[-1] == 0
    assert sorted(set(lives), reverse=True) == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(("protocol", "num_actions"), [("v5", 4), ("machado", 18), ("nature", 4)])
def test_fire_is_never_pressed_for_the_player(protocol, num_actions):
    env = make_vec_env("breakout", 1, protocol=protocol)
    first, _ = env.reset(seed=seeded(2))
    idle = np.zeros(1, dtype=np.int64)

    frames = [env.step(idle)[0][0, -1] for _ in range(60)]

    # Without FIRE no ball is served, and nothing moves on Breakout's screen.
    assert env.num_actions == num_actions
    assert all((frame == first[0, -1]).all() for frame in frames)


def test_nature_starts_with_up_to_thirty_no_ops_drawn_from_the_seed():
    env = make_vec_env("pong", 5, protocol="nature")
    _, info = env.reset(seed=np.arange(5, dtype=np.int32))
    first = info["episode_frame_number"].tolist()
    _, info = env.reset(seed=np.arange(5, dtype=np.int32))
    again = info["episode_frame_number"].tolist()

    counts = [count for _ in range(28) for count in env.reset()[1]["episode_frame_number"]]

    assert again == first
    assert len(set(first)) > 1
    assert (min(counts), max(counts)) == (0, 30)
    assert len(set(counts)) >= 22


@pytest.mark.parametrize("protocol", ["v5", "machado"])
def test_v5_and_machado_start_without_no_ops(protocol):
    env = make_vec_env("pong", 3, protocol=protocol)

    frames = [env.reset()[1]["episode_frame_number"].tolist() for _ in range(10)]

    assert frames == [[0, 0, 0]] * 10


@pytest.mark.parametrize(
    ("game", "protocol"),
    [("pong", "v5"), ("pong", "nature"), ("berzerk", "v5")],  # ALE starts berzerk with 20 frames
)
def test_the_frame_cap_counts_what_is_played_after_the_first_observation(game, protocol):
    env = make_vec_env(game, 1, protocol=changed(protocol, frame_cap=42))
    _, info = env.reset(seed=seeded(0))
    opened = int(info["episode_frame_number"][0])
    assert (opened > 0) == ((game, protocol) != ("pong", "v5"))

    steps = [env.step(np.zeros(1, dtype=np.int64)) for _ in range(11)]

    assert [bool(truncated[0]) for _, _, _, truncated, _ in steps] == [False] * 10 + [True]
    assert steps[-1][4]["episode_frame_number"][0] - opened == 42


def test_observations_stay_as_they_were_returned():
    env = make_vec_env("space_invaders", 2, protocol="v5")
    returned = [env.reset(seed=seeded(0, 1))[0]]
    kept = [returned[0].copy()]
    for step in range(20):
        returned.append(env.step(np.array([step % 6, (step + 1) % 6]))[0])
        kept.append(returned[-1].copy())

    for observation, copy in zip(returned, kept, strict=True):
        np.testing.assert_array_equal(observation, copy)
