"""Handlers for processes, one for each name of a job, and an App that they must not touch."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from toril import (
    ActiveJob,
    App,
    Flow,
    NewJob,
    RateLimited,
    RetryIn,
    Unrecoverable,
    WaitAgain,
    WaitForChildren,
)
from toril.types import Json

FOLDER = Path(os.environ.get("TORIL_TEST_DIR", "."))
app = App(os.environ.get("TORIL_URL", "redis://127.0.0.1:1"), plugins=[])
log = logging.getLogger("kitchen")
ballast: list[bytes] = []
used: list[str] = []


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} is not {b}")
        self.line = lambda: a + b


class Told(Exception):
    """An error that travels as it is."""


def handle(job: ActiveJob) -> Json:
    used.append(job.id)
    data: Any = job.data
    result: Json = globals()[f"job_{job.name}"](job, data)
    return result


def job_pid(job: ActiveJob, data: Any) -> Json:
    return {"pid": os.getpid(), "runs": len(used)}


def job_square(job: ActiveJob, data: Any) -> Json:
    square: int = data * data
    return square


def job_see(job: ActiveJob, data: Any) -> Json:
    return [job.id, job.queue, job.attempt, job.token, job.opts["attempts"]]


def job_die(job: ActiveJob, data: Any) -> None:
    os.kill(os.getpid(), data)


def job_exit(job: ActiveJob, data: Any) -> None:
    os._exit(data)


def job_leave(job: ActiveJob, data: Any) -> None:
    sys.exit(data)


def job_die_once(job: ActiveJob, data: Any) -> Json:
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.attempt


def job_spin(job: ActiveJob, data: Any) -> None:
    job.sync.progress(os.getpid())
    while True:
        pass


def job_grab(job: ActiveJob, data: Any) -> None:
    job.sync.progress(os.getpid())
    ctypes.PyDLL(None).sleep(60)  # keeps Python's lock


def job_busy(job: ActiveJob, data: Any) -> Json:
    until = time.monotonic() + data
    while time.monotonic() < until:
        pass
    return os.getpid()


def job_grow(job: ActiveJob, data: Any) -> Json:
    ballast.append(b"x" * data)
    return os.getpid()


def job_helper(job: ActiveJob, data: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as helper:
        job.sync.progress([os.getpid(), helper.pid])


def job_speak(job: ActiveJob, data: Any) -> Json:
    assert job.sync.log("one") == 1
    assert job.sync.log("two") == 2
    job.sync.progress({"half": True})
    job.sync.update({"n": data["n"] + 1})
    job.sync.extend_lock("1m")
    assert not job.shutting_down
    return job.data


def job_family(job: ActiveJob, data: Any) -> Json:
    found = job.sync.children()
    if not found.processed:
        job.sync.add_children([NewJob("square", 3), NewJob("square", 4)])
        raise WaitForChildren
    return sorted(int(str(value)) for value in found.processed.values())


def job_prune(job: ActiveJob, data: Any) -> Json:
    if job.starts == 1:

        class LocalWaitAgain(WaitAgain):
            """One that does not travel."""

        raise LocalWaitAgain
    sync = job.sync
    sync.log("one")
    sync.log("two")
    sync.clear_logs(keep=1)
    sync.add_children([Flow("late", "late", id="late", delay="1h")])
    page = sync.children_page("unprocessed", count=5)
    gone = sync.remove_unprocessed_children()
    return [
        [*page.children],
        [*gone],
        [one.id for one in gone.kept],
        sync.children_counts()["unprocessed"],
    ]


def job_told(job: ActiveJob, data: Any) -> None:
    raise Told("as it is")


def job_unpicklable(job: ActiveJob, data: Any) -> None:
    raise Unpicklable(1, 2)


def job_final(job: ActiveJob, data: Any) -> None:
    raise Unrecoverable("never")


def job_again(job: ActiveJob, data: Any) -> Json:
    if job.starts == 1:
        raise RetryIn("0s")
    return job.attempt


def job_limited(job: ActiveJob, data: Any) -> Json:
    class LocalRateLimited(RateLimited):
        """One that cannot be pickled."""

    if job.starts == 1:
        raise LocalRateLimited("100ms")
    return job.attempt


def job_object(job: ActiveJob, data: Any) -> object:
    return object()


def job_app(job: ActiveJob, data: Any) -> None:
    app.sync.queue("q").add("no")


def job_logging(job: ActiveJob, data: Any) -> None:
    log.warning("the %s is hot", "oven")


async def handle_on_a_loop(job: ActiveJob) -> Json:
    await job.log("first")
    await asyncio.gather(job.log("second"), job.progress(1))
    if job.name == "app":
        await app.queue("q").add("no")
    return os.getpid()


def note(job: ActiveJob) -> None:
    """Leaves a line in a file and goes on for ever."""
    with (FOLDER / "runs").open("a") as file:
        file.write(f"{job.id} {os.getpid()}\n")
    while True:
        pass


worker = app.worker("q", note, processes=2)
