"""The libraries of the interop tests, each in a process that lives as long as the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.driver import Driver, PythonDriver, TorilDriver
from tests.support.node import Node
from tests.support.server import Server

Library = Callable[[str], Driver]


@pytest.fixture(scope="session")
def library(server: Server, node: Node) -> Iterator[Library]:
    """Get a library's driver by name (`node`, `node5`, `node5452`, `python`, `toril`)."""
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


@pytest.fixture(scope="session")
def references() -> dict[str, list[str]]:
    """What Node leaves behind when it plays both roles, by scenario; filled as tests need it."""
    return {}
