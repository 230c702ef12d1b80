"""Scripts that sum results up, on results made by hand."""

import ast
import errno
import json
import runpy
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from tiers import quick

import rlarcade
from rlarcade.promotion.gate import Gate
from rlarcade.seeding import SeedUse

SCRIPTS = Path(__file__).parent.parent / "scripts"


def script(name, monkeypatch, *words):
    """Runs a script in this process with the words of its command line."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    return runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]()


def a_run(game, precision, seed, mean):
    result = {"evaluation": {"mean": mean}, "seconds": {"total": 120.0}}
    return {
        "label": f"{game}-{precision}-{seed}",
        "settings": {"game": game, "precision": precision, "seed": seed},
        "exit": 0 if mean is not None else None,
        "result": result if mean is not None else None,
    }


def test_a_sweep_is_summed_up_by_pairs_of_one_seed(tmp_path):
    runs = [
        *(a_run("Pong", "fp32", seed, mean) for seed, mean in ((0, 10.0), (1, 20.0), (2, 60.0))),
        *(a_run("Pong", "bf16", seed, mean) for seed, mean in ((0, 11.0), (1, 23.0), (2, None))),
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": "precision", "runs": runs}))
    command = [sys.executable, str(SCRIPTS / "summarise_sweep.py"), str(tmp_path / "sweep.json")]
    table = tmp_path / "table.md"
    subprocess.run([*command, "--by", "precision", "--markdown", str(table)], check=True)
    lines = table.read_text().splitlines()
    assert lines[2] == "| Pong | fp32 | 3 | 30.0 | 10.0 … 60.0 | – | 2.0 |"
    # seeds 0 and 1 make pairs: +1 and +3, mean 2, standard error √2/√2
    assert lines[3] == "| Pong | bf16 | 2 | 17.0 | 11.0 … 23.0 | +2.0 ± 1.0 (2 pairs) | 2.0 |"
    assert lines[-1] == "Not finished: Pong-bf16-2"


def judged(tmp_path, monkeypatch, capsys, rule, scores, *more):
    """The last line that `compare_arms` prints of scores by arm and game, a list of seeds each."""
    runs = [
        {"label": f"{game}-{arm}-{seed}", "agent": arm, "game": game, "seed": seed}
        | {"result": {"evaluation": {"mean": score}}, "curve": [[1000, 1.0], [2000, score]]}
        for arm, games in scores.items()
        for game, means in games.items()
        for seed, score in enumerate(means)
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    script("compare_arms", monkeypatch, tmp_path / "sweep.json", "--rule", rule, *more)
    return capsys.readouterr().out.splitlines()[-1]


def test_a_precision_passes_if_pairs_of_one_seed_are_level(tmp_path, monkeypatch, capsys):
    def told(*factors):
        scores = {"breakout": [10.0, 12.0, 14.0], "seaquest": [300.0, 200.0, 100.0]}
        other = {
            game: [mean * factor for mean, factor in zip(means, factors, strict=True)]
            for game, means in scores.items()
        }
        return judged(tmp_path, monkeypatch, capsys, "precision", {"fp32": scores, "bf16": other})

    # r is 0.02, 0.03, 0.04 in both games: mean 0.03, s 0.00894, t(5, 0.95) 2.015 by the tables
    assert told(*np.exp([0.02, 0.03, 0.04])).startswith(
        "bf16: mean r +0.030 over 6 pairs, lower bound +0.023 (needed: above -0.051;"
    )
    assert told(1.0, 1.0, 1.0).endswith(": passed")
    assert told(0.94, 0.94, 0.94).endswith(": not passed")
    assert told(0.5, 1.0, 2.0).endswith(": not passed")


def test_a_precision_that_is_bad_in_one_game_does_not_pass(tmp_path, monkeypatch, capsys):
    scores = {"breakout": [10.0] * 3, "seaquest": [300.0] * 3, "pong": [20.0] * 3}
    other = scores | {"breakout": [8.9] * 3, "pong": [24.0] * 3}
    told = judged(tmp_path, monkeypatch, capsys, "precision", {"fp32": scores, "bf16": other})
    assert "mean r +0.022 " in told
    assert told.endswith(": not passed")


def test_an_arm_passes_the_screen_by_its_mean_and_its_worst_game(tmp_path, monkeypatch, capsys):
    """Breakout from 1.7 (random) to 30.5 (human), SpaceInvaders from 148 to 1668.7."""

    def told(breakout, space_invaders):
        arms = {
            "laptop": {"breakout": [21.7, 41.7], "space_invaders": [648.0]},
            "other": {"breakout": [breakout], "space_invaders": [space_invaders]},
        }
        return judged(tmp_path, monkeypatch, capsys, "screen", arms)

    # seed 0 only, which both have: 22 / 20 and 495 / 500
    assert told(23.7, 643.0) == (
        "other: Breakout +0.095, SpaceInvaders -0.010; mean r +0.043: not passed"
    )
    assert told(24.7, 648.0).endswith("mean r +0.070: passed")
    assert told(31.7, 548.0).endswith("mean r +0.091: not passed")  # -0.223 in SpaceInvaders
    assert told(17.7, 548.0).endswith(": dropped")
    # below random: 1 % of the way to human, 15.207 / 500
    assert "SpaceInvaders -3.493;" in told(21.7, 0.0)


def test_an_arm_passes_after_one_seed_only_if_it_is_ahead_in_every_game(
    tmp_path, monkeypatch, capsys
):
    def told(*breakout):
        base = {"breakout": [21.7, 21.7], "space_invaders": [648.0]}
        other = {"breakout": list(breakout), "space_invaders": [1148.0]}
        return judged(tmp_path, monkeypatch, capsys, "first", {"laptop": base, "other": other})

    assert told(22.7) == (
        "other: Breakout +0.049, SpaceInvaders +0.693; ahead in 2 of 2 games: passed"
    )
    assert told(21.7).endswith("; ahead in 1 of 2 games: goes on with seed 2")


def test_an_arm_is_adopted_if_games_that_chose_nothing_show_it(tmp_path, monkeypatch, capsys):
    games = {"breakout": 1.7, "space_invaders": 148.0, "seaquest": 68.4, "pong": -20.7}

    def told(*ratios, level=0.9):
        base = {game: [random + 1000.0, random + 1000.0] for game, random in games.items()}
        other = {
            game: [random + 1000.0 * ratio] * 2
            for (game, random), ratio in zip(games.items(), ratios, strict=True)
        }
        arms = {"laptop": base, "other": other}
        return judged(tmp_path, monkeypatch, capsys, "fresh", arms, "--level", level)

    assert told(1.25, 1.25, 1.25, 1.25) == (
        "other: mean r +0.223 (a ratio of 1.25), lower bound +0.223 at 90% (needed: above 0; "
        "no game below -0.357): passed"
    )
    assert told(1, 1, 1, 1).endswith(": not passed")
    assert told(3, 3, 3, 0.69).endswith(": not passed")
    assert told(2, 2, 0.8, 0.8).endswith(": passed")
    # Of 4 games that are drawn, 4 are the two bad ones with a probability of 1/16, and 3 with 4/16:
    # the bound is theirs, (ln 2 + 3 ln 0.8) / 4, since 1/16 < 0.1 < 5/16.
    assert "lower bound +0.006 at 90%" in told(2, 2, 0.8, 0.8)
    assert "lower bound -0.223 at 97%" in told(2, 2, 0.8, 0.8, level=0.97)
    assert told(2, 2, 0.8, 0.8, level=0.97).endswith(": not passed")


@pytest.mark.slow  # matplotlib is not among what the default tests install
def test_learning_curves_are_drawn_against_the_minutes_of_training(tmp_path):
    for label, game in (("a", "pong"), ("b", "breakout")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "run.json").write_text(json.dumps({"train": {"game": game}}))
    # 1,000 steps take 120 s, a quarter of which is none of the parts of training
    shares = {"time/env_share": 0.25, "time/act_share": 0.0}
    shares |= {"time/replay_share": 0.0, "time/learn_share": 0.5}
    figures = shares | {"time/fps": 1000 / 120, "rollout/ep_rew_mean": 3.0}
    lines = [{"step": 1000, **figures}, {"step": 1500, "eval/mean_reward": 4.0}]
    lines.append({"step": 2000, **figures})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "a" / "metrics.jsonl").write_text(text)
    module = runpy.run_path(str(SCRIPTS / "plot_learning_curve.py"))
    curve, evaluations = module["curves"](tmp_path / "a", in_minutes=True)
    np.testing.assert_allclose(curve, [(1.5, 3.0), (3.0, 3.0)])
    np.testing.assert_allclose(evaluations, [(1.5, 4.0)])
    assert module["curves"](tmp_path / "a", in_minutes=False)[0] == [(1000, 3.0), (2000, 3.0)]
    picture = tmp_path / "curve.png"
    command = [sys.executable, str(SCRIPTS / "plot_learning_curve.py"), str(tmp_path / "a")]
    command += [str(tmp_path / "b"), "--minutes", "--png", str(picture)]
    subprocess.run(command, check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


SEEDS = [([0, 2, 4], [0, 2, 4]), ([0, 1, 4, 8], [8, 7, 4, 0])]  # one is shorter than the other


@pytest.mark.slow  # matplotlib, as above
def test_a_recorded_run_is_drawn_as_its_folder_was(tmp_path):
    run, recorded = tmp_path / "pong-run", tmp_path / "runs.json"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"train": {"game": "pong", "seed": 3}}))
    # the first half at twice the speed of the second; five figures in each kept interval
    shares = {f"time/{part}_share": 0.25 for part in ("env", "act", "replay", "learn")}
    lines = [
        {"step": step, **shares, "time/fps": 200.0 if step <= 10_000 else 100.0}
        | {"rollout/ep_rew_mean": step / 1000 + 0.004}
        for step in range(1_000, 20_001, 1_000)
    ]
    lines.insert(10, {"step": 10_000, "eval/mean_reward": 5.5})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, str(SCRIPTS / "record_run.py"), str(run), "--into", str(recorded)]
    command += ["--under", "plain"]
    subprocess.run(command, check=True)
    (row,) = json.loads(recorded.read_text())["plain"]
    assert (row["run"], row["steps"], row["finished"]) == ("pong-run", 20_000, False)
    assert row["settings"] == {"game": "pong", "seed": 3}
    kept = [1_000, 5_000, 10_000, 15_000, 20_000]
    assert row["training_return"] == [[step, step / 1000] for step in kept]
    minutes = [5 / 60, 25 / 60, 50 / 60, 100 / 60, 150 / 60]
    np.testing.assert_allclose(row["training_minutes"], minutes, atol=0.005)

    evaluation = {"version": "aa", "checkpoint": "pong-run/checkpoints/step-20000", "mean": 2.0}
    evaluation |= {"episodes": [{"score": 1.0}, {"score": 3.0}]}
    seconds = {"env": 50, "act": 50, "replay": 25, "learn": 25, "save": 9, "total": 159}
    result = {"steps": 20_000, "seconds": seconds, "evaluation": evaluation}
    result["checkpoint"] = evaluation["checkpoint"]
    (run / "result.json").write_text(json.dumps(result))
    games = tmp_path / "games.json"
    games.write_text(json.dumps({"evaluations": [evaluation]}))
    subprocess.run([*command, "--games", str(games)], check=True)
    (row,) = json.loads(recorded.read_text())["plain"]  # in the place of the unfinished one
    assert row["finished"] is True
    assert row["final"] == row["evaluated_over_2_games"] == {"mean": 2.0, "scores": [1.0, 3.0]}

    draw = [sys.executable, str(SCRIPTS / "plot_learning_curve.py"), f"ours={recorded}:plain"]
    subprocess.run([*draw, "--minutes", "--png", str(tmp_path / "curve.png")], check=True)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    module = runpy.run_path(str(SCRIPTS / "plot_learning_curve.py"))
    ((label, game, curve, evaluations),) = map(
        astuple, module["read"](f"{recorded}:plain", in_minutes=True)
    )
    assert (label, game) == ("pong-run (plain)", "pong")
    (drawn,) = module["read"](f"ours={recorded}:plain", in_minutes=False)
    assert (drawn.label, drawn.curve) == ("ours", row["training_return"])
    expected = [(x, step / 1000) for x, step in zip(minutes, kept, strict=True)]
    np.testing.assert_allclose(curve, expected, atol=0.005)
    np.testing.assert_allclose(evaluations, [(50 / 60, 5.5)], atol=0.005)
    del row["training_minutes"]  # a row of former times: 150 s over 20,000 steps
    curve, _ = module["recorded_curves"](row, in_minutes=True)
    np.testing.assert_allclose([x for x, _ in curve], [step * 150 / 20_000 / 60 for step in kept])
    seeds = [module["Drawn"]("a", "pong", list(zip(x, y, strict=True)), []) for x, y in SEEDS]
    x, scores = module["together"](seeds)
    assert (x.tolist(), scores.tolist()) == ([0, 1, 2, 4], [[0, 1, 2, 4], [8, 7, 6, 4]])
    row["seconds"] = None
    with pytest.raises(SystemExit, match="pong-run has no times: draw it against steps"):
        module["recorded_curves"](row, in_minutes=True)
    with pytest.raises(SystemExit, match="has no fancy. It has plain."):
        module["read"](f"{recorded}:fancy", in_minutes=True)

    before = recorded.read_text()
    evaluation["version"] = "bb"
    games.write_text(json.dumps({"evaluations": [evaluation]}))
    for wrong, message in (
        ([*command, "--games", str(games)], "are not those of the run's last checkpoint"),
        ([*command[:2], str(tmp_path), *command[3:]], "is not a run folder"),
    ):
        refused = subprocess.run(wrong, check=False, capture_output=True, text=True)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert recorded.read_text() == before


@pytest.mark.slow  # a whole game, and the start of a process
@pytest.mark.recorded
def test_a_record_attempt_leaves_its_evidence_and_cannot_be_repeated_in_place(tmp_path):
    evidence = tmp_path / "record.json"
    command = [sys.executable, str(SCRIPTS / "record_space_invaders.py"), "--preset", "quick"]
    command += ["--learning-starts", "200", "--device", "cpu", "--num-envs", "2"]
    attempt = [*command, "--run-dir", str(tmp_path / "run"), "--json", str(evidence)]
    attempt += ["--minutes", "1", "--episodes", "1"]  # stopped after 45 seconds
    attempt += ["--total-timesteps", "400000"]  # no machine is there by then
    before = time.monotonic()
    assert subprocess.run(attempt, check=False).returncode == 1
    elapsed = (time.monotonic() - before) / 60
    document = json.loads(evidence.read_text())
    claim, evaluation = document["claim"], document["evaluation"]
    assert claim["holds"] is False
    assert (claim["human"], claim["protocol"], claim["episodes"]) == (1668.7, "v5", 1)
    assert claim["mean"] == evaluation["episodes"][0]["score"]
    assert 0.5 < claim["minutes"] < elapsed
    steps, total = document["counters"]["steps"], document["config"]["total_timesteps"]
    assert 200 < steps < total == 400_000
    evidence.unlink()
    assert subprocess.run(attempt, check=False).returncode == 2  # not in the same place again
    assert not evidence.exists()

    elsewhere = [*command, "--run-dir", str(tmp_path / "other"), "--json", str(evidence)]
    elsewhere += ["--total-timesteps", "300", "--episodes", "0"]
    assert subprocess.run(elsewhere, check=False).returncode == 0
    assert "claim" not in json.loads(evidence.read_text())
    games = tmp_path / "games.json"
    judged = {**evaluation, "version": json.loads(evidence.read_text())["weights_sha256"]}
    judged |= {"mean": 1700.0, "episodes": evaluation["episodes"] * 100}
    games.write_text(json.dumps({"evaluations": [judged]}))
    judge = [*command[:2], "--json", str(evidence), "--games", str(games)]
    assert subprocess.run(judge, check=False).returncode == 0
    assert json.loads(evidence.read_text())["claim"]["holds"] is True
    games.write_text(json.dumps({"evaluations": [evaluation]}))
    refused = subprocess.run(judge, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "are not those of the run's last checkpoint" in refused.stderr


@pytest.mark.slow  # the CPU twin of what runs on a GPU, in tiny sizes
def test_the_gpu_benchmark_breaks_a_step_down_into_its_parts(tmp_path):
    command = [sys.executable, str(SCRIPTS / "bench_gpu.py"), "--device", "cpu", "--tiny"]
    subprocess.run([*command, "--json", str(tmp_path / "gpu.json")], check=True)
    document = json.loads((tmp_path / "gpu.json").read_text())
    times = document["milliseconds_per_step_of_all_lanes"]
    parts = [times[name] for name in ("emulators", "act", "sample", "update")]
    assert times["one_after_the_other"] == pytest.approx(sum(parts))
    assert max(parts) < times["emulators_beside_the_learner"] <= sum(parts)
    assert 0.5 < sum(value for k, value in document["training"].items() if "share" in k) < 1.01
    assert all(value > 0 for value in document["limits"].values())
    assert document["config"]["torso"] == "impala"
    command += ["--preset", "pqn"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "bench_gpu: error: it measures presets with replay.\n"


def test_a_published_curve_is_read_between_its_points_and_no_further(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from gpu_quarter_hour import COMPOSITIONS, best, published

    curve = ((10.0, 1_000.0), (20.0, 3_000.0))
    assert [published(curve, frames) for frames in (0, 5, 10, 15, 20, 99)] == [
        pytest.approx(score) for score in (148, 574, 1_000, 2_000, 3_000, 3_000)
    ]
    # 500 seconds at 5,000 steps a second are 10 million frames
    rows = [
        {"composition": name, "lanes": 128, "steps_per_second": 5_000.0} for name in COMPOSITIONS
    ]
    assert best(rows, 500.0) == (rows[0], pytest.approx(1_502))
    assert best([{**rows[0], "failed": "crash"}, rows[3]], 500.0) == (rows[3], pytest.approx(735))
    rows[3]["steps_per_second"] = 11_500.0
    assert best([{**rows[0], "steps_per_second": 2_000.0}, rows[3]], 500.0)[0] == rows[3]
    with pytest.raises(ValueError, match="run `measure` first"):
        best([{**rows[0], "failed": "crash"}], 500.0)


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.recorded
def test_a_quarter_of_an_hour_on_a_gpu_is_rehearsed_on_a_cpu(tmp_path):
    def call(name, seconds):
        command = [sys.executable, SCRIPTS / "gpu_quarter_hour.py", name, "--rehearse"]
        words = [*command, "--out", tmp_path / "out", "--seconds", seconds]
        return subprocess.run([*map(str, words)], check=False, capture_output=True, text=True)

    refused = call("attempt", 60)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    done = call("measure", 400)  # far more than it takes
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert document["tests"]["exit_code"] is not None
    assert document["speeds"][0]["composition"] == "impala-iqn"
    assert all(row["steps_per_second"] > 0 for row in document["speeds"])
    done = call("attempt", 60)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["config"]["torso"] == "impala"
    agent = rlarcade.DQNAgent.load(tmp_path / "out" / "checkpoint")
    assert agent.version == record["weights_sha256"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "measured.json",
        "record.json",
        "checkpoint",
    }


@pytest.mark.slow  # two games of ours and two of Stable-Baselines3's, cut short
def test_the_evaluation_benchmark_compares_games_with_their_bound_and_with_sb3(tmp_path):
    command = [sys.executable, str(SCRIPTS / "bench_evaluation.py"), "--rounds", "1"]
    command += ["--episodes", "2", "--frame-cap", "400", "--json", str(tmp_path / "speed.json")]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    document = json.loads((tmp_path / "speed.json").read_text())
    figures, cores = document["medians"], document["machine"]["cores"]
    ours, theirs = figures["evaluate_agent"], figures["evaluate_policy"]
    assert (ours["steps"], ours["games"], theirs["games"]) == (200, 2, 2)
    assert 190 <= theirs["steps"] <= 200  # its opening moves count as frames
    ratio = ours["steps_per_second"] / theirs["steps_per_second"]
    assert figures["ratio"]["steps_per_second"] == pytest.approx(ratio)
    costs, bounds = figures["costs_ms"], figures["bound_seconds"]
    work = 200 * costs["step"] + 2 * costs["reset"] + 200 / 2 * costs["forward"]
    assert bounds["side_by_side"] == pytest.approx(work / 1000 / cores)
    assert bounds["side_by_side_fastest_forward"] <= bounds["side_by_side"] <= bounds["in_turn"]
    for name, share in figures["share_of_bound"].items():
        assert share == pytest.approx(bounds[name] / ours["seconds"])
    assert 0 < figures["share_of_bound"]["side_by_side"] < 1
    assert all(0 < step["p50"] <= step["p99"] for step in figures["step_ms"].values())
    assert "beside Stable-Baselines3" in table
    command += ["--checkpoint", str(SCRIPTS.parent / "tests" / "data" / "space-invaders-late")]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "only the network of Mnih et al. (2015) can be compared" in refused.stderr


def test_a_match_of_equal_weights_leaves_the_champion_where_it_was():
    agent = SCRIPTS.parent / "tests" / "data" / "space-invaders-early"
    command = [sys.executable, str(SCRIPTS / "compare_checkpoints.py"), str(agent), str(agent)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told, champion = out.splitlines()
    assert told.startswith(f"{agent}: inconclusive after 0 pairs")
    assert champion == f"champion: {agent}"


@pytest.mark.slow  # a whole game
def test_a_checkpoint_is_played_step_by_step_to_the_score_that_evaluate_finds(tmp_path):
    agent = SCRIPTS.parent / "tests" / "data" / "space-invaders-late"
    command = [sys.executable, str(SCRIPTS / "play_checkpoint.py"), str(agent), "--seed", "2"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    evaluate = [sys.executable, "-m", "rlarcade.evaluate", str(agent), "--seed", "2"]
    subprocess.run([*evaluate, "--episodes", "1", "--json", str(tmp_path / "e.json")], check=True)
    (episode,) = json.loads((tmp_path / "e.json").read_text())["evaluations"][0]["episodes"]
    score, steps = episode["score"], episode["steps"]
    assert lines[-1] == f"seed {episode['seed']}: {score:g} points in {steps} steps"
    assert lines[0].startswith("step     0  score      0  Q ")
    assert len(lines) == 1 + -(-steps // 100)


def test_dead_units_are_those_that_no_observation_makes_fire(tmp_path, monkeypatch, capsys):
    from rlarcade import DQNAgent, TrainConfig

    agent = DQNAgent(
        TrainConfig(game="pong", conv_channels=(6, 5, 4), hidden_units=8), num_actions=6
    )
    layers = (agent.q_network.torso.conv1, agent.q_network.torso.conv2, agent.q_network.torso.conv3)
    for killed, layer in enumerate((*layers, agent.q_network.head.hidden), start=1):
        layer.weight.data.zero_()
        layer.bias.data.fill_(1.0)
        layer.bias.data[:killed] = -1.0
    script = runpy.run_path(str(SCRIPTS / "dead_units.py"))
    seen = np.zeros((3, 4, 84, 84), dtype=np.uint8)
    counts = script["dead_units"](agent, seen)
    assert counts == {"conv1": (1, 6), "conv2": (2, 5), "conv3": (3, 4), "hidden": (4, 8)}
    agent.save(tmp_path / "c")
    command = [sys.executable, str(SCRIPTS / "dead_units.py"), "--observations", "2"]
    for named, code in ((tmp_path / "c", 0), ("none", 2)):
        monkeypatch.setattr(sys, "argv", [*command[1:], str(named)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(command[1], run_name="__main__")
        assert ended.value.code == code
    said = capsys.readouterr()
    assert said.out == "c conv1 1/6 conv2 2/5 conv3 3/4 hidden 4/8\n"
    assert said.err.startswith("dead_units: error: none does not exist")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--algorithm rainbow", "rainbow_atari.py is in no wheel: --cleanrl CHECKOUT, or"),
        ("--algorithm pqn --cleanrl nowhere", "there is no nowhere/cleanrl/pqn_atari_envpool.py"),
        ("--algorithm qrdqn --rounds 0 --memory", "--memory measures dqn, not qrdqn"),
        ("--skip rlarcade,cleanrl,sb3", "nothing to measure"),
        ("--skip dopamine", "--skip dopamine: choose from rlarcade, cleanrl, sb3"),
    ],
)
def test_a_comparison_of_speed_that_cannot_be_made_is_refused_in_one_line(options, complaint):
    command = [sys.executable, str(SCRIPTS / "bench_training.py"), *options.split()]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("bench_training: ")
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow  # a few updates of each; that there were as many as asked, the script checks
@pytest.mark.parametrize(
    "algorithm", quick(["dqn", "pqn", "qrdqn", "rainbow"], (), ["pqn", "qrdqn", "rainbow"])
)
def test_the_speed_of_each_algorithm_that_peers_have_is_measured(algorithm, tmp_path):
    command = [sys.executable, str(SCRIPTS / "bench_training.py"), "--quick", "--threads", "1"]
    command += ["--skip", "cleanrl,sb3", "--algorithm", algorithm, "--precision", "fp32"]
    subprocess.run([*command, "--json", str(tmp_path / "speed.json")], check=True)
    document = json.loads((tmp_path / "speed.json").read_text())
    assert document["algorithm"] == algorithm
    ours = document["steps_per_second"]
    assert set(ours) == {"same_schedule"} | ({"large_batch"} if algorithm == "dqn" else set())
    assert all(speed["median"] > 0 for speed in ours.values())


def test_the_steps_of_a_peer_fill_its_time(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from train_peers import steps_in

    # 100 s of 1,000 steps without learning, at 0.01 s, and 100 steps with it, at 0.9 s
    assert steps_in(100.0, 1_000, playing=0.01, learning=0.9) == 1_100
    with pytest.raises(ValueError, match="take 2 of 1 minutes. Raise --minutes"):
        steps_in(60.0, 100_000, playing=0.001, learning=0.9)


@pytest.mark.slow  # two short runs of Stable-Baselines3 and two games of Atari
@pytest.mark.recorded
def test_a_peer_is_trained_for_its_time_and_judged_by_our_games(tmp_path, monkeypatch, real_games):
    monkeypatch.syspath_prepend(SCRIPTS)
    import train_peers
    from bench_training import Peer

    monkeypatch.setattr(train_peers, "install", lambda name, asked: Peer(sys.executable, {}))
    monkeypatch.setattr(train_peers, "_PROBE", 300)
    settings = {"learning_starts": 400, "buffer_size": 2_000}
    monkeypatch.setitem(train_peers.PUBLISHED, "sb3", train_peers.PUBLISHED["sb3"] | settings)
    words = ["sb3", "--minutes", "0.5", "--episodes", "2", "--threads", "1"]
    words += ["--out", tmp_path / "out", "--json", tmp_path / "sb3.json"]
    monkeypatch.setattr(sys, "argv", ["train_peers.py", *map(str, words)])
    assert train_peers.main() == 0
    told = json.loads((tmp_path / "sb3.json").read_text())
    assert told["steps"] > 400
    assert 0 < told["minutes"] < 5
    assert told["evaluation"]["mean"] == np.mean(told["evaluation"]["scores"])
    assert len(told["evaluation"]["scores"]) == 2
    assert told["settings"]["learning_starts"] == 400
    assert told["evaluation"]["protocol"]["sticky"] == 0.25
    assert told["evaluation_as_trained"]["protocol"]["sticky"] == 0.0
    assert len(told["evaluation_as_trained"]["scores"]) == 2


# CleanRL's script: it tells its speed from time to time, saves, and fails in its own evaluation
CLEANRL = """
import argparse, pathlib, torch
parser = argparse.ArgumentParser()
for name in ("env-id", "total-timesteps", "learning-starts", "buffer-size", "seed", "cuda"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--save-model", action="store_true", required=True)
asked = parser.parse_args()
assert asked.cuda == "False"
assert int(asked.buffer_size) == min(2000, int(asked.total_timesteps))
print("SPS: 9")
print("SPS: 9")
shapes = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]
weights = {}
for layer, shape in zip((0, 2, 4, 7, 9), shapes, strict=True):
    weights[f"network.{layer}.weight"] = torch.zeros(shape)
    weights[f"network.{layer}.bias"] = torch.zeros(shape[0])
folder = pathlib.Path("runs", asked.env_id)
folder.mkdir(parents=True, exist_ok=True)
torch.save(weights, folder / "dqn.cleanrl_model")
print(f"model saved to {folder / 'dqn.cleanrl_model'}", flush=True)
raise SystemExit("no MoviePy")
"""


@pytest.mark.slow  # four games of Atari
@pytest.mark.recorded
def test_the_model_of_cleanrl_counts_although_its_own_evaluation_fails(
    tmp_path, monkeypatch, real_games
):
    monkeypatch.syspath_prepend(SCRIPTS)
    import train_peers
    from bench_training import Peer

    (tmp_path / "dqn_atari.py").write_text(CLEANRL)
    peer = Peer(sys.executable, {}, tmp_path / "dqn_atari.py")
    monkeypatch.setattr(train_peers, "install", lambda name, asked: peer)
    monkeypatch.setattr(train_peers, "_PROBE", 300)
    settings = {"learning_starts": 400, "buffer_size": 2_000}
    monkeypatch.setitem(train_peers.PUBLISHED, "cleanrl", settings)
    words = ["cleanrl", "--minutes", "0.5", "--episodes", "2", "--threads", "1"]
    words += ["--out", tmp_path / "out", "--json", tmp_path / "cleanrl.json"]
    monkeypatch.setattr(sys, "argv", ["train_peers.py", *map(str, words)])
    assert train_peers.main() == 0
    told = json.loads((tmp_path / "cleanrl.json").read_text())
    assert told["settings"] == {"learning_starts": 400, "buffer_size": 2_000, "seed": 1}
    assert len(told["evaluation"]["scores"]) == len(told["evaluation_as_trained"]["scores"]) == 2


@pytest.mark.slow  # the emulators and the first updates of two presets
@pytest.mark.recorded
def test_the_speed_of_presets_is_measured(tmp_path):
    found = tmp_path / "speed.json"
    script = [sys.executable, str(SCRIPTS / "bench_presets.py")]
    command = [*script, "quick", "pqn", "--rounds", "1", "--seconds", "0.3", "--json", str(found)]
    subprocess.run(command, check=True, capture_output=True)
    speeds = json.loads(found.read_text())["steps_per_second"]
    assert list(speeds) == ["quick", "pqn"]
    for row in speeds.values():
        assert 0 < row["lowest"] <= row["median"] <= row["highest"]
    refused = subprocess.run([*script, "quack"], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "bench_presets: error: unknown preset 'quack'. Did you mean 'quick'?" in refused.stderr


@pytest.mark.slow  # matplotlib, as above
def test_curves_are_found_by_a_part_of_a_runs_name_in_files_of_pairs_and_of_one_run(tmp_path):
    runs = [
        {"label": f"Pong-{precision}-{seed}", "settings": {"game": "Pong"}, "curve": [[1, seed]]}
        for precision in ("fp32", "bf16")
        for seed in (3, 4)
    ]
    runs.append({"label": "Pong-bf16-5", "settings": {"game": "Pong"}, "exit": 1})  # it failed
    sweep, one = tmp_path / "sweep.json", tmp_path / "one.json"
    sweep.write_text(json.dumps({"sweep": "precision", "runs": runs}))
    one.write_text(json.dumps({"train": {"game": "breakout"}, "curve": [[1000, 3.0]]}))
    module = runpy.run_path(str(SCRIPTS / "plot_learning_curve.py"))

    def read(source):
        return [astuple(drawn) for drawn in module["read"](source, in_minutes=False)]

    assert read(f"a=b={sweep}:runs/fp32") == [
        ("a=b", "pong", [[1, 3]], []),
        ("a=b", "pong", [[1, 4]], []),
    ]
    assert [curve for _, _, curve, _ in read(f"{sweep}:runs/bf16")] == [[[1, 3]], [[1, 4]], []]
    assert read(f"{one}") == [("one", "breakout", [[1000, 3.0]], [])]
    names = "Pong-fp32-3, Pong-fp32-4, Pong-bf16-3, Pong-bf16-4, Pong-bf16-5"
    with pytest.raises(SystemExit, match=rf"no run of runs in .* has int8 in its name: {names}\."):
        read(f"{sweep}:runs/int8")


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("play_checkpoint", "none", "none does not exist"),
        ("compare_checkpoints", "none none", "none does not exist"),
        ("check_against_published", "none", "none is no run folder"),
        ("plot_learning_curve", "none", "none of these is a run folder or FILE.json:NAME"),
        ("plot_learning_curve", "none.json:x", "none.json:x cannot be read"),
        ("plot_learning_curve", "list.json:x", "list.json:x cannot be read"),
        ("summarise_sweep", "none.json --by seed", "none.json is not what `rlarcade sweep --json`"),
        ("compare_arms", "none.json --rule screen", "the sweeps cannot be judged: FileNotFound"),
        ("compare_arms", "list.json --rule screen", "the sweeps cannot be judged: TypeError"),
        ("summarise_sweep", "list.json --by seed", "list.json is not what `rlarcade sweep --json`"),
        ("record_run", "run --into list.json --under x", "record_run: error: "),
        ("record_run", "none --into x.json --under x", "none is not a run folder"),
    ],
)
def test_what_a_script_cannot_read_is_told_without_a_traceback(
    tmp_path, monkeypatch, capsys, script, words, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"train": {}}')
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [script, *words.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "list.json").read_text() == "[1]"


def test_a_full_disk_loses_no_run_that_was_recorded_before(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"train": {}}')
    into = tmp_path / "recorded.json"
    into.write_text('{"plain": [{"run": "precious"}]}')

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr("rlarcade.files.os.fsync", full)
    arguments = [str(tmp_path / "run"), "--into", str(into), "--under", "plain"]
    monkeypatch.setattr(sys, "argv", ["record_run", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / "record_run.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    assert into.read_text() == '{"plain": [{"run": "precious"}]}'


def test_every_script_tries_the_file_that_it_is_to_write_before_its_work():
    """Hours go into some of them. `bench_training` runs without rlarcade, too."""
    flags = ("--json", "--markdown", "--png", "--into")
    tried = {}
    for path in (*SCRIPTS.glob("*.py"), *(SCRIPTS.parent / "tests" / "tools").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and call.args and call.keywords:
                first = call.args[0]
                if isinstance(first, ast.Constant) and first.value in flags:
                    kinds = {word.arg: ast.unparse(word.value) for word in call.keywords}
                    tried[path.stem, first.value] = kinds.get("type")
    assert tried.pop(("bench_training", "--json")) == "Path"
    assert len(tried) >= 15
    assert set(tried.values()) == {"output_file"}


@pytest.mark.slow  # a match of Atari's games
@pytest.mark.recorded
def test_the_zoo_is_chosen_by_the_gate(tmp_path, monkeypatch, real_games):
    data = SCRIPTS.parent / "tests" / "data"
    early, late = data / "space-invaders-early", data / "space-invaders-late"
    monkeypatch.syspath_prepend(str(SCRIPTS))
    arguments = [early, late, "--registry", tmp_path / "registry", "--agents", tmp_path / "agents"]
    arguments += ["--games", 2, "--json", tmp_path / "zoo.json"]
    monkeypatch.setattr(sys, "argv", ["make_zoo.py", *map(str, arguments)])
    make_zoo = runpy.run_path(str(SCRIPTS / "make_zoo.py"))["main"]
    (tmp_path / "zoo.json").write_text('{"games": {"pong": {"champion": 1}}}')
    for _ in range(2):  # the second time nothing is played again but the games of the card
        assert make_zoo() == 0
        games = json.loads((tmp_path / "zoo.json").read_text())["games"]
        assert games["pong"] == {"champion": 1}
        told = games["space_invaders"]
        assert [one["state"] for one in told["submissions"]] == ["rejected", "promoted"]
        assert told["champion"] == 2
        (match,) = told["round_robin"]
        assert (match["champion"], match["candidate"]) == ("1", "2")
        assert match["verdict"] == "promote"
        folder = tmp_path / "agents" / "space_invaders"
        shipped, trained = rlarcade.DQNAgent.load(folder), rlarcade.DQNAgent.load(late)
        assert shipped.version == told["submissions"][1]["weights_sha256"]
        assert trained.version == told["submissions"][1]["before_rounding"]
        assert shipped.manifest.counters == trained.manifest.counters
        exact, half = (
            (checkpoint / "weights.safetensors").stat().st_size for checkpoint in (late, folder)
        )
        assert half < 0.52 * exact
        assert sum(told["bytes"].values()) == sum(f.stat().st_size for f in folder.iterdir())


def test_a_game_of_the_zoo_keeps_its_command_and_its_agent_until_it_has_a_new_one(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    late = SCRIPTS.parent / "tests" / "data" / "space-invaders-late"
    words = ["make_zoo.py", late, "--registry", tmp_path / "registry", "--games", 1]
    words += ["--agents", tmp_path / "agents", "--json", tmp_path / "zoo.json"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    make_zoo = runpy.run_path(str(SCRIPTS / "make_zoo.py"))["main"]
    monkeypatch.setitem(make_zoo.__globals__, "_GATE", Gate())  # the first needs no match
    earlier = {"champion": 1, "command": "python make_zoo.py runs/pong", "date": "2026-11-01"}
    (tmp_path / "zoo.json").write_text(json.dumps({"games": {"pong": earlier}}))
    assert make_zoo() == 0
    document = json.loads((tmp_path / "zoo.json").read_text())
    assert list(document) == ["games"]
    assert document["games"]["pong"] == earlier
    new = document["games"]["space_invaders"]
    assert new["command"].startswith(f"python make_zoo.py {late} --registry")
    assert {"date", "git_commit"} < set(new)

    def no_space(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    shipped = rlarcade.DQNAgent.load(tmp_path / "agents" / "space_invaders").version
    monkeypatch.setattr("rlarcade.cards.folder.write_folder", no_space)
    with pytest.raises(rlarcade.RlarcadeError, match="cannot be written"):
        make_zoo()
    kept = rlarcade.DQNAgent.load(tmp_path / "agents" / "space_invaders")
    assert kept.version == shipped == new["submissions"][0]["weights_sha256"]


def test_what_looking_ahead_gains_is_measured_once_and_its_cost_each_time(tmp_path, monkeypatch):
    agent = SCRIPTS.parent / "tests" / "data" / "space-invaders-late"
    words = [agent, "--dir", tmp_path / "runs", "--json", tmp_path / "search.json"]
    words += ["--budgets", 1, 3, "--games", 2, "--frame-cap", 120, "--depth", 5]

    def measured():
        assert script("measure_search", monkeypatch, *words) == 0
        return json.loads((tmp_path / "search.json").read_text())["players"]

    players = measured()
    assert [(row["kind"], row["simulations"]) for row in players] == [
        (None, 0),
        ("uct", 1),
        ("iw", 1),
        ("uct", 3),
        ("iw", 3),
    ]
    for row in players:
        assert row["decisions"] == [30, 30]
        assert row["cut_by_the_frame_cap"] == 2
        assert row["mean"] == np.mean(row["scores"])
    alone, *searching = [row.pop("cpu_ms_a_decision") for row in players]
    assert 0 < alone < min(searching)
    monkeypatch.setattr(rlarcade, "evaluate_agent", None)  # all games are there
    again = measured()
    assert min(row.pop("cpu_ms_a_decision") for row in again) > 0
    assert again == players


@pytest.mark.usefixtures("short_games")
@pytest.mark.parametrize("acts", quick(["agent", "search"], ["agent"]))
def test_an_agent_learns_from_what_its_searches_found(tmp_path, monkeypatch, capsys, acts):
    """Its games are played once; what it becomes is a checkpoint that names its parent."""
    before = SCRIPTS.parent / "tests" / "data" / "space-invaders-late"
    old = rlarcade.DQNAgent.load(before)
    words = [before, "--games", 10, "--simulations", 2, "--epochs", 2, "--acts", acts]
    words += ["--least-gap", 0.01]
    words += ["--data", tmp_path / "searched.npz", "--checkpoint", tmp_path / "learned"]
    words += ["--json", tmp_path / "learned.json"]
    assert script("learn_from_search", monkeypatch, *words) == 0
    told = json.loads((tmp_path / "learned.json").read_text())
    learned = rlarcade.DQNAgent.load(tmp_path / "learned")
    assert learned.manifest.parent == told["before"] == old.version
    assert learned.version == told["after"] != told["before"]
    assert told["decisions"] == 10 * 100 > told["decisions_that_matter"] > 0
    assert len(told["errors"]) == 3
    games = rlarcade.play_steps(old, episodes=10, seed=0, use=SeedUse.TRAINING)
    own = np.stack([step.observation for step in games])
    monkeypatch.setattr(rlarcade, "play_steps", None)  # all games are there
    assert script("learn_from_search", monkeypatch, *words) == 0
    assert rlarcade.DQNAgent.load(tmp_path / "learned").version == learned.version
    with np.load(tmp_path / "searched.npz") as kept:
        assert kept["games"].tolist() == np.repeat(np.arange(10), 100).tolist()
        played = kept["observations"], kept["values"]
    assert np.array_equal(played[0], own) == (acts == "agent")
    best = np.sort(played[1], axis=1)
    matters = best[:, -1] >= best[:, -2] + 0.01
    assert matters.sum() == told["decisions_that_matter"]
    found, wanted = played[0][matters], played[1][matters]
    errors = [np.square(agent.q_values(found) - wanted).mean() for agent in (learned, old)]
    assert errors[0] < errors[1]
    words += ["--least-gap", 1e6]
    with pytest.raises(SystemExit) as ended:
        script("learn_from_search", monkeypatch, *words)
    assert ended.value.code == 2
    assert "few decisions have a gap of --least-gap 1e+06" in capsys.readouterr().err
