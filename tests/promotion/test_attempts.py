"""A stream of attempts on one champion shares one α."""

import itertools
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from promoting import play_by_strength, quick_gate, saved_agent
from registry_helpers import sql

from rlarcade.errors import RegistryError
from rlarcade.evaluation import Comparison
from rlarcade.promotion.attempts import attempt_of, share
from rlarcade.promotion.gate import Attempt
from rlarcade.promotion.pipeline import deny, run_pipeline, verdict_of
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.registry import Registry
from rlarcade.reports import registry_lines as table

SCRIPTS = Path(__file__).parents[2] / "scripts"
NO_SMOKE = {"enabled": False}


class Stream:
    """A registry of pong whose version 1 is the champion, and others as good as it is."""

    def __init__(self, folder, monkeypatch, count=5):
        self.registry = Registry.open(folder / "registry")
        self.versions = [
            self.registry.register(saved_agent(folder / f"a{n}", n)) for n in range(count)
        ]
        self.registry.move_alias("pong", "champion", 1, expected_generation=0, kind="set")
        self.strength = {one.digest: 1 for one in self.versions}
        play_by_strength(monkeypatch, self.strength)

    def send(self, number, mode="deployment", **match):
        gate = quick_gate(smoke=NO_SMOKE, match={"max_pairs": 3} | match)
        version = self.registry.version(number)
        current = run_pipeline(self.registry, version, mode, gate, actor="tester")
        return verdict_of(self.registry, current)


@pytest.fixture
def stream(tmp_path, monkeypatch):
    made = Stream(tmp_path, monkeypatch)
    yield made
    made.registry.close()


def shares(*numbers):
    return [6 * 0.05 / (math.pi**2 * number**2) for number in numbers]


def match_rule(stream, verdict):
    found = next(check for check in verdict.checks if check.name == "match")
    return stream.registry.get_document(found.details["comparison"], Comparison).rule


def test_all_shares_add_up_to_one_and_the_first_is_six_over_pi_squared():
    assert share(1) == pytest.approx(0.6079, abs=1e-4)
    assert [share(n) / share(1) for n in (2, 3, 10)] == pytest.approx([1 / 4, 1 / 9, 1 / 100])
    total = math.fsum(share(n) for n in range(1, 200_001))
    assert 1 - 1e-5 < total < 1


def test_each_version_in_turn_is_decided_with_its_share_and_the_ledger_is_in_the_verdict(stream):
    verdicts = [stream.send(number) for number in (2, 3, 4)]
    alphas = shares(1, 2, 3)
    assert [one.attempt.number for one in verdicts] == [1, 2, 3]
    assert [one.attempt.alpha for one in verdicts] == pytest.approx(alphas)
    assert [match_rule(stream, one).alpha for one in verdicts] == pytest.approx(alphas)
    spent = list(itertools.accumulate(alphas))
    assert [one.attempt.spent for one in verdicts] == pytest.approx(spent)
    assert {one.attempt.budget for one in verdicts} == {0.05}


@pytest.mark.parametrize("mode", ["ci", "delivery", "promote"])
def test_a_version_keeps_its_place_in_every_mode_and_by_every_gate(stream, mode):
    stream.send(2, "ci")
    stream.send(3, "ci")
    again = stream.send(2, mode, max_pairs=4)
    assert again.attempt.number == 1
    later = stream.send(4, mode)
    assert later.attempt.number == 3, "whatever the mode, it is the third that is looked at"


def test_a_version_that_is_sent_again_throws_no_dice_again(stream, tmp_path, monkeypatch):
    first = stream.send(2)
    for number in (3, 4):
        stream.send(number)
    assert stream.send(2) == first
    assert stream.send(2, "delivery").attempt == first.attempt


def test_what_was_spent_counts_the_largest_alpha_that_a_version_was_sent_with(stream):
    stream.send(2, alpha=0.1)
    stream.send(2, alpha=0.02)
    verdict = stream.send(3, alpha=0.05)
    assert verdict.attempt.spent == pytest.approx(0.1 * share(1) + 0.05 * share(2))


def test_another_champion_begins_a_new_stream(stream):
    stream.send(2)
    stream.strength[stream.versions[2].digest] = 2
    assert stream.send(3, max_pairs=50).attempt.number == 2
    assert stream.registry.alias("pong").version == 3
    assert stream.send(4).attempt.number == 1
    stream.registry.rollback("pong")
    assert stream.send(2).attempt.number == 1, "the same champion in another generation"


def test_the_champion_of_another_game_has_a_stream_of_its_own(stream, tmp_path):
    boxing = [
        stream.registry.register(saved_agent(tmp_path / f"b{n}", 20 + n, "boxing", num_actions=18))
        for n in range(2)
    ]
    stream.registry.move_alias(
        "boxing", "champion", boxing[0].number, expected_generation=0, kind="set"
    )
    stream.strength |= {one.digest: 1 for one in boxing}
    stream.send(2)
    assert stream.send(boxing[1].number).attempt.number == 1


def test_a_first_champion_spends_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Registry.open(tmp_path / "registry") as registry:
        version = registry.register(saved_agent(tmp_path / "a"))
        gate = quick_gate(smoke=NO_SMOKE)
        assert (
            verdict_of(registry, run_pipeline(registry, version, "promote", gate)).attempt is None
        )


def test_a_candidate_that_would_pass_alone_needs_more_as_the_third(stream):
    """Eight pairs won are enough for all of α, nine for the first's share of it."""
    for number in (2, 3):
        stream.send(number)
    stream.strength[stream.versions[3].digest] = 2
    verdict = stream.send(4, max_pairs=50)
    match = next(check for check in verdict.checks if check.name == "match")
    guard = next(check for check in verdict.checks if check.name == "guard")
    needed = next(n for n in range(1, 50) if e_value(n) >= 1 / shares(3)[0])
    assert match.details["wins"] == needed == 13
    assert f"(promote from {1 / shares(3)[0]:.4g})" in match.evidence
    assert f"(proven from {1 / shares(3)[0]:.4g})" in guard.evidence


def e_value(wins):
    """The definition, for wins alone."""
    bets = [0.02 * 49 ** (k / 23) / 0.5 for k in range(24)]
    return sum((1 + bet / 2) ** wins for bet in bets) / 24


def test_a_denied_or_failed_attempt_has_spent_its_share_as_well(stream):
    stream.strength[stream.versions[1].digest] = 2
    stream.send(2, "delivery", max_pairs=50)
    deny(stream.registry, stream.versions[1], by="ada", note="no")
    gate = quick_gate(smoke=NO_SMOKE, size={"max_megabytes": 1e-6})
    run_pipeline(stream.registry, stream.versions[2], "deployment", gate, actor="tester")
    assert stream.send(4).attempt.number == 3


def test_a_submission_that_the_log_does_not_know_has_no_place(stream):
    stream.send(2)
    sql(stream.registry.folder, "UPDATE submissions SET champion_generation = 7, state = 'error'")
    (altered,) = submissions_of(stream.registry)
    with pytest.raises(RegistryError, match="audit log, version 2 was never submitted against"):
        attempt_of(stream.registry, altered, quick_gate())


def test_the_ledger_is_a_line_on_the_terminal():
    attempt = Attempt(number=3, alpha=0.003377, budget=0.05, spent=0.04137)
    assert table.attempt_lines(attempt) == [
        "  attempt 3 on this champion: it uses 0.003377 of the gate's alpha 0.05; 0.04137 is "
        "spent so far"
    ]
    assert table.attempt_lines(None) == []


def test_a_tiny_alpha_is_shared_without_becoming_nothing(stream):
    for number in (2, 3):
        assert stream.send(number, alpha=5e-324).attempt.alpha > 0


def test_of_a_stream_of_equals_none_is_promoted_with_more_than_alpha():
    """Exactly: the wins of a match without ties are a chain whose every probability is known."""
    module = runpy.run_path(str(SCRIPTS / "simulate_attempts.py"))
    luck = module["promoted_by_luck"]([0.05 * share(n) for n in range(1, 51)])
    assert all(chance <= alpha for chance, alpha in zip(luck, shares(*range(1, 51)), strict=True))
    stream = 1 - math.prod(1 - chance for chance in luck)
    assert 0.005 < stream <= 0.05
    (alone,) = module["promoted_by_luck"]([0.05])
    assert 0.2 < 1 - (1 - alone) ** 20 <= 0.64, "what is shared makes the difference"


@pytest.mark.slow
@pytest.mark.recorded
def test_streams_that_are_played_keep_to_what_was_calculated(tmp_path):
    arguments = ["--streams", "400", "--json", str(tmp_path / "found.json")]
    command = [sys.executable, str(SCRIPTS / "simulate_attempts.py"), *arguments]
    subprocess.run(command, check=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())
    exact = found["probability_of_a_false_promotion_by_attempts"]
    for way in ("alone", "shared"):
        sigma = math.sqrt(exact[way]["50"] * (1 - exact[way]["50"]) / 400)
        for played in found["played"]["share"].values():
            assert played[way] <= exact[way]["50"] + 4 * sigma
        assert found["played"]["share"]["0 tied"][way] >= exact[way]["50"] - 4 * sigma
    assert exact["shared"]["100"] <= 0.05 < exact["alone"]["5"]
