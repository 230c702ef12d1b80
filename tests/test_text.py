"""Text from outside is one line that only shows something."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlarcade.text import error_line, printable, quoted, shown_path


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


class Silent:
    def __repr__(self):
        raise OSError("no words")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("pong", "'pong'"),
        (None, "None"),
        ("a\nb\x1b", "'a\\nb\\x1b'"),
        ("x" * 5_000 + "end", "'" + "x" * 39 + "…" + "x" * 35 + "end'"),
        ([1] * 1_000, repr([1] * 1_000)[:40] + "…" + repr([1] * 1_000)[-39:]),
        (Silent(), "a Silent"),
    ],
)
def test_a_value_is_quoted_as_python_writes_it_but_never_at_length(value, shown):
    assert quoted(value) == shown
    assert len(shown) <= 80


def test_a_path_is_shown_whole_unless_it_is_longer_than_people_use():
    assert shown_path("a/" * 200) == "a/" * 200
    assert shown_path("a/" * 201) == "a/" * 100 + "…" + ("a/" * 201)[-199:]


def test_an_error_is_one_line_and_no_name_in_it_takes_a_page():
    assert error_line("no\nsuch   file") == "no such file"
    line = error_line(f"cannot read {'x' * 5_000}/y: No such file.")
    assert line.startswith("cannot read xxx")
    assert line.endswith("xxx/y: No such file.")
    assert len(line) < 450
    assert len(error_line("many words " * 1_000)) == 2_000


def test_a_number_that_python_does_not_write_is_named_in_words():
    assert quoted(10**5_000) == "a number of thousands of digits"
