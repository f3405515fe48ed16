"""A worker's events on their way to the plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.hooks.conftest import Load

from toril.hooks.buffer import EventBuffer
from toril.hooks.dispatch import Dispatcher
from toril.plugins import JobSaved, JobSnapshot, hookimpl


def reply(*numbers: int) -> list[JobSaved]:
    return [JobSaved(JobSnapshot("mail", str(number), {})) for number in numbers]


class Gate:
    """Takes events only while it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.told: list[list[str]] = []

    @hookimpl
    async def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        await self.open.wait()
        self.told.append([event.job.id for event in events])


@pytest.fixture
async def gate() -> Gate:
    return Gate()


async def test_nothing_waits_and_every_reply_is_one_call(gate: Gate, load: Load) -> None:
    buffer = EventBuffer(Dispatcher(load([gate])))
    gate.open.set()
    buffer.put(reply(1, 2))
    buffer.put([])
    buffer.put(reply(3))
    assert buffer.pending == 3
    assert await buffer.drain(1) == 0
    assert gate.told == [["1", "2"], ["3"]]
    assert buffer.pending == 0


async def test_a_full_buffer_makes_its_filler_wait_and_drops_nothing(
    gate: Gate, load: Load
) -> None:
    buffer = EventBuffer(Dispatcher(load([gate])), capacity=3)
    buffer.put(reply(1, 2))
    full = [buffer.full]
    await buffer.room()
    buffer.put(reply(3, 4))
    full.append(buffer.full)
    assert full == [False, True]
    waiting = asyncio.create_task(buffer.room())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.open.set()
    await asyncio.wait_for(waiting, 1)
    assert not buffer.full
    assert await buffer.drain(1) == 0
    assert gate.told == [["1", "2"], ["3", "4"]]


async def test_it_goes_on_after_it_was_empty(gate: Gate, load: Load) -> None:
    buffer = EventBuffer(Dispatcher(load([gate])))
    gate.open.set()
    for number in range(3):
        buffer.put(reply(number))
        assert await buffer.drain(1) == 0
    assert gate.told == [["0"], ["1"], ["2"]]


async def test_what_is_not_taken_within_the_grace_time_is_counted_and_logged(
    gate: Gate, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = EventBuffer(Dispatcher(load([gate])))
    buffer.put(reply(1, 2))
    buffer.put(reply(3))
    assert await buffer.drain(0.01) == 3
    assert "3 events were not delivered" in caplog.text
    assert buffer.pending == 0
    assert not buffer.full
    gate.open.set()
    buffer.put(reply(4))
    assert await buffer.drain(1) == 0
    assert gate.told == [["4"]]
