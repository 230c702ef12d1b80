"""The referee: its score is that of the version's own game, whatever a client did."""

import zlib

import numpy as np
import pytest
from serving_helpers import V5, Favourite

from rlarcade.errors import PolicyError
from rlarcade.evaluation import evaluate_agent
from rlarcade.games import FrameStack, make_env
from rlarcade.playing.recordings import Recording, verify
from rlarcade.serving.emulators import Emulators
from rlarcade.serving.referee import Dice, Served, greedy, rule


class Wanderer(Favourite):
    """Chooses by the frame, so that other frames give other actions."""

    game, protocol, version = "pong", V5, "wanderer"

    def q_values(self, observation):
        self.calls.append(len(observation))
        sums = [zlib.crc32(one[-1].tobytes()) % self.num_actions for one in observation]
        return np.eye(self.num_actions, dtype=np.float32)[sums]


def served_of(episode, agent, lie_at=None, until=None):
    """What an honest client of the episode was given; it may lie about a frame, or leave."""
    env = make_env("Pong")
    observation, _ = env.reset(seed=episode.seed)
    sums = []
    for step, (action, _) in enumerate(episode.trace.steps):
        sums.append(zlib.crc32(observation[-1]) + (step == lie_at))
        observation = env.step(action)[0]
    return Served(bytes(episode.trace.actions)[:until], tuple(sums)[:until])


@pytest.fixture(scope="module")
def game():
    """A whole game of the wanderer, as `evaluate` plays it."""
    return evaluate_agent(Wanderer(), episodes=1, seed=5).episodes[0]


def ruling(game, served=None, agent=None):
    agent = agent or Wanderer()
    return rule("pong", V5, game.seed, agent.q_values, "it", Emulators(), served), agent


def test_a_game_that_nobody_served_is_the_game_that_evaluate_plays(game):
    ruled, _ = ruling(game)
    assert ruled.episode == game
    assert (ruled.true_frames, ruled.finished) == (True, False)
    verify(Recording("pong", V5, "it", None, ruled.episode))


def test_an_honest_clients_game_is_replayed_without_a_forward_pass(game):
    ruled, agent = ruling(game, served_of(game, None))
    assert ruled.episode == game
    assert (ruled.true_frames, ruled.finished) == (True, True)
    assert agent.calls == []


@pytest.mark.parametrize("until", [0, 1, 20])
def test_a_client_that_leaves_changes_no_score(game, until):
    ruled, agent = ruling(game, served_of(game, None, until=until))
    assert ruled.episode == game
    assert (ruled.true_frames, ruled.finished) == (True, False)
    assert len(agent.calls) <= game.steps - until


@pytest.mark.parametrize("lie_at", [0, 7])
def test_a_client_that_lies_about_a_frame_changes_no_score(game, lie_at):
    ruled, _ = ruling(game, served_of(game, None, lie_at=lie_at))
    assert ruled.episode == game
    assert (ruled.true_frames, ruled.finished) == (False, False)


def test_a_client_that_plays_on_after_the_end_changes_no_score(game):
    honest = served_of(game, None)
    more = Served(honest.actions + bytes(50), honest.sums + (0,) * 50)
    ruled, _ = ruling(game, more)
    assert ruled.episode == game
    assert ruled.finished


def test_a_version_that_crashes_has_failed_and_its_points_count_for_nothing(game):
    class Falls(Wanderer):
        def q_values(self, observation):
            if len(self.calls) > 9:
                raise ZeroDivisionError("fell over")
            return super().q_values(observation)

    ruled, _ = ruling(game, agent=Falls())
    assert ruled.episode.ended == "failed"
    assert "ZeroDivisionError: fell over" in ruled.episode.failure


def test_values_that_are_not_finite_are_no_action():
    with pytest.raises(PolicyError, match="the Q-values of it are not finite"):
        greedy(np.array([0, np.nan], dtype=np.float32), "it")
    assert greedy(np.array([0, 2, 1], dtype=np.float32), "it") == 1


def test_random_actions_are_those_of_an_evaluation(game):
    """The wanderer's own choice is known at every step, so the others are the dice's."""
    dice = Dice(game.seed, 6, 0.01)
    env, agent = make_env("Pong"), Wanderer()
    observation, _ = env.reset(seed=game.seed)
    for action, _ in game.trace.steps:
        rolled = dice.roll()
        own = int(agent.q_values(observation[None]).argmax())
        assert action == (own if rolled is None else rolled)
        observation = env.step(action)[0]


def test_emulators_are_used_again_if_they_fit():
    kept = Emulators(most=2)
    first = kept.take("pong", V5, pictures=False)
    kept.give(first)
    assert kept.take("breakout", V5, pictures=False) is not first
    assert kept.take("pong", V5, pictures=True) is not first
    assert kept.take("pong", V5, pictures=False) is first
    kept.prepare("pong", V5, 2)
    assert kept.take("pong", V5, pictures=True).render() is None  # no game has begun
    kept.close()


def test_an_emulator_that_raised_an_error_is_not_used_again(monkeypatch):
    emulators = Emulators()
    emulators.give(emulators.take("pong", V5, pictures=False))

    def broken(*ignored, **more):
        raise MemoryError("no room")

    with monkeypatch.context() as away:
        away.setattr("rlarcade.games.single.GameEnv.step", broken)
        with pytest.raises(MemoryError):
            rule("pong", V5, 5, Wanderer().q_values, "it", emulators)
    assert not emulators._idle


def test_a_frame_stack_goes_on_from_a_whole_stack():
    whole = np.random.default_rng(0).integers(0, 256, (4, 84, 84), dtype=np.uint8)
    frame = np.full((84, 84), 9, dtype=np.uint8)
    stack = FrameStack()
    stack.replace(whole)
    assert stack.push(frame).tolist() == [*whole[1:].tolist(), frame.tolist()]
    with pytest.raises(ValueError, match=r"a stack is uint8 \(4, 84, 84\), got uint8 \(84, 84\)"):
        stack.replace(frame)
