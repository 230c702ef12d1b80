"""Reads command lines into settings with tyro, and turns its errors into one line.

tyro prints errors as boxes that name Python types. Here each becomes a sentence with the flag, the
values that it takes, the given value and, if there is one, the flag that was probably meant.

The sentences are made from the text in the boxes, because tyro has no public way to get an error
as an object: its `_errors.on_parse_error` is private, and may change in any release.
"""

import difflib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from pydantic import create_model
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from rlarcade.checked import similar
from rlarcade.config import check_device
from rlarcade.errors import ConfigError
from rlarcade.numbers import whole_number
from rlarcade.text import LONGEST_SHOWN, printable, quoted

_WORDS = {"INT": "a number", "PATH": "a path", "STR": "a name"}
"""Words for positional arguments, by tyro's names of their types."""
_KINDS = {"INT": "whole number", "FLOAT": "number", "PATH": "path", "STR": "text"}
_NARROWEST = 60  # columns; in fewer, tyro would split names of flags


SHELLS = ("bash", "zsh", "fish")
EPILOGUE = (
    "Tab completes the words of a command after: "
    "rlarcade --completion bash > ~/.local/share/bash-completion/completions/rlarcade"
)
_OR_FILES = {
    "bash": """
_rlarcade_or_files() {
  _tyro_rlarcade "$@"
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
}
complete -o default -F _rlarcade_or_files rlarcade
""",
    "zsh": "(( $? )) && _files\n",
    "fish": "complete --force-files --command rlarcade\n",
}
"""What tyro's scripts lack: where no word fits, a file does, such as a checkpoint."""


JsonFlag = Annotated[Path | None, tyro.conf.arg(name="json")]
"""`--json FILE`, as the field `json_file`."""


class HelpShown(SystemExit):
    """`--help` was printed, and the command is finished."""


def parse_flags(
    flags: Any,
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    config: Sequence[Any] = (),
) -> Any:
    """Reads a command line into a model, or into one of a union of models.

    Args:
        flags: the model or union.
        argv: the words of the command line.
        prog: the command's name in messages.
        description: of the command, for `--help`.
        config: tyro's configuration.

    Raises:
        ConfigError: an unknown or missing flag, or a value of another type, in one line.
        HelpShown: `--help` was given and printed.
    """

    def read(words: Sequence[str]) -> Any:
        with _NUMBERS, _wide_enough():
            return tyro.cli(
                flags, args=list(words), prog=prog, description=description, config=config
            )

    boxed = io.StringIO()
    try:
        with redirect_stderr(boxed):
            return read(argv)
    except OSError:  # the help cannot be written, e.g. to a closed pipe
        raise HelpShown from None
    except SystemExit as stop:
        if not stop.code:
            with suppress(OSError):
                print(f"\n{EPILOGUE}", flush=True)  # noqa: T201 - as tyro prints the help
            raise HelpShown from None
        refusal = _Refusal(_words(boxed.getvalue()), argv, _help_beside(read, argv))
        raise ConfigError(f"{refusal} {prog} --help lists all.") from stop


def completion_script(shell: str, flags: Mapping[str, Any]) -> str:
    """Returns a script by which a shell completes the words of all commands.

    tyro writes it. It runs no code of rlarcade, which would take a second at each Tab.

    Args:
        shell: `bash`, `zsh` or `fish`.
        flags: the flags of each command, as for `parse_flags`.

    Raises:
        ConfigError: another shell.
    """
    if shell not in SHELLS:
        raise ConfigError(f"--completion is for {', '.join(SHELLS)}, got {quoted(shell)}.")
    commands = [
        Annotated[
            create_model(verb, command=(Annotated[kinds, tyro.conf.OmitArgPrefixes], ...)),
            tyro.conf.subcommand(verb, prefix_name=False),
        ]
        for verb, kinds in flags.items()
    ]
    any_command: Any = Union[tuple(commands)]  # noqa: UP007 - of types that are not known here
    script = io.StringIO()
    with _NUMBERS, redirect_stdout(script), suppress(SystemExit):
        tyro.cli(
            any_command,
            args=["--tyro-write-completion", shell, "-"],
            prog="rlarcade",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    return script.getvalue() + _OR_FILES[shell]


@contextmanager
def _wide_enough() -> Iterator[None]:
    """Makes tyro assume a terminal of at least `_NARROWEST` columns.

    With two columns it would wrap lines forever. With a few more it would split the names of flags,
    which this module looks for in its output.
    """
    if shutil.get_terminal_size().columns >= _NARROWEST:
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_NARROWEST)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _help_beside(read: Callable[[Sequence[str]], Any], argv: Sequence[str]) -> str:
    """Returns the help of the subcommand that the first words name, or an empty text."""
    words = []
    for word in argv:
        if word.startswith("-"):
            break
        words.append(word)
    text = io.StringIO()
    with suppress(SystemExit), redirect_stdout(text), redirect_stderr(io.StringIO()):
        read([*words, "--help"])
    return text.getvalue()


_NUMBERS = ConstructorRegistry()


@_NUMBERS.primitive_rule
def _whole(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Reads 1e6 as a million; Python's `int` cannot."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda instance: isinstance(instance, int),
        str_from_instance=lambda instance: [str(instance)],
    )


def _words(text: str) -> str:
    """Returns the text in tyro's boxes, with " ; " between parts and without most titles.

    If stdout has only ASCII, tyro draws the boxes in ASCII.
    """
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        words = line.strip("│| ")
        if words.startswith(("╭", "╰", "─", "+-", "-" * 10)):
            parts.append([])
            if (title := words.strip("╭─╮╰╯+- ")) in _TITLES:
                parts[-1].append(f"{title}:")
        elif words and not words.startswith("For full helptext"):
            parts[-1].append(words)
    return " ; ".join(" ".join(part) for part in parts if part)


_TITLES = ("Unrecognized options", "Required options", "Missing subcommand")


@dataclass(frozen=True)
class _Refusal:
    """Why tyro refused a command line."""

    text: str
    """tyro's message from `_words`."""
    argv: Sequence[str]
    known: str
    """Help of the subcommand."""

    def __str__(self) -> str:
        ways = (
            self._unknown,
            self._missing,
            self._missing_value,
            self._not_a_choice,
            self._not_a_value,
            self._invalid,
        )
        found = [said for explain in ways if (said := explain())]
        return " ".join(found[:2]) if found else f"{self.text.rstrip('.;: ')}."

    def _unknown(self) -> str | None:
        match = re.search(r"(?:Unrecognized options:\s*)+(.*?)\s*(?:;|$)", self.text)
        if match is None:
            return None
        words = match[1].rstrip(", ").split(", ")  # an empty word (from "$UNSET") is not shown
        choices = re.search(r"Available subcommands: ([\w, -]+)", self.text)
        if choices and not words[0].startswith("-"):
            near = _meant(words[0], choices[1].split(", ")) or f"Choose one of {choices[1]}."
            return f"unknown subcommand {quoted(words[0])}. {near}"
        flags = [word for word in words if word.startswith("-")]
        if not flags:
            return f"unexpected {' '.join(map(quoted, words))}: no further arguments are allowed."
        given = re.split("[= ]", flags[0])[0]
        names = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", self.known)))
        return (
            f"unknown flag {printable(given, LONGEST_SHOWN)}. {_meant_flag(given, names)}".rstrip()
        )

    def _missing(self) -> str | None:
        match = re.search(r"Missing from (rlarcade[\w -]*?):\s+(.*?)(?: ;|$)", self.text)
        if match is None:
            commands = re.search(r"Expected one of \{([\w, -]+)\}", self.text)
            if commands and "Missing subcommand" in self.text:
                return f"a subcommand is missing: one of {commands[1]}."
            return None
        needed = re.findall(r"(--[\w-]+|\b[A-Z]+(?: \[.*?\])?) (.*?)\(required\)", match[2])
        if not needed:
            return f"{match[1]} needs {match[2]}."
        said = [
            f"{_WORDS.get(name, name)} ({re.sub('^(STR|PATH) ', '', meaning.strip(' .'))})"
            for name, meaning in needed
        ]
        return f"{match[1]} needs {' and '.join(said)}."

    def _missing_value(self) -> str | None:
        match = re.search(r"Missing value for argument '([^']+)'\. Expected (\d+)", self.text)
        if match is None:
            return None
        name = match[1].split("/")[0]
        needed = f"{name} takes {'a value' if match[2] == '1' else f'{match[2]} values'}"
        dashed = self._dashed(name)
        if dashed is None:
            return f"{needed}."
        way = f"{name}={dashed}" if name.startswith("-") else f"-- {dashed} after all flags"
        return f"{needed}, and {quoted(dashed)} reads as a flag. If it is meant, write {way}."

    def _dashed(self, name: str) -> str | None:
        """Returns the word that may be meant as the value of an argument, but reads as a flag."""
        words = self.argv
        if name.startswith("-"):
            given = [word.replace("_", "-") for word in words]
            after = given.index(name) + 1 if name in given else len(given)
            words = words[after : after + 1]
        flags = {*re.findall(r"(?<![\w-])--?[a-z][\w-]*", self.known), "--"}
        dashed = (word for word in words if word.startswith("-"))
        return next((word for word in dashed if word.split("=")[0] not in flags), None)

    def _not_a_choice(self) -> str | None:
        match = re.search(
            r"invalid choice '(.*?)' for argument '([^']+)'\. Expected one of \((.*?)\)", self.text
        )
        if match is None:
            return None
        value, name = match[1], match[2]
        choices = sorted(set(re.findall(r"'([^']*)'", match[3])) - {"None"})
        if name == "--device":
            check_device(value)  # its error explains how to choose one of several GPUs
        near = _meant(value, choices)
        return f"{name} is one of {', '.join(choices)}, got {quoted(value)}. {near}".rstrip()

    def _not_a_value(self) -> str | None:
        match = re.search(
            r"Error parsing (--[\w-]+).*Argument helptext: \1(?:/\S+)?,? ?(.*)", self.text
        )
        if match is None:
            return None
        metavars = re.match(
            r"(?:\{None\}\|)?((?:INT|FLOAT|PATH|STR)(?: (?:INT|FLOAT|PATH|STR))*)", match[2]
        )
        kinds = metavars[1].split() if metavars else ["STR"]
        kind = _KINDS[kinds[0]]
        what = f"{len(kinds)} {kind}s" if len(kinds) > 1 else f"a {kind}"
        return f"{match[1]} takes {what}, got {self._given(match[1], len(kinds))}."

    def _given(self, name: str, count: int) -> str:
        """Returns the first `count` values that the command line gives for a flag."""
        values: list[str] = []
        for place, word in enumerate(self.argv):
            flag, equals, value = word.replace("_", "-").partition("=")
            if flag == name:
                values = [value] if equals else []
                for after in () if equals else self.argv[place + 1 :]:
                    if after.startswith("--"):
                        break
                    values.append(after)
        text = " ".join(values[:count])
        return quoted(text)

    def _invalid(self) -> str | None:
        """Explains pydantic's error for a value of the right type."""
        match = re.search(
            r"validation errors? for \w+\s+(\w+)\s+(.*?)\s+\[type=.*?input_value=(.*?), input_type",
            self.text,
        )
        if match is None:
            return None
        wrong = match[2].removeprefix("Value error, ")
        return f"--{match[1].replace('_', '-')}: {wrong[0].lower()}{wrong[1:]}, got {match[3]}."


def _meant_flag(given: str, names: Sequence[str]) -> str:
    """Returns "Did you mean …?" for an unknown flag; empty if no flag is similar."""
    word = given.lstrip("-").removeprefix("no-").replace("-", "_")
    known = [name.removeprefix("--").replace("-", "_") for name in names]
    near = similar(word, known)[:1]
    if not near and len(word) > 2:
        near = [name for name in known if word in name.split("_")][:3]
    flags = [f"--{name.replace('_', '-')}" for name in near]
    return f"Did you mean {' or '.join(flags)}?" if flags else ""


def _meant(word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.lower(), choices, n=1)
    return f"Did you mean {near[0]}?" if near else ""
