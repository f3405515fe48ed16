"""Replies get lost and commands arrive late, hundreds of times: everything happens exactly once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import redis

from tests.support.proxy import FaultProxy
from tests.support.server import Server
from toril import ActiveJob, App

FAULTS = 500


async def break_things(proxy: FaultProxy, chance: random.Random) -> None:
    """Lose replies, and let commands arrive after they were sent again, `FAULTS` times in all."""
    while proxy.dropped < FAULTS:
        before = proxy.dropped
        late = chance.random() < 0.3
        (proxy.hold_command if late else proxy.drop_reply)("EVALSHA", chance.randint(1, 3))
        while proxy.dropped == before:
            await asyncio.sleep(0.001)
        if late:
            await asyncio.sleep(chance.uniform(0, 0.05))
            await asyncio.to_thread(proxy.deliver)
    proxy.restore()


async def test_every_job_is_added_once_and_runs_once(
    server: Server, redis_url: str, raw: redis.Redis
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    runs: Counter[int] = Counter()
    added: dict[str, int] = {}

    async def handler(job: ActiveJob) -> None:
        runs[int(str(job.data))] += 1

    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url) as app, App(redis_url) as quiet:
            queue = app.queue("q")
            await queue.counts()
            worker = app.worker("q", handler, concurrency=10, lock="60s")
            async with worker:
                breaking = asyncio.create_task(break_things(proxy, random.Random(seed)))

                async def produce(first: int) -> None:
                    number = first
                    while not breaking.done():
                        job = await queue.add("n", number)
                        added[job.id] = number
                        number += 8

                await asyncio.gather(breaking, *(produce(first) for first in range(8)))
                async with asyncio.timeout(30):
                    while (await quiet.queue("q").counts())["completed"] < len(added):
                        await asyncio.sleep(0.02)

    assert proxy.dropped >= FAULTS
    assert set(raw.zrange("bull:q:completed", 0, -1)) == added.keys(), "none lost, none twice"
    assert runs == Counter(added.values()), "each ran exactly once"
    assert raw.llen("bull:q:wait") == raw.llen("bull:q:active") == 0
    for job_id in added:
        assert raw.hmget(f"bull:q:{job_id}", "ats", "atm", "stc") == ["1", "1", None]
    assert not list(raw.scan_iter("*:lock"))
