"""The pages of the documentation, and the commands that they show."""

import itertools
import re
import shlex
from pathlib import Path

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
