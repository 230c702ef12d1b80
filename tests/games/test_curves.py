"""Published learning curves as package data, and the script that compares runs with them."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rlarcade.config import TrainConfig
from rlarcade.games import all_games, published_curve

GAMES_OF = "Atari"

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_against_published.py"

# Mean ± sd as a person tabulated them from Dopamine's files, apart from the package's data.
KNOWN = {
    ("space_invaders", "DQN", "nature", 5): (516, 16),
    ("breakout", "QR-DQN", "nature", 2): (18.6, 1.1),
    ("pong", "IQN", "nature", 10): (14.0, 2.2),
    ("seaquest", "Rainbow", "impala", 20): (43147, 14324),
    ("enduro", "IQN", "impala", 2): (251, 21),
}


@pytest.mark.parametrize("key", KNOWN)
def test_points_are_the_published_ones(key):
    game, algorithm, torso, million = key
    (point,) = [p for p in published_curve(game, algorithm, torso) if p.frames == million * 10**6]
    mean, sd = KNOWN[key]
    assert point.mean == pytest.approx(mean, rel=5e-3, abs=0.5)
    assert point.sd == pytest.approx(sd, rel=5e-3, abs=0.5)


@pytest.mark.parametrize("torso", ["nature", "impala"])
@pytest.mark.parametrize("algorithm", ["DQN", "C51", "QR-DQN", "IQN", "Rainbow"])
def test_every_algorithm_has_sixty_games_in_order_of_frames(algorithm, torso):
    curves = {game: published_curve(game, algorithm, torso) for game in all_games()}
    assert sum(map(bool, curves.values())) == 60
    for points in filter(None, curves.values()):
        frames = [point.frames for point in points]
        assert frames == sorted(set(frames))
        assert frames[0] == 1_000_000


def test_what_was_never_published_has_no_points():
    assert published_curve("space_invaders", "PQN", "nature") == ()


def a_run(folder, scores, **settings):
    """A run folder whose games, one every 1,000 steps, ended with the given scores."""
    config = TrainConfig(game="space_invaders", **settings)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"train": config.model_dump(mode="json")}))
    lines = [
        json.dumps({"step": 1000 * (i + 1), "charts/episodic_return": score})
        for i, score in enumerate(scores)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Runs the script on a run folder, in this process; returns its exit code and document."""

    def check(run):
        document = tmp_path / "check.json"
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(run), "--json", str(document)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        return code, json.loads(document.read_text())

    return check


@pytest.mark.slow
def test_the_script_is_a_command(tmp_path):
    run, document = a_run(tmp_path / "run", [164.0] * 250), tmp_path / "check.json"
    command = [sys.executable, SCRIPT, run, "--json", document]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(json.loads(document.read_text())["points"]) == 1


def test_a_run_is_judged_by_the_last_million_frames_before_each_point(checked, tmp_path):
    # DQN on SpaceInvaders: 164 ± 7 after one million frames, 242 ± 19 after two
    run = a_run(tmp_path / "run", [164.0] * 250 + [100.0] * 250)
    code, document = checked(run)
    assert code == 0
    assert [point["verdict"] for point in document["points"]] == ["inside", "below"]
    assert [point["mean"] for point in document["points"]] == [164.0, 100.0]


def test_a_run_that_has_not_got_to_the_first_point_has_nothing_to_compare(checked, tmp_path):
    code, document = checked(a_run(tmp_path / "run", [164.0] * 249))
    assert (code, document["points"]) == (1, [])


def test_other_conditions_than_the_published_are_told(checked, tmp_path):
    run = a_run(tmp_path / "run", [500.0] * 250, terminal_on_life_loss=False, train_freq=8)
    _, document = checked(run)
    assert [point["verdict"] for point in document["points"]] == ["above"]
    told = " ".join(document["departures"])
    assert "replay ratio 4.0 instead of 8.0" in told
    assert "terminal_on_life_loss" not in told


def test_a_twin_by_name_only_is_told_to_have_other_parts(checked, tmp_path):
    parts = {"head": "quantile", "num_quantiles": 51, "n_steps": 10, "prioritized": True}
    run = a_run(tmp_path / "run", [500.0] * 250, **parts, conv_channels=(16, 32, 32), norm="layer")
    _, document = checked(run)
    assert document["published"] == "QR-DQN"
    told = document["departures"]
    for departure in (
        "n_steps 10 instead of 3",
        "num_quantiles 51 instead of 200",
        "conv_channels (16, 32, 32) instead of (32, 64, 64)",
        "norm layer instead of none",
    ):
        assert departure in told
    assert not any("prioritized" in departure for departure in told)
