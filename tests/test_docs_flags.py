"""The commands of the documentation and their flags exist."""

import contextlib
import functools
import importlib
import io
import re

import pytest
from docs_helpers import PAGES, WITH_COMMANDS, commands

from rlarcade.__main__ import VERBS


@functools.cache
def help_of(*words):
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        importlib.import_module(f"rlarcade.{words[0]}").main([*words[1:], "--help"])
    return told.getvalue()


def subcommands(*words):
    usage = "".join(help_of(*words).partition("\n\n")[0].split())
    return re.findall(r"[a-z]+", (re.findall(r"\[-h\]\{([a-z,]+)\}", usage) or [""])[0])


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_commands_of_a_page_and_their_flags_exist(name):
    for verb, *words in commands(PAGES[name]):
        assert verb in VERBS
        subcommand = []
        while words and words[0] in subcommands(verb, *subcommand):
            subcommand.append(words.pop(0))
        for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
            known = help_of(verb, *subcommand)
            assert re.search(rf"{re.escape(flag)}(?![\w-])", known), (verb, subcommand, flag)
