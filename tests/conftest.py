"""Fixtures of all tests: one server for the session, emptied before every test that names it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from tests.support.driver import Driver, PythonDriver, TorilDriver
from tests.support.node import Node, install
from tests.support.server import Server

Library = Callable[[str], Driver]
ServerFactory = Callable[..., Server]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        type=Path,
        metavar="DIR",
        help="write pictures of the dashboard into this folder, as its tests come by",
    )


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


@pytest.fixture(scope="session")
def library(server: Server, node: Node) -> Iterator[Library]:
    """Get a library's driver by name (`node`, `node5`, `node5452`, `python`, `toril`).

    Each is a process that lives as long as the session; a test that used one resets it.
    """
    makers: dict[str, Callable[[], Driver]] = {
        "node": lambda: node.driver(server.url, "bullmq"),
        "node5": lambda: node.driver(server.url, "bullmq5"),
        "node5452": lambda: node.driver(server.url, "bullmq5452"),
        "python": lambda: PythonDriver(server.url),
        "toril": lambda: TorilDriver(server.url),
    }
    running: dict[str, Driver] = {}

    def get(name: str) -> Driver:
        held = running.get(name)
        if held is None or held.process.poll() is not None:
            held = running[name] = makers[name]()
        return held

    yield get
    for driver in running.values():
        driver.stop()
