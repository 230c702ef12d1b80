"""The example workflow does what it says, step by step; nothing here asks GitHub."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlarcade.errors import ConfigError

ROOT = Path(__file__).parent.parent
EXAMPLE = (ROOT / "docs" / "ci" / "promote.yml").read_text("utf-8")
OWN = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
ENVIRONMENT = {
    "GITHUB_REPOSITORY": "ada/agents",
    "GITHUB_RUN_ID": "77",
    "RLARCADE": "rlarcade",
    "VERSION": "0123456789ab",
}

# Stand in for `python`, `pip` and `gh`: they write down what they are told to do.
STUB = """\
#!{python} -SE
import json, os, pathlib, sys
name, told = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
if name == "python" and told[:1] == ["-c"]:
    exec(told[1])
    sys.exit()
with open(os.environ["TOLD"], "a") as file:
    print(json.dumps([name, *told]), file=file)
if name == "gh" and told[0] == "api":
    print(os.environ["APPROVER"] if "login" in told[-1] else os.environ["ANSWER"])
if name == "gh" and told[0] == "run":
    pathlib.Path("registry.tar").touch()
if "--json" in told:
    outcome = {{"submission": {{"digest": "ab12"}}}}
    pathlib.Path(told[told.index("--json") + 1]).write_text(json.dumps(outcome))
if name == "python":
    print("table of", told[2])
    sys.exit(int(os.environ["CODE"]) if told[2] in ("pipeline", "approve") else 0)
"""


def jobs_of(workflow):
    """Text of each job by name."""
    text = workflow.split("\njobs:\n")[1]
    parts = re.split(r"^  (\w+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def steps_of(job):
    """Shell of each step of a job, in order."""
    found = re.findall(r"^( +(?:- )?)run: (\|\n(?:\1 +.*\n|\n)+|.*\n)", job, re.MULTILINE)
    if not found:  # a block's lines are indented deeper than its key, which may stand after a dash
        return []
    return [textwrap.dedent(text.removeprefix("|\n")) for _, text in found]


@pytest.fixture
def step(tmp_path):
    """Runs a step's shell as GitHub would; returns the outcome, what was told, and its files."""
    for name in ("python", "pip", "gh"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(STUB.format(python=sys.executable))
        stub.chmod(0o755)

    def run(script, code=0, answer="", approver="ada"):
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        files = {name: tmp_path / name for name in ("TOLD", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        outcome = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=work,
            env={
                "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                **ENVIRONMENT,
                **{name: str(file) for name, file in files.items()},
                **{"CODE": str(code), "ANSWER": answer, "APPROVER": approver},
            },
            check=False,
            capture_output=True,
            text=True,
        )
        outcome.told = [json.loads(line) for line in files["TOLD"].read_text().splitlines()]
        outcome.outputs = dict(
            line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines()
        )
        outcome.summary = files["GITHUB_STEP_SUMMARY"].read_text()
        return outcome

    return run


@pytest.mark.parametrize("workflow", [EXAMPLE, OWN], ids=["example", "own"])
def test_workflows_are_laid_out_as_github_reads_them(workflow):
    assert "\t" not in workflow
    lines = [line for line in workflow.splitlines() if line.strip() and line.strip()[0] != "#"]
    top = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert {"name", "on", "permissions", "jobs"} <= set(top)
    assert len(set(top)) == len(top)
    jobs = jobs_of(workflow)
    for job in jobs.values():
        assert "    runs-on: ubuntu-latest\n" in job
        assert job.count("    steps:\n") == 1
        needed = re.findall(r"^    needs: (\w+)$", job, re.MULTILINE)
        assert set(needed) <= set(jobs)
        assert len(re.findall(r"^ +(?:- )?run: ", job, re.MULTILINE)) == len(steps_of(job))
        for script in steps_of(job):
            # What somebody else wrote reaches a shell through its environment, never as its text.
            assert "${{" not in script
            subprocess.run(["bash", "-n", "-c", script], check=True)


def test_the_projects_own_workflow_runs_what_decides_whether_a_change_lands():
    (job,) = jobs_of(OWN).values()
    assert steps_of(job) == [".ci/run\n"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert 'python-version: "3.11"' in job


def test_every_command_of_the_example_is_one_that_rlarcade_has(
    step, command, monkeypatch, tmp_path
):
    class Reached:
        def open(*args, **settings):
            raise ConfigError("it was understood.")

        import_ = open

    for module in ("subcommand", "transfer"):
        monkeypatch.setattr(f"rlarcade.promote.{module}.Registry", Reached)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "candidate").symlink_to(ROOT / "tests" / "data" / "space-invaders-early")
    scripts = [script for job in jobs_of(EXAMPLE).values() for script in steps_of(job)]
    told = [one for script in scripts for one in step(script, code=0, answer="9").told]
    commands = [one[1:] for one in told if one[0] == "python"]
    assert all(one[:2] == ["-m", "rlarcade.promote"] for one in commands)
    names = [" ".join(one[2:4]) if one[2] in ("pipeline", "alias") else one[2] for one in commands]
    assert names == [
        *("import", "verify", "pipeline run", "export"),
        *("import", "approve", "alias list", "export"),
    ]
    for one in commands:
        code, _, said = command("promote", *one[2:])
        assert (code, said) == (2, "rlarcade: error: it was understood.\n"), one


GATE = steps_of(jobs_of(EXAMPLE)["gate"])


@pytest.mark.parametrize(
    ("code", "state"),
    [(0, "champion"), (3, "rejected"), (4, "inconclusive"), (5, "awaiting_approval")],
)
def test_a_verdict_is_no_failure_of_the_gate_and_its_table_is_the_summary(step, code, state):
    outcome = step(GATE[2], code)
    assert outcome.returncode == 0
    assert outcome.outputs == {"state": state} | ({"version": "ab12"} if code == 5 else {})
    assert outcome.summary == f"### {state}\n```\ntable of pipeline\n```\n"
    for job in ("rejected", "inconclusive", "approve"):
        starts = f"if: needs.gate.outputs.state == '{state}'\n" in jobs_of(EXAMPLE)[job]
        assert starts == (job == {"awaiting_approval": "approve"}.get(state, state))


@pytest.mark.parametrize("code", [1, 2, 130])
def test_an_error_of_the_gate_fails_the_run_and_keeps_no_registry(step, code):
    outcome = step(GATE[2], code)
    assert (outcome.returncode, outcome.outputs) == (code, {})
    assert "always()" not in EXAMPLE  # so that no later step keeps one


def test_rejected_and_inconclusive_look_different(step):
    (rejected,), (inconclusive,) = (
        steps_of(jobs_of(EXAMPLE)[name]) for name in ("rejected", "inconclusive")
    )
    lost, unknown = step(rejected), step(inconclusive)
    assert (lost.returncode, unknown.returncode) == (1, 0)
    assert lost.stdout.startswith("::error title=Rejected::")
    assert unknown.stdout.startswith("::warning title=Inconclusive::")


def test_the_registry_of_the_last_run_is_taken_up_and_verified_and_a_first_run_has_none(step):
    taken = step(GATE[1], answer="9").told
    assert taken[1] == ["gh", "run", "download", "9", "--name", "registry"]
    assert [one[3] for one in taken[2:]] == ["import", "verify"]
    first = step(GATE[1], answer="")
    assert (first.returncode, len(first.told)) == (0, 1)
    assert first.stdout.startswith("::notice title=New registry::")


def test_who_approved_on_github_approves_and_nobody_else_does(step):
    promote = steps_of(jobs_of(EXAMPLE)["approve"])[2]
    told = step(promote, approver="ada", answer="plays well; ship it").told
    assert told[2][3:9] == [
        *("approve", "0123456789ab", "--by", "ada"),
        *("--note", "plays well; ship it (run 77)"),
    ]
    nobody = step(promote, approver="", answer="")
    assert nobody.returncode == 1
    assert nobody.stdout.startswith("::error title=Nobody approved::")
    assert [one[0] for one in nobody.told] == ["gh", "gh"]


def test_the_page_beside_the_example_tells_its_exit_codes():
    page = (ROOT / "docs" / "ci" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (\w+)", page, re.MULTILINE)
    assert dict(rows) == {"5": "passed", "3": "rejected", "4": "inconclusive", "0": "it"}
