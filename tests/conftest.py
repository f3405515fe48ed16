"""Fixtures of all tests: one server for the session, emptied before every test that names it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis
import redis.asyncio

from tests.support.node import Node, install
from tests.support.server import Server

ServerFactory = Callable[..., Server]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of the session. `redis_url` empties it; nobody changes its settings."""
    running = Server.start()
    yield running
    running.stop()


@pytest.fixture
def redis_url(server: Server) -> str:
    """The URL of an empty database."""
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
def raw(server: Server, redis_url: str) -> Iterator[redis.Redis]:
    """A plain synchronous client on that database, for setting up and looking."""
    with server.client() as client:
        yield client


@pytest.fixture
async def raw_async(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """The same, asynchronous."""
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def fresh_server() -> Iterator[ServerFactory]:
    """Make servers of the test's own: `fresh_server(maxmemory="4mb", appendonly="yes")`.

    Underscores in the names of directives become dashes.
    """
    started: list[Server] = []

    def make(**config: str) -> Server:
        running = Server.start({name.replace("_", "-"): value for name, value in config.items()})
        started.append(running)
        return running

    yield make
    for running in started:
        running.stop()


@pytest.fixture(scope="session")
def node() -> Node:
    """Node with the foreign packages; an error, not a skip, if they cannot be had."""
    return install()
