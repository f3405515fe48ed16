"""The door around the run of a handler, used by plugins that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from toril import ActiveJob, App, Unrecoverable, hookimpl
from toril.plugins import JobAttemptFailed, JobSnapshot

current: ContextVar[str] = ContextVar("current", default="nothing")


class Surround:
    """Says to the handler which job it runs, and notes how each run ended."""

    def __init__(self, name: str = "surround") -> None:
        self.toril_name = name
        self.ended: list[tuple[str, str]] = []

    @hookimpl
    def toril_around_job(self, job: JobSnapshot) -> Any:
        return self.around(job)

    @contextlib.contextmanager
    def around(self, job: JobSnapshot) -> Generator[None]:
        token = current.set(f"{current.get()} {self.toril_name}:{job.id}")
        try:
            yield
        except BaseException as error:
            self.ended.append((job.id, type(error).__name__))
            raise
        else:
            self.ended.append((job.id, "well"))
        finally:
            current.reset(token)


class Broken(Surround):
    """Breaks where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__("broken")
        self.where = where
        self.failed: list[JobAttemptFailed] = []

    @hookimpl
    def toril_around_job(self, job: JobSnapshot) -> Any:
        if self.where == "call":
            raise RuntimeError("broken")
        return 3 if self.where == "kind" else self.around(job)

    @contextlib.contextmanager
    def around(self, job: JobSnapshot) -> Generator[None]:
        if self.where == "enter":
            raise RuntimeError("broken")
        with contextlib.suppress(ValueError):
            yield
        if self.where == "exit":
            raise RuntimeError("broken")

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[JobAttemptFailed]) -> None:
        self.failed += events


async def test_the_handler_sees_what_plugins_set(redis_url: str) -> None:
    first, second = Surround("a"), Surround("b")

    async def on_loop(job: ActiveJob) -> str:
        return current.get()

    def in_thread(job: ActiveJob) -> str:
        return current.get()

    async with App(redis_url, plugins=[first, second]) as app:
        for handler in (on_loop, in_thread):
            jobs = [await app.queue("mail").add("x", id=f"{handler.__name__}{n}") for n in "12"]
            await app.worker("mail", handler, concurrency=2).run(burst=True)
            for job in jobs:
                assert await job.result(timeout="5s") == f"nothing a:{job.id} b:{job.id}"
    assert len(first.ended) == len(second.ended) == 4
    assert {how for _, how in first.ended} == {"well"}


async def test_it_is_left_with_what_the_handler_raised(redis_url: str) -> None:
    seen = Surround()
    started = asyncio.Event()

    async def handler(job: ActiveJob) -> None:
        if job.id == "held":
            started.set()
            await asyncio.sleep(60)
        raise Unrecoverable("no")

    async with App(redis_url, plugins=[seen]) as app:
        queue = app.queue("mail")
        await queue.add("x", id="bad")
        await app.worker("mail", handler).run(burst=True)
        await queue.add("x", id="held")
        async with app.worker("mail", handler, grace="0s"):
            await started.wait()
        assert (await queue.counts())["failed"] == 1
    assert seen.ended == [("bad", "Unrecoverable"), ("held", "CancelledError")]


async def test_a_job_that_must_fail_without_a_run_is_not_surrounded(redis_url: str) -> None:
    seen = Surround()
    async with App(redis_url, plugins=[seen]) as app:
        job = await app.queue("mail").add("x", id="a")
        await app.worker("mail", _never, max_started_attempts=1).run(burst=True)
        await job.retry()
        await app.worker("mail", _never, max_started_attempts=1).run(burst=True)
    assert seen.ended == [("a", "Unrecoverable")]


async def _never(job: ActiveJob) -> None:
    raise Unrecoverable("no")


@pytest.mark.parametrize("where", ["call", "kind", "enter", "exit", "swallows"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_broken_one_changes_nothing(
    redis_url: str, where: str, *, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Broken(where), Surround("sound")

    async def handler(job: ActiveJob) -> str:
        if fails:
            raise ValueError("the handler's own")
        return "done"

    async with App(redis_url, plugins=[broken, sound]) as app:
        job = await app.queue("mail").add("x", id="a")
        await app.worker("mail", handler).run(burst=True)
        await job.refresh()
        assert await job.state() == ("failed" if fails else "completed")
        counts = app.runtime.plugins.counts()["broken", "toril_around_job"]
    assert counts.errors == (where != "swallows")
    assert sound.ended == [("a", "ValueError" if fails else "well")]
    if fails:
        assert job.reason == "the handler's own"
    if where != "swallows":
        assert "plugin 'broken'" in caplog.text
