"""Toril's part of the comparison, in a process: `<url> add|drain <jobs> <concurrency>`."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from toril import ActiveJob, App, NewJob

PAYLOAD = {"to": "ada@example.org", "text": "x" * 64}


async def noop(job: ActiveJob) -> None:
    """Do nothing."""


async def main(url: str, what: str, jobs: int, concurrency: int) -> float:
    async with App(url) as app:
        queue = app.queue("bench")
        await queue.counts()
        if what == "add":
            started = time.perf_counter()
            await queue.add_many([NewJob("send", PAYLOAD) for _ in range(jobs)])
            return time.perf_counter() - started
        worker = app.worker("bench", noop, concurrency=concurrency)
        started = time.perf_counter()
        await worker.run(burst=True)
        seconds = time.perf_counter() - started
        assert (await queue.counts())["completed"] == jobs
        return seconds


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(main(arguments[0], arguments[1], *map(int, arguments[2:])))))
