"""What a queue has done, and who works on it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import ServerFactory
from tests.support.topology import cluster

from toril import ActiveJob, App, NewJob
from toril.connection.blocking import worker_client_name
from toril.connection.call import only
from toril.errors import ConfigurationError, InvalidJob, ServerFull
from toril.exposition import joined
from toril.inspection import WorkerSeen
from toril.plugins import ManualClock
from toril.protocol import inspecting
from toril.protocol.inspecting import Beat
from toril.worker import heartbeat

Q = "bull:mail"


async def once_a_minute(job: ActiveJob) -> None:
    if job.data == "bad":
        raise RuntimeError(job.data)


class TestMetrics:
    async def test_a_worker_counts_if_it_is_told_to(self, redis_url: str, raw: redis.Redis) -> None:
        clock = ManualClock()
        async with App(redis_url, clock=clock, plugins=[]) as app:
            queue = app.queue("mail")
            async with app.worker("mail", once_a_minute, metrics="1h"):
                for data in ("good", "bad", "good"):
                    job = await queue.add("x", data)
                    with pytest.raises(Exception, match="bad") if data == "bad" else nullcontext():
                        await job.result(timeout="5s")
                    clock.advance("1m")
            completed, failed = await queue.metrics(), await queue.metrics("failed")
        assert (completed.total, completed.newest, completed.points) == (2, 1, (0, 1))
        assert (failed.total, failed.newest, failed.points) == (1, 1, ())
        assert failed.outcome == "failed"
        assert raw.llen(f"{Q}:metrics:completed:data") == 2

    async def test_a_worker_counts_nothing_otherwise(
        self, redis_url: str, raw: redis.Redis
    ) -> None:
        async with App(redis_url, plugins=[]) as app, app.worker("mail", once_a_minute):
            job = await app.queue("mail").add("x")
            await job.result(timeout="5s")
            assert (await app.queue("mail").metrics()).total == 0
        assert not raw.keys("*metrics*")

    async def test_some_points(self, redis_url: str, raw: redis.Redis) -> None:
        raw.rpush(f"{Q}:metrics:completed:data", 5, 4, 3, 2)
        with App(redis_url, plugins=[]).sync as app:
            found = app.queue("mail").metrics("completed", 1, 2)
        assert (found.points, found.minutes) == ((4, 3), 4)

    @pytest.mark.parametrize(
        ("value", "error"), [("30s", ValueError), ("101d", ValueError), (100, TypeError)]
    )
    def test_what_a_worker_cannot_be_told(
        self, redis_url: str, value: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            App(redis_url, plugins=[]).worker("mail", once_a_minute, metrics=value)

    async def test_other_outcomes_have_none(self, redis_url: str) -> None:
        other: Any = "delayed"
        async with App(redis_url, plugins=[]) as app:
            with pytest.raises(ConfigurationError, match="delayed"):
                await app.queue("mail").metrics(other)


class TestWorkers:
    async def test_what_a_worker_says_of_itself(self, redis_url: str, raw: redis.Redis) -> None:
        held, go_on = asyncio.Event(), asyncio.Event()

        async def hold(job: ActiveJob) -> None:
            held.set()
            await go_on.wait()

        async with App(redis_url, plugins=[]) as app:
            queue = app.queue("mail")
            async with app.worker("mail", hold, name="busy", concurrency=3):
                await queue.add("x", id="running")
                await held.wait()
                (seen,) = await queue.workers()
                assert seen.beat is not None
                assert (seen.library, seen.name, seen.beat.concurrency) == ("toril", "busy", 3)
                assert (seen.beat.pid, seen.beat.host) == (os.getpid(), socket.gethostname())
                assert seen.beat.started <= seen.beat.at
                ids = raw.client_list()
                assert seen.address in [each["addr"] for each in ids]
                assert raw.pttl(f"{Q}:toril:workers:{seen.beat.id}") > 50_000
                go_on.set()
            assert await queue.workers() == ()
        assert not raw.keys("*toril:workers*")

    async def test_running_jobs_show_with_the_next_beat(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeat, "PERIOD", 0.02)
        go_on = asyncio.Event()

        async def hold(job: ActiveJob) -> None:
            await go_on.wait()

        async with App(redis_url, plugins=[]) as app:
            queue = app.queue("mail")
            async with app.worker("mail", hold, concurrency=2):
                await queue.add("x", id="a")
                await queue.add("x", id="b")
                async with asyncio.timeout(5):
                    while running(await queue.workers()) != {"a", "b"}:
                        await asyncio.sleep(0.01)
                go_on.set()

    async def test_a_worker_that_says_nothing_is_forgotten(
        self, redis_url: str, raw: redis.Redis
    ) -> None:
        clock = ManualClock()
        async with App(redis_url, plugins=[], clock=clock) as app:
            queue = app.queue("mail")
            key = queue.key
            lost = Beat("w", "lost", "host", 1, clock.now_ms(), clock.now_ms(), 1, ("j",), 0)
            await app.perform(only(inspecting.beat(key, lost)))
            (seen,) = await queue.workers()
            assert (seen.name, seen.address, seen.beat) == ("lost", None, lost)
            clock.advance("61s")
            assert await queue.workers() == ()
            later = msgspec.structs.replace(lost, id="v", at=clock.now_ms())
            await app.perform(only(inspecting.beat(key, later)))
            assert raw.zrange(f"{Q}:toril:workers", 0, -1) == ["v"]

    async def test_beats_do_not_hurt_when_the_server_is_full(
        self, fresh_server: ServerFactory
    ) -> None:
        server = fresh_server(maxmemory_policy="noeviction")
        async with App(server.url, plugins=[]) as app:
            queue = app.queue("mail")
            with server.client() as client:
                client.config_set("maxmemory", "1")
            async with app.worker("mail", once_a_minute):
                async with asyncio.timeout(5):
                    while not await queue.workers():
                        await asyncio.sleep(0.01)

    def test_on_a_cluster_every_server_is_asked(self) -> None:
        with cluster() as nodes, App(nodes.url, plugins=[]).sync as app:
            names = [worker_client_name("bull", "{mail}", f"w{n}") for n in range(3)]
            clients = [node.client() for node in nodes.nodes]
            for client, name in zip(clients, names, strict=True):
                client.client_setname(name)
            found = app.queue("{mail}").workers()
            assert sorted(str(seen.name) for seen in found) == ["w0", "w1", "w2"]
            for client in clients:
                client.close()


def running(seen: Sequence[WorkerSeen]) -> set[str]:
    return {id for worker in seen if worker.beat for id in worker.beat.running}


class TestQueue:
    async def test_the_event_stream_is_cut(self, redis_url: str, raw: redis.Redis) -> None:
        async with App(redis_url, plugins=[]) as app:
            queue = app.queue("mail")
            await queue.add_many(NewJob("x") for _ in range(20))
            assert await queue.trim_events(7) == 33
            assert raw.xlen(f"{Q}:events") == 7
            await queue.keep_events(200)
            assert (await queue.meta()).fields["opts.maxLenEvents"] == "200"
            await queue.add_many(NewJob("x") for _ in range(500))
            assert raw.xlen(f"{Q}:events") < 400
            with pytest.raises(ValueError, match="most is at least 0"):
                await queue.trim_events(-1)
            with pytest.raises(ValueError, match="most is at least 1"):
                await queue.keep_events(0)

    async def test_meta(self, redis_url: str, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", mapping={"version": "bullmq:6.7.0", "paused": 1, "concurrency": 3})
        async with App(redis_url, plugins=[]) as app:
            meta = await app.queue("mail").meta()
        assert (meta.version, meta.paused, meta.concurrency) == ("bullmq:6.7.0", True, 3)

    async def test_an_event_of_one_s_own(self, redis_url: str, raw: redis.Redis) -> None:
        async with App(redis_url, plugins=[]) as app:
            queue = app.queue("mail")
            await queue.add_many(NewJob("x") for _ in range(300))
            id = await queue.publish("shift-began", {"who": "ada", "n": 2}, most=100)
            newest: Any = raw.xrevrange(f"{Q}:events", count=1)
            assert newest[0] == (id, {"event": "shift-began", "who": "ada", "n": "2"})
            assert raw.xlen(f"{Q}:events") < 300
            for kind in ("", "completed", "toril:evicted"):
                with pytest.raises(ValueError, match="no name"):
                    await queue.publish(kind)
            with pytest.raises(ValueError, match="no field"):
                await queue.publish("x", {"event": "y"})
            with pytest.raises(ValueError, match="most is at least 1"):
                await queue.publish("x", most=0)
            with pytest.raises(InvalidJob, match="'n'"):
                await queue.publish("x", {"n": float("nan")})

    async def test_an_event_on_a_full_server(self, fresh_server: ServerFactory) -> None:
        server = fresh_server(maxmemory_policy="noeviction")
        async with App(server.url, plugins=[]) as app:
            with server.client() as client:
                client.config_set("maxmemory", "1")
            with pytest.raises(ServerFull):
                await app.queue("mail").publish("x")

    async def test_prometheus_of_several_queues(self, redis_url: str) -> None:
        async with App(redis_url, plugins=[]) as app:
            await app.queue("a").add("x")
            texts = [await app.queue(name).prometheus() for name in ("a", "b")]
        lines = joined(texts).splitlines()
        assert len(lines) == len(set(lines)) == 2 * 9 + 6
        families = [family.name for family in text_string_to_metric_families(joined(texts) + "\n")]
        assert families == ["bullmq_job_count", "bullmq_job_completed", "bullmq_job_failed"]
