"""Workers for processes of their own; what they do is steered by the environment.

`TORIL_URL` names the server, `TORIL_TEST_DIR` a folder in which handlers leave a file per job.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from toril.app import App
from toril.types import Json
from toril.worker import ActiveJob, Worker, WorkerOptions

FOLDER = Path(os.environ.get("TORIL_TEST_DIR", "."))

app = App(plugins=[])
OPTIONS: WorkerOptions = {"lock": "300ms", "stalled_interval": "100ms", "concurrency": 4}


def note(job: ActiveJob) -> None:
    with (FOLDER / job.id).open("a") as file:
        file.write(f"{os.getpid()}\n")


async def handle(job: ActiveJob) -> Json:
    note(job)
    match job.name:
        case "abort":
            os.abort()
        case "block":
            time.sleep(60)  # noqa: ASYNC251 - it blocks on purpose
        case "slow":
            await asyncio.sleep(60)
        case "fail":
            raise ValueError("no")
        case _:
            pass
    return os.getpid()


def handle_in_thread(job: ActiveJob) -> Json:
    note(job)
    if job.name == "slow":
        time.sleep(60)
    return os.getpid()


worker = app.worker("q", handle, **OPTIONS)
threads = app.worker("threads", handle_in_thread, **OPTIONS)
number = 3
fetcher = app.fetcher("q")
empty = App(plugins=[])


def factory() -> Worker:
    return worker


def broken() -> Worker:
    raise RuntimeError("no account")
