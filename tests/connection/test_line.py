"""Requests that are sent one behind the other on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from tests.connection.conftest import Scripts, call, read
from tests.support.proxy import FaultProxy
from tests.support.server import paused

from toril.connection.call import Resend
from toril.connection.execute import Executor
from toril.connection.line import Line
from toril.connection.open import open_endpoint
from toril.errors import ServerError


@pytest.fixture
async def executor(proxy: FaultProxy) -> AsyncIterator[Executor]:
    executor = Executor(open_endpoint(proxy.url), Scripts())
    await executor.run(call("append", "", key="other"))
    yield executor
    await executor.aclose()


def begin(executor: Executor, line: Line, *values: str) -> list[asyncio.Task[Any]]:
    return [
        asyncio.create_task(executor.run(call("append", value, resend=Resend.RECORDED), line=line))
        for value in values
    ]


async def sent(proxy: FaultProxy, number: int) -> None:
    while proxy.commands.count(b"EVALSHA") < number:
        await asyncio.sleep(0.001)


async def test_one_goes_out_while_the_one_before_it_is_under_way(
    executor: Executor, proxy: FaultProxy, raw: redis.Redis
) -> None:
    before, connections = proxy.commands.count(b"EVALSHA"), proxy.accepted
    with paused(raw):
        under_way = begin(executor, Line(), "a", "b", "c")
        await sent(proxy, before + 3)
    assert await asyncio.gather(*under_way) == [1, 2, 3]
    assert raw.lrange("k", 0, -1) == ["a", "b", "c"]
    assert proxy.accepted == connections
    assert [len(idle) for idle in executor.pool().idle.values()] == [1]
    assert await executor.run(read("PING")) == b"PONG"


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_lost_reply_changes_no_order(
    executor: Executor, proxy: FaultProxy, raw: redis.Redis, lost: int
) -> None:
    proxy.drop_reply("EVALSHA", lost)
    assert await asyncio.gather(*begin(executor, Line(), "a", "b", "c")) == [1, 2, 3]
    assert raw.lrange("k", 0, -1) == ["a", "b", "c"]


async def test_what_could_not_be_sent_is_sent_in_order(
    executor: Executor, proxy: FaultProxy, raw: redis.Redis
) -> None:
    proxy.refuse()
    line = Line()
    under_way = begin(executor, line, "a", "b")
    await asyncio.sleep(0.01)
    under_way += begin(executor, line, "c")
    proxy.accept()
    assert await asyncio.gather(*under_way) == [1, 2, 3]
    assert raw.lrange("k", 0, -1) == ["a", "b", "c"]


async def test_a_script_is_loaded_in_order(executor: Executor, raw: redis.Redis) -> None:
    raw.script_flush()
    assert await asyncio.gather(*begin(executor, Line(), "a", "b", "c")) == [1, 2, 3]
    assert raw.lrange("k", 0, -1) == ["a", "b", "c"]


async def test_each_has_its_own_outcome(executor: Executor, raw: redis.Redis) -> None:
    raw.set("text", "no list")
    line = Line()
    refused = asyncio.create_task(executor.run(call("append", "a", key="text"), line=line))
    (done,) = begin(executor, line, "b")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await refused
    assert await done == 1


async def test_who_is_cancelled_takes_nobody_along(
    executor: Executor, proxy: FaultProxy, raw: redis.Redis
) -> None:
    before = proxy.commands.count(b"EVALSHA")
    with paused(raw):
        first, second, third = begin(executor, Line(), "a", "b", "c")
        await sent(proxy, before + 3)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
    await asyncio.gather(first, third)
    assert {"a", "c"} <= set(raw.lrange("k", 0, -1))
    assert raw.llen("k") == len(set(raw.lrange("k", 0, -1)))
