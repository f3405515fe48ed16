"""One browser and one bull-board for all tests; the queues are new for each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.dashboard.board import Board
from tests.support.browser import browser as new_browser
from tests.support.node import Node
from tests.support.server import Server
from toril import App, SyncApp


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    """Debian's browser; an error, not a skip, if it cannot be had."""
    with new_browser() as running:
        yield running


@pytest.fixture(scope="session")
def board_url(server: Server, node: Node) -> Iterator[str]:
    driver = node.driver(server.url)
    yield asyncio.run(driver.call("board", queues=["mail", "steps"]))
    driver.stop()


@pytest.fixture
def board(
    chromium: Chrome, board_url: str, redis_url: str, pytestconfig: pytest.Config
) -> Iterator[Board]:
    """bull-board on the queues `mail` and `steps` of the empty database."""
    yield Board(chromium, board_url, pytestconfig.getoption("screenshots"))
    chromium.get("about:blank")  # it asks no more


@pytest.fixture
def app(redis_url: str) -> Iterator[SyncApp]:
    with App(redis_url, plugins=[]).sync as made:
        yield made
