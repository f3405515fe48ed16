"""The server dies and comes back, or is full for a while: work goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from tests.chaos.conftest import until
from tests.conftest import ServerFactory
from tests.support.invariants import check, read
from tests.support.server import Server
from toril import ActiveJob, App, NewJob
from toril.errors import ServerFull
from toril_plugins import Keep, Retention

RESTARTS, JOBS = 3, 1500
LARGE, MANY = 16_000, 2000


async def test_the_server_is_killed_and_comes_back_with_its_data(
    fresh_server: ServerFactory, chance: random.Random
) -> None:
    server = fresh_server(appendonly="yes", appendfsync="everysec")
    runs: Counter[str] = Counter()

    async def handle(job: ActiveJob) -> None:
        runs[job.id] += 1
        await asyncio.sleep(chance.random() * 0.01)
        if job.attempt <= (job.get("fail", int) or 0):
            raise ValueError("as asked")

    async with App(server.url) as app, App(server.url) as other:
        fails: dict[str, int] = {}
        queue = other.queue("q")

        async def produce() -> None:
            while len(fails) < JOBS:
                new = [
                    NewJob("n", {"fail": chance.choice((0, 0, 1))}, attempts=2)
                    for _ in range(chance.choice((1, 10)))
                ]
                for job, one in zip(await queue.add_many(new), new, strict=True):
                    data: Any = one.data
                    fails[job.id] = data["fail"]
                await asyncio.sleep(0.002)

        async with app.worker("q", handle, concurrency=20, lock="10s"):
            producing = asyncio.create_task(produce())
            for number in range(RESTARTS):
                point = JOBS * number // RESTARTS + chance.randrange(JOBS // RESTARTS)
                await until(lambda: len(runs) >= point or producing.done())  # noqa: B023
                await asyncio.sleep(chance.random() * 0.01)
                await asyncio.to_thread(server.restart)
            await producing
            await until(lambda: _completed(app, len(fails)))
    with server.client() as raw:
        assert check(raw, at_rest=True) == []
        assert set(_ids(raw.zrange("bull:q:completed", 0, -1))) == fails.keys()
        for job_id, count in fails.items():
            job = raw.hgetall(f"bull:q:{job_id}")
            counted = (job.get("atm"), job.get("ats"), job.get("stc"))
            assert counted == (str(count + 1), str(count + 1), None), (job_id, job)
            assert runs[job_id] == count + 1


def _ids(found: Any) -> list[str]:
    return list(found)


async def _completed(app: App, count: int) -> bool:
    return (await app.queue("q").counts())["completed"] == count


async def test_a_server_that_is_full_for_a_while(fresh_server: ServerFactory) -> None:
    """Adds are refused, running jobs finish, what is not kept makes room, work goes on."""
    server = fresh_server(maxmemory="12mb", maxmemory_policy="noeviction")
    go_on, running = asyncio.Event(), 0
    runs: Counter[str] = Counter()

    async def handle(job: ActiveJob) -> None:
        nonlocal running
        running += 1
        await go_on.wait()
        runs[job.id] += 1

    async with App(server.url) as app:
        queue = app.queue("q")
        await queue.set(Retention(completed=Keep(last=5)))
        added: set[str] = set()
        refused = 0

        async def produce() -> None:
            nonlocal refused
            while len(added) < MANY:
                try:
                    added.add((await queue.add("n", LARGE * "x")).id)
                except ServerFull:
                    refused += 1
                    await asyncio.sleep(0.01)

        async with app.worker("q", handle, concurrency=10):
            producing = asyncio.create_task(produce())
            await until(lambda: refused >= 5)
            assert running == 10
            full = await _held(server)
            assert not producing.done()
            go_on.set()
            await producing
            await until(lambda: len(runs) == len(added))
            await until(lambda: _completed(app, 5))
    print(f"full with {full} of {MANY} jobs, refused {refused} times")
    assert full < MANY
    assert runs == Counter(dict.fromkeys(added, 1))
    with server.client() as raw:
        assert check(raw, at_rest=True) == []
        assert len(read(raw).queues["bull:q"].jobs) == 5


async def _held(server: Server) -> int:
    """How many jobs there are, once no more are taken."""
    with server.client() as raw:
        return int(raw.llen("bull:q:wait") + raw.llen("bull:q:active"))
