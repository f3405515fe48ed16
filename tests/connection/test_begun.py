"""Conversations that go on by themselves, without a task as long as they wait for replies only."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import redis
from tests.connection.conftest import Scripts, call, read
from tests.support.proxy import FaultProxy
from tests.support.server import paused

from toril.connection.begun import Begun
from toril.connection.call import Resend
from toril.connection.execute import Executor
from toril.connection.line import Line
from toril.connection.open import open_endpoint
from toril.connection.pool import MAX_CONNECTIONS
from toril.connection.steps import Steps
from toril.errors import ServerError

WRONG = read("LPUSH", "k")
here: ContextVar[str] = ContextVar("here", default="nowhere")


@pytest.fixture
async def executor(proxy: FaultProxy) -> AsyncIterator[Executor]:
    executor = Executor(open_endpoint(proxy.url), Scripts())
    yield executor
    await executor.aclose()


class Outcome:
    """What comes of a conversation, and where it was told."""

    def __init__(self) -> None:
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.told_in: list[tuple[bool, str]] = []
        self.handled: list[BaseException | None] = []

    def __call__(self, begun: Begun[Any]) -> None:
        self.told_in.append((asyncio.current_task() is not None, here.get()))
        self.handled.append(sys.exc_info()[1])
        try:
            self._future.set_result(begun.result())
        except Exception as error:  # noqa: BLE001 - for who asks
            self._future.set_exception(error)

    async def get(self) -> Any:
        return await self._future


def begin(executor: Executor, steps: Steps[Any], line: Line | None = None) -> Outcome:
    outcome = Outcome()
    Begun(executor, steps, outcome, line)
    return outcome


def append(executor: Executor, value: str) -> Steps[Any]:
    return executor.converse(call("append", value, resend=Resend.RECORDED))


async def test_it_needs_no_task(executor: Executor, raw: redis.Redis) -> None:
    await executor.drive(append(executor, "a"))
    before = asyncio.all_tasks()
    with paused(raw):
        outcome = begin(executor, append(executor, "b"))
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before
    assert await outcome.get() == 2
    assert outcome.told_in == [(False, "nowhere")]


async def test_it_is_led_on_in_its_context(executor: Executor) -> None:
    await executor.drive(append(executor, "a"))  # the connection is opened in another one
    token = here.set("there")
    outcome = begin(executor, append(executor, "b"))
    here.reset(token)
    await outcome.get()
    assert outcome.told_in == [(False, "there")]


async def test_what_its_end_brings_is_not_in_the_context_of_an_error(executor: Executor) -> None:
    await executor.drive(append(executor, "a"))
    fine = begin(executor, append(executor, "b"))
    assert await fine.get() == 2
    refused = begin(executor, executor.converse(WRONG))
    with pytest.raises(ServerError):
        await refused.get()
    assert (fine.handled, refused.handled) == ([None], [None])


def lose_script(proxy: FaultProxy, raw: redis.Redis) -> None:
    raw.script_flush()


def lose_reply(proxy: FaultProxy, raw: redis.Redis) -> None:
    proxy.drop_reply("EVALSHA")


def lose_connections(proxy: FaultProxy, raw: redis.Redis) -> None:
    raw.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize("lose", [lose_script, lose_reply, lose_connections])
@pytest.mark.parametrize("warm", [True, False])
async def test_a_task_does_what_is_unusual(
    executor: Executor,
    proxy: FaultProxy,
    raw: redis.Redis,
    lose: Callable[[FaultProxy, redis.Redis], None],
    warm: bool,
) -> None:
    if warm:
        await executor.drive(append(executor, "a"))
        raw.delete("k")
    lose(proxy, raw)
    line = Line()
    outcomes = [begin(executor, append(executor, value), line) for value in "bcd"]
    assert [await outcome.get() for outcome in outcomes] == [1, 2, 3]
    assert raw.lrange("k", 0, -1) == ["b", "c", "d"]
    assert await begin(executor, append(executor, "e")).get() == 4


async def test_each_has_a_connection_of_its_own(executor: Executor) -> None:
    for first in (1, 41):
        outcomes = [begin(executor, executor.converse(call("count"))) for _ in range(40)]
        assert {await outcome.get() for outcome in outcomes} == set(range(first, first + 40))
    (idle,) = executor.pool().idle.values()
    assert len(idle) == MAX_CONNECTIONS


async def test_what_cannot_be_sent_ends_it(executor: Executor) -> None:
    await executor.run(read("PING"))
    with pytest.raises(UnicodeEncodeError):
        await begin(executor, executor.converse(read("GET", "\ud800"))).get()
    assert await begin(executor, executor.converse(read("PING"))).get() == b"PONG"
