"""A worker process of the chaos tests: `URL LEDGER`. Every start and end of a job is a line there."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from pathlib import Path

from toril import ActiveJob, App
from toril_plugins import Retention


async def main(url: str, ledger: Path) -> None:
    # O_APPEND: lines of several processes do not tear, and outlive the process that wrote them.
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handler(job: ActiveJob) -> int:
        os.write(out, f"start {job.id}\n".encode())
        await asyncio.sleep(random.uniform(0, 0.02))
        os.write(out, f"end {job.id}\n".encode())
        return os.getpid()

    async with App(url) as app:
        worker = app.worker(
            "q",
            handler,
            Retention(failed=10),
            concurrency=25,
            lock="1s",
            stalled_interval="300ms",
            max_stalled=1000,
        )
        await worker.run()


if __name__ == "__main__":
    logging.disable()
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
