"""Tab completes the words of commands, in a real bash."""

import re
import shutil
import subprocess
import sys

import pytest

from rlarcade.__main__ import VERBS, main
from rlarcade.command_line import EPILOGUE, SHELLS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "rlarcade"
    done = subprocess.run(
        [sys.executable, "-m", "rlarcade", "--completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    )
    path.write_text(done.stdout)
    return path


@pytest.fixture
def completed(script, tmp_path):
    """Returns what bash offers for a line that ends with Tab."""
    (tmp_path / "checkpoint-7").mkdir()

    def complete(line):
        code = f"""
            source {script}
            COMP_LINE={line!r}
            COMP_WORDS=({line}{"''" if line.endswith(" ") else ""})
            COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
            function=$(complete -p rlarcade | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            $function rlarcade "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "--norc", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_verbs_are_completed(completed):
    assert set(VERBS) <= set(completed("rlarcade "))
    assert completed("rlarcade ev") == ["evaluate"]
    assert set(completed("rlarcade p")) == {"predict", "promote", "play"}


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("rlarcade train --learning-r", {"--learning-rate"}),
        ("rlarcade train --dev", {"--device"}),
        ("rlarcade compare --max-p", {"--max-pairs"}),
        ("rlarcade promote roll", {"rollback"}),
        ("rlarcade promote pipeline r", {"run"}),
        ("rlarcade rollout sta", {"start", "status"}),
        ("rlarcade evaluate x --device ", {"auto", "cpu", "cuda"}),
        ("rlarcade train --protocol n", {"nature"}),
    ],
)
def test_subcommands_flags_and_choices_are_completed(completed, line, among):
    found = completed(line)
    assert among <= set(found)
    assert all(word.startswith(line.split(" ")[-1]) for word in found)


def test_where_no_word_fits_bash_completes_names_of_files(completed, script):
    assert completed("rlarcade evaluate check") == []
    code = f"source {script}; complete -p rlarcade"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert "-o default" in done.stdout
    assert completed("rlarcade evaluate --json check") == ["checkpoint-7"]


def test_every_flag_of_every_command_is_in_the_script(script, command):
    text = script.read_text()
    for verb in VERBS:
        if verb in ("promote", "rollout"):
            continue
        _, out, _ = command(verb, "--help")
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", out)) - {"--completion"}
        assert len(flags) > 1
        for flag in flags:
            assert f"'{flag}'" in text, (verb, flag)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_command_ends_with_how_to_complete(command, verb):
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert out.splitlines()[-1] == EPILOGUE
    assert "rlarcade --completion bash" in EPILOGUE


def test_the_help_of_all_ends_so_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rlarcade", "--help"])
    assert main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == EPILOGUE


@pytest.mark.parametrize("shells", [[], ["bash", "zsh"], ["powershell"]])
def test_other_shells_are_refused_with_those_that_are_known(capsys, monkeypatch, shells):
    monkeypatch.setattr(sys, "argv", ["rlarcade", "--completion", *shells])
    assert main() == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_of_its_shell(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run(
        [sys.executable, "-m", "rlarcade", "--completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "script").write_text(done.stdout)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
