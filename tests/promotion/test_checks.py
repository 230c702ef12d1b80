"""The checks of a gate: each says pass, fail or unknown, and why."""

import hashlib
import json
import math
import re
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from promoting import play_by_strength, quick_gate, saved_agent, share_of

from rlarcade.errors import (
    CheckpointError,
    DamagedPartError,
    PolicyError,
    RunFolderError,
    UnusableRegistryError,
)
from rlarcade.evaluation import Comparison
from rlarcade.evaluation.sequential import Counts, log_e_value
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.schedule import match_seeds
from rlarcade.promotion import checks
from rlarcade.promotion.checks import make_verdict
from rlarcade.promotion.gate import Gate
from rlarcade.registry.registry import Registry
from rlarcade.seeding import SeedUse

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path / "registry") as opened:
        yield opened


@pytest.fixture
def two(registry, tmp_path):
    """Two versions of pong."""
    return [registry.register(saved_agent(tmp_path / f"agent{seed}", seed)) for seed in (0, 1)]


def crown(registry, version):
    return registry.move_alias(
        version.game, "champion", version.number, expected_generation=0, kind="set"
    )


def found(verdict, name):
    return next(check for check in verdict.checks if check.name == name)


def e_value(wins, ties, losses, null=0.5):
    """The definition, bet by bet (promotion.md 1.5)."""
    total = 0.0
    for k in range(24):
        bet = 0.02 * 49 ** (k / 23) / null
        total += (
            (1 + bet * (1 - null)) ** wins
            * (1 + bet * (0.5 - null)) ** ties
            * (1 - bet * null) ** losses
        )
    return total / 24


def test_checks_are_made_in_order_and_the_first_champion_needs_no_match(registry, two):
    begun = []
    verdict = make_verdict(registry, two[0], None, quick_gate(), on_check=begun.append)
    names = ["files", "contract", "size", "latency", "smoke", "match", "guard"]
    assert [check.name for check in verdict.checks] == begun == names
    assert verdict.outcome == "passed"
    assert found(verdict, "match").evidence == "the first champion of pong needs no match"
    assert (verdict.champion, verdict.champion_generation) == (None, 0)


def test_what_was_found_is_bound_to_the_champion_and_its_generation(registry, two, monkeypatch):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 2})
    champion = crown(registry, two[0])
    verdict = make_verdict(registry, two[1], champion, quick_gate())
    assert (verdict.version, verdict.number) == (two[1].digest, 2)
    assert (verdict.champion, verdict.champion_generation) == (two[0].digest, 1)


def test_a_check_that_does_not_pass_ends_the_gate(registry, two):
    verdict = make_verdict(registry, two[0], None, quick_gate(size={"max_megabytes": 1e-6}))
    assert verdict.outcome == "rejected"
    assert found(verdict, "size").outcome == "fail"
    later = verdict.checks[4:]
    assert {check.outcome for check in later} == {"unknown"}
    assert {check.evidence for check in later} == {"not run, because size did not pass"}


def test_the_size_that_counts_is_that_of_the_weights(registry, two, tmp_path):
    megabytes = (tmp_path / "agent0" / "weights.safetensors").stat().st_size / 1e6
    for allowed, outcome in ((megabytes, "pass"), (megabytes * (1 - 5e-7), "fail")):
        gate = quick_gate(size={"max_megabytes": allowed})
        check = found(make_verdict(registry, two[0], None, gate), "size")
        assert check.outcome == outcome
        assert check.evidence == f"{megabytes:.3g} MB of weights, {allowed:g} allowed"


def test_a_slow_agent_fails(registry, two):
    gate = quick_gate(latency={"decisions": 20, "max_milliseconds": 1e-6})
    check = found(make_verdict(registry, two[0], None, gate), "latency")
    assert check.outcome == "fail"
    assert 0 < check.details["p50_ms"] <= check.details["p95_ms"]


def test_checks_that_are_turned_off_are_not_made(registry, two):
    off = {name: {"enabled": False} for name in ("smoke", "size", "latency", "random", "match")}
    verdict = make_verdict(registry, two[0], None, quick_gate(**off))
    assert [check.name for check in verdict.checks] == ["files", "contract"]


def test_a_damaged_version_fails_and_is_marked_broken(registry, two):
    blob = registry.folder / "blobs" / "sha256" / two[0].digest[:2] / two[0].digest
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    verdict = make_verdict(registry, two[0], None, quick_gate())
    assert (verdict.outcome, found(verdict, "files").outcome) == ("rejected", "fail")
    assert "version 1 is broken" in found(verdict, "files").evidence
    assert registry.version(1).state == "broken"


@pytest.mark.parametrize("whose", [0, 1])
def test_a_file_that_cannot_be_read_now_is_no_verdict(registry, two, monkeypatch, whose):
    """One EMFILE, or a share that is away for a moment, must not reject a version for ever."""
    champion = crown(registry, two[0])
    monkeypatch.setattr("rlarcade.promotion.checks._random", lambda subject: ("pass", "", {}))
    real = registry.load

    def load(number):
        if number == two[whose].number:
            raise UnusableRegistryError("it cannot be read: Too many open files.")
        return real(number)

    monkeypatch.setattr(registry, "load", load)
    with pytest.raises(UnusableRegistryError, match="Too many open files"):
        make_verdict(registry, two[1], champion, quick_gate())
    assert registry.version(two[whose].number).state == "ok"


def test_another_contract_than_the_champions_fails_and_says_what_differs(registry, tmp_path):
    champion = crown(registry, registry.register(saved_agent(tmp_path / "a")))
    other = registry.register(saved_agent(tmp_path / "b", 1, protocol="nature"))
    check = found(make_verdict(registry, other, champion, quick_gate()), "contract")
    assert check.outcome == "fail"
    assert "sticky 0.25 and 0" in check.evidence
    assert "name v5 and nature" in check.evidence
    assert "actions" not in check.evidence


def test_an_agent_without_finite_values_fails_the_smoke_check(registry, tmp_path):
    agent = DQNAgent.load(saved_agent(tmp_path / "a"))
    agent.q_network.head.values.bias.data.fill_(math.nan)
    agent.save(tmp_path / "nan")
    version = registry.register(tmp_path / "nan")
    check = found(make_verdict(registry, version, None, quick_gate()), "smoke")
    assert check.outcome == "fail"
    assert "version 1 failed at step 0" in check.evidence
    assert "not finite" in check.evidence


@pytest.mark.parametrize(
    ("score", "outcome"), [(2, "pass"), (0, "fail"), (1, "unknown")], ids=["more", "less", "tied"]
)
def test_the_match_against_the_champion_decides(registry, two, monkeypatch, score, outcome):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: score})
    gate = quick_gate(match={"max_pairs": 20})
    verdict = make_verdict(registry, two[1], crown(registry, two[0]), gate)
    check = found(verdict, "match")
    assert check.outcome == outcome
    assert verdict.outcome == {"pass": "passed", "fail": "rejected"}.get(outcome, "inconclusive")
    counts = [check.details[name] for name in ("wins", "ties", "losses")]
    assert counts == {"pass": [8, 0, 0], "fail": [0, 0, 5], "unknown": [0, 20, 0]}[outcome]
    assert check.details["e_value"] == pytest.approx(e_value(*counts))
    kept = registry.get_document(check.details["comparison"], Comparison)
    assert [kept.wins, kept.ties, kept.losses] == counts


def test_random_play_must_be_beaten_by_the_first_champion_only_if_asked(registry, two, monkeypatch):
    play_by_strength(monkeypatch, {"random": 1, two[0].digest: 0})
    asked = {"enabled": True, "first_champion": True}
    outcomes = []
    for part in ({"enabled": True}, asked):
        check = found(make_verdict(registry, two[0], None, quick_gate(random=part)), "random")
        outcomes.append(check.outcome)
    assert outcomes == ["pass", "fail"]


def test_whoever_may_replace_a_champion_must_beat_random_play(registry, two, monkeypatch):
    strength = {"random": 1, two[0].digest: 0, two[1].digest: 2}
    play_by_strength(monkeypatch, strength)
    gate = quick_gate(random={"enabled": True, "alpha": 0.05})
    champion = crown(registry, two[0])
    assert make_verdict(registry, two[1], champion, gate).outcome == "passed"
    strength[two[1].digest] = 0.5  # better than the champion, which is no merit
    other = Registry.open(registry.folder.parent / "other")
    for version in (1, 2):
        other.register(registry.folder.parent / f"agent{version - 1}")
    verdict = make_verdict(other, other.version(2), crown(other, other.version(1)), gate)
    other.close()
    assert found(verdict, "random").outcome == "fail"
    assert verdict.outcome == "rejected"


def test_asking_twice_throws_no_dice_again(registry, two, monkeypatch):
    script = play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 2})
    champion = crown(registry, two[0])
    first = make_verdict(registry, two[1], champion, quick_gate())
    begun = script.begun
    again = make_verdict(registry, two[1], champion, quick_gate())
    assert script.begun == begun > 0
    assert found(first, "match").details == found(again, "match").details


def test_more_pairs_go_on_where_fewer_ended(registry, two, monkeypatch):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 1})
    champion = crown(registry, two[0])
    make_verdict(registry, two[1], champion, quick_gate(match={"max_pairs": 6}))
    played = []
    gate = quick_gate(match={"max_pairs": 10})
    make_verdict(registry, two[1], champion, gate, on_pair=lambda match: played.append(match.pairs))
    assert played == [7, 8, 9, 10]


def test_a_non_inferior_candidate_passes_the_match_and_the_guard_has_its_own_margin(
    registry, two, monkeypatch
):
    """It wins every other pair: not worse by 0.2 is soon proven, not worse by 0.05 is not."""
    scores = {two[0].digest: 1, two[1].digest: lambda seed: 2 if share_of(seed, 50) else 0}
    play_by_strength(monkeypatch, scores)
    champion = crown(registry, two[0])
    outcomes = {}
    for margin in (0.2, 0.05):
        gate = quick_gate(match={"non_inferiority": 0.25}, guard={"margin": margin})
        verdict = make_verdict(registry, two[1], champion, gate)
        match, guard = found(verdict, "match"), found(verdict, "guard")
        assert match.outcome == "pass"
        counts = [match.details[name] for name in ("wins", "ties", "losses")]
        expected = e_value(*counts, null=0.5 - margin)
        assert guard.details["e_values"] == {"pong": pytest.approx(expected)}
        assert guard.outcome == ("pass" if expected >= 20 else "unknown")
        outcomes[margin] = guard.outcome
    assert outcomes[0.05] == "unknown"


def test_evidence_that_reaches_the_guards_bound_exactly_is_proof(registry, two, monkeypatch):
    """The match, whose margin is a little wider, is decided with the same pair."""
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 2})
    champion = crown(registry, two[0])
    reached = 0
    for wins in range(4, 10):
        bound = math.exp(log_e_value(Counts(wins, 0, 0), 0.5 - 0.24))
        if 1 / (1 / bound) != bound:
            continue
        gate = quick_gate(
            smoke={"enabled": False},
            match={"alpha": 1 / bound, "non_inferiority": 0.25},
            guard={"margin": 0.24},
        )
        verdict = make_verdict(registry, two[1], champion, gate)
        assert found(verdict, "match").details["wins"] == wins
        assert found(verdict, "guard").details["e_values"] == {"pong": bound}
        assert verdict.outcome == "passed"
        reached += 1
    assert reached


@pytest.mark.parametrize("places", [(0, 1), (1, 0)])
def test_either_of_two_may_be_the_champion(registry, two, monkeypatch, places):
    champion, candidate = (two[place] for place in places)
    play_by_strength(monkeypatch, {champion.digest: 1, candidate.digest: 2})
    verdict = make_verdict(registry, candidate, crown(registry, champion), quick_gate())
    assert found(verdict, "match").details["wins"] == 8


def test_a_damaged_champion_is_an_error_and_once_repaired_can_be_beaten(registry, two):
    champion = crown(registry, two[0])
    blob = registry.folder / "blobs" / "sha256" / two[0].digest[:2] / two[0].digest
    good = blob.read_bytes()
    blob.unlink()
    with pytest.raises(DamagedPartError, match="version 1 is broken"):
        make_verdict(registry, two[1], champion, quick_gate())
    blob.write_bytes(good)
    assert registry.verify() == []
    assert found(make_verdict(registry, two[1], champion, quick_gate()), "match")


def test_a_champion_that_this_rlarcade_cannot_build_proves_nothing(registry, two, monkeypatch):
    champion, real = crown(registry, two[0]), checks.load_agent

    def load(checkpoint):
        if checkpoint.manifest.weights_sha256 == champion.digest:
            raise CheckpointError("its torso has an unknown name.")
        return real(checkpoint)

    monkeypatch.setattr(checks, "load_agent", load)
    check = found(make_verdict(registry, two[1], champion, quick_gate()), "match")
    assert check.outcome == "unknown"
    assert "the champion cannot be loaded: its torso has an unknown name" in check.evidence


def test_the_champion_is_no_candidate_for_its_own_place(registry, two):
    champion = crown(registry, two[0])
    check = found(make_verdict(registry, two[0], champion, quick_gate()), "match")
    assert (check.outcome, check.evidence) == ("unknown", "it is the champion already")


def test_decisions_are_timed_one_at_a_time_on_one_observation(registry, two, monkeypatch):
    asked = []
    q_values = DQNAgent.q_values

    def counted(self, observation, **settings):
        asked.append(observation.shape)
        return q_values(self, observation, **settings)

    monkeypatch.setattr(DQNAgent, "q_values", counted)
    gate = quick_gate(smoke={"enabled": False})
    make_verdict(registry, two[0], None, gate)
    assert asked == [(1, 4, 84, 84)] * 21
    assert np.prod(asked[0]) == 28_224


def test_the_slowest_decisions_count_and_not_the_middle_one(registry, two, monkeypatch):
    """Of twenty decisions the 95th percentile lies just above the nineteenth."""
    for slow, outcome in ((1, "pass"), (2, "fail")):
        asked = slow_decisions(monkeypatch, {5, 9} if slow == 2 else {5})
        gate = quick_gate(
            smoke={"enabled": False}, latency={"decisions": 20, "max_milliseconds": 200}
        )
        check = found(make_verdict(registry, two[0], None, gate), "latency")
        assert (check.outcome, check.details["p50_ms"] < 200) == (outcome, True)
        assert len(asked) == (21 if slow == 1 else 10), "it stops as soon as it is known"
    assert check.evidence.startswith("2 of 9 decisions took longer than 200 ms, the slowest ")


def slow_decisions(monkeypatch, slow, seconds=0.3):
    """Some of the decisions take longer; the first, which is not counted, is number 0."""
    asked = []

    def q_values(self, observation, **settings):
        if len(asked) in slow:
            time.sleep(seconds)
        asked.append(observation.shape)

    monkeypatch.setattr(DQNAgent, "q_values", q_values)
    return asked


def test_a_version_that_is_too_slow_is_known_to_be_without_playing_and_soon(
    registry, two, monkeypatch
):
    """A second a decision: six of a hundred are enough to know."""
    asked = slow_decisions(monkeypatch, set(range(200)), seconds=0.05)
    gate = Gate.model_validate({"latency": {"max_milliseconds": 20}})
    verdict = make_verdict(registry, two[0], None, gate)
    assert found(verdict, "latency").outcome == "fail"
    assert found(verdict, "smoke").evidence == "not run, because latency did not pass"
    assert len(asked) == 7


def test_a_check_that_lasts_too_long_is_unknown(registry, two, monkeypatch):
    slow_decisions(monkeypatch, set(range(200)), seconds=0.05)
    gate = quick_gate(latency={"decisions": 50, "max_seconds": 0.2, "max_milliseconds": 10_000})
    check = found(make_verdict(registry, two[0], None, gate), "latency")
    assert check.outcome == "unknown"
    assert re.fullmatch(r"[1-4] of 50 decisions in 0.2 s; 10000 allowed", check.evidence)


def test_playing_the_beginning_of_a_game_has_an_end(registry, two):
    gate = quick_gate(smoke={"steps": 100_000, "max_seconds": 0.3})
    started = time.monotonic()
    check = found(make_verdict(registry, two[0], None, gate), "smoke")
    assert check.outcome == "unknown"
    assert re.fullmatch(r"\d+ of 100000 steps played in 0.3 s", check.evidence)
    assert time.monotonic() - started < 20


def test_a_match_that_lasts_too_long_is_unknown_and_goes_on_where_it_stopped(
    registry, two, monkeypatch
):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 1})
    champion = crown(registry, two[0])
    gate = quick_gate(smoke={"enabled": False}, match={"max_pairs": 15, "max_seconds": 0.05})
    verdict = make_verdict(registry, two[1], champion, gate, on_pair=lambda match: time.sleep(0.02))
    check = found(verdict, "match")
    assert (check.outcome, check.details["verdict"]) == ("unknown", None)
    assert check.evidence.endswith("; stopped after 0.05 s (max_seconds)")
    played = check.details["ties"]
    assert 0 < played < 15
    counts = []
    gate = quick_gate(smoke={"enabled": False}, match={"max_pairs": 15})
    make_verdict(registry, two[1], champion, gate, on_pair=lambda match: counts.append(match.pairs))
    assert counts == list(range(played + 1, 16))


@pytest.mark.parametrize(("alpha", "wins"), [(0.2, 5), (0.01, 11)])
def test_the_match_against_random_play_is_decided_with_the_gates_own_alpha(
    registry, two, monkeypatch, alpha, wins
):
    play_by_strength(monkeypatch, {"random": 0, two[0].digest: 1, two[1].digest: 2})
    gate = quick_gate(smoke={"enabled": False}, random={"enabled": True, "alpha": alpha})
    verdict = make_verdict(registry, two[1], crown(registry, two[0]), gate)
    check = found(verdict, "random")
    assert (check.outcome, check.details["wins"]) == ("pass", wins)
    assert wins == next(n for n in range(100) if e_value(n, 0, 0) >= 1 / alpha)
    kept = registry.get_document(check.details["comparison"], Comparison)
    assert kept.rule.alpha == alpha
    assert found(verdict, "match").details["wins"] == 8, "the match has another"


def test_forged_pairs_in_a_record_make_no_champion(registry):
    """The agent that learned is champion; eight made-up wins would promote the one that did not."""
    late, early = (registry.register(DATA / f"space-invaders-{name}") for name in ("late", "early"))
    gate = quick_gate(guard={"enabled": False}, match={"max_pairs": 1})
    verdict = make_verdict(registry, early, crown(registry, late), gate)
    assert verdict.outcome == "inconclusive"
    (record,) = (registry.folder / "matches").rglob("*.jsonl")
    header, _ = record.read_text().splitlines()
    forged = [
        {
            side: {"seed": seed, "score": score, "steps": 1, "ended": "terminated", "trace": None}
            for side, score in (("champion", 0.0), ("candidate", 500.0))
        }
        for seed in islice(match_seeds(0, (late.digest, early.digest)), 8)
    ]
    record.write_text("\n".join([header, *map(json.dumps, forged)]) + "\n")
    eight = quick_gate(guard={"enabled": False}, match={"max_pairs": 8})
    with pytest.raises(RunFolderError, match="cannot be trusted: .* no actions were kept"):
        make_verdict(registry, early, registry.alias(late.game), eight)


# With a clock that goes as told


@pytest.fixture
def clock(monkeypatch):
    """Stands still until `now` is moved; checks begin at half a second."""
    clock = SimpleNamespace(now=0.5)
    clock.perf_counter = clock.monotonic = lambda: clock.now
    monkeypatch.setattr(checks, "time", clock)
    return clock


def timed(monkeypatch, clock, milliseconds):
    """Every decision takes as long as told; after the last, all take as long as that."""
    asked, clock.now = [], 0.5

    def q_values(self, observation):
        clock.now += milliseconds[min(len(asked), len(milliseconds) - 1)] / 1e3
        asked.append(observation)

    monkeypatch.setattr(DQNAgent, "q_values", q_values)
    return asked


def latency_of(registry, version, **settings):
    off = {name: {"enabled": False} for name in ("size", "smoke", "match")}
    verdict = make_verdict(registry, version, None, quick_gate(latency=settings, **off))
    return found(verdict, "latency")


def test_latency_is_told_as_two_percentiles_of_all_decisions_but_the_first(
    registry, two, monkeypatch, clock
):
    for decisions in (20, 21, 300):
        durations = [float(6 + 14 * number % 40) for number in range(decisions)]
        asked = timed(monkeypatch, clock, [9_999.4, *durations])
        check = latency_of(registry, two[0], decisions=decisions, max_milliseconds=50)
        assert len(asked) == 1 + decisions
        assert any((one != asked[0]).any() for one in asked), "no answer can be kept from before"
        middle, slow = np.percentile(durations, 50), np.percentile(durations, 95)
        assert check.details == {"p50_ms": pytest.approx(middle), "p95_ms": pytest.approx(slow)}
        evidence = f"a decision takes {middle:.3g} ms, 95 of 100 at most {slow:.3g} ms; 50 allowed"
        assert (check.outcome, check.evidence) == ("pass", evidence)
        assert check.seconds == pytest.approx(9.9994 + sum(durations) / 1e3, abs=5e-4)
        assert check.seconds == round(check.seconds, 3)


def test_a_95th_percentile_between_a_quick_and_a_slow_decision_decides_by_its_own_value(
    registry, two, monkeypatch, clock
):
    """Of twenty decisions one may be slow: 1 ms and one of 2,000 ms give 100.95 ms."""
    outcomes = {}
    for allowed in (100, 100.9, 101, 120):
        timed(monkeypatch, clock, [1, *[1] * 19, 2_000])
        check = latency_of(registry, two[0], decisions=20, max_milliseconds=allowed)
        outcomes[allowed] = check.outcome
        assert check.details["p95_ms"] == pytest.approx(100.95)
        assert check.evidence.startswith("a decision takes 1 ms, 95 of 100 at most 101 ms; ")
    assert outcomes == {100: "fail", 100.9: "fail", 101: "pass", 120: "pass"}


def test_timing_stops_with_the_first_decision_after_which_no_quick_one_can_help(
    registry, two, monkeypatch, clock
):
    for decisions in (20, 21, 22, 39, 40, 41, 100, 101, 120, 199):
        slow = 0
        while np.percentile([11.0] * slow + [0.0] * (decisions - slow), 95) < 11:
            slow += 1
        asked = timed(monkeypatch, clock, [125, 125, 250, *[500] * slow])
        check = latency_of(registry, two[0], decisions=decisions, max_milliseconds=250)
        assert len(asked) == 1 + 2 + slow
        evidence = (
            f"{slow} of {slow + 2} decisions took longer than 250 ms, the slowest 500 ms; at "
            "most 5 of 100 may"
        )
        assert (check.outcome, check.evidence) == ("fail", evidence)


def test_a_decision_may_take_as_long_as_is_allowed_and_timing_too(
    registry, two, monkeypatch, clock
):
    stops = {5.25: ("pass", 20), 1.25: ("unknown", 5), 1.2: ("unknown", 4), 0.1: ("unknown", 1)}
    for most, (outcome, count) in stops.items():
        asked = timed(monkeypatch, clock, [250])
        settings = {"decisions": 20, "max_milliseconds": 250, "max_seconds": most}
        check = latency_of(registry, two[0], **settings)
        assert (check.outcome, len(asked)) == (outcome, 1 + count)
        if outcome == "unknown":
            assert check.evidence == f"{count} of 20 decisions in {most:g} s; 250 allowed"


def smoke_of(registry, version, clock, **settings):
    clock.now = 0.5
    off = {name: {"enabled": False} for name in ("size", "latency", "match")}
    return found(make_verdict(registry, version, None, quick_gate(smoke=settings, **off)), "smoke")


def test_as_many_steps_are_played_as_asked_and_their_points_added(
    registry, two, monkeypatch, clock
):
    taken = []

    def steps(player, *, episodes, use):
        assert (player.name, use) == ("version 1", SeedUse.CALIBRATION)
        for reward in (1.5, -4, 10, 100, 1_000, *[0] * 400)[:episodes]:
            clock.now += 2
            taken.append(reward)
            yield SimpleNamespace(reward=reward)
        raise PolicyError("it fell over")

    monkeypatch.setattr(checks, "play_steps", steps)
    check = smoke_of(registry, two[0], clock, steps=3)
    assert (check.outcome, check.evidence) == ("pass", "3 steps played, 7.5 points")
    assert taken == [1.5, -4, 10]
    check = smoke_of(registry, two[0], clock, steps=5, max_seconds=8)
    assert check.evidence == "5 steps played, 1107.5 points", "the last one is not late"
    check = smoke_of(registry, two[0], clock, steps=5, max_seconds=7.5)
    evidence = "4 of 5 steps played in 7.5 s"
    assert (check.outcome, check.evidence) == ("unknown", evidence)
    check = smoke_of(registry, two[0], clock, steps=300, max_seconds=600)
    assert check.evidence == "300 steps played, 1107.5 points"
    check = smoke_of(registry, two[0], clock, steps=500, max_seconds=2_000)
    assert (check.outcome, check.evidence) == ("fail", "it fell over")


# The words of the evidence, and where things are kept


@pytest.mark.parametrize("protocols", [("v5", "nature"), ("nature", "v5")])
def test_every_difference_to_the_champions_contract_is_told_and_nothing_else(
    registry, tmp_path, protocols
):
    champion, other = (
        registry.register(
            saved_agent(tmp_path / name, number, protocol=name, num_actions=6 - number)
        )
        for number, name in enumerate(protocols)
    )
    check = found(
        make_verdict(registry, other, crown(registry, champion), quick_gate()), "contract"
    )
    theirs, ours = champion.protocol.model_dump(), other.protocol.model_dump()
    unlike = [f"{key} {theirs[key]} and {ours[key]}" for key in ours if ours[key] != theirs[key]]
    assert len(unlike) >= 3
    expected = ", ".join([*unlike, "actions 6 and 5"])
    assert check.evidence == f"the champion, version 1, and this one differ: {expected}"


def test_the_evidence_of_every_check_says_its_numbers(registry, two, monkeypatch):
    play_by_strength(monkeypatch, {"random": 0, two[0].digest: 1, two[1].digest: 2})
    gate = quick_gate(
        smoke={"enabled": False},
        latency={"enabled": False},
        random={"enabled": True, "alpha": 0.02},
        match={"beta": 0.2},
        guard={"margin": 0.2},
    )
    verdict = make_verdict(registry, two[1], crown(registry, two[0]), gate)
    said = {check.name: check.evidence for check in verdict.checks}
    assert said["files"] == f"sha256 {two[1].digest[:12]} holds; nature torso, expected head load"
    assert said["contract"] == "protocol v5 and 6 actions, as the champion, version 1"
    wins = next(n for n in range(100) if e_value(n, 0, 0) >= 50)
    assert re.fullmatch(
        rf"against random: {wins} won, 0 tied, 0 lost of {wins} pairs, e-value "
        rf"{e_value(wins, 0, 0):.4g} \(promote from 50\), futility \S+ \(reject from 10\)",
        said["random"],
    )
    assert re.fullmatch(
        rf"against version 1: 8 won, 0 tied, 0 lost of 8 pairs, e-value {e_value(8, 0, 0):.4g} "
        r"\(promote from 20\), futility \S+ \(reject from 5\)",
        said["match"],
    )
    guard = e_value(8, 0, 0, null=0.3)
    assert said["guard"] == (
        f"pong: e-value {guard:.4g} that it is not worse by 0.2 (proven from 20)"
    )
    match = registry.get_document(found(verdict, "match").details["comparison"], Comparison)
    assert found(verdict, "match").details["interval"] == list(match.interval)
    assert found(verdict, "match").details["e_value_futility"] == match.e_value_futility


def test_a_match_is_kept_under_the_first_twelve_digits_of_its_rules_digest(
    registry, two, monkeypatch
):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 2})
    make_verdict(registry, two[1], crown(registry, two[0]), quick_gate())
    rule = b'{"alpha":0.05,"beta":0.1,"null":0.5,"useful":0.6}'
    (folder,) = (registry.folder / "matches").iterdir()
    assert folder.name == hashlib.sha256(rule).hexdigest()[:12]


def test_matches_that_cannot_be_kept_are_told(registry, two, monkeypatch):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 2})
    champion = crown(registry, two[0])
    (registry.folder / "matches").symlink_to(registry.folder.parent)
    with pytest.raises(RunFolderError, match=r"matches cannot be kept in .*matches: .*\.$"):
        make_verdict(registry, two[1], champion, quick_gate())


def test_a_match_may_last_as_long_as_is_allowed_and_its_last_pair_longer(
    registry, two, monkeypatch, clock
):
    play_by_strength(monkeypatch, {two[0].digest: 1, two[1].digest: 1})
    champion = crown(registry, two[0])

    def verdict_of(max_pairs, max_seconds):
        clock.now = 0.5

        def pair_done(match):
            clock.now += 2

        gate = quick_gate(
            smoke={"enabled": False}, match={"max_pairs": max_pairs, "max_seconds": max_seconds}
        )
        verdict = make_verdict(registry, two[1], champion, gate, on_pair=pair_done)
        return found(verdict, "match")

    check = verdict_of(max_pairs=4, max_seconds=4.0)
    assert check.details["ties"] == 3, "two pairs are in time, the third is not"
    assert check.evidence.endswith("(reject from 10); stopped after 4 s (max_seconds)")
    check = verdict_of(max_pairs=4, max_seconds=1.0)
    assert (check.details["ties"], check.details["verdict"]) == (4, "inconclusive")
    assert "stopped" not in check.evidence
