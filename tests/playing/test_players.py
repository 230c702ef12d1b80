"""Anything that acts can be evaluated, and whoever fails has lost that game and no other."""

import gc
import re
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from rlarcade.config import TrainConfig
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.evaluation import compare_agents, evaluate_agent
from rlarcade.games import get_protocol, make_env
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing import Player, RandomPlayer, play_steps
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.players import AgentPlayer
from rlarcade.seeding import SeedUse, derived_seed

SHORT = get_protocol("v5").model_copy(
    update={"name": "mine", "frame_cap": 160, "evaluation_epsilon": 0.0}
)


def player(policy, **settings):
    return Player(policy, **{"game": "space_invaders", "protocol": SHORT, **settings})


def by_pixels(observation):
    return int(observation.astype(np.int64).sum() % 6)


def actions_of(episode: EpisodeResult) -> list[int]:
    return [action for action, _ in episode.trace.steps]


def rewards_of(episode: EpisodeResult) -> list[int]:
    return [reward for _, reward in episode.trace.steps]


# What can play


def test_a_function_plays_what_it_says():
    evaluation = evaluate_agent(player(by_pixels, name="pixels"), episodes=3, num_lanes=2)
    assert (evaluation.checkpoint, evaluation.version) == ("pixels", None)
    for episode in evaluation.episodes:
        env = make_env("space_invaders", protocol=SHORT)
        observation, _ = env.reset(seed=episode.seed)
        for action, reward in episode.trace.steps:
            assert action == by_pixels(observation)
            observation, paid, *_ = env.step(action)
            assert paid == reward


@pytest.mark.parametrize("epsilon", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_an_agent_scores_the_same_by_its_values_and_by_its_predict(epsilon):
    config = TrainConfig(game="space_invaders", conv_channels=(2, 2, 2), hidden_units=8)
    agent = DQNAgent(config, num_actions=6, seed=1)
    protocol = SHORT.model_copy(update={"name": "mine", "evaluation_epsilon": epsilon})
    by_predict = Player(agent, game=agent.game, protocol=protocol)
    by_values = AgentPlayer(agent, protocol=protocol)
    assert (
        evaluate_agent(by_predict, episodes=2).episodes
        == evaluate_agent(by_values, episodes=2).episodes
    )


def test_a_player_has_the_protocol_and_name_that_it_is_given_and_its_agent_keeps_its_own():
    config = TrainConfig(game="space_invaders", conv_channels=(2, 2, 2), hidden_units=8)
    agent = DQNAgent(config, num_actions=6)
    dice = SHORT.model_copy(update={"name": "dice", "evaluation_epsilon": 1.0})
    given = AgentPlayer(agent, protocol=dice, name="version 3")
    evaluation = evaluate_agent(given, episodes=1)
    assert (evaluation.checkpoint, evaluation.protocol) == ("version 3", dice)
    (episode,) = evaluation.episodes
    assert len(set(actions_of(episode))) == 6, "ε is that of the protocol that was given"
    assert (agent.name, agent.protocol) == ("agent", get_protocol("v5"))
    own = AgentPlayer(agent)
    assert (own.name, own.protocol) == ("agent", agent.protocol)


def test_the_memory_of_predict_belongs_to_one_game():
    class Recurrent:
        """Counts its own steps: an action each 7 of them, if it is asked as SB3 would ask."""

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            assert observation.shape == (1, 4, 84, 84)
            assert deterministic
            assert bool(episode_start[0]) == (state is None)
            state = np.zeros(1, dtype=int) if state is None else state + 1
            return np.array([state[0] % 7 % 6]), state

    evaluation = evaluate_agent(player(Recurrent()), episodes=3, num_lanes=3)
    for episode in evaluation.episodes:
        assert actions_of(episode) == [step % 7 % 6 for step in range(40)]


class Dice:
    """Has a memory, so it must not be in two games at once."""

    def __init__(self):
        self.resets, self.steps = 0, 0

    def reset(self, rng):
        self.rng, self.steps, self.resets = rng, 0, self.resets + 1

    def __call__(self, observation):
        self.steps += 1
        return int(self.rng.integers(3)) + (3 if self.steps > 20 else 0)


def test_a_policy_with_a_memory_plays_one_game_after_the_other():
    dice = Dice()
    evaluation = evaluate_agent(player(dice), episodes=4, num_lanes=3)
    assert dice.resets == 4
    for episode in evaluation.episodes:
        actions = actions_of(episode)
        assert max(actions[:20]) < 3 <= min(actions[20:])


class Shared:
    """Weights that all games share; each game has its own dice and counts its own steps."""

    def __init__(self):
        self.open, self.most_open = set(), 0

    def new_game(self, rng):
        return OneGame(self, rng)


class OneGame(Dice):
    def __init__(self, shared, rng):
        self.shared, self.rng, self.steps = shared, rng, 0

    def __call__(self, observation):
        self.shared.open.add(id(self))
        self.shared.most_open = max(self.shared.most_open, len(self.shared.open))
        action = super().__call__(observation)
        if self.steps == 40:  # the last one under SHORT
            self.shared.open.remove(id(self))
        return action


def test_a_policy_that_begins_games_plays_many_at_a_time_as_one_after_the_other():
    one, many = Shared(), Shared()
    alone = evaluate_agent(player(Dice()), episodes=4).episodes
    assert evaluate_agent(player(one), episodes=4, num_lanes=1).episodes == alone
    assert evaluate_agent(player(many), episodes=4, num_lanes=4).episodes == alone
    assert (one.most_open, player(Dice()).one_at_a_time) == (1, True)
    assert many.most_open > 1
    assert not player(many).one_at_a_time


def test_the_memory_of_predict_belongs_to_the_game_that_was_begun():
    class Counter:
        def __init__(self):
            self.steps = -1

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            self.steps += 1
            return [self.steps % 6], None

    class Counters:
        def new_game(self, rng):
            return Counter()

    for episode in evaluate_agent(player(Counters()), episodes=3, num_lanes=3).episodes:
        assert actions_of(episode) == [step % 6 for step in range(40)]


def test_a_game_that_has_no_policy_is_told():
    class Empty:
        def new_game(self, rng):
            return 3

    with pytest.raises(PolicyError, match="its new_game returned no policy: 3"):
        evaluate_agent(player(Empty()), episodes=1)


def test_a_policy_is_told_of_lost_lives_but_not_of_the_last_one():
    told = []

    class Careless:
        def new_game(self, rng):
            return Idle()

    class Idle:
        def __init__(self):
            self.steps = 0

        def life_lost(self):
            told.append(self.steps)

        def __call__(self, observation):
            self.steps += 1
            return 1

    long = SHORT.model_copy(update={"name": "mine", "frame_cap": 100_000})
    (episode,) = evaluate_agent(player(Careless(), protocol=long), episodes=1).episodes
    env = make_env("space_invaders", protocol=long)
    lives = [env.reset(seed=episode.seed)[1]["lives"]]
    lives += [env.step(action)[4]["lives"] for action in actions_of(episode)]
    lost = [n for n in range(1, len(lives)) if 0 < lives[n] < lives[n - 1]]
    assert told == lost
    assert lost
    assert lives[-1] == 0


def test_a_policy_without_games_of_its_own_is_told_of_lost_lives_too():
    class Nervous(Dice):
        lost = 0

        def life_lost(self):
            self.lost += 1

    nervous = Nervous()
    long = SHORT.model_copy(update={"name": "mine", "frame_cap": 100_000})
    evaluate_agent(player(nervous, protocol=long), episodes=1)
    assert nervous.lost > 0


def test_a_policy_made_for_other_actions_is_refused():
    def six(observation):
        return 0

    six.num_actions = 6
    assert player(six).game == "space_invaders"
    with pytest.raises(
        ConfigError, match=r"mine was made for 6 actions, but Breakout has 4 under v5"
    ):
        Player(six, game="Breakout", name="mine")
    with pytest.raises(ConfigError, match="has 18 under machado"):
        Player(six, game="SpaceInvaders", protocol="machado")


def test_a_policys_dice_belong_to_the_game():
    games = [
        evaluate_agent(player(Dice()), episodes=3, num_lanes=lanes).episodes for lanes in (1, 3)
    ]
    assert games[0] == games[1]
    assert len({tuple(actions_of(episode)) for episode in games[0]}) == 3


def test_in_a_match_one_with_a_memory_and_one_without_play_the_same_pairs_in_any_lanes():
    matches = [
        compare_agents(player(by_pixels), player(Dice()), max_pairs=3, num_lanes=lanes)
        for lanes in (1, 6)
    ]
    assert matches[0] == matches[1]
    assert matches[0].pairs == 3


def test_who_sees_the_screen_is_shown_what_render_shows():
    seen = []

    class Watcher:
        sees = "screen"

        def __call__(self, screen):
            seen.append(screen.copy())
            return 3

    (episode,) = evaluate_agent(player(Watcher()), episodes=1, num_lanes=1).episodes
    env = make_env("space_invaders", protocol=SHORT, render_mode="rgb_array")
    env.reset(seed=episode.seed)
    for screen in seen:
        np.testing.assert_array_equal(screen, env.render())
        env.step(3)
    assert seen[0].shape == (210, 160, 3)
    assert len(seen) == 40


def test_a_watcher_and_an_agent_without_eyes_can_meet():
    class Watcher:
        sees = "screen"

        def __call__(self, screen):
            assert screen.shape == (210, 160, 3)
            return int(screen.astype(np.int64).sum() % 6)

    match = compare_agents(player(by_pixels), player(Watcher()), max_pairs=3, num_lanes=2)
    assert "failed" not in str(match.notes)
    alone = evaluate_agent(player(by_pixels), episodes=1)
    assert alone.episodes[0].ended == "truncated"


@pytest.mark.usefixtures("real_games")
def test_random_really_plays_every_action_alike():
    protocol = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 2_000})
    (episode,) = evaluate_agent(RandomPlayer("space_invaders", protocol), episodes=1).episodes
    counts = np.bincount(actions_of(episode), minlength=6)
    assert counts.sum() == episode.steps > 200
    # χ² with 5 degrees of freedom: above 25.7 once in 10,000
    expected = counts.sum() / 6
    assert ((counts - expected) ** 2 / expected).sum() < 25.7


def test_random_plays_other_games_under_other_seeds_and_the_same_under_one():
    random = RandomPlayer("space_invaders", SHORT)
    one, other = evaluate_agent(random, episodes=2).episodes
    assert actions_of(one) != actions_of(other)
    assert evaluate_agent(random, episodes=2, num_lanes=1).episodes == (one, other)


def test_epsilon_overrules_every_kind_of_player():
    always = SHORT.model_copy(update={"evaluation_epsilon": 1.0})
    seed = derived_seed(0, SeedUse.EVALUATION, 0)
    games = [
        evaluate_agent(one, episodes=1).episodes[0]
        for one in (player(by_pixels, protocol=always), player(Dice(), protocol=always))
    ]
    assert games[0] == games[1]
    assert games[0].seed == seed


def test_step_by_step_a_policy_has_no_values():
    steps = list(play_steps(player(by_pixels)))
    assert {step.q_values for step in steps} == {None}
    assert [step.action for step in steps] == [by_pixels(step.observation) for step in steps]


# Who fails

_PAIRS = 12  # of 160 frames, in some of which a policy that may crash does


def crashing(at):
    """Crashes at a step of every game whose pixels say so, and of no other."""

    def policy(observation):
        if observation[0].any() and observation.astype(np.int64).sum() % 97 == at:
            raise RuntimeError("out of ideas")
        return by_pixels(observation)

    return policy


WRONG = {
    "6": (lambda observation: 6, "it chose action 6, which is outside 0 … 5"),
    "-1": (lambda observation: -1, "it chose action -1"),
    "no whole number": (lambda observation: 1.0, "an action is one whole number, not 1.0"),
    "nothing": (lambda observation: None, "an action is one whole number, not None"),
    "two": (lambda observation: np.array([1, 2]), "an action is one whole number"),
    "a crash": (lambda observation: 1 // 0, "ZeroDivisionError"),
    "an exit": (lambda observation: exit(3), "it ended its thread"),
    "slowness": (lambda observation: time.sleep(30), "it did not decide within 0.2 s"),
}


@pytest.mark.parametrize("what", WRONG)
def test_who_gives_no_action_is_told_where(what):
    policy, message = WRONG[what]
    bad = player(policy, name="mine", decision_seconds=0.2 if what == "slowness" else 10)
    with pytest.raises(PolicyError, match="mine failed at step 0 of the game with seed") as told:
        evaluate_agent(bad, episodes=1)
    assert message in str(told.value)


class Values:
    game, protocol = "space_invaders", SHORT

    def __init__(self, number):
        self.number = number

    def q_values(self, observation):
        wanted = [by_pixels(one) for one in observation]
        values = np.eye(6, dtype=np.float32)[wanted]
        values[np.array(wanted) == 3, 2] = self.number
        return values


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_told(number):
    with pytest.raises(PolicyError, match="its action values are not finite"):
        evaluate_agent(Values(number), episodes=2)


@pytest.mark.parametrize("what", [*WRONG, "no finite number"])
def test_in_a_match_who_gives_no_action_has_lost(what):
    bad = player(WRONG[what][0], decision_seconds=0.2) if what in WRONG else Values(np.nan)
    match = compare_agents(player(by_pixels), bad, max_pairs=1)
    (pair,) = match.results
    assert (pair.outcome, pair.champion.ended, pair.candidate.ended) == (0.0, "truncated", "failed")


def test_a_policy_whose_reset_crashes_has_failed():
    class Broken(Dice):
        def reset(self, rng):
            raise OSError("no weights")

    with pytest.raises(PolicyError, match="OSError: no weights"):
        evaluate_agent(player(Broken()), episodes=1)
    match = compare_agents(player(by_pixels), player(Broken()), max_pairs=2)
    assert (match.losses, match.pairs) == (2, 2)


@pytest.mark.parametrize("side", [0, 1])
def test_in_a_match_who_fails_loses_that_pair_and_no_other(side):
    policies = [by_pixels, by_pixels]
    policies[side] = crashing(4)
    match = compare_agents(*map(player, policies), max_pairs=_PAIRS, num_lanes=5)
    names = ("champion", "candidate")
    failed = [getattr(pair, names[side]).ended == "failed" for pair in match.results]
    assert 0 < sum(failed) < len(failed), "some games, not all"
    for pair, lost in zip(match.results, failed, strict=True):
        assert pair.outcome == ((side == 0) if lost else 0.5)
        assert getattr(pair, names[1 - side]).ended != "failed"
        if lost:
            game = getattr(pair, names[side])
            where = r"\(test_players\.py, line \d+, in policy\)"
            assert re.fullmatch(rf"RuntimeError: out of ideas {where}", game.failure)
            assert len(actions_of(game)) == game.steps < 40
            assert actions_of(getattr(pair, names[1 - side]))[: game.steps] == actions_of(game)
    assert (
        f"the {names[side]} failed in {sum(failed)} of {len(failed)} games and lost them"
        in match.notes[0]
    )


@pytest.mark.slow
def test_a_batch_in_which_one_game_crashes_the_agent_costs_that_game_only():
    class Fragile(Values):
        def q_values(self, observation):
            for one in observation:
                crashing(4)(one)
            return super().q_values(observation)

    one, many = (
        compare_agents(Values(0.0), Fragile(0.0), max_pairs=8, num_lanes=lanes) for lanes in (1, 8)
    )
    assert one == many
    assert 0 < sum(pair.candidate.ended == "failed" for pair in one.results) < 8


def exits(observation):
    raise SystemExit(3)


def hangs(observation):
    time.sleep(30)


@pytest.mark.parametrize(
    ("act", "seconds", "message"),
    [(exits, 10, "it ended its thread"), (hangs, 0.2, "did not decide within 0.2 s")],
)
def test_an_agent_of_values_that_exits_or_hangs_has_failed_in_all_games_of_the_batch(
    act, seconds, message
):
    agent = Values(0.0)
    agent.q_values = act
    bad = AgentPlayer(agent, decision_seconds=seconds)
    started = time.monotonic()
    match = compare_agents(player(by_pixels), bad, max_pairs=4, num_lanes=8)
    assert (match.losses, match.pairs) == (4, 4)
    assert all(message in pair.candidate.failure for pair in match.results)
    assert time.monotonic() - started < 20


def test_rlarcades_own_agents_are_asked_in_the_thread_that_plays(tiny_config):
    threads = []
    agent = DQNAgent(tiny_config, num_actions=4)
    agent.q_values = lambda observation, real=agent.q_values: (
        threads.append(threading.current_thread()),
        real(observation),
    )[1]
    evaluate_agent(AgentPlayer(agent, protocol=SHORT), episodes=1)
    assert set(threads) == {threading.main_thread()}


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from rlarcade import evaluate_agent, get_protocol

class Values:
    game, num_actions = "space_invaders", 6
    protocol = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 160})

    def q_values(self, observations):
        return np.tile(np.arange(6, dtype=np.float32), (len(observations), 1))

print(evaluate_agent(Values(), episodes=1).episodes[0].steps)
"""


def test_an_agent_of_values_plays_where_torch_is_not_installed():
    code = [sys.executable, "-c", WITHOUT_TORCH]
    played = subprocess.run(code, check=False, capture_output=True, text=True)
    assert (played.stdout.strip(), played.stderr) == ("40", "")


@pytest.mark.slow
def test_both_failing_is_a_tie():
    match = compare_agents(player(crashing(4)), player(crashing(4)), max_pairs=10)
    assert (match.wins, match.losses) == (0, 0)
    assert any(pair.champion.ended == "failed" for pair in match.results)


def test_a_failure_counts_below_every_score():
    lost = EpisodeResult(seed=1, score=900.0, steps=5, ended="failed", failure="crash")
    won = EpisodeResult(seed=1, score=-20.0, steps=5, ended="terminated")
    from rlarcade.evaluation import PairResult

    assert PairResult(champion=won, candidate=lost).outcome == 0
    assert PairResult(champion=lost, candidate=won).outcome == 1
    assert PairResult(champion=lost, candidate=lost).outcome == 0.5


def test_one_that_hangs_is_left_behind_and_asked_again_next_time():
    release = threading.Event()

    def slow_once(observation):
        if not release.is_set():
            release.wait(20)
        return 0

    hanging = player(slow_once, decision_seconds=0.2)
    with pytest.raises(PolicyError, match="did not decide"):
        evaluate_agent(hanging, episodes=1)
    release.set()
    hanging._worker._seconds = 10  # the machine may be busy
    assert evaluate_agent(hanging, episodes=1).episodes[0].steps == 40


def test_a_policy_is_always_called_from_one_thread():
    callers = set()

    class Where(Dice):
        def reset(self, rng):
            callers.add(threading.get_ident())
            super().reset(rng)

        def __call__(self, observation):
            callers.add(threading.get_ident())
            return super().__call__(observation)

    evaluate_agent(player(Where()), episodes=3)
    assert len(callers) == 1


# What cannot play


def test_what_is_no_policy_is_refused():
    class Blind:
        sees = "nothing"

        def __call__(self, observation):
            return 0

    with pytest.raises(ConfigError, match="mine is no policy: int cannot be called"):
        player(3, name="mine")
    with pytest.raises(ConfigError, match="A policy sees 'observation' or 'screen'"):
        player(Blind())
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="decision_seconds must be a number above 0"):
            player(by_pixels, decision_seconds=seconds)
    with pytest.raises(ConfigError, match="Did you mean"):
        player(by_pixels, game="space_invadrs")
    with pytest.raises(ConfigError, match="unknown protocol"):
        RandomPlayer("pong", "v6")


def test_who_sees_the_screen_needs_an_environment_that_shows_it():
    class Watcher:
        sees = "screen"

        def __call__(self, screen):
            return 0

    blind = make_env("space_invaders", protocol=SHORT)
    with pytest.raises(ConfigError, match="Make it with render_mode='rgb_array'"):
        play_steps(player(Watcher()), blind)


def test_a_policy_is_let_go_when_its_player_is():
    """An idle thread that kept it would free it while Python ends, which can abort the process."""

    class Freed:
        def new_game(self, rng):
            return OneGame(Shared(), rng)

    policy = Freed()
    ref, before = weakref.ref(policy), threading.active_count()
    evaluate_agent(player(policy), episodes=2)
    del policy
    gc.collect()
    assert ref() is None
    assert threading.active_count() <= before


HANGING = """
import sys
import torch
from rlarcade import Player, PolicyError, evaluate_agent

ones = torch.ones(300, 300)

def hangs(observation):
    while True:
        torch.mm(ones, ones)

try:
    evaluate_agent(Player(hangs, game="Pong", decision_seconds=0.3), episodes=1)
except PolicyError as error:
    assert "did not decide within 0.3 s" in str(error)
    sys.exit(3)
"""


def test_a_policy_that_hangs_in_native_code_does_not_change_the_exit_code():
    """Its thread is asked to end. Otherwise it would abort the process while Python ends."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")
