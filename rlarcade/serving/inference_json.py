"""JSON of requests that may come from strangers: read within bounds, checked part by part."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from rlarcade.serving.refusals import Refusal
from rlarcade.text import quoted

LARGEST_JSON = 4 * 2**20
"""Bytes of the JSON in a body: about 40 stacks of random pixels, more of real ones."""
_MOST_PARTS = 100_000
"""Lists, objects and entries of objects in the JSON, each of which takes much more memory than its
text. 256 stacks as nested lists have 87,300."""


def read_json(text: bytes) -> dict[str, Any]:
    """Reads a JSON object in which no key stands twice.

    Raises:
        Refusal: 413: more than `LARGEST_JSON` bytes, or too many lists and entries. 400: it is no
            JSON object, or a key is duplicated.
    """
    if len(text) > LARGEST_JSON:
        raise Refusal(
            413,
            f"the JSON has {len(text):,} bytes, and at most {LARGEST_JSON:,} are read. Send the "
            "tensor as binary data, or fewer stacks in a request.",
        )
    parts = sum(map(text.count, (b"[", b"{", b":")))
    if parts > _MOST_PARTS:
        raise Refusal(
            413,
            f"the JSON has {parts:,} lists, objects and entries; at most {_MOST_PARTS:,} are read.",
        )
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON ({error}).") from None
    if not isinstance(document, dict):
        raise Refusal(400, 'the body is no JSON object such as {"inputs": [...]}.')
    # Every entry has one colon. More of them stand in text, or belong to a key that stands twice.
    if text.count(b":") != _entries(document):
        _refuse_duplicates(text)
    return document


def _entries(document: dict[str, Any]) -> int:
    """Counts the entries of the objects that a request has: its own, of its lists, parameters."""
    number = len(document)
    for value in document.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                number += len(part) + sum(len(v) for v in part.values() if isinstance(v, dict))
    return number


def _refuse_duplicates(text: bytes) -> None:
    def unique(entries: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in entries:
            if key in seen:
                raise Refusal(400, f"the key {quoted(key)} stands twice in a JSON object.")
            seen.add(key)

    json.loads(text.decode(), object_pairs_hook=unique)


def parameters_of(tensor: dict[str, Any], known: tuple[str, ...], where: str) -> dict[str, Any]:
    """Returns the parameters of a tensor; it need not have any."""
    given = tensor.get("parameters")
    parameters = object_at({} if given is None else given, f"{where}.parameters")
    refuse_unknown(parameters, known, f"{where}.parameters")
    return parameters


def switch_of(parameters: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    """Returns a parameter that is true or false."""
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise Refusal(400, f"{where}.{name} is {in_words(value)}. Give true or false.")
    return value


def object_at(given: object, where: str) -> dict[str, Any]:
    """Returns a value that must be a JSON object."""
    if not isinstance(given, dict):
        raise Refusal(400, f"{where} is {in_words(given)}, not a JSON object.")
    return given


def refuse_unknown(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuses an object that has other keys than the known ones."""
    for key in given:
        if key not in known:
            raise Refusal(
                400, f"{where} has an unknown key {quoted(key)}. Known: {', '.join(known)}."
            )


def in_words(value: object) -> str:
    """Returns a value of any size in a few words."""
    if value is None:
        return "null or missing"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else quoted(value)
