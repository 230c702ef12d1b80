"""What a report shows beside its document."""

import json
import os
import threading
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest

from rlarcade.config import TrainConfig
from rlarcade.errors import RecordingError, RlarcadeError
from rlarcade.evaluation import compare_agents, evaluate_agent
from rlarcade.evaluation.documents import recordings_of
from rlarcade.games import get_protocol
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing import RandomPlayer
from rlarcade.playing.episodes import Trace
from rlarcade.playing.recordings import median_game
from rlarcade.registry.registry import Registry
from rlarcade.reports import pictures as pictures_module
from rlarcade.reports import sources_of
from rlarcade.reports.pictures import picture_of, values_of_its_player, write_video

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
    assert [clip.mime for clip in sources["clips"]] == ["video/mp4"] * 2
    for clip, side in zip(sources["clips"], ("champion", "candidate"), strict=True):
        games = sorted((getattr(pair, side) for pair in match.results), key=lambda g: g.score)
        assert f"{games[1].score:g} points" in clip.caption
        assert clip.data[4:8] == b"ftyp"
    assert curve.player == match.candidate.checkpoint


def test_without_ffmpeg_a_clip_is_a_picture(run, monkeypatch):
    def missing(*ignored, **more):
        raise RuntimeError("no ffmpeg")

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", missing)
    (clip,) = sources_of([evaluate_agent(loaded(run, 8), episodes=1)])["clips"]
    assert clip.mime == "image/png"
    assert clip.data.startswith(b"\x89PNG")


def test_a_clip_shows_the_eight_seconds_in_which_most_points_were_made(run, monkeypatch):
    (recording,) = recordings_of(evaluate_agent(loaded(run, 8), episodes=1))
    rewards = np.zeros(900)
    rewards[[100, 500, 510, 619, 620]] = 5, 2, 2, 2, 9
    trace = SimpleNamespace(steps=[(0, reward) for reward in rewards])
    lively = recording._replace(episode=SimpleNamespace(trace=trace))
    chosen = pictures_module.liveliest(lively, 8)
    assert len(chosen) == 120, "15 steps a second"
    assert {510, 619, 620} <= set(chosen)
    for rewards, part in (([5] * 10, range(10)), ([0] * 500, range(120))):  # the first of equals
        trace.steps = [(0, reward) for reward in rewards]
        assert pictures_module.liveliest(lively, 8) == part
    data = pictures_module.clip_of(recording)
    assert data[4:8] == b"ftyp"


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


def test_values_are_shown_only_of_the_very_version_that_played(run, tmp_path):
    agent = loaded(run, 8)
    (recording,) = recordings_of(evaluate_agent(agent, episodes=1))
    values = values_of_its_player(recording)
    assert values.shape == (50, 6)
    assert values_of_its_player(recording._replace(version="another")) is None
    renamed = recording._replace(player="champion@space-invaders")
    assert values_of_its_player(renamed) is None
    with Registry.open(tmp_path / "registry") as registry:
        number = registry.register(run / "checkpoints" / "step-000000000008").number
        registry.move_alias("space_invaders", "champion", number, expected_generation=0, kind="set")
    np.testing.assert_array_equal(values_of_its_player(renamed, tmp_path / "registry"), values)


def test_the_median_game_is_one_that_was_played():
    evaluation = evaluate_agent(RandomPlayer("space_invaders", SHORT), episodes=5)
    median = median_game(recordings_of(evaluation)).episode
    assert median in evaluation.episodes
    assert median.score == evaluation.median


# What lies beside a document may be anything


def shown(name, **changes):
    evaluation = evaluate_agent(RandomPlayer("space_invaders", SHORT), episodes=1)
    return evaluation.model_copy(update={"checkpoint": name, **changes})


@pytest.mark.parametrize("name", ["x" * 5_000, "a\0b", "\ud800", "/proc/self/mem", "", "/dev/zero"])
def test_a_player_may_be_called_anything(name):
    sources = sources_of([shown(name)])
    assert sources["learning_curves"] == []
    assert len(sources["clips"]) == 1


def test_figures_that_are_a_fifo_are_refused_without_waiting(run):
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    said = []

    def look():
        try:
            sources_of([shown(str(run))])
        except RlarcadeError as error:
            said.append(str(error))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert said == [
        f"the metrics of run {run} cannot be read: it is a FIFO, not a regular file. Repair the "
        "file, or leave its learning curve out."
    ]


def test_figures_that_are_no_numbers_are_left_out_of_a_curve(run):
    lines = [
        '{"step": 1, "rollout/ep_rew_mean": ' + "[" * 200_000,
        '{"step": 1, "rollout/ep_rew_mean": NaN}',
        '{"step": 2, "rollout/ep_rew_mean": Infinity}',
        f'{{"step": 3, "rollout/ep_rew_mean": {10**400}}}',
        f'{{"step": {10**400}, "rollout/ep_rew_mean": 1}}',
        '{"step": -5, "rollout/ep_rew_mean": 1}',
        '{"step": 6, "rollout/ep_rew_mean": "7"}',
        '{"step": 7, "rollout/ep_rew_mean": 8}',
        f'{{"step": 9, "rollout/ep_rew_mean": {"9" * 5000}}}',
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "run.json").write_text("[" * 200_000)
    (curve,) = sources_of([shown(str(run))])["learning_curves"]
    assert (curve.steps, curve.scores, curve.game) == ((7,), (8.0,), None)


def test_values_of_another_game_or_that_are_no_numbers_are_not_shown(run):
    agent = loaded(run, 8)
    (game,) = recordings_of(evaluate_agent(agent, episodes=1))
    assert values_of_its_player(game) is not None
    assert values_of_its_player(game._replace(game="pong", episode=game.episode)) is None
    full = get_protocol("machado").model_copy(update={"name": "mine", "frame_cap": 200})
    assert values_of_its_player(game._replace(protocol=full)) is None


def test_a_picture_of_a_game_that_ends_before_its_record_is_refused():
    (game,) = recordings_of(shown("x"))
    steps = game.episode.trace.steps
    longer = Trace.of([a for a, _ in steps] + [0] * 9, [r for _, r in steps] + [0] * 9)
    altered = game._replace(episode=game.episode.model_copy(update={"trace": longer}))
    with pytest.raises(RecordingError, match=r"ends after step 49, but 59 steps were recorded"):
        picture_of(altered)


def test_a_picture_of_a_game_of_no_steps_is_one():
    (game,) = recordings_of(shown("x"))
    none = game.episode.model_copy(update={"steps": 0, "score": 0.0, "trace": Trace.of([], [])})
    assert picture_of(game._replace(episode=none)).startswith(b"\x89PNG")


def test_a_video_without_an_encoder_is_told(monkeypatch, tmp_path):
    def missing(*_, **__):
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr("imageio_ffmpeg.write_frames", missing)
    (game,) = recordings_of(shown("x"))
    with pytest.raises(RecordingError, match="No ffmpeg exe could be found"):
        write_video(tmp_path / "x.mp4", game)
    assert list(tmp_path.iterdir()) == []
