"""Clients that are slow, or send too much before a request is whole, cost the server nothing."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn
from serving_helpers import run
from serving_house import pong_online

from rlarcade.serving import http_protocol, requests
from rlarcade.serving.app import make_app
from rlarcade.serving.requests import Online


@contextlib.asynccontextmanager
async def listening():
    """A real server on a socket; yields its address."""
    service = await pong_online()
    config = uvicorn.Config(
        make_app(Online(service, None, None, None)),
        http=http_protocol.PatientProtocol,
        log_level="critical",
    )
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield bound.getsockname()
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def connected(address):
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def healthy(address):
    """Whether another client is answered now."""
    async with connected(address) as (reader, writer):
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return (await reader.read()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("head", [b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Slow: a"])
def test_a_request_whose_head_does_not_come_is_given_up(monkeypatch, head):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)

    async def check():
        async with listening() as address, connected(address) as (reader, writer):
            writer.write(head)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert await healthy(address)

    run(check())


def test_a_second_request_on_a_connection_may_not_be_slow_either(monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)

    async def check():
        async with listening() as address, connected(address) as (reader, writer):
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.05)
            for letter in b"GET /v2":
                writer.write(bytes([letter]))
                await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1" not in await reader.read()
            assert await healthy(address)

    run(check())


def test_a_head_that_never_ends_takes_no_memory():
    async def check():
        async with listening() as address, connected(address) as (reader, writer):
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET /v2 HTTP/1.1\r\n")
                for number in range(100):
                    writer.write(b"X-%d: " % number + 10_000 * b"a" + b"\r\n")
                    await writer.drain()
                assert not (await reader.read()).startswith(b"HTTP/1.1 200")
            assert await healthy(address)

    run(check())


BODIES = ["/v2/models/pong/infer", "/v1/sessions", "/v1/watch", "/v1/rollouts", "/v1/approvals/1"]


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_does_not_come_is_refused_and_others_are_answered_meanwhile(monkeypatch, path):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.3)

    async def check():
        async with listening() as address, connected(address) as (reader, writer):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{"
            writer.write(head.encode())
            assert await healthy(address)
            answer = await reader.readline()
            assert answer.startswith(b"HTTP/1.1 408")

    run(check())


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_too_large_is_refused_while_it_comes(monkeypatch, path):
    monkeypatch.setattr(requests, "LARGEST_BODY", 1000)
    monkeypatch.setattr(requests, "LARGEST_DOCUMENT", 1000)

    async def check():
        async with listening() as address, connected(address) as (reader, writer):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
            writer.write(head.encode() + bytes(5000))
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")

    run(check())


def test_what_is_no_http_is_refused_with_400():
    async def check():
        async with listening() as address, connected(address) as (reader, writer):
            writer.write(b"\x16\x03\x01 not http at all\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 400")

    run(check())
