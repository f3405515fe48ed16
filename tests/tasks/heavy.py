"""Tasks that are run in processes: they are found by their module."""

from __future__ import annotations

import os

from tests.tasks.kinds import Point

from toril import ActiveJob, App

app = App(os.environ.get("TORIL_TEST_URL", "redis://unused"), plugins=[])
queue = app.queue("heavy")


@queue.task
def compute(point: Point, times: int = 2) -> tuple[int, Point]:
    return os.getpid(), Point(point.x * times, point.y * times)


@queue.task
async def told(job: ActiveJob, line: str) -> int:
    await job.log(line)
    return os.getpid()


@queue.task(attempts=2)
def crashes() -> None:
    os.abort()
