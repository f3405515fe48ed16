"""What pytest loads at every start. It brings in nothing but names of fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from toril.app_options import AppOptions
    from toril.testing.checks import EnqueuedCheck, LeakCheck
    from toril.testing.clock import ServerClock
    from toril.testing.recorder import HookRecorder, Removed
    from toril.testing.server import EmbeddedServer


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, and offer what is asynchronous if something runs it."""
    config.addinivalue_line(
        "markers",
        "toril(*settings, **options): what the App of the fixture toril_app is made with: "
        "settings, and options such as plugins=, config=, block=, prefix=",
    )
    if config.pluginmanager.hasplugin("asyncio"):
        from toril.testing import fixtures

        config.pluginmanager.register(fixtures, "toril-asyncio")


@pytest.fixture(scope="session")
def toril_server() -> Iterator[EmbeddedServer]:
    """A server of this run's own: `url`, and `client`, a plain client to set up and to look."""
    from toril.testing.server import EmbeddedServer

    server = EmbeddedServer.start()
    yield server
    server.stop()


@pytest.fixture
def clock() -> ServerClock:
    """The clock of the test, which stands still: `clock.advance("30d")`."""
    from toril.testing.clock import ServerClock

    return ServerClock()


@pytest.fixture
def toril_url(toril_server: EmbeddedServer, clock: ServerClock) -> str:
    """The URL of an empty server, whose expiring keys grow older with `clock`."""
    toril_server.empty()
    clock.follow(toril_server.age)
    return toril_server.url


@pytest.fixture
def toril_options() -> AppOptions:
    """The options of `toril_app`. Override it in a `conftest.py` or a class of tests.

    What the mark `toril(…)` of a test says goes before.
    """
    return {}


@pytest.fixture
def record_hooks() -> HookRecorder:
    """Everything that the event hooks of `toril_app` said, typed, by hook."""
    from toril.testing.recorder import HookRecorder

    return HookRecorder()


@pytest.fixture
def removed(record_hooks: HookRecorder) -> Removed:
    """The jobs that left the server: `assert removed.by("failed", "30d")`."""
    from toril.testing.recorder import Removed

    return Removed(record_hooks.removed)


@pytest.fixture
def assert_enqueued(toril_url: str) -> Iterator[EnqueuedCheck]:
    """Asserts that a job was added: `assert_enqueued("emails", "welcome", data={"to": "ada"})`."""
    from toril.testing.checks import EnqueuedCheck

    check = EnqueuedCheck(toril_url)
    yield check
    check.close()


@pytest.fixture
def assert_no_leaks(
    toril_url: str,  # noqa: ARG001 - what is looked at has been emptied before
    toril_server: EmbeddedServer,
    record_hooks: HookRecorder,
) -> Iterator[LeakCheck]:
    """Asserts that nothing is left of the jobs that were removed: `assert_no_leaks()`."""
    from toril.testing.checks import LeakCheck

    check = LeakCheck(toril_server, record_hooks)
    yield check
    check.close()
