"""Waits: what ends them, what they lose and what not, and that they come back by themselves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from tests.conftest import ServerFactory
from tests.connection.conftest import Scripts, limited_user
from tests.support.proxy import FaultProxy
from tests.support.server import free_port

from toril.connection import blocking
from toril.connection.blocking import (
    Marker,
    MarkerWait,
    StreamRead,
    SyncStreamRead,
    worker_client_name,
)
from toril.connection.execute import Executor, SyncExecutor
from toril.connection.open import open_endpoint
from toril.errors import ConfigurationError

Q = "bull:mail"


@pytest.fixture
async def executor(redis_url: str) -> AsyncIterator[Executor]:
    one = Executor(open_endpoint(redis_url), Scripts())
    yield one
    await one.aclose()


@pytest.fixture
async def marker(executor: Executor) -> AsyncIterator[MarkerWait]:
    one = MarkerWait(executor, Q, client_name=worker_client_name("bull", "mail", "anna"))
    yield one
    await one.aclose()


@pytest.fixture
async def through_proxy(proxy: FaultProxy) -> AsyncIterator[MarkerWait]:
    executor = Executor(open_endpoint(proxy.url), Scripts())
    one = MarkerWait(executor, Q)
    yield one
    await one.aclose()
    await executor.aclose()


async def blocked(raw: redis.Redis) -> None:
    """Until a client waits on the server."""
    while raw.info("clients")["blocked_clients"] == 0:
        await asyncio.sleep(0.001)


async def test_marker_that_is_there(marker: MarkerWait, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5) == Marker("0", 0.0)
    assert raw.zcard(f"{Q}:marker") == 0


async def test_marker_that_comes(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(5))
    await blocked(raw)
    raw.zadd(f"{Q}:marker", {"1": 1790000060000})
    assert await waiting == Marker("1", 1790000060000.0)


async def test_no_marker_in_time(marker: MarkerWait) -> None:
    start = time.monotonic()
    assert await marker.wait(0.03) is None
    assert 0.03 <= time.monotonic() - start < 1


async def test_marker_is_put_back(marker: MarkerWait, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:marker", {"1": 1790000060000})
    taken = await marker.wait(5)
    assert taken is not None
    await marker.put_back(taken)
    assert raw.zrange(f"{Q}:marker", 0, -1, withscores=True) == [("1", 1790000060000.0)]


async def test_name_that_dashboards_look_for(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(5))
    await blocked(raw)
    assert "bull:bWFpbA==:w:anna" in {client["name"] for client in raw.client_list()}
    await marker.wake()
    await waiting


async def test_wake_at_any_moment_ends_the_wait(marker: MarkerWait, raw: redis.Redis) -> None:
    for _ in range(20):
        waiting = asyncio.create_task(marker.wait(60))
        await asyncio.sleep(0)
        await marker.wake()
        assert await asyncio.wait_for(waiting, 5) is None
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5) == Marker("0", 0.0)


async def test_wake_of_a_blocked_wait(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(60))
    await blocked(raw)
    before = raw.info("stats")["total_connections_received"]
    await marker.wake()
    assert await asyncio.wait_for(waiting, 5) is None
    again = asyncio.create_task(marker.wait(60))
    await blocked(raw)
    await marker.wake()
    await asyncio.wait_for(again, 5)
    assert raw.info("stats")["total_connections_received"] == before


async def test_wake_before_the_wait_ends_it(marker: MarkerWait) -> None:
    await marker.wake()
    assert await asyncio.wait_for(marker.wait(60), 5) is None


async def test_marker_that_comes_while_being_woken_is_not_lost(
    marker: MarkerWait, raw: redis.Redis
) -> None:
    """Whatever wins, the marker is either returned or still there."""
    for _ in range(30):
        waiting = asyncio.create_task(marker.wait(60))
        await blocked(raw)
        adding = asyncio.to_thread(raw.zadd, f"{Q}:marker", {"0": 0})
        _, _, taken = await asyncio.gather(adding, marker.wake(), waiting)
        left = raw.zcard(f"{Q}:marker")
        assert (taken is not None) + left == 1
        raw.delete(f"{Q}:marker")


async def test_connection_that_is_killed(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(60))
    await blocked(raw)
    raw.client_kill_filter(_type="normal", skipme=True)
    assert await asyncio.wait_for(waiting, 5) is None
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5) == Marker("0", 0.0)


async def test_half_open_connection_is_left_after_the_margin(
    through_proxy: MarkerWait,
    proxy: FaultProxy,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "MARGIN", 0.1)
    await through_proxy.wait(0.01)
    proxy.blackhole()
    start = time.monotonic()
    assert await through_proxy.wait(0.05) is None
    assert 0.15 <= time.monotonic() - start < 2
    proxy.restore()
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await through_proxy.wait(5) == Marker("0", 0.0)


async def test_half_open_connection_does_not_hold_up_a_stop(
    through_proxy: MarkerWait,
    proxy: FaultProxy,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "MARGIN", 0.1)
    waiting = asyncio.create_task(through_proxy.wait(60))
    await blocked(raw)
    proxy.blackhole()
    waking = asyncio.create_task(through_proxy.wake())
    assert await asyncio.wait_for(waiting, 5) is None
    waking.cancel()


async def test_server_that_is_away_is_looked_for_with_pauses(
    through_proxy: MarkerWait, proxy: FaultProxy, raw: redis.Redis
) -> None:
    await through_proxy.wait(0.01)
    proxy.refuse()
    start = time.monotonic()
    for _ in range(4):
        assert await through_proxy.wait(60) is None
    assert time.monotonic() - start > 0.05  # no tight loop
    proxy.accept()
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await through_proxy.wait(5) == Marker("0", 0.0)


async def test_wake_ends_the_pause_too(through_proxy: MarkerWait, proxy: FaultProxy) -> None:
    await through_proxy.wait(0.01)
    proxy.refuse()
    through_proxy._failures = 20
    waiting = asyncio.create_task(through_proxy.wait(60))
    while through_proxy._failures == 20:
        await asyncio.sleep(0.001)
    start = time.monotonic()
    await through_proxy.wake()
    await waiting
    assert time.monotonic() - start < 0.4


async def test_demoted_server_unblocks_the_wait(fresh_server: ServerFactory) -> None:
    server = fresh_server()
    executor = Executor(open_endpoint(server.url), Scripts())
    marker = MarkerWait(executor, Q)
    with server.client() as admin:
        waiting = asyncio.create_task(marker.wait(60))
        await blocked(admin)
        admin.replicaof("127.0.0.1", str(free_port()))
        assert await asyncio.wait_for(waiting, 5) is None
        assert await marker.wait(60) is None  # READONLY: not an error, not a wait
        admin.replicaof("NO", "ONE")
        admin.zadd(f"{Q}:marker", {"0": 0})
        assert await marker.wait(5) == Marker("0", 0.0)
    await marker.aclose()
    await executor.aclose()


async def test_refusal_for_good_is_raised(fresh_server: ServerFactory) -> None:
    url = limited_user(fresh_server(), "~*", "+@all", "-bzpopmin")
    executor = Executor(open_endpoint(url), Scripts())
    marker = MarkerWait(executor, Q)
    with pytest.raises(ConfigurationError, match="bzpopmin"):
        await marker.wait(60)
    await marker.aclose()
    await executor.aclose()


async def test_wake_that_is_not_allowed_is_reported(
    fresh_server: ServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    server = fresh_server()
    url = limited_user(server, "~*", "+@all", "-client|unblock")
    executor = Executor(open_endpoint(url), Scripts())
    marker = MarkerWait(executor, Q)
    with server.client() as admin:
        waiting = asyncio.create_task(marker.wait(0.5))
        await blocked(admin)
        await marker.wake()
        assert "cannot be ended early" in caplog.text
        assert await waiting is None
    await marker.aclose()
    await executor.aclose()


# Streams.

STREAM = f"{Q}:events"
XREAD: tuple[Any, ...] = ("XREAD", "COUNT", 10, "BLOCK", 5000, "STREAMS", STREAM, "0-0")


async def test_stream_entry_that_comes(executor: Executor, raw: redis.Redis) -> None:
    stream = StreamRead(executor, STREAM)
    waiting = asyncio.create_task(stream.read(XREAD, 5))
    await blocked(raw)
    raw.xadd(STREAM, {"event": "added"}, id="7-1")
    assert await waiting == [[STREAM.encode(), [[b"7-1", [b"event", b"added"]]]]]
    await stream.aclose()


async def test_stream_read_is_woken(executor: Executor, raw: redis.Redis) -> None:
    stream = StreamRead(executor, STREAM)
    waiting = asyncio.create_task(stream.read(XREAD, 5))
    await blocked(raw)
    await stream.wake()
    assert await waiting is None
    await stream.aclose()


def test_stream_read_of_a_thread(raw: redis.Redis, redis_url: str) -> None:
    executor = SyncExecutor(open_endpoint(redis_url), Scripts())
    stream = SyncStreamRead(executor, STREAM)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(stream.read(XREAD, 5)))
    thread.start()
    while raw.info("clients")["blocked_clients"] == 0:
        time.sleep(0.001)
    raw.xadd(STREAM, {"event": "added"}, id="7-1")
    thread.join()
    assert found == [[[STREAM.encode(), [[b"7-1", [b"event", b"added"]]]]]]
    stream.close()
    executor.close()


def test_stream_read_of_a_thread_connects_anew(proxy: FaultProxy, raw: redis.Redis) -> None:
    executor = SyncExecutor(open_endpoint(proxy.url), Scripts())
    stream = SyncStreamRead(executor, STREAM)
    raw.xadd(STREAM, {"event": "added"}, id="7-1")
    assert stream.read(XREAD, 5)
    proxy.refuse()
    assert stream.read(XREAD, 5) is None
    proxy.accept()
    assert stream.read(XREAD, 5)
    stream.close()
    executor.close()
