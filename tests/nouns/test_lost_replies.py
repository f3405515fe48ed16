"""Adding while replies are lost and servers restart: once, or an error that names the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from tests.lua.database import events
from tests.support.proxy import FaultProxy
from tests.support.server import Server

from toril import App, Flow, NewJob

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


async def test_adds_of_many_tasks_are_done_once(
    app: App, proxy: FaultProxy, raw: redis.Redis
) -> None:
    proxy.drop_reply("EVALSHA", 2)
    jobs = await asyncio.gather(*(app.queue("mail").add("n", i) for i in range(300)))
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id for job in reversed(jobs)]


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
