"""The gate: a file that explains itself, and a verdict that only positive evidence passes."""

import tomllib
from pathlib import Path

import pytest

from rlarcade.config import preset_names
from rlarcade.errors import ConfigError
from rlarcade.promotion.gate import Check, Gate, GateVerdict, load_gate

FILE = Path(__file__).parent.parent.parent / "configs" / "gate.toml"


def verdict(*outcomes):
    checks = tuple(
        Check(name=str(place), outcome=outcome, evidence="")
        for place, outcome in enumerate(outcomes)
    )
    return GateVerdict(
        version="0" * 64,
        number=1,
        game="pong",
        champion=None,
        champion_generation=0,
        gate=Gate(),
        checks=checks,
    )


def test_the_documented_file_is_the_default_gate_and_names_every_key():
    assert load_gate() == Gate() == load_gate(FILE)
    assert tomllib.loads(FILE.read_text()) == Gate().model_dump()


def test_every_key_of_the_documented_file_is_explained():
    lines = FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith("#") and not line.startswith("enabled"):
            before = lines[number - 1]
            assert before.startswith("#") or "=" in before or before.startswith("["), line
    explained = [line for line in lines if line.startswith("#")]
    assert len(explained) > 20


def test_a_gate_is_no_preset():
    assert "gate" not in preset_names()


def test_a_file_says_only_what_it_changes(tmp_path):
    (tmp_path / "mine.toml").write_text("[match]\nmax_pairs = 50\n")
    gate = load_gate(tmp_path / "mine.toml")
    assert gate.match.max_pairs == 50
    assert gate.model_copy(update={"match": Gate().match}) == Gate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[match]\nmax_pair = 5",
            r"gate .*mine.toml: unknown setting 'match.max_pair'. Did you mean 'max_pairs'",
        ),
        ("[match]\nalpha = 0", r"'match.alpha' must be above 0, not 0"),
        ("[guard]\nmargin = 0.5", r"'guard.margin' must be below 0.5, not 0.5"),
        ("[latency]\ndecisions = 19", r"'latency.decisions' must be at least 20, not 19"),
        ("[approvals]\nrequired = -1", r"'approvals.required' must be at least 0, not -1"),
        ("[size]\nmax_megabytes = inf", r"'size.max_megabytes' must be a finite number"),
        ("[sise]\n", r"unknown setting 'sise'. Did you mean 'size'"),
        ("match = ", r"gate .*mine.toml is not valid TOML: "),
    ],
)
def test_a_gate_file_that_means_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_gate(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[match]\nmax_pairs = true", "'match.max_pairs' must be a whole number, not True."),
        ('[match]\nmax_pairs = "7"', "'match.max_pairs' must be a whole number, not '7'."),
        ('[match]\nalpha = "0.05"', "'match.alpha' must be a number, not '0.05'."),
        ('[match]\nenabled = "no"', "'match.enabled' must be true or false, not 'no'."),
        ("[guard]\nenabled = 0", "'guard.enabled' must be true or false, not 0."),
        ("[random]\nfirst_champion = 1", "'random.first_champion' must be true or false, not 1."),
        ("[approvals]\nrequired = false", "'approvals.required' must be a whole number, not F"),
        ('[guard]\nmargin = "0.1"', "'guard.margin' must be a number, not '0.1'."),
        ("[latency]\ndecisions = '50'", "'latency.decisions' must be a whole number, not '50'."),
    ],
)
def test_a_gate_means_what_it_says_and_nothing_is_made_of_text_or_truth(tmp_path, text, message):
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_gate(tmp_path / "g.toml")
    assert message in str(refused.value)


def test_a_gate_file_of_another_editor_is_read(tmp_path):
    text = "\ufeff[match]\r\nmax_pairs = 1e2\r\n[approvals]\r\nexpire_days = 3\r\n"
    (tmp_path / "g.toml").write_bytes(text.encode())
    gate = load_gate(tmp_path / "g.toml")
    assert (gate.match.max_pairs, gate.approvals.expire_days) == (100, 3.0)


def test_a_gate_file_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read gate .*none.toml: No such file"):
        load_gate(tmp_path / "none.toml")
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cannot read gate .*odd.toml"):
        load_gate(tmp_path / "odd.toml")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (("pass", "pass"), "passed"),
        (("pass", "unknown"), "inconclusive"),
        (("fail", "unknown"), "rejected"),
        (("unknown", "fail"), "rejected"),
        ((), "inconclusive"),
    ],
)
def test_only_positive_evidence_passes(outcomes, expected):
    assert verdict(*outcomes).outcome == expected


def test_a_verdict_is_the_same_after_a_round_trip_through_json():
    one = verdict("pass", "unknown")
    assert GateVerdict.model_validate_json(one.model_dump_json()) == one
