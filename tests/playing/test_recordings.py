"""Documents are recordings: every score can be played again, and an altered one is found."""

import json
import subprocess
import time

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageDraw

from rlarcade.errors import RecordingError
from rlarcade.evaluation import (
    Evaluation,
    compare_agents,
    compare_all,
    compare_suite,
    evaluate_agent,
)
from rlarcade.evaluation.document_files import load_recordings
from rlarcade.games import get_protocol
from rlarcade.playing import Player, RandomPlayer
from rlarcade.playing import recordings as recordings_module
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.playing.recordings import Recording, verify
from rlarcade.reports import pictures as pictures_module
from rlarcade.reports.pictures import SIZE, pictures, values_of, write_picture, write_video

SHORT = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 600})


def fires(observation):
    """Shoots, and moves as the pixels say."""
    return [1, 4, 5][int(observation.astype(np.int64).sum() % 3)]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_agent(Player(fires, game="space_invaders", protocol=SHORT), episodes=2)


def recording_of(evaluation, episode) -> Recording:
    return Recording(evaluation.game, evaluation.protocol, "policy", None, episode)


@pytest.fixture(scope="module")
def recording(evaluation) -> Recording:
    return recording_of(evaluation, evaluation.episodes[0])


def altered(recording, **changes) -> Recording:
    return recording._replace(episode=recording.episode.model_copy(update=changes))


def with_steps(recording, change) -> Recording:
    actions, rewards = map(list, zip(*recording.episode.trace.steps, strict=True))
    change(actions, rewards)
    trace = Trace.of(actions, rewards)
    return altered(recording, trace=trace)


# Verifying


def test_every_game_of_an_evaluation_reproduces(evaluation):
    assert sum(episode.score for episode in evaluation.episodes) > 0
    for episode in evaluation.episodes:
        verify(recording_of(evaluation, episode))


def test_the_first_game_that_goes_another_way_ends_the_check_of_the_rest(recording, monkeypatch):
    played = []

    def wrong_from_the_second(recording, env):
        time.sleep(0.02)
        played.append(recording.episode.seed)
        if len(played) > 1:
            raise RecordingError(f"game {recording.episode.seed} is wrong")

    monkeypatch.setattr(recordings_module, "GameEnv", lambda *_, **__: None)
    monkeypatch.setattr(recordings_module, "verify", wrong_from_the_second)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    games = [altered(recording, seed=seed) for seed in range(1000)]
    assert str(recordings_module.first_problem(games)) == "game 1 is wrong"
    assert 2 <= len(played) < 500
    played.clear()
    assert recordings_module.first_problem(games[:1]) is None


def test_a_claimed_score_or_length_that_the_game_does_not_have_is_found(recording):
    for claim in ({"score": recording.episode.score + 5}, {"steps": recording.episode.steps + 1}):
        with pytest.raises(RecordingError, match="points in .* steps are claimed"):
            verify(altered(recording, **claim))


def test_another_seed_is_another_game(evaluation, recording):
    with pytest.raises(RecordingError, match="does not reproduce"):
        verify(altered(recording, seed=evaluation.episodes[1].seed))


def test_a_reward_that_was_not_paid_is_found_at_its_step(recording):
    def add(actions, rewards):
        rewards[37] += 30

    with pytest.raises(RecordingError, match="at step 37, 30 points were recorded, 0 are paid"):
        verify(with_steps(recording, add))


def test_a_game_that_goes_on_or_is_over_before_is_found(recording):
    def cut(actions, rewards):
        del actions[-1], rewards[-1]

    def add(actions, rewards):
        actions.append(0), rewards.append(0)

    with pytest.raises(RecordingError, match="at step 148, truncated was recorded, but the game"):
        verify(with_steps(recording, cut))
    with pytest.raises(RecordingError, match="at step 149, the game is truncated before its"):
        verify(with_steps(recording, add))
    with pytest.raises(RecordingError, match="terminated was recorded"):
        verify(altered(recording, ended="terminated"))


def test_an_action_of_another_game_is_found(recording):
    def add(actions, rewards):
        actions[12] = 9

    with pytest.raises(RecordingError, match="at step 12, action 9: action 9"):
        verify(with_steps(recording, add))


def test_a_failed_game_is_confirmed_up_to_where_it_failed():
    calls = []

    def crashes(observation):
        calls.append(1)
        return [1][len(calls) // 50]

    match = compare_agents(
        Player(crashes, game="space_invaders", protocol=SHORT),
        RandomPlayer("space_invaders", SHORT),
        max_pairs=1,
        num_lanes=1,
    )
    failed = match.results[0].champion
    assert (failed.ended, failed.steps) == ("failed", 49)
    verify(Recording(match.game, match.protocol, "policy", None, failed))
    with pytest.raises(RecordingError):
        verify(Recording(match.game, match.protocol, "policy", None, failed.model_copy(
            update={"score": failed.score + 1}
        )))  # fmt: skip


# Documents


def test_the_games_are_found_in_every_kind_of_document(evaluation, tmp_path):
    documents = {
        "one.json": evaluation.model_dump(mode="json"),
        "many.json": {"evaluations": [evaluation.model_dump(mode="json")] * 2},
        "result.json": {"steps": 3, "evaluation": evaluation.model_dump(mode="json")},
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document, indent=2))
        found = load_recordings(tmp_path / name)
        assert tuple(one.episode for one in found[:2]) == evaluation.episodes
        assert len(found) == (4 if name == "many.json" else 2)
        assert {(one.game, one.protocol, one.player) for one in found} == {
            ("space_invaders", SHORT, "policy")
        }


def test_the_games_of_a_match_are_found_in_its_document_and_in_its_record(tmp_path):
    sides = [
        Player(fires, game="space_invaders", protocol=SHORT, name="fires", version="1"),
        RandomPlayer("space_invaders", SHORT),
    ]
    match = compare_agents(*sides, max_pairs=2, record=tmp_path)
    (tmp_path / "match.json").write_text(match.model_dump_json())
    (record,) = tmp_path.glob("*.jsonl")
    by_document, by_record = load_recordings(tmp_path / "match.json"), load_recordings(record)
    assert [one.episode for one in by_document] == [one.episode for one in by_record]
    assert [one.player for one in by_document] == ["fires", "random"] * 2
    assert [one.version for one in by_record] == ["1", "random"] * 2
    for one in by_record:
        verify(one)


def test_the_games_of_all_matches_of_a_round_robin_are_found(tmp_path):
    sides = [
        Player(fires, game="space_invaders", protocol=SHORT, name="fires", version="1"),
        RandomPlayer("space_invaders", SHORT),
        Player(lambda observation: 0, game="space_invaders", protocol=SHORT, name="waits"),
    ]
    tournament = compare_all(sides, max_pairs=1)
    (tmp_path / "all.json").write_text(tournament.model_dump_json())
    found = load_recordings(tmp_path / "all.json")
    pairings = [("fires", "random"), ("fires", "waits"), ("random", "waits")]
    assert [one.player for one in found] == [name for pairing in pairings for name in pairing]
    for one in found:
        verify(one)


def test_the_games_of_all_matches_of_a_suite_are_found(tmp_path):
    pairs = [
        (RandomPlayer(game, SHORT), Player(lambda observation: 0, game=game, protocol=SHORT))
        for game in ("space_invaders", "pong")
    ]
    suite = compare_suite(pairs, max_rounds=1)
    (tmp_path / "suite.json").write_text(suite.model_dump_json())
    found = load_recordings(tmp_path / "suite.json")
    assert [(one.game, one.player) for one in found] == [
        (game, player) for game in ("space_invaders", "pong") for player in ("random", "policy")
    ]
    for one in found:
        verify(one)


def test_a_kept_game_takes_few_bytes(evaluation):
    with_games = len(evaluation.model_dump_json())
    without = evaluation.model_dump_json(exclude={"episodes": {"__all__": {"trace"}}})
    assert (with_games - len(without)) / len(evaluation.episodes) < 1_000
    random = evaluate_agent(RandomPlayer("breakout"), episodes=1)
    assert len(random.model_dump_json()) < 3_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no result document"),
        (b"[1]", "no result document"),
        (b"{}", "no result document"),
        (b'{"evaluations": 3}', "no result document"),
        (b"\xff\xfe", "it is not text"),
        (b"[" * 100_000, "no result document"),
    ],
    ids=str,
)
def test_what_is_no_document_is_refused(tmp_path, text, message):
    for name in ("x.json", "x.jsonl"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(RecordingError, match=message):
            load_recordings(tmp_path / name)
    with pytest.raises(RecordingError, match="cannot read .*: No such file"):
        load_recordings(tmp_path / "nothing.json")


def test_a_document_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rlarcade.evaluation.document_files._LARGEST_DOCUMENT", 10)
    (tmp_path / "x.json").write_text("{}" + " " * 20)
    with pytest.raises(RecordingError, match="it has 22 bytes, more than the 10"):
        load_recordings(tmp_path / "x.json")


def test_a_document_that_kept_no_games_is_told(evaluation, tmp_path):
    bare = evaluation.model_dump(mode="json", exclude={"episodes": {"__all__": {"trace"}}})
    (tmp_path / "x.json").write_text(json.dumps(bare))
    with pytest.raises(RecordingError, match="holds no recorded games"):
        load_recordings(tmp_path / "x.json")


BOMB = "eJztwTEBAAAAwqD1T20ND6AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    ("packed", "message"),
    [("no base64!", "not packed bytes"), ("AAAA", "not packed bytes"), (BOMB, "cut off")],
)
def test_damaged_traces_are_refused(packed, message):
    with pytest.raises(ValueError, match=message):
        Trace.model_validate({"actions": packed, "rewards": packed})


def test_a_trace_that_would_fill_the_memory_is_refused():
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    with pytest.raises(ValueError, match="or too many for a game"):
        Trace.model_validate({"actions": bomb, "rewards": bomb})


def test_a_trace_has_a_reward_for_each_action():
    with pytest.raises(ValueError, match="2 actions need 8 bytes of rewards, not 4"):
        Trace(actions=b"ab", rewards=b"abcd")


# Pictures


class Agent:
    game, protocol = "space_invaders", SHORT

    def q_values(self, observation):
        pixels = observation.astype(np.float32).mean(axis=(1, 2, 3))
        return pixels[:, None] + np.arange(6, dtype=np.float32)


@pytest.fixture(scope="module")
def brief(evaluation):
    """The first 20 steps of a game."""
    trace = evaluation.episodes[0].trace
    actions, rewards = zip(*trace.steps[:20], strict=True)
    episode = EpisodeResult(
        seed=evaluation.episodes[0].seed,
        score=sum(rewards),
        steps=20,
        ended="failed",
        trace=Trace.of(list(actions), list(rewards)),
    )
    return recording_of(evaluation, episode)


def test_values_are_those_of_every_observation_on_the_way(brief):
    from rlarcade.games import make_env

    values = values_of(Agent(), brief)
    env = make_env("space_invaders", protocol=SHORT)
    observation, _ = env.reset(seed=brief.episode.seed)
    for row, (action, _) in zip(values, brief.episode.trace.steps, strict=True):
        np.testing.assert_array_equal(row, Agent().q_values(observation[None])[0])
        observation, *_ = env.step(action)


def test_a_picture_is_the_screen_with_words_beside_it(brief):
    from rlarcade.games.playback import play_back

    frames = list(
        play_back("space_invaders", SHORT, brief.episode.seed, brief.episode.trace.actions)
    )
    drawn = list(pictures(brief))
    assert [step for step, _ in drawn] == [frame.step for frame in frames]
    for (_, picture), frame in zip(drawn, frames, strict=True):
        assert picture.shape == (SIZE[1], SIZE[0], 3)
        for row, column in ((0, 0), (1, 2), (2, 1)):  # each pixel became nine
            np.testing.assert_array_equal(picture[row::3, column:480:3], frame.picture)
    beside = [picture[:, 480:] for _, picture in drawn]
    assert all(len(np.unique(panel)) > 2 for panel in beside), "there is something to read"
    valued = [picture[:, 480:] for _, picture in pictures(brief, values_of(Agent(), brief))]
    assert (valued[5] != beside[5]).any()


@pytest.fixture
def written(monkeypatch):
    """The texts and rectangles that are drawn."""
    drawn = {"text": [], "rectangle": []}

    def text(self, place, said, *, real=ImageDraw.ImageDraw.text, **settings):
        drawn["text"].append(said)
        real(self, place, said, **settings)

    def rectangle(self, box, *, real=ImageDraw.ImageDraw.rectangle, **settings):
        drawn["rectangle"].append((box[2] - box[0], settings["fill"]))
        real(self, box, **settings)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", rectangle)
    return drawn


def moments(written, recording, values):
    """What was drawn for each step: (texts, rectangles)."""
    said = {}
    for step, _ in pictures(recording, values):
        if written["text"]:  # the frames of a step share what is drawn for the first of them
            said[step] = (written["text"][:], written["rectangle"][:])
        written["text"].clear()
        written["rectangle"].clear()
    return said


def test_the_words_beside_it_are_score_step_and_values_of_that_moment(brief, monkeypatch, written):
    rewards = [0] * brief.episode.steps
    rewards[3:5] = [12_000, 340]
    values = values_of(Agent(), brief)
    monkeypatch.setattr(pictures_module, "play_back", paying(rewards))
    monkeypatch.setattr(pictures_module, "_check_paid", lambda *what: None)
    said = moments(written, brief, values)
    for step in (1, 3, 4, 19):
        title, score, number, *rest = [one for one in said[step][0] if one != "explored"]
        assert title == "SpaceInvaders (mine)"
        assert score == {1: "0", 3: "12,000"}.get(step, "12,340")
        assert number == f"step {step}"
        assert rest[1:12:2] == [f"{value:.3f}" for value in values[step]]
        assert rest[0:12:2] == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
        best = values.max(axis=1)
        assert f"{best.min():.2f} … {best.max():.2f}" in rest


def test_bars_begin_at_zero_and_have_one_scale_in_the_whole_game(brief, written):
    values = np.random.default_rng(0).normal(size=(brief.episode.steps, 6)).astype(np.float32)
    said = moments(written, brief, values)
    lengths = np.array([[length for length, _ in said[step][1]] for step in range(1, 20)])
    scale = lengths / np.abs(values[1:20])
    np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-4)
    assert lengths.max() <= 270 - 126


def test_an_action_that_is_not_the_best_one_is_marked_as_explored(brief, written):
    actions = list(brief.episode.trace.actions)
    values = np.zeros((len(actions), 6), dtype=np.float32)
    values[np.arange(len(actions)), actions] = 1
    values[7] = np.roll(values[7], 1)  # another action was the best one
    said = moments(written, brief, values)
    assert [step for step, (words, _) in said.items() if "explored" in words] == [7]
    explored = said[7][1][actions[7]][1]
    assert explored != said[8][1][actions[8]][1] != said[8][1][(actions[8] + 1) % 6][1]


def paying(rewards):
    """Plays a game back that pays other points."""

    def play(*arguments, real=pictures_module.play_back):
        paid = set()
        for frame in real(*arguments):
            first = frame.step >= 0 and frame.step not in paid
            paid.add(frame.step)
            yield frame._replace(reward=float(rewards[frame.step]) if first else 0.0)

    return play


def test_a_video_has_sixty_frames_a_second_and_shows_the_game(brief, tmp_path):
    told = []
    path = tmp_path / "new" / "game.mp4"
    write_video(path, brief, on_step=lambda *what: told.append(what))
    ffmpeg = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    decoded = subprocess.run(ffmpeg, capture_output=True, check=True)
    assert "h264 (High)" in decoded.stderr.decode()
    assert f"{SIZE[0]}x{SIZE[1]}" in decoded.stderr.decode()
    assert "60 fps" in decoded.stderr.decode()
    frames = np.frombuffer(decoded.stdout, dtype=np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)
    assert len(frames) == 1 + 20 * 4
    drawn = [picture for _, picture in pictures(brief)]
    for shown, picture in zip(frames, drawn, strict=True):
        assert np.abs(shown.astype(int) - picture).mean() < 8, "lossy, but that picture"
    assert told[-1] == (20, 20)
    assert [path.name for path in path.parent.iterdir()] == ["game.mp4"]


def test_six_moments_of_a_game_are_one_picture(brief, tmp_path):
    write_picture(tmp_path / "new" / "game.png", brief)
    sheet = np.asarray(Image.open(tmp_path / "new" / "game.png"))
    assert sheet.shape == (2 * SIZE[1], 3 * SIZE[0], 3)
    drawn = dict(pictures(brief))  # of a step's frames, the last
    for place, step in enumerate((0, 4, 8, 11, 15, 19)):
        top, left = place // 3 * SIZE[1], place % 3 * SIZE[0]
        np.testing.assert_array_equal(
            sheet[top : top + SIZE[1], left : left + SIZE[0]], drawn[step]
        )


def test_a_game_that_does_not_reproduce_is_not_shown(brief, tmp_path):
    def add(actions, rewards):
        rewards[3] += 30

    with pytest.raises(RecordingError, match="at step 3, 30 points were recorded, 0 are paid"):
        write_video(tmp_path / "game.mp4", with_steps(brief, add))
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written_are_told(brief, tmp_path):
    (tmp_path / "file").write_text("")
    for write, name in ((write_video, "x.mp4"), (write_picture, "x.png")):
        with pytest.raises(RecordingError, match=r"cannot be written: .*Choose another file"):
            write(tmp_path / "file" / name, brief)
        with pytest.raises(RecordingError, match="must end in"):
            write(tmp_path / "x.gif", brief)
