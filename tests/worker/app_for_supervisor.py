"""A worker for many processes; `TORIL_TEST_DIR` is where it leaves a line per run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from toril import ActiveJob, App
from toril.types import Json

FOLDER = Path(os.environ.get("TORIL_TEST_DIR", "."))

app = App(plugins=[])


async def handle(job: ActiveJob) -> Json:
    with (FOLDER / "runs").open("a") as file:
        file.write(f"{job.id} {os.getpid()}\n")
    if job.name == "slow":
        await asyncio.sleep(60)
    await asyncio.sleep(0.01)
    return os.getpid()


worker = app.worker("q", handle, concurrency=3, lock="1s", stalled_interval="300ms")
