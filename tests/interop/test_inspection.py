"""What a queue tells of itself, beside what Node's own getters say of the same data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from tests.interop.conftest import Library
from tests.support.driver import Driver
from toril import ActiveJob, App
from toril.plugins import JsonObject
from toril.protocol.inspecting import MINUTE_MS

Q = "bull:mail"


@pytest.fixture
async def bullmq(library: Library) -> AsyncIterator[Driver]:
    driver = library("node")
    yield driver
    await driver.reset()


@pytest.fixture
async def bullmq_python(library: Library) -> AsyncIterator[Driver]:
    driver = library("python")
    yield driver
    await driver.reset()


async def done(job: ActiveJob) -> None:
    if job.name == "bad":
        raise RuntimeError("bad")


async def test_prometheus_as_node_prints_it(
    bullmq: Driver, redis_url: str, raw: redis.Redis
) -> None:
    async with App(redis_url, plugins=[]) as app:
        mail = app.queue("mail")
        await mail.add("a", delay="1h")
        await mail.add("b", priority=3)
        await mail.add("bad")
        await app.worker("mail", done, metrics="1h").run(burst=True)
        await mail.add("c")
        for labels in ({}, {"env": "prod", "who": 'a "b" \\ c'}):
            theirs = await bullmq.call("prometheus", queue="mail", labels=labels)
            assert await mail.prometheus(**labels) == theirs
        assert 'bullmq_job_failed_total{queue="mail"} 1' in await mail.prometheus()
        empty = await bullmq.call("prometheus", queue="empty", labels={})
        assert await app.queue("empty").prometheus() == empty
        for wrong in ({"queue": "x"}, {"a b": "x"}):
            with pytest.raises(ValueError, match="label"):
                await mail.prometheus(**wrong)


async def test_node_reads_our_metrics_and_we_read_node_s(
    bullmq: Driver, redis_url: str, raw: redis.Redis
) -> None:
    async with App(redis_url, plugins=[]) as app:
        mail = app.queue("mail")
        await bullmq.worker("mail", metrics={"maxDataPoints": 60})
        for name in ("a", "b", "c"):
            job = await mail.add(name, {"do": []})
            await job.result(timeout="10s")
            raw.hincrby(f"{Q}:metrics:completed", "prevTS", -2 * MINUTE_MS)
        await bullmq.reset()
        await mail.add("d")
        await app.worker("mail", done, metrics="1h").run(burst=True)
        theirs = await bullmq.call("metrics", queue="mail", outcome="completed", start=0, end=-1)
        ours = await mail.metrics()
    assert ours.total == theirs["meta"]["count"] == 4
    assert ours.last == theirs["meta"]["prevTS"]
    assert ours.newest == ours.total - theirs["meta"]["prevCount"] == 1
    assert list(ours.points) == [int(point) for point in theirs["data"]]
    assert sum(ours.points) == 3
    assert ours.minutes == theirs["count"]


async def test_workers_of_all_libraries(
    bullmq: Driver, bullmq_python: Driver, redis_url: str
) -> None:

    async with App(redis_url, plugins=[]) as app:
        mail = app.queue("mail")
        await app.queue("other").add("x")
        held, go_on = asyncio.Event(), asyncio.Event()

        async def hold(job: ActiveJob) -> None:
            held.set()
            await go_on.wait()

        async with (
            app.worker("mail", hold, name="ours", concurrency=2),
            app.worker("other", done, name="not-this-queue"),
        ):
            job = await mail.add("x", id="running")
            await held.wait()
            await bullmq.worker("mail", name="theirs")
            await bullmq.worker("mail")
            await bullmq_python.worker("mail")
            async with asyncio.timeout(10):
                while len(await mail.workers()) < 4:
                    await asyncio.sleep(0.02)
            seen = {(worker.library, worker.name): worker for worker in await mail.workers()}
            assert set(seen) == {
                ("toril", "ours"), ("bullmq", "theirs"), ("bullmq", None), ("bullmq-python", None)
            }  # fmt: skip
            for worker in seen.values():
                assert worker.address is not None
                assert worker.address.startswith("127.0.0.1:")
                assert worker.age is not None
                assert worker.idle is not None
                assert (worker.beat is not None) == (worker.library == "toril")
            names = await bullmq.call("workers", queue="mail")
            assert len(names) == 3, "Node sees its own and ours"
            assert job.id == "running"
            go_on.set()


async def test_readers_of_events(bullmq: Driver, redis_url: str) -> None:
    async with App(redis_url, plugins=[]) as app:
        mail = app.queue("mail")
        await bullmq.events_open("mail")

        async def read() -> None:
            async for _ in app.events("mail"):
                pass

        reading = asyncio.create_task(read())
        async with asyncio.timeout(10):
            while len(await mail.event_readers()) < 2:
                await asyncio.sleep(0.02)
        theirs = await bullmq.call("readers", queue="mail")
        assert sorted(each.name for each in await mail.event_readers()) == sorted(theirs)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_events_of_one_s_own(bullmq: Driver, redis_url: str, raw: redis.Redis) -> None:
    async with App(redis_url, plugins=[]) as app:
        mail = app.queue("mail")
        handle = str(await bullmq.call("events_open", queue="mail", more=["opened", "shut"]))
        async with app.events("mail") as events:
            told: JsonObject = {"text": "a b", "number": 3, "list": [1, None], "jobId": "j1"}
            id = await mail.publish("opened", told)
            ours = await anext(events)
            assert (ours.kind, ours.id, ours.job_id) == ("opened", id, "j1")
            fields = {"text": "a b", "number": "3", "list": "[1,null]"}
            assert ours.fields == fields
            await bullmq.call("publish", queue="mail", event="shut", fields={"by": "node"}, max=50)
            theirs = await anext(events)
            assert (theirs.kind, dict(theirs.fields)) == ("shut", {"by": "node"})
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(10):
            while len(seen) < 2:
                seen += await bullmq.events_take(handle)
    assert seen[0] == {"event": "opened", "jobId": "j1", **fields}
    assert seen[1] == {"event": "shut", "by": "node"}
