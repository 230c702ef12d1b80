"""JSON from outside is read as `json.loads` reads it, but never by calls without end."""

import gc
import json
import random

import pytest

from rlarcade.json_text import MOST_LEVELS, parse_json

PIECES = ["x", "[", "]", "{", "}", '"', "\\", "\\\\", ":", ",", "\n", "\ud800", "é"]


def document(dice, levels):
    kind = dice.choice([list, dict, str, int] if levels else [str, int])
    if kind is str:
        return "".join(dice.choices(PIECES, k=dice.randrange(9)))
    if kind is int:
        return dice.choice([1.5, -7, None, True, 10**30])
    parts = [document(dice, levels - 1) for _ in range(dice.randrange(4))]
    return parts if kind is list else {f"{part}"[:9]: part for part in parts}


def test_documents_are_read_as_the_standard_library_reads_them():
    dice = random.Random(1)
    for _ in range(300):
        # 150 texts with brackets make sure that brackets are counted at all
        text = json.dumps([document(dice, 5), ["[{" for _ in range(150)]])
        assert parse_json(text) == json.loads(text)
        assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[{"[":', "}]")])
def test_the_deepest_document_that_is_read_has_one_hundred_levels(opened, closed):
    times = MOST_LEVELS // len(closed)
    fits = opened * times + "1" + closed * times
    assert parse_json(fits) == json.loads(fits)
    with pytest.raises(ValueError, match="nested too deeply, with more than 100 levels"):
        parse_json(f"[{fits}]")


def test_an_object_that_is_freed_while_a_deep_document_is_refused_still_ends_well():
    class Ends:
        ended = 0

        def __del__(self):
            for _ in json.loads("[[[[]]]]"):  # some work that needs a few calls
                Ends.ended += 1

    for _ in range(200):
        made = Ends()
        made.itself = made  # freed by the collector only, which each new list may start
        del made
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json("[" * 3_000)
    gc.collect()
    assert Ends.ended == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[1,]", "Expecting value|Illegal trailing comma"),
        (b'"\xff"', "can't decode"),
        ('"' + "[" * 200, "Unterminated string"),
        ("[" * 90 + '"' + "a" * 3_000_000, "Unterminated string"),
        ("[]," * 200 + '"' + "a" * 3_000_000, "Extra data"),
    ],
)
def test_what_is_no_json_is_a_value_error_at_once(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


@pytest.mark.parametrize("value", [None, 7, 1.5, ["[]"]])
def test_what_is_no_text_is_a_type_error(value):
    with pytest.raises(TypeError, match=f"JSON is text or bytes, not {type(value).__name__}"):
        parse_json(value)


def test_a_byte_order_mark_is_no_part_of_a_document():
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
