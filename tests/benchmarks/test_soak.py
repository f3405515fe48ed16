"""A worker does not grow, and leaves nothing on the server but what it keeps."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import redis

from tests.benchmarks.soak import KEPT, ROUND, soak, table
from toril import ActiveJob, App, NewJob
from toril_plugins import Retention


def test_it_runs(redis_url: str) -> None:
    states = asyncio.run(soak(redis_url, 3 * ROUND))
    assert [state.jobs for state in states] == [ROUND, 2 * ROUND, 3 * ROUND]
    assert all(state.process > 2**20 for state in states)
    assert len(list(table(states))) == 5


async def test_nothing_is_held_of_jobs_that_have_gone(redis_url: str, raw: redis.Redis) -> None:
    run, rounds = 0, asyncio.Event()

    async def handler(_job: ActiveJob) -> None:
        nonlocal run
        run += 1
        if run % 500 == 0:
            rounds.set()

    async with App(redis_url) as app:
        queue = app.queue("soak", Retention(completed=KEPT))

        async def work(times: int) -> int:
            """Bytes that Python holds after so many rounds of 500 jobs."""
            for _ in range(times):
                rounds.clear()
                await queue.add_many([NewJob("send", {"text": "x" * 200})] * 500)
                await rounds.wait()
            while (await queue.counts("active"))["active"]:
                await asyncio.sleep(0.01)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        async with app.worker("soak", handler, concurrency=100):
            await work(1)
            tracemalloc.start()
            try:
                before = await work(2)
                after = await work(6)
            finally:
                tracemalloc.stop()
        assert after - before < 3000 * 20  # a held job has some 2,000 bytes
        kept = (await queue.counts("completed"))["completed"]
    assert kept == KEPT
    jobs = {key for key in raw.scan_iter("bull:soak:*", count=1000) if key.count(":") == 2}
    others = {"meta", "events", "completed", "marker", "stalled-check", "stalled"}
    assert len(jobs - {f"bull:soak:{name}" for name in others}) == KEPT
