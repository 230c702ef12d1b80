"""A player that looks ahead finds what its network does not know, and never sees the coins."""

import itertools
import pickle

import numpy as np
import pytest

from rlarcade import DQNAgent
from rlarcade.errors import ConfigError
from rlarcade.games import get_protocol, simulator
from rlarcade.games.simulator import GameState, Mirror, SimulatedStep, Simulator
from rlarcade.playing.play import Scheduled, play_games, play_steps
from rlarcade.playing.players import AgentPlayer, Choice, RandomPlayer, View
from rlarcade.playing.search import SearchPlayer

V5 = get_protocol("v5")
HALF = V5.model_copy(update={"name": "half", "sticky": 0.5})
SHORT = V5.model_copy(update={"name": "short", "frame_cap": 240})
KINDS = ["uct", "iw"]


class Knows:
    """An agent of Pong with given values, which also counts what it is asked."""

    game, protocol, version = "pong", V5, "knows"

    def __init__(self, values=(0.0,) * 6, **trained_with):
        self.values, self.trained_with = np.array(values, dtype=np.float32), trained_with
        self.asked = 0

    def q_values(self, observation):
        self.asked += len(observation)
        return np.tile(self.values, (len(observation), 1))


class Corridors:
    """A toy game: a path is a word of actions, and some words are worth points.

    Every path has a screen of its own, and each screen shows something new.
    """

    num_actions = 6

    def __init__(self, points, *, deadly=(), mortal=()):
        self.points, self.deadly, self.mortal = points, deadly, mortal
        self.path = ()
        self.steps = 0
        self.screens = {}

    def restore(self, state):
        self.path = state.emulator

    def state(self):
        return GameState(self.path, self.path[-1])

    def step(self, action, rng):
        rng.random(4)
        self.steps += 1
        self.path = (*self.path, action)
        number = self.screens.setdefault(self.path, len(self.screens))
        frame = np.zeros((84, 84), dtype=np.uint8)  # one pixel, in its own patch and shade
        frame[6 * (number % 14), 6 * (number // 14 % 14)] = 16 * (number // 196 + 1)
        reward = float(self.points.get(self.path, 0))
        return SimulatedStep(frame, reward, self.path in self.mortal, self.path in self.deadly)


def decided(game, *, agent=None, seed=1, **options):
    player = SearchPlayer(agent or Knows(), **options)
    player._simulator = game
    observation = np.zeros((4, 84, 84), dtype=np.uint8)
    view = View(observation, np.random.default_rng(seed), 6, False, GameState((), 0))
    (choice,) = player.choose([view])
    assert isinstance(choice, Choice), choice
    return choice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [(4,), (3, 5), (2, 0, 1)])
def test_points_some_steps_ahead_are_found(kind, path):
    choice = decided(Corridors({path: 1}), kind=kind, simulations=400, depth=3, skip=1)
    assert choice.action == path[0]
    assert choice.values.argmax() == path[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_tree_gives_the_best_return_of_all_paths(kind):
    rng = np.random.default_rng(0)
    paths = [p for n in (1, 2) for p in itertools.product(range(6), repeat=n)]
    points = {path: int(rng.integers(-1, 2)) for path in paths}
    best = [
        max(points[(first,)] + 0.99 * points[(first, second)] for second in range(6))
        for first in range(6)
    ]
    choice = decided(Corridors(points), kind=kind, simulations=3_000, depth=2, skip=1)
    assert best[choice.action] == max(best)
    if kind == "iw":
        np.testing.assert_allclose(choice.values, best, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_death_ends_the_return_and_is_avoided(kind):
    alive = Knows([0.5] * 6)
    game = Corridors({}, deadly={(0,), (1,), (2,), (3,), (5,)})
    choice = decided(game, agent=alive, kind=kind, simulations=60, depth=2, skip=1)
    assert choice.action == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_life_ends_it_only_if_the_training_said_so(kind):
    def chosen(ends):
        agent = Knows([0.5] * 6, terminal_on_life_loss=ends)
        game = Corridors({(2, 2): 1}, mortal={(2,)})
        return decided(game, agent=agent, kind=kind, simulations=300, depth=2, skip=1).action

    assert chosen(ends=False) == 2
    assert chosen(ends=True) != 2


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_count_as_in_training(kind):
    def chosen(clip):
        agent = Knows(reward_clip=clip)
        game = Corridors({(1,): 1, (1, 0): 1, (3,): 50})
        return decided(game, agent=agent, kind=kind, simulations=400, depth=2, skip=1).action

    assert chosen(clip=True) == 1
    assert chosen(clip=False) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("simulations", [1, 7, 40])
def test_the_tree_has_as_many_nodes_as_it_may(kind, simulations):
    agent, game = Knows(), Corridors({})
    decided(game, agent=agent, kind=kind, simulations=simulations, depth=9, skip=3)
    assert game.steps == 3 * simulations
    assert agent.asked == simulations + 1  # and the state itself


def test_with_one_simulation_the_network_decides():
    for best in range(6):
        values = np.full(6, 0.1)
        values[best] = 0.3
        choice = decided(Corridors({}), agent=Knows(values), simulations=1, skip=1)
        assert choice.action == best


def test_a_screen_that_shows_nothing_new_is_no_way_on():
    class Still(Corridors):
        def step(self, action, rng):
            step = super().step(action, rng)
            return step._replace(frame=np.zeros_like(step.frame))

    game = Still({})
    decided(game, kind="iw", simulations=500, depth=5, skip=1)
    assert game.steps == 6


def planted(state_of):
    """Decisions in two games with the same past and other coins to come, float32 (2, A).

    Half of all frames repeat the action before. So far all actions were no-ops, so that the coins
    made no difference yet.
    """
    games = [Mirror("space_invaders", HALF, seed) for seed in (1, 2)]
    for game in games:
        for _ in range(40):
            game.follow(0)
    np.testing.assert_array_equal(games[0].screen(), games[1].screen())
    futures = [[game.follow(action)[0] for action in (5, 4) * 40] for game in copies(games)]
    assert futures[0] != futures[1]
    observation = np.zeros((4, 84, 84), dtype=np.uint8)
    return [View(observation, np.random.default_rng(3), 6, False, state_of(one)) for one in games]


def copies(games):
    """The same games from the beginning."""
    again = [Mirror("space_invaders", HALF, seed) for seed in (1, 2)]
    for game, copy in zip(games, again, strict=True):
        for _ in range(40):
            copy.follow(0)
        np.testing.assert_array_equal(copy.screen(), game.screen())
    return again


class Peeking(Simulator):
    """A simulator that goes on with the coins of the state that it is given."""

    def __init__(self, game, protocol):
        super().__init__(game, protocol)
        self._emulator, self._actions = simulator._emulator(game, HALF, HALF.sticky, 0)
        self._sticky = 0.0

    def state(self):
        return with_coins(self)


def with_coins(one):
    return GameState(one._emulator.cloneState(include_rng=True), one._action)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("real_games")
def test_a_decision_owes_nothing_to_the_coins_to_come(kind):
    player = SearchPlayer(DQNAgent.load("zoo:SpaceInvaders"), kind=kind, protocol=HALF)
    first, second = player.choose(planted(Mirror.state))
    assert first.action == second.action
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("real_games")
def test_states_with_their_generator_would_give_the_coins_to_come_away(kind):
    """The same test finds a player that sees the coins."""
    player = SearchPlayer(DQNAgent.load("zoo:SpaceInvaders"), kind=kind, protocol=HALF)
    player._simulator = Peeking("space_invaders", HALF)
    first, second = player.choose(planted(with_coins))
    assert not np.array_equal(first.values, second.values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("real_games")
def test_a_game_is_the_same_whatever_is_played_beside_it(kind):
    def played(lanes):
        agent = DQNAgent.load("zoo:SpaceInvaders")
        player = SearchPlayer(agent, simulations=6, skip=1, kind=kind, protocol=SHORT)
        schedule = [Scheduled(player, seed) for seed in (11, 12, 13)]
        return dict(play_games(schedule, lanes))

    assert played(1) == played(3)


def test_bad_budgets_kinds_and_depths_are_refused():
    agent = Knows()
    for options, words in [
        ({"simulations": 0}, "simulations of a search is a whole number from 1 to 10,000, not 0"),
        ({"simulations": 10**9}, "from 1 to 10,000, not 1000000000"),
        ({"simulations": 2.5}, "whole number from 1 to 10,000, not 2.5"),
        ({"simulations": True}, "whole number from 1 to 10,000, not True"),
        ({"depth": 0}, "depth of a search is a whole number from 1 to 1,000, not 0"),
        ({"skip": 61}, "skip of a search is a whole number from 1 to 60, not 61"),
        ({"kind": "mcts"}, "a search is uct or iw, not 'mcts'"),
        ({"kind": []}, r"a search is uct or iw, not \[\]"),
        (
            {"depth": 61, "skip": 1, "protocol": SHORT},
            "depth 61 with 1 steps a decision lasts 244 frames, but a game under short ends after "
            "240",
        ),
    ]:
        with pytest.raises(ConfigError, match=words):
            SearchPlayer(agent, **options)


@pytest.mark.parametrize("agent", ["zoo:Pong", RandomPlayer("Pong"), None])
def test_who_has_no_action_values_cannot_look_ahead(agent):
    with pytest.raises(ConfigError, match="cannot look ahead. Give an agent with action values"):
        SearchPlayer(agent)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_may_be_a_thousand_decisions_deep(kind):
    choice = decided(Corridors({}), kind=kind, simulations=1_200, depth=1_000, skip=1)
    assert len(choice.tree.parents) == 1_201


@pytest.mark.parametrize("trained", [{"gamma": "high"}, {"gamma": 2}, {"reward_clip": 7}])
def test_impossible_settings_of_a_strangers_checkpoint_are_refused(trained):
    with pytest.raises(ConfigError, match=next(iter(trained))):
        SearchPlayer(Knows(**trained))


def test_an_agent_that_fails_loses_only_its_own_game():
    class Fails(Knows):
        def q_values(self, observation):
            if observation.max() == 255:
                raise ValueError("too bright")
            return super().q_values(observation)

    player = SearchPlayer(Fails(), simulations=4, skip=1)
    player._simulator = Corridors({})
    dark, bright = (np.full((4, 84, 84), level, dtype=np.uint8) for level in (0, 255))

    def views(*observations):
        return [
            View(one, np.random.default_rng(5), 6, False, GameState((), 0)) for one in observations
        ]

    alone = player.choose(views(dark))[0]
    beside, failed = player.choose(views(dark, bright))
    assert beside.action == alone.action
    np.testing.assert_array_equal(beside.values, alone.values)
    assert isinstance(failed, ValueError)


def test_a_player_travels_without_its_emulator():
    player = SearchPlayer(Knows(), simulations=3)
    player._simulator = object()
    again = pickle.loads(pickle.dumps(player))
    options = "search,simulations=3,depth=20,skip=4,kind=uct"
    assert (again.name, again.version) == (f"{options}:agent", f"{options}:knows")
    assert again._simulator is None


# The tree


def test_the_tree_of_a_choice_tells_every_state_that_was_looked_at():
    points = {(2,): 1, (2, 4): 1, (0, 1): -1}
    choice = decided(Corridors(points), simulations=30, depth=20, skip=1)
    parents, actions, sizes, rewards = choice.tree
    assert len(parents) == 31
    paths = [()]
    for parent, action in zip(parents[1:], actions[1:], strict=True):
        paths.append((*paths[parent], int(action)))
    assert len(set(paths)) == 31
    assert paths == sorted(paths)  # preorder, and actions in order
    assert [float(points.get(path, 0)) for path in paths] == rewards.tolist()
    below = [sum(other[: len(path)] == path for other in paths) for path in paths]
    assert sizes.tolist() == below


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_of_a_game_has_its_tree(kind):
    player = SearchPlayer(Knows(), simulations=3, skip=1, kind=kind, protocol=SHORT)
    steps = [*play_steps(player)]
    assert all(1 < len(step.tree.parents) <= 4 for step in steps)
    plain = [*play_steps(AgentPlayer(Knows(), protocol=SHORT))]
    assert {step.tree for step in plain} == {None}
