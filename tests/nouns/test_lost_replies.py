"""Adding while replies are lost and servers restart: once, or an error that names the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from tests.lua.database import events
from tests.support.proxy import FaultProxy
from tests.support.server import Server, paused

from toril import App, Flow, Job, NewJob
from toril.connection.execute import Executor
from toril.connection.steps import Steps
from toril.errors import ServerFull

Q = "bull:mail"


@pytest.fixture
def proxy(server: Server, redis_url: str) -> Iterator[FaultProxy]:
    with FaultProxy.start(server.port) as running:
        yield running


@pytest.fixture
async def app(proxy: FaultProxy) -> AsyncIterator[App]:
    async with App(proxy.url, plugins=[]) as made:
        await made.queue("warm").add("up")  # connections and scripts are there
        yield made


@pytest.mark.parametrize("fault", ["drop_reply", "drop_command"])
async def test_a_job_is_added_once(
    app: App, proxy: FaultProxy, raw: redis.Redis, fault: str
) -> None:
    getattr(proxy, fault)("EVALSHA")
    job = await app.queue("mail").add("send", {"n": 1})
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id]
    assert (await job.refresh()).data == {"n": 1}


async def test_many_are_added_once_and_in_order(
    app: App, proxy: FaultProxy, raw: redis.Redis
) -> None:
    proxy.drop_reply("EVALSHA", 2)
    jobs = await app.queue("mail").add_many(NewJob("n", i) for i in range(500))
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id for job in reversed(jobs)]


async def test_of_many_two_calls_are_under_way(
    app: App, proxy: FaultProxy, raw: redis.Redis
) -> None:
    before, connections = proxy.commands.count(b"EVALSHA"), proxy.accepted
    with paused(raw):
        adding = asyncio.create_task(app.queue("mail").add_many(NewJob("n", i) for i in range(900)))
        while proxy.commands.count(b"EVALSHA") < before + 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert proxy.commands.count(b"EVALSHA") == before + 2
    jobs = await adding
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id for job in reversed(jobs)]
    assert proxy.accepted == connections


async def test_many_that_are_given_up_are_added_as_far_as_they_were_sent(
    app: App, proxy: FaultProxy, raw: redis.Redis
) -> None:
    before = proxy.commands.count(b"EVALSHA")
    with paused(raw):
        adding = asyncio.create_task(app.queue("mail").add_many(NewJob("n", i) for i in range(900)))
        while proxy.commands.count(b"EVALSHA") < before + 2:
            await asyncio.sleep(0.001)
        adding.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert raw.llen(f"{Q}:wait") == 400


@pytest.mark.parametrize("refused", [1, 2])
async def test_after_a_call_that_is_refused_no_other_is_begun(
    app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    converse, calls = Executor.converse, 0

    def converse_once(self: Executor, request: Any) -> Steps[Any]:
        nonlocal calls
        calls += 1
        if calls == refused:
            raise ServerFull("full")
        return (yield from converse(self, request))

    monkeypatch.setattr(Executor, "converse", converse_once)
    with pytest.raises(ServerFull):
        await app.queue("mail").add_many(NewJob("n", i) for i in range(900))
    assert calls == refused + 1  # that one had been sent behind it, and its outcome stands
    assert raw.llen(f"{Q}:wait") == refused * 200


async def test_adds_of_many_tasks_are_done_once(
    app: App, proxy: FaultProxy, raw: redis.Redis
) -> None:
    proxy.drop_reply("EVALSHA", 2)
    jobs = await asyncio.gather(*(app.queue("mail").add("n", i) for i in range(300)))
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id for job in reversed(jobs)]


async def test_where_many_come_a_second_call_goes_out_behind_the_first(
    app: App, proxy: FaultProxy, raw: redis.Redis
) -> None:
    queue = app.queue("mail")
    await queue.add("first")
    adds: list[asyncio.Task[Job]] = []

    async def begin(number: int, calls: int) -> None:
        """That many more adds, and so many calls that are under way then."""
        nonlocal adds
        adds += [asyncio.create_task(queue.add("n")) for _ in range(number)]
        await asyncio.sleep(0.01)
        while proxy.commands.count(b"EVALSHA") < before + calls:
            await asyncio.sleep(0.001)
        assert proxy.commands.count(b"EVALSHA") == before + calls

    before, connections = proxy.commands.count(b"EVALSHA"), proxy.accepted
    with paused(raw):
        await begin(3, calls=1)
        await begin(6, calls=1)  # a few wait
        await begin(60, calls=2)
        await begin(60, calls=2)  # and so does whoever comes then
    jobs = await asyncio.gather(*adds)
    assert raw.lrange(f"{Q}:wait", 0, -2) == [job.id for job in reversed(jobs)]
    assert proxy.accepted == connections


async def test_a_flow_is_added_once(app: App, proxy: FaultProxy, raw: redis.Redis) -> None:
    proxy.drop_reply("EVALSHA")
    root = await app.add_flow(Flow("p", "root", children=[Flow("mail", "kid") for _ in range(3)]))
    assert raw.llen(f"{Q}:wait") == raw.scard(f"bull:p:{root.id}:dependencies") == 3
    assert raw.zcard("bull:p:waiting-children") == 1


async def test_a_large_flow_is_added_once(app: App, proxy: FaultProxy, raw: redis.Redis) -> None:
    for nth in (1, 3, 5):  # the first ones only look
        proxy.drop_reply("EVALSHA", nth)
    kids = [Flow("mail", "kid", i) for i in range(900)]
    root = await app.add_flow(Flow("p", "root", children=kids))
    assert raw.llen(f"{Q}:wait") == raw.scard(f"bull:p:{root.id}:dependencies") == 900


async def test_through_the_synchronous_face(proxy: FaultProxy, raw: redis.Redis) -> None:
    def add() -> str:
        with App(proxy.url, plugins=[]).sync as app:
            app.queue("warm").add("up")
            proxy.drop_reply("EVALSHA")
            return app.queue("mail").add("send").id

    job_id = await asyncio.to_thread(add)
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job_id]


async def test_a_server_without_its_scripts(app: App, raw: redis.Redis) -> None:
    raw.script_flush()
    job = await app.queue("mail").add("send")
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id]


@pytest.mark.parametrize("fault", ["drop_reply", "drop_command"])
async def test_erasing_tells_what_there_was(
    app: App, proxy: FaultProxy, raw: redis.Redis, fault: str
) -> None:
    job = await app.queue("mail").add("send", {"to": "ada@example.org"})
    await app.queue("mail").erase("warm it up")
    getattr(proxy, fault)("EVALSHA")
    erased = await job.erase()
    assert (erased.job, erased.events) == (True, 3)
    kept = [raw.get(key) for key in raw.keys(f"{Q}:toril:call:*")]
    assert kept
    assert "ada@example.org" not in str(kept)


@pytest.mark.parametrize("fault", ["drop_reply", "drop_command"])
async def test_a_job_is_changed_once(
    app: App, proxy: FaultProxy, raw: redis.Redis, fault: str
) -> None:
    late = await app.queue("mail").add("late", delay="1h")
    root = await app.add_flow(Flow("p", "root", children=[Flow("mail", "kid")]))
    (kid,) = [job async for job in app.queue("mail").jobs("waiting")]
    lose = getattr(proxy, fault)
    lose("EVALSHA")
    await late.change_delay("2h")
    told = [event["event"] for event in events(raw, Q)]
    assert told.count("delayed") == 2
    lose("EVALSHA")
    await kid.change_priority(3)
    assert raw.get(f"{Q}:pc") == "1"
    lose("EVALSHA")
    assert await kid.unlink() is True
    assert raw.lrange("bull:p:wait", 0, -1) == [root.id]
