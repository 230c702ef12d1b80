"""Compressed bytes in documents. They stay compressed in memory until they are used.

A whole game is a few hundred characters of JSON, and a hundred kilobytes uncompressed. A document
of ten megabytes could expand to gigabytes, and most of these bytes are never used.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

LONGEST_GAME = 27_000
"""Agent steps of the longest game: the largest frame cap of any protocol allows this many."""
_MOST_BYTES = 4 * LONGEST_GAME


class PackedBytes:
    """Bytes of a game. In JSON they are the base64 text of a zlib stream.

    Two objects are equal if their uncompressed bytes are equal. `bytes(packed)` decompresses at
    each call; `len(packed)` does not.
    """

    __slots__ = ("_data", "_length", "_packed")

    def __init__(self, data: bytes, *, packed: bool = False) -> None:
        """Takes uncompressed bytes or, with `packed`, their zlib stream.

        Raises:
            ValueError: the stream is invalid, or has more bytes than a game can have.
        """
        self._data, self._packed = data, packed
        self._length = len(_unzipped(data)) if packed else len(data)
        if self._length > _MOST_BYTES:
            raise ValueError("the bytes are too many for a game")

    def __bytes__(self) -> bytes:
        return _unzipped(self._data) if self._packed else self._data

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(bytes(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedBytes):
            return len(self) == len(other) and bytes(self) == bytes(other)
        return isinstance(other, bytes) and bytes(self) == other

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __repr__(self) -> str:
        return f"<{self._length} bytes>"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _read,
            serialization=core_schema.plain_serializer_function_ser_schema(_written, info_arg=True),
        )


def _read(value: object) -> PackedBytes:
    if isinstance(value, PackedBytes):
        return value
    if isinstance(value, bytes):
        return PackedBytes(value)
    if not isinstance(value, str):
        raise ValueError(f"packed bytes are base64 text, not {type(value).__name__}")
    try:
        stream = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not packed bytes ({error})") from error
    return PackedBytes(stream, packed=True)


def _written(value: PackedBytes, info: core_schema.SerializationInfo) -> Any:
    data = bytes(value)
    return base64.b64encode(zlib.compress(data, 9)).decode() if info.mode_is_json() else data


def _unzipped(stream: bytes) -> bytes:
    unzip = zlib.decompressobj()
    try:
        data = unzip.decompress(stream, _MOST_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"not packed bytes ({error})") from error
    if not unzip.eof:
        raise ValueError("the packed bytes are cut off, or too many for a game")
    return data
