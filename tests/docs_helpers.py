"""The pages of the documentation, and the commands that they show."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from warm_python import programs

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path.read_text("utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "generated" not in path.parts
}


def blocks(text):
    """The commands of a page's bash blocks, each as a line without a comment."""
    for block in re.findall(r"```bash\n(.+?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                yield line


def commands(text):
    """The words of each command of rlarcade's in a page's bash blocks, from its verb on."""
    for line in blocks(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        words = list(lexer)
        ends = [place for place, word in enumerate(words) if set(word) <= set(";&|")]
        for begin, end in itertools.pairwise([-1, *ends, len(words)]):
            part = [word for word in words[begin + 1 : end] if word not in ("if", "then")]
            if part[:2] == ["python", "-m"] and part[2].startswith("rlarcade."):
                yield [part[2].removeprefix("rlarcade."), *part[3:]]
            elif part[:1] == ["rlarcade"] and not part[1].startswith("-"):
                yield part[1:]


WITH_COMMANDS = [name for name, text in PAGES.items() if any(commands(text))]


# A server on a free port. The script waits until it listens, and ends it.
_SERVE = (
    r"python -m rlarcade.serve\1 --port 0 > server.log & pid=$!; trap 'kill $pid; wait' EXIT; "
    "until grep -q 'listening on' server.log; do kill -0 $pid || exit; sleep 0.1; done; "
    r"SERVER=$(grep -o 'http://[0-9.:]*' server.log)"
)
_SERVED = {
    r"^python -m rlarcade\.serve\b(.*?)( &)?$": _SERVE,
    r"http://127\.0\.0\.1:8000": "$SERVER",
    r"(rlarcade\.rollout .*)": r"\1 --server $SERVER",
}


def run_lines(lines, folder, shorter, *, made_up_games):
    """Runs lines of bash in a folder one after the other, as a reader does.

    Each must end with exit code 0, or 5: a version waits for its approval.

    Args:
        lines: the lines, from one page or several.
        folder: the working directory, and the home.
        shorter: patterns in the lines and what takes their place.
        made_up_games: whether the commands play these in place of Atari's.
    """
    script = ""
    for line in lines:
        command = line
        for pattern, replacement in {**shorter, **_SERVED}.items():
            command = re.sub(pattern, replacement, command)
        failed = f"echo exit code $code of {shlex.quote(command)} >&2; exit 99"
        script += f"{command}\ncode=$?; [ $code = 0 -o $code = 5 ] || {{ {failed}; }}\n"
    ours, python = programs(made_up_games=made_up_games), Path(sys.executable).parent
    path = os.pathsep.join([str(ours), str(python), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    told = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, told
    assert "Traceback" not in done.stderr, told
