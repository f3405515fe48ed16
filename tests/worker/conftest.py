"""What the tests of the worker share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from toril.app import App
from toril.hooks.markers import hookimpl
from toril.job_events import JobEvent

Until = Callable[[Callable[[], Any]], Awaitable[Any]]


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until `condition` (plain or asynchronous) holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        await asyncio.sleep(0.005)


class Listener:
    """A plugin that notes every event, in order."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def _note(self, events: Sequence[JobEvent]) -> None:
        self.events += events

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[Any]) -> None:
        self._note(events)

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[Any]) -> None:
        self._note(events)

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[Any]) -> None:
        self._note(events)

    @hookimpl
    def toril_jobs_retried(self, events: Sequence[Any]) -> None:
        self._note(events)

    @hookimpl
    def toril_jobs_stalled(self, events: Sequence[Any]) -> None:
        self._note(events)

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[Any]) -> None:
        self._note(events)


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[App]:
    """An App without plugins."""
    async with App(redis_url, plugins=[]) as made:
        yield made


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def heard(redis_url: str, listener: Listener) -> AsyncIterator[App]:
    """An App whose only plugin is `listener`."""
    async with App(redis_url, plugins=[listener]) as made:
        yield made
