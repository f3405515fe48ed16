"""The same for the package `bullmq` of PyPI."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from bullmq import Queue, Worker

PAYLOAD = {"to": "ada@example.org", "text": "x" * 64}


async def main(url: str, what: str, jobs: int, concurrency: int) -> float:
    queue = Queue("bench", {"connection": url})
    try:
        if what == "add":
            started = time.perf_counter()
            for first in range(0, jobs, 500):
                count = min(500, jobs - first)
                await queue.addBulk([{"name": "send", "data": PAYLOAD} for _ in range(count)])
            return time.perf_counter() - started
        return await drain(url, jobs, concurrency)
    finally:
        await queue.close()


async def drain(url: str, jobs: int, concurrency: int) -> float:
    done = asyncio.Event()
    left = jobs

    async def handler(job: Any, token: str) -> None:
        """Do nothing."""

    noop: Any = handler

    def completed(job: Any, result: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    options: Any = {"connection": url, "concurrency": concurrency, "autorun": False}
    worker = Worker("bench", noop, options)
    worker.on("completed", completed)
    started = time.perf_counter()
    running = asyncio.ensure_future(worker.run())
    await done.wait()
    seconds = time.perf_counter() - started
    await worker.close(force=True)
    running.cancel()
    return seconds


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(main(arguments[0], arguments[1], *map(int, arguments[2:])))))
