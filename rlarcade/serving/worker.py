"""A worker process: it computes action values of the versions that the server sends it.

    python -m rlarcade.serving.worker DESCRIPTOR [LOADER]

The server and the worker talk over a socket pair, whose end here is DESCRIPTOR: a message and its
answer, one at a time. A message is a header, as `HEADER` says, and bytes. Checkpoints come as
manifest and safetensors, observations and values as plain numbers: nothing is pickled.

Of 64 observations, which take 18 ms to compute, the socket takes 0.3 ms. So shared memory would
gain nothing.

The worker ends with the server, even if the server was killed: its standard input closes then.
"""

import os
import socket
import struct
import sys
import threading
from collections.abc import Sequence

import numpy as np

from rlarcade.checkpoint import Package
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.serving.computing import LoadedAgents, failure

HEADER = struct.Struct("<cqQ")
"""Kind of the message, number of the version, and the bytes that follow."""
LOAD, UNLOAD, COMPUTE = b"L", b"U", b"C"
"""Kinds of messages. LOAD: bytes of the manifest as `MANIFEST_BYTES`, the manifest, the weights.
COMPUTE: uint8 (N, 4, 84, 84)."""
DONE, FAILED = b"D", b"F"
"""Kinds of answers. DONE: to COMPUTE, float32 (N, A). FAILED: what went wrong, in UTF-8. The first
message of all is a DONE: the worker is ready."""
MANIFEST_BYTES = struct.Struct("<I")


def main(argv: Sequence[str]) -> int:
    """Answers messages until the server closes the socket."""
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    agents = LoadedAgents(argv[1] if len(argv) > 1 else None)
    with socket.socket(fileno=int(argv[0])) as channel:
        _send(channel, DONE, b"")
        while (head := _received(channel, HEADER.size)) is not None:
            kind, version, size = HEADER.unpack(head)
            body = _received(channel, size)
            if body is None:
                break
            try:
                answer = _answered(kind, version, body, agents)
            except Exception as error:  # any error counts as the version's failure
                _send(channel, FAILED, failure(error).encode("utf-8", "replace"))
            else:
                _send(channel, DONE, answer)
    return 0


def _end_with_the_server() -> None:
    """Waits until the server has gone; then ends the process, whatever it computes."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def _answered(kind: bytes, version: int, body: bytearray, agents: LoadedAgents) -> bytes:
    if kind == COMPUTE:
        observations = np.frombuffer(body, dtype=np.uint8).reshape(-1, STACK, SCREEN, SCREEN)
        return agents.values(version, observations).tobytes()
    if kind == UNLOAD:
        agents.unload(version)
    elif kind == LOAD:
        start = MANIFEST_BYTES.size
        end = start + MANIFEST_BYTES.unpack_from(body)[0]
        agents.load(version, Package(bytes(body[start:end]), bytes(body[end:])))
    return b""


def _send(channel: socket.socket, kind: bytes, body: bytes) -> None:
    channel.sendall(HEADER.pack(kind, 0, len(body)) + body)


def _received(channel: socket.socket, size: int) -> bytearray | None:
    """Returns so many bytes; None: the server has closed the socket."""
    data = bytearray(size)
    free = memoryview(data)
    while free:
        count = channel.recv_into(free)
        if count == 0:
            return None
        free = free[count:]
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
