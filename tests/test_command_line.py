"""Command lines that cannot be used are refused in one line, with what was probably meant."""

import os
import sys

import pytest

from rlarcade.errors import ConfigError
from rlarcade.foreign import from_extra
from rlarcade.numbers import whole_number

TRAIN = ("train", "--game", "Pong")
FIRST_ONLY = "is invalid: rlarcade uses the first GPU that it sees. "


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*TRAIN, "--lr", "0.1"), "unknown flag --lr. Did you mean --learning-rate?"),
        ((*TRAIN, "--mode", "ci"), "unknown flag --mode. Did you mean --pipeline?"),
        ((*TRAIN, "--dobule"), "unknown flag --dobule. Did you mean --double?"),
        ((*TRAIN, "--batch", "3"), "unknown flag --batch. Did you mean --batch-size?"),
        ((*TRAIN, "--env-id=Pong"), "unknown flag --env-id. Did you mean --game?"),
        (("evaluate", "x", "--num_episodes=3"), "--num_episodes. Did you mean --episodes?"),
        (("evaluate", "x", "--zzz"), "unknown flag --zzz. rlarcade evaluate --help lists all."),
        (("predict", "x", "--batch", "3"), "unknown flag --batch. Did you mean --batch-size?"),
        (("predict", "x"), "needs --input (Observations, uint8 (N, 4, 84, 84): a .npz"),
        (("promote", "regster", "x"), "unknown subcommand 'regster'. Did you mean register?"),
        (("promote", "pipeline", "rum"), "unknown subcommand 'rum'. Did you mean run?"),
        (("promote", "zzz"), "unknown subcommand 'zzz'. Choose one of register, versions"),
        (("promote",), "a subcommand is missing: one of register, versions"),
        (("promote", "show"), "rlarcade promote show needs a name (Its number, the beginning"),
        (("promote", "approve", "1"), "needs --by (Your name) and --note (Your reason)."),
        (("train",), "rlarcade train needs --game (Any spelling of a game's name"),
        (("train", "--game"), "--game takes a value."),
        (
            ("rollout", "outcome", "-YyC", "3"),
            "session takes a value, and '-YyC' reads as a flag. If it is meant, write -- -YyC",
        ),
        (
            ("promote", "approve", "1", "--by", "me", "--note", "-fine"),
            "and '-fine' reads as a flag. If it is meant, write --note=-fine.",
        ),
        (("promote", "approve", "1", "--by", "--note", "x"), "--by takes a value. "),
        ((*TRAIN, "extra"), "unexpected 'extra': no further arguments are allowed."),
        *(
            ((*command, "--device", device), f"error: device {device!r} {said}\n")
            for command in (
                TRAIN,
                ("evaluate", "x"),
                ("compare", "x", "random"),
                ("predict", "x", "--input", "x.npy", "--output", "x.npz"),
            )
            for device, said in (
                ("gpu", FIRST_ONLY + "Use device cuda."),
                ("cuda:1", FIRST_ONLY + "Use CUDA_VISIBLE_DEVICES=1 and device cuda."),
            )
        ),
        ((*TRAIN, "--device", "cud"), "one of auto, cpu, cuda, got 'cud'. Did you mean cuda?"),
        ((*TRAIN, "--pipeline", "x"), "--pipeline is one of ci, delivery, deployment, got 'x'."),
        ((*TRAIN, "--seed", "x"), "--seed takes a whole number, got 'x'."),
        ((*TRAIN, "--seed", "1.5"), "--seed takes a whole number, got '1.5'."),
        ((*TRAIN, "--max-grad-norm", "x"), "--max-grad-norm takes a number, got 'x'."),
        ((*TRAIN, "--conv-channels", "1", "x", "3"), "takes 3 whole numbers, got '1 x 3'."),
        (
            (*TRAIN, "--minutes", "nan"),
            "'minutes' must be a finite number, not nan.",
        ),
        ((*TRAIN, "--total-timesteps", "9" * 5000), f"got '{'9' * 39}…{'9' * 38}'."),
        (("watch", "x", "--ep\x1b[31m", "1"), "unknown flag --ep\\x1b[31m."),
    ],
)
def test_a_command_line_is_refused_in_one_plain_line(command, words, said):
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    for leak in ("{None}", "instantiated", "validation error", "pydantic", "Error parsing", "╭"):
        assert leak not in err


@pytest.mark.parametrize(
    ("words", "module", "what"),
    [
        (("serve",), "server", "serving needs"),
        (("play",), "client", "playing against a server needs"),
        (("rollout", "status"), "client", "rollouts need"),
    ],
)
def test_a_verb_without_its_extra_names_it_and_how_to_install_it(
    command, monkeypatch, words, module, what
):
    name = f"rlarcade.serving.{module}"
    monkeypatch.setitem(sys.modules, name, None)
    assert command(*words) == (
        2,
        "",
        f"rlarcade: error: {what} the extra `serve` ({name} is missing): pip install -c "
        "constraints.txt '.[serve]'.\n",
    )


def test_a_library_that_is_there_but_cannot_be_loaded_is_told_in_its_own_words():
    with (
        pytest.raises(ConfigError, match=r"needs the extra `onnx` \(libgomp.so.1: no such file\)"),
        from_extra("onnx", "ONNX needs"),
    ):
        raise ImportError("libgomp.so.1: no such file")


def test_a_million_may_be_written_as_1e6(command):
    code, out, _ = command(*TRAIN, "--total-timesteps", "1e6", "--seed", "1_0", "--print-config")
    assert code == 0
    assert "total_timesteps = 1000000\n" in out
    assert "seed = 10\n" in out


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("-3", -3), ("1e6", 10**6), ("2.5e3", 2500), ("1_000", 1000), ("1.0", 1)],
)
def test_whole_numbers_are_read_as_people_write_them(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", ["1.5", "1e-3", "x", "", "nan", "inf", "1e30", "1e999999999", "9" * 5000]
)
def test_other_numbers_are_refused_at_once(text):
    with pytest.raises(ValueError, match="no whole number"):
        whole_number(text)


def test_the_version_is_told(monkeypatch, capsys):
    import rlarcade
    from rlarcade.__main__ import main

    monkeypatch.setattr("sys.argv", ["rlarcade", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"rlarcade {rlarcade.__version__}\n"


@pytest.mark.parametrize("columns", ["1", "5"])
def test_a_terminal_of_few_columns_gets_the_same_words_and_keeps_its_width(
    command, monkeypatch, columns
):
    monkeypatch.setenv("COLUMNS", columns)
    code, _, err = command(*TRAIN, "--lr", "0.1")
    assert code == 2
    assert "unknown flag --lr. Did you mean --learning-rate?" in err
    code, out, _ = command("watch", "--help")
    assert code == 0
    assert "--picture" in out
    assert os.environ["COLUMNS"] == columns


def test_a_narrow_terminal_without_columns_has_none_afterwards(command, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((3, 3)))
    assert command("train", "--lr", "1")[0] == 2
    assert "COLUMNS" not in os.environ
