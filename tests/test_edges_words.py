"""What a user, or a user's own code, hands over by mistake is told in one line."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from rlarcade import (
    Player,
    Protocol,
    RandomPlayer,
    Rule,
    compare,
    compare_agents,
    compare_all,
    evaluate,
    evaluate_agent,
    play_steps,
    sweep,
    train,
)
from rlarcade.command_line import parse_flags
from rlarcade.config import load_preset
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.playing.named import named_players
from rlarcade.promotion.gate import load_gate
from rlarcade.sweeps import tables

DEEP = ".".join("a" for _ in range(20_000)) + " = 1"
DEEP_KEYS = [
    DEEP,
    f"[{DEEP[:-4]}]",
    f"x = {{ {DEEP} }}",
    "'a' . \"b\" . " * 30 + "c = 1",
]


class Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    game: str
    """What is played."""
    episodes: int = 100
    """Whole games."""


def told(command, *argv, capsys):
    """Runs a command that is refused; returns its one line."""
    assert command.main(list(argv)) == 2
    written = capsys.readouterr()
    assert written.err.count("\n") == 1
    assert "RLARCADE_TRACEBACK" not in written.err
    return written.err


@pytest.mark.parametrize("text", DEEP_KEYS)
def test_a_key_of_many_dotted_parts_takes_no_memory(text, tmp_path, capsys):
    file = tmp_path / "deep.toml"
    file.write_text(text)
    for read in (load_gate, lambda path: load_preset(str(path))):
        with pytest.raises(ConfigError, match=r"deep\.toml is nested too deeply"):
            read(file)
    assert "nested too deeply" in told(compare, "--suite", str(file), capsys=capsys)
    assert "nested too deeply" in told(sweep, str(file), capsys=capsys)


def test_dots_in_texts_and_numbers_are_no_deep_keys(tmp_path):
    file = tmp_path / "fine.toml"
    file.write_text(f'# {"." * 80} 1.5 2.5\ngame = "Pong"  # {"Wait... " * 30}\ngamma = 0.5\n')
    assert load_preset(str(file))[1] == {"game": "Pong", "gamma": 0.5}


def test_settings_that_are_no_text_are_told_without_a_codec(tmp_path, capsys):
    file = tmp_path / "odd.toml"
    file.write_bytes(b"\xff\xfe\x00")
    line = told(compare, "--suite", str(file), capsys=capsys)
    assert "odd.toml: it is not UTF-8 text" in line


@pytest.mark.parametrize(
    ("command", "argv", "line"),
    [
        (train, ["--game", "Pong", ""], "unexpected ''"),
        (train, ["--game", "Pong", "--double", ""], "unexpected ''"),
        (evaluate, ["x", "--double", ""], "unknown flag --double. "),
    ],
)
def test_an_empty_word_is_named_as_one(command, argv, line, capsys):
    assert line in told(command, *argv, capsys=capsys)


def test_names_that_are_too_long_for_files_are_mistakes_of_the_command(capsys):
    long = "x" * 5_000
    for argv in (["--run-dir", long], ["--game", "Pong", "--preset", "quick", "--run-dir", long]):
        assert "--run-dir" in told(train, *argv, "--device", "cpu", capsys=capsys)
    for name in (f"{long}:make", long):
        assert told(evaluate, name, "--game", "Pong", capsys=capsys)


class MuteError(Exception):
    def __str__(self):
        raise SystemExit(0)

    __repr__ = __str__


class MuteExit(BaseException):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd:
    """An answer that is no action, and does not like to be looked at."""

    def __array__(self, *_, **__):
        raise SystemExit(0)

    def __repr__(self):
        raise SystemExit(0)


def raising(error):
    def policy(_observation):
        raise error

    return policy


@pytest.mark.parametrize(
    "policy",
    [raising(MuteError()), raising(MuteExit()), lambda _: Odd()],
    ids=["mute", "exits", "odd answer"],
)
def test_a_policy_that_fails_even_at_failing_has_failed(policy):
    with pytest.raises(PolicyError, match="failed at step 0"):
        evaluate_agent(Player(policy, game="Pong"), episodes=1)


@pytest.mark.parametrize(
    "policy", [raising(ValueError("x" * 10**7)), lambda _: "x" * 10**7], ids=["error", "answer"]
)
def test_what_a_policy_says_is_kept_within_bounds(policy):
    with pytest.raises(PolicyError) as told_of:
        evaluate_agent(Player(policy, game="Pong"), episodes=1)
    assert len(str(told_of.value)) < 3_000


def test_what_a_policy_sees_is_shown_within_bounds():
    def policy(_observation):
        return 0

    policy.sees = "\x1b[31m" * 5_000
    with pytest.raises(ConfigError, match=r"sees .*A policy sees") as told_of:
        Player(policy, game="Pong")
    assert len(str(told_of.value)) < 300


def test_a_factory_that_raises_an_error_of_ours_is_named(tmp_path, monkeypatch):
    (tmp_path / "edges_own.py").write_text(
        "from rlarcade import ConfigError\ndef make(game):\n    raise ConfigError('mine')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^edges_own:make: mine$"):
        named_players(["edges_own:make"], game="Pong")


def test_an_action_is_still_any_whole_number():
    for action in (3, np.int64(3), np.array([3]), np.uint8(3)):
        player = Player(lambda _, action=action: action, game="Pong")
        assert evaluate_agent(player, episodes=1).episodes[0].ended == "terminated"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_refusal_reads_the_same_whatever_a_terminal_can_show(encoding, monkeypatch):
    """tyro draws its boxes with what stdout can show."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    for argv, line in (
        (["--xx", "3"], r"unknown flag --xx\. rlarcade prog needs --game \(What is played\)\."),
        (["--game", "Pong", ""], "unexpected '': no further arguments are allowed"),
        (["--game", "Pong", "--epsodes", "3"], r"unknown flag --epsodes\. Did you mean --episodes"),
        (["--game", "Pong", "--episodes", "x"], r"--episodes takes a whole number, got 'x'\."),
    ):
        with pytest.raises(ConfigError, match=line) as told_of:
            parse_flags(Flags, argv, prog="rlarcade prog", description=None)
        assert "---" not in str(told_of.value)


def test_a_sweep_says_how_far_its_runs_are_to_nobody_and_goes_on(monkeypatch):
    gone, ends = os.pipe()
    os.close(gone)
    with os.fdopen(ends, "w") as unread, Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", unread)
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(tables, "_PLAIN_SECONDS", 0)
        monkeypatch.setattr(tables, "_progress_of", tables.Progress)
        with tables.View(2) as view:
            view.show(["one"], [], 1)
        tables.tell_table([{"label": "one", "exit": None, "result": None}])
        monkeypatch.undo()


@pytest.mark.parametrize("thing", [None, "checkpoints/x", 3, [], len, "x" * 10**6])
def test_what_cannot_play_is_refused_with_what_can(thing):
    for play in (
        lambda: evaluate_agent(thing, episodes=1),
        lambda: compare_agents(thing, RandomPlayer("Pong")),
        lambda: compare_all([RandomPlayer("Pong"), thing]),
        lambda: next(play_steps(thing)),
    ):
        with pytest.raises(ConfigError, match=r"cannot play\. Give an agent such as") as told_of:
            play()
        assert len(str(told_of.value)) < 300


@pytest.mark.parametrize("count", [None, 3.5, "3", [3], float("nan")])
def test_a_number_of_games_is_a_whole_number(count):
    with pytest.raises(ConfigError, match="episodes is a whole number, got "):
        evaluate_agent(RandomPlayer("Pong"), episodes=count)
    with pytest.raises(ConfigError, match="max_pairs is a whole number, got "):
        compare_agents(RandomPlayer("Pong"), RandomPlayer("Pong"), max_pairs=count)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rule(alpha=None), "'alpha' must be a number, not None."),
        (lambda: Rule(alpha=2), "'alpha' must be below 1, not 2."),
        (lambda: Rule(alhpa=0.1), "unknown setting 'alhpa'"),
        (lambda: Protocol(name="mine", sticky=2), "'sticky' must be at most 1, not 2."),
        (lambda: Protocol(name="v5", sticky=0), "protocol v5 has sticky 0.25, not 0"),
        (lambda: Protocol(name="\x1b[31m"), "'name' must be text of the form ^[A-Z"),
        (Protocol, "'name' is missing."),
    ],
)
def test_a_rule_and_a_protocol_say_what_is_wrong_in_our_words(make, said):
    with pytest.raises(ConfigError) as told_of:
        make()
    assert said in str(told_of.value)
    assert "pydantic" not in str(told_of.value)
    assert "\x1b" not in str(told_of.value)
