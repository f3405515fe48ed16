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
from tests.connection.conftest import Scripts, call, limited_user
from tests.support.proxy import FaultProxy
from tests.support.server import free_port

from toril.clock import SystemClock
from toril.connection import blocking
from toril.connection.blocking import (
    StreamRead,
    SyncStreamRead,
    worker_client_name,
)
from toril.connection.call import Call
from toril.connection.execute import Executor, SyncExecutor
from toril.connection.marker import MarkerWait, Waited
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
    name = worker_client_name("bull", "mail", "anna")
    one = MarkerWait(executor, Q, client_name=name, clock=SystemClock())
    await executor.run(count(0))  # loads the script
    yield one
    await one.aclose()


def count(offset: float) -> Call[Any]:
    """The call behind a wait: the how-manieth it is; the fixture `marker` makes the first."""
    return call("count", key=Q)


@pytest.fixture
async def through_proxy(proxy: FaultProxy) -> AsyncIterator[MarkerWait]:
    executor = Executor(open_endpoint(proxy.url), Scripts())
    one = MarkerWait(executor, Q, clock=SystemClock())
    await executor.run(count(0))
    yield one
    await one.aclose()
    await executor.aclose()


async def blocked(raw: redis.Redis) -> None:
    """Until a client waits on the server."""
    while raw.info("clients")["blocked_clients"] == 0:
        await asyncio.sleep(0.001)


async def test_marker_that_is_there(marker: MarkerWait, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5, count) == Waited(sent=True, result=2)
    assert raw.zcard(f"{Q}:marker") == 0


async def test_marker_that_comes(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(5, count))
    await blocked(raw)
    assert raw.get(Q) == "1", "what stands behind the wait is not carried out yet"
    raw.zadd(f"{Q}:marker", {"1": 1790000060000})
    assert await waiting == Waited(sent=True, result=2)
    assert raw.zcard(f"{Q}:marker") == 0


async def test_no_marker_in_time(marker: MarkerWait) -> None:
    start = time.monotonic()
    assert await marker.wait(0.03, count) == Waited(sent=True, result=2)
    assert 0.03 <= time.monotonic() - start < 1


async def test_wait_with_nothing_behind_it(marker: MarkerWait, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5) == Waited(sent=False)
    assert raw.zcard(f"{Q}:marker") == 0


async def test_nothing_is_sent_behind_a_wait_without_a_clock(
    executor: Executor, raw: redis.Redis
) -> None:
    marker = MarkerWait(executor, Q)
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5, count) == Waited(sent=False)
    assert raw.zcard(f"{Q}:marker") == 0
    await marker.aclose()


class FastClock(SystemClock):
    """An hour ahead."""

    def now_us(self) -> int:
        return super().now_us() + 3_600_000_000


async def test_clocks_are_compared(executor: Executor) -> None:
    offsets: list[float] = []

    def behind(offset: float) -> Call[Any]:
        offsets.append(offset)
        return count(offset)

    marker = MarkerWait(executor, Q, clock=FastClock())
    await marker.wait(0.01, behind)
    assert 3_590_000 < offsets[0] <= 3_600_000  # never more
    await marker.aclose()


async def test_clocks_are_compared_anew_with_another_server(
    through_proxy: MarkerWait, proxy: FaultProxy
) -> None:
    for _ in range(3):
        await through_proxy.wait(0.01, count)
    assert proxy.commands.count(b"TIME") == 1
    proxy.cut()
    while proxy.commands.count(b"TIME") == 1:
        await through_proxy.wait(0.01, count)


async def test_script_that_the_server_does_not_know(marker: MarkerWait, raw: redis.Redis) -> None:
    """It is for the caller to send the call again."""
    raw.script_flush()
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5, count) == Waited(sent=True)


async def test_clock_that_may_not_be_asked(fresh_server: ServerFactory) -> None:
    url = limited_user(fresh_server(), "~*", "+@all", "-time")
    executor = Executor(open_endpoint(url), Scripts())
    marker = MarkerWait(executor, Q, clock=SystemClock())
    assert await marker.wait(0.01, count) == Waited(sent=False)
    await marker.aclose()
    await executor.aclose()


async def test_name_that_dashboards_look_for(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(5))
    await blocked(raw)
    assert "bull:bWFpbA==:w:anna" in {client["name"] for client in raw.client_list()}
    await marker.wake()
    await waiting


async def test_wake_at_any_moment_ends_the_wait(marker: MarkerWait, raw: redis.Redis) -> None:
    sent = 1
    for _ in range(20):
        waiting = asyncio.create_task(marker.wait(60, count))
        await asyncio.sleep(0)
        await marker.wake()
        waited = await asyncio.wait_for(waiting, 5)
        sent += waited.sent
        assert raw.get(Q) == str(sent), "what was sent has been carried out"
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert (await marker.wait(5, count)).result == sent + 1


async def test_wake_of_a_blocked_wait(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(60, count))
    await blocked(raw)
    before = raw.info("stats")["total_connections_received"]
    await marker.wake()
    assert await asyncio.wait_for(waiting, 5) == Waited(sent=True, result=2)
    again = asyncio.create_task(marker.wait(60, count))
    await blocked(raw)
    await marker.wake()
    assert await asyncio.wait_for(again, 5) == Waited(sent=True, result=3)
    assert raw.info("stats")["total_connections_received"] == before


async def test_wake_before_the_wait_ends_it(marker: MarkerWait, raw: redis.Redis) -> None:
    await marker.wake()
    assert await asyncio.wait_for(marker.wait(60, count), 5) == Waited(sent=False)
    assert raw.get(Q) == "1"


async def test_marker_that_comes_while_being_woken_is_not_lost(
    marker: MarkerWait, raw: redis.Redis
) -> None:
    """Whatever wins, the call behind the wait is carried out once, and its reply comes."""
    for turn in range(2, 32):
        waiting = asyncio.create_task(marker.wait(60, count))
        await blocked(raw)
        adding = asyncio.to_thread(raw.zadd, f"{Q}:marker", {"0": 0})
        _, _, waited = await asyncio.gather(adding, marker.wake(), waiting)
        assert waited == Waited(sent=True, result=turn)
        raw.delete(f"{Q}:marker")


async def test_connection_that_is_killed(marker: MarkerWait, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(marker.wait(60, count))
    await blocked(raw)
    raw.client_kill_filter(_type="normal", skipme=True)
    assert await asyncio.wait_for(waiting, 5) == Waited(sent=True)
    assert raw.get(Q) == "1", "who is gone gets nothing"
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert await marker.wait(5, count) == Waited(sent=True, result=2)


async def test_half_open_connection_is_left_after_the_margin(
    through_proxy: MarkerWait,
    proxy: FaultProxy,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "MARGIN", 0.1)
    await through_proxy.wait(0.01, count)
    proxy.blackhole()
    start = time.monotonic()
    assert await through_proxy.wait(0.05, count) == Waited(sent=True)
    assert 0.15 <= time.monotonic() - start < 2
    proxy.restore()
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert (await through_proxy.wait(5, count)).result


async def test_half_open_connection_does_not_hold_up_a_stop(
    through_proxy: MarkerWait,
    proxy: FaultProxy,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "MARGIN", 0.1)
    waiting = asyncio.create_task(through_proxy.wait(60, count))
    await blocked(raw)
    proxy.blackhole()
    waking = asyncio.create_task(through_proxy.wake())
    assert await asyncio.wait_for(waiting, 5) == Waited(sent=True)
    waking.cancel()


async def test_server_that_is_away_is_looked_for_with_pauses(
    through_proxy: MarkerWait, proxy: FaultProxy, raw: redis.Redis
) -> None:
    await through_proxy.wait(0.01, count)
    proxy.refuse()
    start = time.monotonic()
    for _ in range(4):
        assert (await through_proxy.wait(60, count)).result is None
    assert time.monotonic() - start > 0.05  # no tight loop
    proxy.accept()
    raw.zadd(f"{Q}:marker", {"0": 0})
    assert (await through_proxy.wait(5, count)).result


async def test_wake_ends_the_pause_too(through_proxy: MarkerWait, proxy: FaultProxy) -> None:
    await through_proxy.wait(0.01, count)
    proxy.refuse()
    through_proxy._failures = 20
    waiting = asyncio.create_task(through_proxy.wait(60, count))
    while through_proxy._failures == 20:
        await asyncio.sleep(0.001)
    start = time.monotonic()
    await through_proxy.wake()
    await waiting
    assert time.monotonic() - start < 0.4


async def test_demoted_server_unblocks_the_wait(fresh_server: ServerFactory) -> None:
    server = fresh_server()
    executor = Executor(open_endpoint(server.url), Scripts())
    await executor.run(count(0))
    marker = MarkerWait(executor, Q, clock=SystemClock())
    with server.client() as admin:
        waiting = asyncio.create_task(marker.wait(60, count))
        await blocked(admin)
        admin.replicaof("127.0.0.1", str(free_port()))
        assert await asyncio.wait_for(waiting, 5) == Waited(sent=True)
        assert await marker.wait(60, count) == Waited(sent=True)  # READONLY: no error, no wait
        admin.replicaof("NO", "ONE")
        admin.zadd(f"{Q}:marker", {"0": 0})
        assert await marker.wait(5, count) == Waited(sent=True, result=2)
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
        assert await waiting == Waited()
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
