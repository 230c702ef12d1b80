"""A/B experiments: who plays what, which games count, and outcomes that are reported later."""

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from registry_helpers import sql, whole
from scipy import stats
from serving_helpers import run
from serving_house import House, command_server, short, until

from rlarcade import rollout
from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.replay import Told
from rlarcade.registry.rollouts import OUTCOME, FollowOn, ServedGame, replayed
from rlarcade.serving import rollout_store as store
from rlarcade.serving.follow_on import follow_ons_of, report, summary
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.settings import RolloutSpec
from rlarcade.serving.v1_documents import rollout_document

__all__ = ["short"]

pytestmark = pytest.mark.usefixtures("short")

EXPERIMENT = RolloutSpec(strategy="ab", share=0.5)


@pytest.fixture(autouse=True)
def salts(monkeypatch):
    """The same in every run of the tests, and another one for each experiment."""
    number = itertools.count()
    monkeypatch.setattr(store.secrets, "token_hex", lambda _: f"salt {next(number)}")


async def roles_of(house, keys):
    return {key: (await house.opened(key=key)).role for key in keys}


KEYS = [f"player {number}" for number in range(60)]


def test_a_restart_of_the_server_changes_nobodys_version(house, registry):
    async def check(here, start):
        if start:
            await here.start(2, EXPERIMENT)
        await here.look()
        found = await roles_of(here, KEYS)
        await here.service.close()
        return found

    first = run(check(house, True))
    assert set(first.values()) == {"candidate", "control"}
    assert run(check(House(registry, house.made), False)) == first


def test_another_experiment_assigns_anew(house, registry):
    async def check():
        await house.start(2, EXPERIMENT)
        first = await roles_of(house, KEYS)
        await house.controller.order(1, lambda now: store.move(registry, now, "aborted", "anna"))
        await house.start(2, EXPERIMENT)
        second = await roles_of(house, KEYS)
        await house.service.close()
        return sum(first[key] == second[key] for key in KEYS)

    # 60 fair coins: fewer than 10 or more than 50 heads once in 10 million
    assert 10 <= run(check()) <= 50


def test_one_game_of_a_key_counts_and_abandoned_ones_are_counted(house):
    async def check():
        await house.start(2, EXPERIMENT)
        for key in KEYS[:10]:
            for steps in (2, None, 3):
                await house.played(steps=steps, key=key)
        await house.settled()
        evidence = house.pong.live.evidence()
        roles = Counter(game.role for game in house.pong.live.as_games())
        assert sum(roles.values()) == 30
        for role in ("candidate", "control"):
            found = evidence.role(role)
            assert (found.sessions, found.games) == (roles[role], roles[role])
            assert found.abandoned == roles[role] * 2 / 3
        assert evidence.repeated == 20
        assert evidence.pairs == min(roles["candidate"], roles["control"]) / 3
        await house.service.close()

    run(check())


def test_sessions_that_do_not_reach_both_sides_as_planned_pause_the_experiment(house):
    async def check():
        await house.start(2, EXPERIMENT)
        for _ in range(60):
            house.play("candidate", 10)
            await house.look()
            if house.state().state == "paused":
                break
        assert house.state().state == "paused"
        assert "planned shares" in house.state().note
        await house.service.close()

    run(check())


@pytest.mark.parametrize(("finding", "scores"), [("better", (20, 10)), ("worse", (10, 20))])
def test_an_experiment_never_ends_by_itself_and_says_when_the_data_are_enough(
    house, finding, scores
):
    """Each side of the test has half of alpha, so it says something from an e-value of 40 on."""

    async def check():
        await house.start(2, EXPERIMENT)
        for _ in range(60):
            await house.pairs(1, *scores)
            assert house.state().state == "progressing"
            told = rollout_document(house.pong.live, house.service.metrics)
            assert (told.bound, told.bound_worse) == (40, 40)
            enough = max(*told.history, *told.history_worse) >= 40
            assert told.finding == (finding if enough else "undecided")
        assert enough
        await house.pairs(60, *reversed(scores))
        told = rollout_document(house.pong.live, house.service.metrics)
        assert told.finding == finding, "what was found once, stays"
        await house.service.close()

    run(check())


def test_only_an_experiment_tells_a_finding(house):
    async def check():
        await house.start(2)
        await house.pairs(1, 20, 10)
        told = rollout_document(house.pong.live, house.service.metrics)
        await house.service.close()
        return told

    told = run(check())
    assert (told.finding, told.bound, told.bound_worse) == (None, 20, 100)


# Outcomes that are reported later


async def experiment(house, keys=KEYS[:12]):
    await house.start(2, EXPERIMENT)
    sessions = [(await house.played(steps=1, key=key))[0] for key in keys]
    await house.settled()
    return sessions


def test_an_outcome_is_joined_to_the_version_that_played_by_session_or_by_key(house, registry):
    async def check():
        sessions = await experiment(house)
        for number, session in enumerate(sessions):
            named = session.id if number % 2 else session.key
            told, game = await house.controller.outcome(named, number, "came back", "anna")
            assert (game.session, game.role) == (session.id, session.role)
            assert (told.value, told.note, told.number) == (number, "came back", number)
        live = house.pong.live
        for role in ("candidate", "control"):
            values = [n for n, session in enumerate(sessions) if session.role == role]
            found = summary(live.games.values(), live.outcomes, role)
            low, high = stats.t.interval(
                0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
            )
            assert (found.n, found.missing) == (len(values), 0)
            assert (found.mean, found.low, found.high) == pytest.approx(
                (np.mean(values), low, high)
            )
        await house.look()
        assert house.state().state == "progressing"
        await house.service.close()
        return live.outcomes

    reported = run(check())
    assert follow_ons_of(registry, 1) == reported
    assert whole(registry)


def test_outcomes_are_there_after_a_restart_and_the_missing_ones_are_counted(house, registry):
    async def first():
        sessions = await experiment(house)
        await house.controller.outcome(sessions[0].id, 2.5, None, "anna")
        await house.service.close()
        return sessions

    sessions = run(first())

    async def second():
        again = House(registry, house.made)
        await again.look()
        live = again.pong.live
        roles = Counter(session.role for session in sessions)
        found = {
            role: summary(live.games.values(), live.outcomes, role)
            for role in ("candidate", "control")
        }
        role = sessions[0].role
        other = "control" if role == "candidate" else "candidate"
        assert (found[role].n, found[role].mean, found[role].low) == (1, 2.5, None)
        assert found[role].missing == roles[role] - 1
        assert (found[other].n, found[other].mean) == (0, None)
        assert found[other].missing == roles[other]
        await again.service.close()

    run(second())


def game(number, key, role="control", **more):
    settings = {"step": 0, "seed": 7, "version": 1, "session": f"s{number}", "ended": "terminated"}
    return ServedGame(rollout=1, number=number, role=role, key=key, **(settings | more))


def outcome(number, about, value):
    return FollowOn(rollout=1, number=number, game=about, value=value, note=None, reported="now")


def test_outcomes_of_one_user_are_averaged_first():
    games = [game(0, "anna"), game(1, "anna"), game(2, "bob"), game(3, "carol")]
    told = [outcome(0, 0, 1.0), outcome(1, 0, 3.0), outcome(2, 1, 5.0), outcome(3, 2, 9.0)]
    found = summary(games, told, "control")
    assert (found.n, found.mean, found.missing) == (2, 6.0, 1)


def test_games_that_two_versions_played_twins_and_open_games_are_no_users():
    games = [
        game(0, "anna", mixed=True),
        game(1, "bob", role="candidate", pair=0, session=None),
        game(2, "carol", ended=None),
    ]
    told = [outcome(0, 0, 1.0)]
    assert summary(games, told, "control").n == 0
    assert summary(games, told, "control").missing == 0
    assert summary(games, told, "candidate").missing == 0


def test_an_outcome_that_comes_too_late_or_about_nobody_is_refused(house, registry):
    async def check():
        sessions = await experiment(house, KEYS[:2])
        await house.service.close()
        return sessions

    [session, _] = run(check())
    now = datetime.now(UTC)
    report(registry, session.id, 1, None, "anna", at=now + timedelta(days=6.9))
    with pytest.raises(Refusal, match="takes outcomes for 7 days: it is too late") as late:
        report(registry, session.id, 1, None, "anna", at=now + timedelta(days=7.1))
    assert late.value.status == 409
    with pytest.raises(Refusal, match="no session of any rollout has the id or the key 'nobody'"):
        report(registry, "nobody", 1, None, "anna")
    with pytest.raises(Refusal, match="no session of rollout 9") as unknown:
        report(registry, session.id, 1, None, "anna", rollout=9)
    assert unknown.value.status == 404
    assert len(follow_ons_of(registry, 1)) == 1
    assert whole(registry)


def test_an_outcome_belongs_to_the_newest_rollout_of_the_key_unless_one_is_named(house, registry):
    async def check():
        await house.start(2, EXPERIMENT)
        await house.opened(key="anna")
        await house.controller.order(1, lambda now: store.move(registry, now, "aborted", "anna"))
        await house.start(2, EXPERIMENT)
        await house.opened(key="anna")
        newest, _ = await house.controller.outcome("anna", 1, None, "anna")
        named, _ = await house.controller.outcome("anna", 1, None, "anna", 1)
        assert (newest.rollout, named.rollout) == (2, 1)
        assert house.pong.live.outcomes == [newest]
        await house.service.close()

    run(check())


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE follow_ons SET value = 9", "outcome 0: its row was altered: value is 9.0"),
        ("UPDATE follow_ons SET game = 1", "outcome 0: its row was altered: game is 1"),
        ("DELETE FROM follow_ons", "outcome 0: is missing"),
        (
            "INSERT INTO follow_ons SELECT rollout, 5, game, value, note, reported FROM follow_ons",
            "outcome 5: was added by hand",
        ),
    ],
)
def test_outcomes_that_were_altered_by_hand_are_found(house, registry, folder, statement, what):
    async def check():
        [session, _] = await experiment(house, KEYS[:2])
        await house.controller.outcome(session.id, 1, None, "anna")
        await house.service.close()

    run(check())
    assert whole(registry)
    sql(folder, statement)
    assert what in registry.verify()[0].what


def test_a_log_that_reports_an_outcome_twice_or_about_nobody_is_impossible():
    told = Told(rollouts={1: {"id": 1}}, served_games={(1, 0): {}})
    replayed(OUTCOME, outcome(0, 0, 2.0).model_dump(), told)
    assert told.follow_ons[1, 0]["value"] == 2.0
    with pytest.raises(ValueError, match="outcome 0 was reported before"):
        replayed(OUTCOME, outcome(0, 0, 2.0).model_dump(), told)
    with pytest.raises(ValueError, match="about an unknown game 7"):
        replayed(OUTCOME, outcome(1, 7, 2.0).model_dump(), told)


def test_rows_that_make_no_sense_are_an_error_that_names_them(house, registry, folder):
    async def check():
        [session, _] = await experiment(house, KEYS[:2])
        await house.controller.outcome(session.id, 1, None, "anna")
        await house.service.close()

    run(check())
    sql(folder, "UPDATE follow_ons SET value = 'much'")
    with pytest.raises(UnusableRegistryError, match="an outcome of rollout 1 cannot be read"):
        follow_ons_of(registry, 1)
    sql(folder, "UPDATE served_games SET role = 'king'")
    with pytest.raises(UnusableRegistryError, match="the session 'player 0' cannot be read"):
        report(registry, KEYS[0], 1, None, "anna")


def test_outcomes_and_shadows_survive_export_and_import(house, registry, tmp_path):
    async def check():
        [session, _] = await experiment(house, KEYS[:2])
        await house.controller.outcome(session.id, 1, "ß", "anna")
        await house.service.close()

    run(check())
    registry.export(tmp_path / "all.tar")
    with registry.import_(tmp_path / "all.tar", tmp_path / "copy") as copy:
        assert follow_ons_of(copy, 1) == follow_ons_of(registry, 1)
        assert whole(copy)


def test_outcomes_and_shadows_on_the_command_line(house, monkeypatch, capsys):
    with house.online() as client:

        def told(*words):
            assert rollout.main(list(words)) == 0
            return capsys.readouterr().out

        def progressing():
            return client.get("/v1/rollouts").json()["rollouts"][-1]["state"] == "progressing"

        monkeypatch.setattr("rlarcade.serving.client.ServerClient", command_server(client))
        told("start", "2", "--strategy", "ab", "--outcome-seconds", "60")
        until(progressing)
        asked = {"game": "Pong", "key": "anna"}
        role = client.post("/v1/sessions", json=asked).json()["role"]
        version = {"candidate": 2, "control": 1}[role]
        said = told("outcome", "anna", "-1.5", "--note", "left")
        assert said == f"rollout 1: -1.5 for version {version} ({role})\n"
        assert "; later outcomes of 1 user, mean -1.5, 0 missing" in told("status")
        assert "\n  not enough data yet\n" in told("status")
        house.pong.live.end(0, None, ended="failed")
        for _ in range(10):  # nine straight wins have an e-value above 40
            house.play("control", 10)
            house.play("candidate", 20)
        assert "\n  enough data: the candidate is better\n" in told("status")
        told("abort", "1")
        told("start", "2", "--strategy", "parallel", "--mode", "shadow")
        until(progressing)
        assert "  shadow    agreed in 0 of 0 decisions; 0 failed, 0 slow" in told("status")
        client.post("/v1/sessions", json={"game": "Pong"})
        told("decide", "2", "--winner", "champion")


def test_an_experiment_over_http_with_outcomes_that_ends_by_a_decision(house, registry):
    with house.online() as client:
        order = {"version": "2", "spec": {"strategy": "ab", "share": 0.5}}
        client.post("/v1/rollouts", json=order).raise_for_status()
        until(lambda: client.get("/v1/rollouts").json()["rollouts"][0]["state"] == "progressing")

        def begin(key):
            return client.post("/v1/sessions", json={"game": "Pong", "key": key}).json()

        sessions = [begin(key) for key in KEYS[:8]]
        told = {"session": sessions[0]["id"], "value": 4, "note": "bought the game"}
        answer = client.post("/v1/outcomes", json=told)
        assert answer.status_code == 201, answer.text
        assert answer.json() | {"reported": ""} == {
            "rollout": 1,
            "role": sessions[0]["role"],
            "version": sessions[0]["version"],
            "value": 4.0,
            "note": "bought the game",
            "reported": "",
        }
        [shown] = client.get("/v1/rollouts").json()["rollouts"]
        outcomes = {one["role"]: one["outcomes"] for one in shown["variants"]}
        assert outcomes[sessions[0]["role"]]["mean"] == 4
        for wrong, status in [
            ({"session": "nobody", "value": 1}, 404),
            ({"session": sessions[0]["id"], "value": "much"}, 400),
            ({"session": "", "value": 1}, 400),
            ({"session": sessions[0]["id"], "value": 1, "wish": 1}, 400),
        ]:
            assert client.post("/v1/outcomes", json=wrong).status_code == status
        stranger = client.post("/v1/outcomes", json=told, headers={"Authorization": ""})
        assert stranger.status_code == 401
        decided = client.post("/v1/rollouts/1/decide", json={"winner": "candidate"})
        assert decided.json()["state"] == "succeeded"
        late = client.post("/v1/outcomes", json=told)  # the experiment is over, the window is not
        assert late.status_code == 201
        until(lambda: begin("zoe")["version"] == 2)
    assert registry.alias("pong").version == 2
    assert len(follow_ons_of(registry, 1)) == 2
    assert whole(registry)


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100%"), (0.25, "25%"), (0.005, "0.5%"), (1 / 3, "33.3%")]
)
def test_the_share_of_a_version_is_shown_however_small(share, shown):
    played = {"sessions": 2, "games": 1, "mean": None, "outcomes": None}
    variant = {"role": "candidate", "version": 2, "share": share} | played
    line = rollout._variant_line(variant)
    assert line == f"  candidate version 2, {shown}: 2 sessions, 1 game, no score yet"
