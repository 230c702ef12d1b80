"""Emulators that look ahead: they mirror the real game, and never see its coins."""

import zlib

import numpy as np
import pytest
from tiers import quick

from rlarcade.errors import ActionError, ConfigError, GameError
from rlarcade.games import get_protocol, make_env
from rlarcade.games.names import all_games
from rlarcade.games.simulator import _NOT_CLONED, Mirror, Simulator, check_cloned
from rlarcade.games.vector import GameVectorEnv

pytestmark = pytest.mark.usefixtures("real_games")

CLONED = sorted(set(all_games()) - _NOT_CLONED)
GAMES = ["space_invaders", "breakout", "pong", "seaquest", "ms_pacman"]
PLAIN = get_protocol("v5").model_copy(update={"name": "plain", "sticky": 0.0})
ALWAYS = get_protocol("v5").model_copy(update={"name": "always", "sticky": 1.0})
HALF = get_protocol("v5").model_copy(update={"name": "half", "sticky": 0.5})


def real_steps(game, protocol, seed, *, steps=300, rgb=True):
    """Actions and outcomes of a game of the native vector environment, until it ends.

    Yields the frames that the emulator counts at the start, then action, observation, reward,
    lives, and whether the game is over.
    """
    env = GameVectorEnv(game, 1, protocol=protocol, num_threads=1, rgb=rgb, every_frame=rgb)
    observation, info = env.reset(seed=[seed])
    yield int(info["episode_frame_number"][0]), observation[0], 0.0, int(info["lives"][0]), False
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        action = int(rng.integers(env.num_actions))
        reward = 0.0
        for _ in range(4 if rgb else 1):
            observation, points, terminated, _, info = env.step(np.array([action]))
            reward += float(points[0])
            if terminated[0]:
                break
        yield action, observation[0], reward, int(info["lives"][0]), bool(terminated[0])
        if terminated[0]:
            return


@pytest.mark.parametrize("protocol", ["v5", "machado", "nature"])
@pytest.mark.parametrize("game", GAMES)
def test_a_mirror_shows_every_screen_reward_and_life_of_the_real_game(game, protocol):
    steps = real_steps(game, protocol, 7)
    first_frame, first, *_ = next(steps)
    mirror = Mirror(game, protocol, 7, first_frame=first_frame)
    np.testing.assert_array_equal(mirror.screen(), first[0])
    for action, picture, reward, lives, over in steps:
        assert mirror.follow(action) == (reward, lives)
        if not over:  # ALE does not take the screen of the frame that ends a game
            np.testing.assert_array_equal(mirror.screen(), picture[0])


@pytest.mark.parametrize("game", [*GAMES, "carnival"])  # the last one has a taller screen
def test_a_simulator_without_stickiness_sees_what_the_real_game_shows(game):
    simulator, rng = Simulator(game, PLAIN), np.random.default_rng(0)
    steps = real_steps(game, PLAIN, 3, rgb=False)
    _, _, _, lives, _ = next(steps)
    simulator.restore(Mirror(game, PLAIN, 3).state())
    for action, observation, reward, left, over in steps:
        seen = simulator.step(action, rng)
        assert (seen.reward, seen.life_lost, seen.over) == (reward, left < lives, over)
        if not over:
            np.testing.assert_array_equal(observation[-1], seen.frame)
        lives = left


def paths(state, game, protocol, actions, seed):
    """Screens and rewards of a simulator with dice of its own."""
    simulator, rng = Simulator(game, protocol), np.random.default_rng(seed)
    simulator.restore(state)
    steps = [simulator.step(action, rng) for action in actions]
    return [(step.frame.tobytes(), step.reward) for step in steps]


def test_a_state_says_nothing_about_the_coins_to_come():
    """Two games with other seeds, in the same state: every simulation of both is the same."""
    one, other = Mirror("pong", PLAIN, 1), Mirror("pong", PLAIN, 2)
    actions = [2, 3, 2, 3, 4, 5, 2, 2]
    for action in actions:
        assert one.follow(action) == other.follow(action)
    futures = [paths(game.state(), "pong", HALF, actions, 9) for game in (one, other)]
    assert futures[0] == futures[1]


def test_a_state_with_the_generator_would_have_given_the_coins_away():
    mirror = Mirror("space_invaders", HALF, 4)
    honest, peeking = mirror.state().emulator, mirror._emulator.cloneState(include_rng=True)
    actions = np.random.default_rng(2).integers(0, 6, 40)

    def played():
        return [(mirror.follow(int(a)), mirror.screen().tobytes()) for a in actions]

    real = played()
    mirror._emulator.restoreState(peeking)
    assert played() == real
    mirror._emulator.restoreState(honest)
    assert played() != real


def test_a_simulator_draws_its_own_coins_and_repeats_the_action_before():
    state = Mirror("breakout", PLAIN, 1).state()
    simulator = Simulator("breakout", ALWAYS)
    simulator.restore(state._replace(action=1))  # FIRE: with coins that always stick, it goes on
    stuck = [simulator.step(0, np.random.default_rng(0)).frame for _ in range(30)]
    free = Simulator("breakout", PLAIN)
    free.restore(state)
    fired = [free.step(1, np.random.default_rng(0)).frame for _ in range(30)]
    np.testing.assert_array_equal(stuck, fired)
    free.restore(state)
    waited = [free.step(0, np.random.default_rng(0)).frame for _ in range(30)]
    assert not np.array_equal(fired, waited)


def test_the_same_dice_give_the_same_future_and_other_dice_another():
    mirror = Mirror("space_invaders", "v5", 5)
    for action in (1, 2, 3, 4, 5) * 4:
        mirror.follow(action)
    actions = np.random.default_rng(3).integers(0, 6, 60).tolist()
    state = mirror.state()
    first = paths(state, "space_invaders", "v5", actions, 1)
    assert paths(state, "space_invaders", "v5", actions, 1) == first
    assert paths(state, "space_invaders", "v5", actions, 2) != first


def test_looking_ahead_changes_nothing_in_the_real_game():
    looked, blind = (Mirror("seaquest", "v5", 6) for _ in range(2))
    rng = np.random.default_rng(0)
    for action in rng.integers(0, 18, 40).tolist():
        paths(looked.state(), "seaquest", "v5", [0, 1, 2], 1)
        assert looked.follow(action) == blind.follow(action)
    np.testing.assert_array_equal(looked.screen(), blind.screen())


def futures_agree(game, steps, every):
    """Whether a game's states go on in the same way, whatever the simulator simulated before."""
    mirror, used, fresh = Mirror(game, "v5", 9), Simulator(game, "v5"), Simulator(game, "v5")
    rng = np.random.default_rng(zlib.crc32(game.encode()))
    for step in range(steps):
        mirror.follow(int(rng.integers(mirror.num_actions)))
        if mirror._emulator.game_over(with_truncation=False):
            mirror._emulator.reset_game()
        elif step % every == 0:
            state, actions = mirror.state(), rng.integers(mirror.num_actions, size=8)
            fresh._emulator.reset_game()
            if memories(used, state, actions) != memories(fresh, state, actions):
                return False
    return True


def memories(simulator, state, actions):
    """The emulator's memory after each action."""
    simulator.restore(state)
    dice, found = np.random.default_rng(3), []
    for action in actions.tolist():
        over = simulator.step(action, dice).over
        found.append(simulator._emulator.getRAM().tobytes())
        if over:
            break
    return found


@pytest.mark.parametrize("game", quick(CLONED, (), set(CLONED) - set(CLONED[::4])))
def test_states_of_every_other_game_are_cloned_and_every_game_is_mirrored(game):
    assert futures_agree(game, 100, 20)
    env = make_env(game)
    _, info = env.reset(seed=5)
    mirror = Mirror(game, "v5", 5, first_frame=info["episode_frame_number"])
    rng = np.random.default_rng(1)
    for _ in range(60):
        action = int(rng.integers(env.num_actions))
        _, reward, terminated, _, info = env.step(action)
        assert mirror.follow(action) == (reward, info["lives"])
        if terminated:
            break


@pytest.mark.parametrize(
    ("game", "steps"),
    [("qbert", 41), ("tetris", 41), pytest.param("tic_tac_toe_3d", 1300, marks=pytest.mark.slow)],
)
def test_games_that_no_player_looks_ahead_in_are_not_cloned(game, steps):
    assert not futures_agree(game, steps, 40)
    with pytest.raises(GameError, match="ale-py does not clone its states exactly"):
        check_cloned(game)


def test_wrong_actions_seeds_and_games_are_refused():
    simulator, rng = Simulator("pong", "v5"), np.random.default_rng(0)
    for play in (Mirror("pong", "v5", 1).follow, lambda action: simulator.step(action, rng)):
        with pytest.raises(ActionError, match=r"action 6 is outside 0 … 5"):
            play(6)
    with pytest.raises(ConfigError, match="seed"):
        Mirror("pong", "v5", -1)
    for make in (lambda: Mirror("pnog", "v5", 1), lambda: Simulator("pnog", "v5")):
        with pytest.raises(GameError, match="Did you mean Pong"):
            make()
    with pytest.raises(ConfigError, match="unknown protocol"):
        Simulator("pong", "v6")
