"""What a report shows beside its document."""

import json

import numpy as np
import pytest

from rlarcade.checkpoint import load_checkpoint
from rlarcade.config import TrainConfig
from rlarcade.evaluation import RandomPlayer, compare_agents, evaluate_agent
from rlarcade.evaluation.pictures import values_of_its_player
from rlarcade.evaluation.recordings import median_game, recordings_of
from rlarcade.evaluation.reports import sources_of
from rlarcade.games import get_protocol
from rlarcade.learning.agent import DQNAgent

SHORT = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 200})


@pytest.fixture
def run(tmp_path):
    """A run with figures and two checkpoints."""
    folder = tmp_path / "run"
    for step in (8, 16):
        config = TrainConfig(game="space_invaders", conv_channels=(2, 2, 2), hidden_units=4)
        agent = DQNAgent(config, num_actions=6, seed=step)
        agent.save(folder / "checkpoints" / f"step-{step:012d}")
    lines = [{"step": step, "rollout/ep_rew_mean": step / 2} for step in (4, 8, 16)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def loaded(run, step):
    agent = DQNAgent.load(run / "checkpoints" / f"step-{step:012d}")
    agent.protocol = SHORT
    return agent


def test_two_checkpoints_of_a_run_share_its_curve_and_each_has_its_median_game(run):
    match = compare_agents(loaded(run, 8), loaded(run, 16), max_pairs=3)
    sources = sources_of([match])
    (curve,) = sources["learning_curves"]
    assert (curve.steps, curve.scores) == ((4, 8, 16), (2.0, 4.0, 8.0))
    assert [clip.mime for clip in sources["clips"]] == ["image/png"] * 2
    for clip, side in zip(sources["clips"], ("champion", "candidate"), strict=True):
        games = sorted((getattr(pair, side) for pair in match.results), key=lambda g: g.score)
        assert f"{games[1].score:g} points" in clip.caption
        assert clip.data.startswith(b"\x89PNG")


def test_who_has_no_folder_has_no_curve_and_no_values():
    evaluation = evaluate_agent(RandomPlayer("space_invaders", SHORT), episodes=2)
    sources = sources_of([evaluation])
    assert sources["learning_curves"] == []
    assert len(sources["clips"]) == 1


def test_a_document_that_kept_no_games_has_no_clips():
    evaluation = evaluate_agent(RandomPlayer("space_invaders", SHORT), episodes=1)
    bare = evaluation.model_copy(
        update={"episodes": (evaluation.episodes[0].model_copy(update={"trace": None}),)}
    )
    assert sources_of([bare])["clips"] == []


def test_values_are_shown_only_of_the_very_version_that_played(run):
    agent = loaded(run, 8)
    (recording,) = recordings_of(evaluate_agent(agent, episodes=1))
    values = values_of_its_player(recording)
    assert values.shape == (50, 6)
    assert values_of_its_player(recording._replace(version="another")) is None
    renamed = recording._replace(player="champion@space-invaders")
    assert values_of_its_player(renamed) is None
    found = {"champion@space-invaders": load_checkpoint(recording.player)}
    np.testing.assert_array_equal(values_of_its_player(renamed, found.__getitem__), values)


def test_the_median_game_is_one_that_was_played():
    evaluation = evaluate_agent(RandomPlayer("space_invaders", SHORT), episodes=5)
    median = median_game(recordings_of(evaluation)).episode
    assert median in evaluation.episodes
    assert median.score == evaluation.median
