"""Compression of the bodies of requests and responses."""

import gzip
import zlib
from collections.abc import Iterable

from rlarcade.serving.refusals import Refusal
from rlarcade.text import quoted

LARGEST_BODY = 8 * 2**20
"""Bytes of an uncompressed body; 256 stacks as binary data have 6.9 MiB."""

_GZIP, _ZLIB = 31, 15  # zlib's `wbits`
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_FAST = 1  # the compression level


def uncompressed(body: bytes, content_encoding: str | None) -> bytes:
    """Returns a body without its compression.

    Args:
        body: as it came.
        content_encoding: the request's Content-Encoding: gzip, deflate, or nothing.

    Raises:
        Refusal: 413: more than `LARGEST_BODY` bytes. 415: another encoding. 400: damaged data.
    """
    encoding = (content_encoding or "identity").strip().lower()
    if encoding != "identity":
        body = _inflated(body, encoding)
    if len(body) > LARGEST_BODY:
        raise Refusal(
            413, f"the body has more than {LARGEST_BODY:,} bytes, the most that is read. Send less."
        )
    return body


def _inflated(body: bytes, encoding: str) -> bytes:
    """At most one byte more than the largest body; the rest of a bomb is never unpacked."""
    if encoding not in _WINDOWS:
        raise Refusal(
            415, f"Content-Encoding {quoted(encoding)} is not known. Use gzip, deflate, or none."
        )
    unpacking = zlib.decompressobj(_WINDOWS[encoding])
    try:
        whole = unpacking.decompress(body, LARGEST_BODY + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not {encoding} data ({error}).") from None
    if len(whole) <= LARGEST_BODY and (not unpacking.eof or unpacking.unused_data):
        fault = "goes on after" if unpacking.eof else "ends before"
        raise Refusal(400, f"the body {fault} the end of its {encoding} data.")
    return whole


def compressed(body: bytes, accept_encoding: str | None) -> tuple[bytes, str | None]:
    """Compresses a body as the client asks for.

    Args:
        body: the body.
        accept_encoding: the request's Accept-Encoding, such as "gzip, deflate;q=0.5".

    Returns:
        The body and its Content-Encoding; None if the client accepts neither gzip nor deflate.
    """
    if not accept_encoding:
        return body, None
    accepted = set(_accepted(accept_encoding))
    if "gzip" in accepted:
        return gzip.compress(body, _FAST, mtime=0), "gzip"
    if "deflate" in accepted:  # zlib's format, as RFC 9110 defines it
        return zlib.compress(body, _FAST), "deflate"
    return body, None


def _accepted(accept_encoding: str) -> Iterable[str]:
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if weight.replace(" ", "").rstrip("0.") != "q=":  # q=0 and q=0.000 mean never
            yield name.strip()
