"""Text from outside is one line that only shows something."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlarcade.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Space Invaders – 84×84, 日本語 😀", "Space Invaders – 84×84, 日本語 😀"),
        ("x\x1b[31mred", "x\\x1b[31mred"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b31m", "\\x9b31m"),  # a colour code of one byte
        ("\x1b]8;;http://evil\x07link", "\\x1b]8;;http://evil\\x07link"),
        ("anna\u200b", "anna\\u200b"),  # zero width
        ("\u202egpj.exe", "\\u202egpj.exe"),  # right to left
        ("line\u2028break", "line\\u2028break"),
        ("caf\udce9", "caf\\udce9"),  # of a path that is no UTF-8
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_or_nobody_would_see_becomes_its_escape(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_one_line_that_every_stream_of_utf8_takes(text):
    line = printable(text)
    line.encode("utf-8")
    assert not any(
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in line
    )
    assert len(line.splitlines()) <= 1


@given(st.text(max_size=300), st.integers(10, 100))
def test_long_text_keeps_its_beginning_and_its_end(text, longest):
    line, whole = printable(text, longest), printable(text)
    assert len(line) <= longest
    if len(whole) > longest:
        before, _, after = line.partition("…") if "…" not in whole else ("", "", "")
        assert whole.startswith(before)
        assert whole.endswith(after)
    else:
        assert line == whole
