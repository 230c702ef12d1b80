"""The report of a sweep: its figures are those of the definitions, and it says what is missing."""

import csv
import statistics
from pathlib import Path

import pytest
from made_up_results import read
from oracles import run_statistics as oracle

import rlarcade.games
from rlarcade import reports
from rlarcade.reports import FinalScores, SweptRun, sweep_report

DATA = Path(rlarcade.games.__file__).parent / "data"
SCORES = {  # of three seeds
    ("plain", "pong"): (-20.0, -10.0, 5.5),
    ("plain", "breakout"): (10.0, 12.0, 200.0),
    ("wide", "pong"): (20.0, 20.0, 19.0),
    ("wide", "breakout"): (300.0, 310.0, 40.0),
}


def run(agent, game, seed, mean, *, steps=600, curve=None, **more):
    scores = None
    if mean is not None:
        scores = FinalScores(steps=steps, mean=mean, median=mean - 1, minutes=2.0)
    return SweptRun(
        label=f"{game}-{agent}-seed{seed}",
        agent=agent,
        game=game,
        seed=seed,
        settings={"preset": "quick", "game": game, "seed": seed, "hidden_units": 16},
        state="finished" if scores else "not started",
        scores=scores,
        curve=curve,
        **more,
    )


def curve_of(seed, steps=600):
    return (tuple(range(100, steps + 1, 100)), tuple(float(seed + n) for n in range(steps // 100)))


def runs(**more):
    return [
        run(agent, game, seed, mean, curve=curve_of(seed), **more)
        for (agent, game), means in SCORES.items()
        for seed, mean in enumerate(means)
    ]


@pytest.fixture(scope="module")
def page():
    return read(sweep_report("screen", runs()))


def page_of(some):
    with pytest.MonkeyPatch.context() as patch:
        for plots in (reports.plots, reports.sweep_plots):  # saves time
            patch.setattr(plots, "drawn", lambda *arguments, **settings: "")
        return read(sweep_report("screen", some))


def published(game):
    """The random and the human score, from the file."""
    for row in csv.DictReader((DATA / "published_scores.csv").read_text().splitlines()):
        if row["game"] == game:
            return float(row["random"]), float(row["human"])
    raise AssertionError(game)


def normalised(agent):
    """The human-normalised scores of an agent, by game."""
    found = []
    for (who, game), means in SCORES.items():
        if who == agent:
            random, human = published(game)
            found.append([(mean - random) / (human - random) for mean in means])
    return found


def percent(share):
    text = f"{share:.1%}"
    return text.replace("-", "−")


def row_of(table, name):
    (row,) = [row for row in table.records() if name in row[next(iter(row))]]
    return row


FIGURES = {
    "median": oracle.median,
    "IQM": oracle.iqm,
    "mean": oracle.mean,
    "optimality gap": oracle.optimality_gap,
}


@pytest.mark.parametrize("agent", ["plain", "wide"])
def test_over_all_games_stand_the_four_figures_with_their_intervals(page, agent):
    row = row_of(page.one("div", id="together-table"), agent)
    assert (row["games"], row["runs"], row["frames"]) == ("2", "6", "2,400")
    scores = normalised(agent)
    for name, figure in FIGURES.items():
        value, interval = row[name].split(" (")
        assert value == percent(figure(scores)), name
        low, high = (
            float(end.replace("−", "-").rstrip(")")) / 100 for end in interval.split(" … ")
        )
        below, above = oracle.shares_of_resamples(scores, figure, low - 1e-3, high + 1e-3)
        assert max(below, above) <= 0.025 + 4 * 0.0035, name


def test_published_agents_stand_beside_with_the_same_figures(page):
    table = page.one("div", id="together-table")
    points = {}
    for row in csv.DictReader((DATA / "published_curves.csv").read_text().splitlines()):
        key = row["game"], row["algorithm"], row["torso"], int(row["million_frames"])
        points[key] = float(row["mean"])
    names = {(a, t) for _, a, t, _ in points}
    rows = [r for r in table.records() if "(published)" in r["agent"]]
    assert len(rows) == len(names) == 10
    for algorithm, torso in names:
        (row,) = (r for r in rows if r["agent"] == f"{algorithm}, {torso} torso (published)")
        scores = []
        for game in ("pong", "breakout"):
            random, human = published(game)
            scores.append([(points[game, algorithm, torso, 199] - random) / (human - random)])
        assert row["frames"] == "199,000,000"
        for name, figure in FIGURES.items():
            assert row[name] == percent(figure(scores)), name


def test_published_agents_are_shown_after_as_many_frames_as_the_runs_have():
    longer = [
        run("plain", "pong", seed, 3.0, steps=700_000, curve=curve_of(seed, 700_000))
        for seed in (0, 1)
    ]
    page = page_of(longer)  # 2.8 million frames
    frames = [r["frames"] for r in page.one("div", id="together-table").records()[1:]]
    assert frames == ["2,000,000"] * 10
    later = page.one("div", id="published-199000000").records()
    assert [row["frames"] for row in later] == ["199,000,000"] * 10
    figure = next(page.one("section", id="game-1").all("figure"))
    assert "DQN (published)" in figure.text


def test_a_games_table_has_its_runs_and_the_published_scores(page):
    table = page.one("div", id="game-1-table")
    row = row_of(table, "plain")
    mean = statistics.fmean(SCORES["plain", "pong"])
    random, human = published("pong")
    assert row["runs"] == "3"
    assert row["mean of runs"] == f"{mean:.1f} (−20 … 5.5)".replace("-", "−")
    assert row["human-normalised"] == percent((mean - random) / (human - random))
    assert (row["steps"], row["minutes a run"]) == ("600", "2.0")
    assert row_of(table, "human")["mean of runs"] == f"{human:.1f}"
    assert row_of(table, "random")["human-normalised"] == "0.0%"


def test_every_game_has_its_mean_in_the_table_of_all_games(page):
    rows = page.one("div", id="by-game").records()
    assert [row["game"] for row in rows] == ["Pong", "Breakout"]
    assert rows[0]["B wide"] == percent(statistics.fmean(normalised("wide")[0]))
    assert rows[1]["A plain"] == percent(statistics.fmean(normalised("plain")[1]))


def test_every_run_stands_in_a_table_with_its_own_score(page):
    rows = page.one("div", id="runs").records()
    assert [row["run"] for row in rows] == [one.label for one in runs()]
    assert [row["mean"] for row in rows[:3]] == ["−20.0", "−10.0", "5.5"]
    assert {row["state"] for row in rows} == {"finished"}


def test_every_plot_is_drawn_and_described(page):
    plots = list(page.all("svg", role="img"))
    assert len(plots) == len(list(page.all("figure"))) == 1 + 2 * 2
    assert all(plot.attributes["aria-label"] for plot in plots)
    assert page.text.count("mean score of a run") == 2
    assert "score of a game" not in page.text
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_and_links_lead_to_the_sources(page):
    links = [node.attributes["href"] for node in page.all("a")]
    assert "https://arxiv.org/abs/2108.13264" in links
    assert not list(page.all("script")) + list(page.all("link"))


def test_runs_that_are_not_finished_are_named_and_count_nowhere():
    some = [*runs(), run("plain", "pong", 3, None), run("plain", "pong", 4, None)]
    page = page_of(some)
    assert "12 of 14 runs finished, 5 seeds" in page.text
    assert "2 runs of 14 not finished, so counted in no figure: pong-plain-seed3, pong" in page.text
    assert row_of(page.one("div", id="game-1-table"), "plain")["runs"] == "3 of 5"
    assert row_of(page.one("div", id="together-table"), "plain")["runs"] == "6"
    assert row_of(page.one("div", id="runs"), "seed4")["state"] == "not started"


def test_a_sweep_that_has_only_begun_has_a_page_too():
    page = page_of([run("plain", "pong", 0, None, curve=curve_of(0)), run("wide", "pong", 0, None)])
    assert not list(page.all("section", id="together"))
    assert row_of(page.one("div", id="game-1-table"), "wide")["mean of runs"] == "–"
    assert len(list(page.one("section", id="game-1").all("figure"))) == 1  # the curve so far


def test_a_game_without_a_human_score_is_told_and_shown_by_itself():
    page = page_of([*runs(), run("plain", "air_raid", 0, 500.0)])
    assert "no human score is published, so not counted over all games: AirRaid" in page.text
    assert row_of(page.one("div", id="together-table"), "plain")["games"] == "2"
    assert row_of(page.one("div", id="game-3-table"), "plain")["human-normalised"] == "–"
    only = page_of([run("plain", "air_raid", 0, 500.0)])
    assert not list(only.all("section", id="together"))


def test_one_seed_has_no_interval_and_the_page_says_so():
    page = page_of([run("plain", "pong", 0, 1.0)])
    assert "needs at least two finished runs" in page.text
    row = row_of(page.one("div", id="together-table"), "plain")
    assert "…" not in row["median"]
    own = row_of(page.one("div", id="game-1-table"), "plain")
    assert own["IQM (95 % interval)"] == "1.0 (one run has none)"


def test_names_from_outside_are_texts():
    name = "<script>alert(1)</script>\u202e"
    page = page_of([run(name, "pong", 0, 1.0), run("b", "pong", 0, None)])
    assert not list(page.all("script"))
    assert "<script>" in page.text
    assert "\u202e" not in page.text


def test_the_settings_of_every_agent_are_listed(page):
    rows = {name: values for name, *values in page.one("div", id="settings").rows()}
    assert rows["hidden_units"] == ["16", "16"]
    assert rows["preset"] == ["quick", "quick"]
    assert "seed" not in rows


def test_the_same_sweep_gives_the_same_bytes():
    assert sweep_report("screen", runs()) == sweep_report("screen", runs())


def test_a_sweep_without_runs_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        sweep_report("screen", [])


def test_curves_are_joined_where_all_runs_have_them():
    from rlarcade.reports.sweep_plots import bundled

    joined = bundled([((0, 100, 200), (0.0, 10.0, 20.0)), ((50, 150), (8.0, 2.0))])
    assert joined.steps == (50, 100, 150)
    # the second is at 5 after 100 steps, half way between 8 and 2
    assert joined.low == (5.0, 5.0, 2.0)
    assert joined.high == (8.0, 10.0, 15.0)
    assert joined.mean == (6.5, 7.5, 8.5)


def test_a_curve_of_one_point_and_curves_that_do_not_overlap_are_no_error():
    from rlarcade.reports.sweep_plots import bundled

    assert bundled([((100,), (3.0,))]).mean == (3.0,)
    apart = bundled([((0, 100), (1.0, 2.0)), ((200, 300), (3.0, 4.0))])
    assert apart.steps == (100,)
    assert (apart.low, apart.high) == ((2.0,), (3.0,))
