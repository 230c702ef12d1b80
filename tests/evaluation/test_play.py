"""Evaluation against a plain loop: one game at a time, with `make_env`."""

import base64
import json
import os
import sys
import threading
import time
import zlib
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest

from rlarcade.errors import ConfigError, GameError, PolicyError, RunFolderError
from rlarcade.evaluation import Evaluation, evaluate_agent
from rlarcade.games import Protocol, get_protocol, make_env
from rlarcade.playing import EpisodeResult, play
from rlarcade.playing.episodes import Trace
from rlarcade.playing.players import Player
from rlarcade.seeding import SeedUse, derived_seed, generator

SHORT = get_protocol("v5").model_copy(
    update={"name": "mine", "frame_cap": 160, "evaluation_epsilon": 0.3}
)


class HashAgent:
    """Values that follow from the newest frames, one observation at a time, in exact integers."""

    name = "hash"

    def __init__(self, game="space_invaders", protocol=SHORT, num_actions=6) -> None:
        self.game, self.protocol = game, protocol
        self.weights = np.random.default_rng(0).integers(0, 1_000, (84 * 84, num_actions))
        self.batches: list[int] = []

    def q_values(self, observation: np.ndarray) -> np.ndarray:
        assert observation.dtype == np.uint8
        assert observation.shape[1:] == (4, 84, 84)
        self.batches.append(len(observation))
        frames = observation[:, [1, 3]].astype(np.int64).sum(axis=1).reshape(len(observation), -1)
        return (frames @ self.weights % 997).astype(np.float32)


class ConstantAgent:
    """Always wants the same action."""

    def __init__(self, game, protocol, values) -> None:
        self.game, self.protocol, self.values = game, protocol, values

    def q_values(self, observation: np.ndarray) -> np.ndarray:
        return np.tile(np.array(self.values, dtype=np.float32), (len(observation), 1))


def slow_episode(agent, seed: int) -> EpisodeResult:
    """The oracle: what docs say an evaluated episode is, in one plain loop."""
    env = make_env(agent.game, protocol=agent.protocol)
    rng = generator(seed, SeedUse.POLICY)
    observation, _ = env.reset(seed=seed)
    actions, rewards = [], []
    while True:
        explore = rng.random() < agent.protocol.evaluation_epsilon
        random_action = int(rng.integers(0, env.action_space.n))
        greedy = int(np.argmax(agent.q_values(observation[None])[0]))
        actions.append(random_action if explore else greedy)
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
        if terminated or truncated:
            return EpisodeResult(
                seed=seed,
                score=sum(rewards),
                steps=len(rewards),
                ended="terminated" if terminated else "truncated",
                trace=Trace.of(actions, rewards),
            )


@pytest.fixture(scope="module")
def reported() -> list[tuple[EpisodeResult, int, int]]:
    """What `on_episode` was told while `evaluation` was played."""
    return []


@pytest.fixture(scope="module")
def evaluation(reported) -> Evaluation:
    return evaluate_agent(
        HashAgent(),
        episodes=4,
        seed=3,
        num_lanes=3,
        on_episode=lambda *told: reported.append(told),
    )


def test_episodes_are_those_of_a_plain_loop_over_one_game(evaluation):
    assert list(evaluation.episodes) == [
        slow_episode(HashAgent(), episode.seed) for episode in evaluation.episodes
    ]
    assert len({episode.score for episode in evaluation.episodes}) > 1
    assert {episode.ended for episode in evaluation.episodes} == {"truncated"}
    assert {episode.steps for episode in evaluation.episodes} == {40}  # 160 frames of 4


@pytest.mark.parametrize("num_lanes", [1, 2, 8])
def test_the_number_of_lanes_changes_no_episode(evaluation, num_lanes):
    agent = HashAgent()

    found = evaluate_agent(agent, episodes=4, seed=3, num_lanes=num_lanes)

    assert found == evaluation
    assert max(agent.batches) <= min(num_lanes, 4)


def test_episodes_that_end_at_different_times_stay_in_the_order_of_their_seeds():
    # Breakout without a good policy is over after some 150 to 300 steps.
    protocol = get_protocol("v5").model_copy(update={"name": "mine", "evaluation_epsilon": 1.0})
    agent = ConstantAgent("breakout", protocol, [0, 0, 0, 0])
    order = []

    evaluation = evaluate_agent(
        agent,
        episodes=3,
        seed=8,
        num_lanes=2,
        on_episode=lambda result, done, total: order.append(result),
    )

    seeds = [derived_seed(8, SeedUse.EVALUATION, index) for index in range(3)]
    assert [episode.seed for episode in evaluation.episodes] == seeds
    assert list(evaluation.episodes) == [slow_episode(agent, seed) for seed in seeds]
    assert {episode.ended for episode in evaluation.episodes} == {"terminated"}
    assert len({episode.steps for episode in evaluation.episodes}) == 3
    assert sorted(order, key=lambda result: seeds.index(result.seed)) == list(evaluation.episodes)


# Emulators are started once


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """The games whose emulators are started; none is left from earlier evaluations."""
    games: list[str] = []

    class Counted(play.GameEnv):
        def __init__(self, game, **settings) -> None:
            games.append(game)
            super().__init__(game, **settings)

    monkeypatch.setattr(play, "GameEnv", Counted)
    play._idle._envs.clear()
    yield games
    play._idle._envs.clear()


def test_the_next_evaluation_plays_the_same_in_the_emulators_of_the_last(started, evaluation):
    for seed in (4, 3, 3):
        again = evaluate_agent(HashAgent(), episodes=4, seed=seed, num_lanes=3)
    assert again == evaluation
    assert started == ["space_invaders"] * 3


def test_emulators_of_other_games_and_protocols_are_not_used(started):
    other = SHORT.model_copy(update={"sticky": 0.0})
    for agent in (HashAgent(), HashAgent(protocol=other), HashAgent("pong"), HashAgent()):
        found = evaluate_agent(agent, episodes=2, seed=3, num_lanes=2)
        assert found.episodes == tuple(slow_episode(agent, one.seed) for one in found.episodes)
    assert started == ["space_invaders"] * 4 + ["pong"] * 2


def test_an_evaluation_that_is_left_in_the_middle_leaves_no_step_behind(started, evaluation):
    for steps in (1, 2, 7):
        rounds = play._rounds(
            [play.Scheduled(play.as_player(HashAgent()), seed) for seed in range(9)], 3
        )
        for _ in range(steps):
            next(rounds)
        rounds.close()
        assert evaluate_agent(HashAgent(), episodes=4, seed=3, num_lanes=3) == evaluation


def test_only_so_many_idle_emulators_are_kept(started, monkeypatch):
    monkeypatch.setattr(play, "_idle", play._IdleEmulators(most=2))
    evaluate_agent(HashAgent(), episodes=3, seed=3, num_lanes=3)
    assert len(play._idle._envs) == 2
    evaluate_agent(HashAgent(), episodes=3, seed=3, num_lanes=3)
    assert len(started) == 4


@pytest.mark.usefixtures("real_games")
@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_emulators_give_way_to_the_threads_in_which_policies_decide(started):
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    before, deciding = _niceness_of_threads(), set()

    def policy(observation: np.ndarray) -> int:
        deciding.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return 0

    evaluate_agent(Player(policy, game="Pong", protocol=SHORT), episodes=3, num_lanes=3)
    emulators = [nice for thread, nice in _niceness_of_threads().items() if thread not in before]
    assert emulators.count(min(mine + 10, 19)) >= 3
    assert deciding == {mine}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def _niceness_of_threads() -> dict[int, int]:
    threads = (int(entry.name) for entry in Path("/proc/self/task").iterdir())
    return {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


def test_a_players_failure_does_not_spoil_the_emulators(started, evaluation):
    agent = HashAgent()
    agent.q_values = lambda observation: np.full((len(observation), 6), np.nan, np.float32)
    with pytest.raises(PolicyError):
        evaluate_agent(agent, episodes=3, seed=3, num_lanes=3)
    assert evaluate_agent(HashAgent(), episodes=4, seed=3, num_lanes=3) == evaluation


def test_fewer_episodes_are_the_first_of_more(evaluation):
    fewer = evaluate_agent(HashAgent(), episodes=2, seed=3, num_lanes=2)

    assert fewer.episodes == evaluation.episodes[:2]


def test_another_seed_or_another_use_plays_other_games(evaluation):
    seeds = {episode.seed for episode in evaluation.episodes}
    for settings in [{"seed": 4}, {"seed": 3, "use": SeedUse.SELECTION}]:
        other = evaluate_agent(HashAgent(), episodes=1, **settings)
        assert seeds.isdisjoint(episode.seed for episode in other.episodes)
        assert other.seed == settings["seed"]


@pytest.mark.usefixtures("real_games")
def test_the_protocols_epsilon_decides_how_often_the_policy_is_overruled():
    # FIRE serves Breakout's ball; a player who never fires plays on until the frame cap.
    never_fires = [1, 0, 0, 0]
    for epsilon, ends in [(0.0, "truncated"), (1.0, "terminated")]:
        protocol = get_protocol("v5").model_copy(
            update={"name": "mine", "frame_cap": 2_500, "evaluation_epsilon": epsilon}
        )
        agent = ConstantAgent("breakout", protocol, never_fires)
        evaluation = evaluate_agent(agent, episodes=1, seed=1)
        assert evaluation.epsilon == epsilon
        assert evaluation.episodes[0].ended == ends
        if epsilon == 0:
            assert evaluation.episodes[0].score == 0


@pytest.mark.parametrize(("name", "num_actions"), [("nature", 6), ("machado", 18)])
def test_the_agents_protocol_is_the_one_that_is_played(name, num_actions):
    protocol = get_protocol(name).model_copy(update={"name": "short", "frame_cap": 160})
    agent = HashAgent(protocol=protocol, num_actions=num_actions)

    evaluation = evaluate_agent(agent, episodes=2, seed=0)

    assert evaluation.protocol == protocol
    assert evaluation.epsilon == get_protocol(name).evaluation_epsilon
    assert list(evaluation.episodes) == [
        slow_episode(agent, episode.seed) for episode in evaluation.episodes
    ]


def test_every_game_is_reported_once_as_it_ends(reported, evaluation):
    assert [(done, total) for _, done, total in reported] == [(n, 4) for n in range(1, 5)]
    assert {result for result, _, _ in reported} == set(evaluation.episodes)


def test_the_result_says_what_was_evaluated(evaluation):
    agent = HashAgent()
    agent.name, agent.version = "mine", "abc"
    named = evaluate_agent(agent, episodes=1, seed=3)

    assert (evaluation.checkpoint, evaluation.version) == ("hash", None)
    assert (named.checkpoint, named.version) == ("mine", "abc")
    assert (evaluation.game, evaluation.seed) == ("space_invaders", 3)


def test_a_document_survives_json(evaluation):
    text = evaluation.model_dump_json()

    assert Evaluation.model_validate_json(text) == evaluation
    assert Evaluation.model_validate_json(text).model_dump_json() == text
    document = json.loads(text)
    first = document["episodes"][0]
    trace = first.pop("trace")
    assert bytes(zlib.decompress(base64.b64decode(trace["actions"]))) == bytes(
        action for action, _ in evaluation.episodes[0].trace.steps
    )
    assert first == {
        "seed": derived_seed(3, SeedUse.EVALUATION, 0),
        "score": evaluation.episodes[0].score,
        "steps": 40,
        "ended": "truncated",
        "failure": None,
    }
    assert document["protocol"]["frame_cap"] == 160
    assert document["mean"] == evaluation.mean


def result(score: float, seed: int = 0) -> EpisodeResult:
    return EpisodeResult(seed=seed, score=score, steps=1, ended="terminated")


def document(game: str, scores: list[float], protocol: Protocol = SHORT) -> Evaluation:
    return Evaluation(
        checkpoint="x",
        version=None,
        game=game,
        protocol=protocol,
        epsilon=0.01,
        seed=0,
        episodes=tuple(result(score) for score in scores),
    )


@pytest.mark.parametrize("scores", [[5.0], [1.0, 2.0, 9.0], [0.0, 10.0, 20.0, 1000.0]])
def test_summaries_are_those_of_the_episodes(scores):
    summary = document("space_invaders", scores)

    assert summary.mean == pytest.approx(mean(scores))
    assert summary.median == pytest.approx(median(scores))
    # Space Invaders: random 148.0, human 1668.7
    assert summary.human_normalized == pytest.approx((mean(scores) - 148.0) / (1668.7 - 148.0))


def test_a_game_without_published_scores_is_not_normalised():
    unknown = document("tetris", [1.0])

    assert unknown.human_normalized is None
    assert Evaluation.model_validate_json(unknown.model_dump_json()) == unknown


@pytest.mark.parametrize("settings", [{"episodes": 0}, {"episodes": -1}, {"num_lanes": 0}])
def test_fewer_than_one_episode_or_lane_is_refused(settings):
    with pytest.raises(ConfigError, match="must be at least 1"):
        evaluate_agent(HashAgent(), **{"episodes": 1, **settings})


def test_an_agent_of_an_unknown_game_is_refused():
    with pytest.raises(GameError, match="Did you mean"):
        evaluate_agent(HashAgent(game="space_invadrs"), episodes=2)


@pytest.mark.parametrize("count", [1, 5, 7])
def test_an_agent_of_another_action_set_is_refused(count):
    agent = ConstantAgent("space_invaders", SHORT, [0] * count)

    with pytest.raises(PolicyError, match=f"returned {count} action values, but .* 6 act"):
        evaluate_agent(agent, episodes=2, num_lanes=2)


def test_an_error_in_the_agent_says_where_and_keeps_its_cause():
    class Broken(HashAgent):
        def q_values(self, observation):
            raise RuntimeError("no network")

    with pytest.raises(PolicyError, match=r"hash failed at step 0 .* RuntimeError: no") as told:
        evaluate_agent(Broken(), episodes=2, num_lanes=1)
    assert isinstance(told.value.__cause__, RuntimeError)


# What was played is kept


class Versioned(HashAgent):
    version = "f" * 64


def stopping(after):
    def stop(result, done, total):
        if done == after:
            raise KeyboardInterrupt

    return stop


def test_an_evaluation_that_was_interrupted_goes_on_and_plays_no_game_twice(evaluation, tmp_path):
    kept = {"episodes": len(evaluation.episodes), "seed": 3, "record": tmp_path / "e.part"}
    with pytest.raises(KeyboardInterrupt):
        evaluate_agent(Versioned(), **kept, num_lanes=2, on_episode=stopping(3))
    again = []
    whole = evaluate_agent(Versioned(), **kept, on_episode=lambda r, d, t: again.append((r, d)))
    assert whole.episodes == evaluation.episodes
    assert len(again) == len(evaluation.episodes) - 3
    assert [done for _, done in again] == list(range(4, len(evaluation.episodes) + 1))
    assert evaluate_agent(Versioned(), **kept, on_episode=stopping(1)) == whole
    fewer = evaluate_agent(Versioned(), **kept | {"episodes": 2}, on_episode=stopping(1))
    assert fewer.episodes == evaluation.episodes[:2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4}, "record of another evaluation, with another seed"),
        ({"use": SeedUse.SELECTION}, "with another use"),
        ({"agent": ("pong", SHORT)}, "with another game"),
        ({"agent": ("space_invaders", get_protocol("v5"))}, "with another protocol"),
    ],
)
def test_the_record_of_another_evaluation_is_refused(tmp_path, changed, message):
    kept = {"episodes": 1, "seed": 3, "record": tmp_path / "e.part"}
    evaluate_agent(Versioned(), **kept)
    agent = Versioned(*changed.pop("agent", ()))
    with pytest.raises(RunFolderError, match=message):
        evaluate_agent(agent, **kept | changed)


def test_a_record_whose_games_are_of_other_seeds_is_refused(tmp_path):
    path = tmp_path / "e.part"
    evaluate_agent(Versioned(), episodes=1, seed=3, record=path)
    header, game = path.read_text().splitlines()
    changed = json.loads(game)
    changed["episode"]["seed"] += 1
    path.write_text(f"{header}\n{json.dumps(changed)}\n")
    with pytest.raises(RunFolderError, match="has other games than this evaluation"):
        evaluate_agent(Versioned(), episodes=1, seed=3, record=path)


def test_games_of_an_agent_without_a_version_cannot_be_kept(tmp_path):
    with pytest.raises(ConfigError, match="hash cannot be kept: it has no version"):
        evaluate_agent(HashAgent(), episodes=1, record=tmp_path / "e.part")


def test_an_error_in_the_callback_reaches_the_caller():
    def interrupt(*told):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_agent(HashAgent(), episodes=2, num_lanes=1, on_episode=interrupt)


def test_who_is_stopped_does_not_wait_for_games_that_have_not_begun(monkeypatch):
    begun = []

    def opened(lane, index, job):
        begun.append(index)
        if index == 0:
            raise KeyboardInterrupt
        time.sleep(0.2)
        return lane

    monkeypatch.setattr(play, "_RESET_THREADS", 1)
    monkeypatch.setattr(play._Lane, "open", opened)
    agent = ConstantAgent("pong", SHORT, [0.0] * 6)
    jobs = [play.Scheduled(play.as_player(agent), seed) for seed in range(50)]
    with pytest.raises(KeyboardInterrupt):
        list(play.play_games(jobs, num_lanes=50))
    assert len(begun) < 25
