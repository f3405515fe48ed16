"""What an App does, on a cluster of three shards: each queue has a tag of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.crc import key_slot
from tests.support.topology import Cluster

from toril import ActiveJob, App, Every, Flow, NewJob, RateLimit
from toril.clock import ManualClock
from toril.errors import ConfigurationError

QUEUES = ("{a}", "{b}", "{c}")


async def double(job: ActiveJob) -> Any:
    data: Any = job.data
    return data["n"] * 2 if data else None


async def test_jobs_events_results(nodes: Cluster) -> None:
    assert [nodes.owner(name) for name in QUEUES] == [2, 0, 1]
    async with App(nodes.url) as app:
        queues = [app.queue(name) for name in QUEUES]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            workers = [app.worker(name, double, concurrency=5) for name in QUEUES]
            running = [group.create_task(worker.run()) for worker in workers]
            jobs = [await queue.add("x", {"n": n}) for n, queue in enumerate(queues)]
            results = await asyncio.gather(*(job.result() for job in jobs))
            for worker in workers:
                await worker.stop()
            await asyncio.gather(*running)
        assert results == [0, 2, 4]
        for queue in queues:
            async with app.events(queue.name, after="0-0") as events:
                async for event in events:
                    if event.kind == "completed":
                        break
        for number, node in enumerate(nodes.nodes):
            with node.client() as client:
                tags = {str(key).partition("{")[2].partition("}")[0] for key in client.scan_iter()}
            assert tags == {
                tag for tag in ("a", "b", "c") if key_slot(tag.encode()) * 3 // 16384 == number
            }


async def test_schedules_deduplication_limits(nodes: Cluster) -> None:
    clock = ManualClock()
    async with App(nodes.url, clock=clock) as app:
        for name in QUEUES:
            queue = app.queue(name)
            await queue.schedule("poll", Every("1m"), "poll")
            await queue.set_limits(concurrency=2, rate=RateLimit(100, "1m"))
            first = await queue.add("x", {"n": 1}, deduplication="same")
            again = await queue.add("x", {"n": 2}, deduplication="same")
            assert first.id == again.id
            for _ in range(3):
                await app.worker(name, double).run(burst=True)
                clock.advance("61s")
            assert (await queue.counts())["completed"] >= 3


async def test_flows(nodes: Cluster) -> None:
    async with App(nodes.url) as app:
        steps = [Flow("{b}steps", "step", {"n": n}) for n in range(3)]
        root = await app.add_flow(Flow("{b}top", "order", children=steps))
        for name in ("{b}steps", "{b}top"):
            await app.worker(name, double).run(burst=True)
        assert await root.state() == "completed"
        assert sorted((await root.children()).processed.values(), key=str) == [0, 2, 4]
        apart = Flow("{b}top", "order", children=[Flow("{a}", "step")])
        with pytest.raises(ConfigurationError, match=r"give them one hash tag: '\{order\}in'"):
            await app.add_flow(apart)
        with pytest.raises(ConfigurationError, match="tag"):
            await app.add_flows([Flow("{b}top", "fine"), apart])
        assert not (await app.queue("{a}").counts())["waiting"]
        assert not (await app.queue("{b}top").counts())["waiting"]


def test_synchronous_face(nodes: Cluster) -> None:
    with App(nodes.url).sync as app:
        for name in QUEUES:
            app.queue(name).add_many(NewJob("x", {"n": n}) for n in range(3))
        assert app.queues() == list(QUEUES)
        assert [app.queue(name).counts()["waiting"] for name in QUEUES] == [3, 3, 3]
        assert not app.audit("{a}").findings
        with pytest.raises(ConfigurationError, match="has no hash tag"):
            app.queue("mail").add("x")
