"""One asynchronous connection: its time limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.support.proxy import FaultProxy

from toril.connection.open import open_endpoint
from toril.connection.route import route_for
from toril.connection.sockets import open_async_connection
from toril.connection.wire import Wire

PING = (("PING",),)


@pytest.fixture
async def wire(proxy: FaultProxy) -> AsyncIterator[Wire]:
    endpoint = open_endpoint(proxy.url)
    wire = await open_async_connection(route_for(endpoint).server(endpoint.addresses[0]))
    yield wire
    await wire.disconnect()


async def test_one_timer_serves_many_exchanges(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    call_at = Mock(side_effect=loop.call_at)
    monkeypatch.setattr(loop, "call_at", call_at)
    for _ in range(20):
        assert await wire.exchange(PING, 60) == [b"PONG"]
    assert call_at.call_count == 1


async def test_each_exchange_has_the_whole_time(wire: Wire, proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    await wire.exchange(PING, 0.05)
    await asyncio.sleep(0.03)
    proxy.blackhole()
    began = loop.time()
    with pytest.raises(TimeoutError):
        await wire.exchange(PING, 0.05)
    assert loop.time() - began >= 0.05


async def test_a_shorter_limit_counts_at_once(wire: Wire, proxy: FaultProxy) -> None:
    await wire.exchange(PING, 60)
    proxy.blackhole()
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await wire.exchange(PING, 0.01)


async def test_an_exchange_under_way_is_hurried(wire: Wire, proxy: FaultProxy) -> None:
    proxy.blackhole()
    task = asyncio.create_task(wire.exchange(PING, 60))
    await asyncio.sleep(0)
    wire.hurry(0.01)
    wire.hurry(30)
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await task


async def test_a_connection_that_was_closed_meanwhile_is_refused(wire: Wire) -> None:
    wire._transport.abort()
    with pytest.raises(RedisConnectionError):
        Wire(wire._connection)
