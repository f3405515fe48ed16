"""What a plugin that copies jobs before they go keeps to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest

from toril import hookimpl
from toril.plugins import FinishedJob, JobSnapshot, Json, State
from toril.testing import AppOptions, DrivenApp, HookRecorder, LeakCheck, ServerClock, finished_job
from toril_plugins.retention.reviewing import JobDetails
from toril_plugins.testing.base import A_DAY, WITHOUT_RESTS, RetentionContract

HOOK = "toril_before_removal"


class Copy(NamedTuple):
    """A job as it was found in an archive; `ended` is its result, or the reason of its failure."""

    queue: str
    id: str
    finished: int
    data: Json
    ended: Json


class BreaksOnce:
    """Copies as well, and breaks the first time: the others have copied the jobs by then."""

    toril_name = "breaks_once"

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl(trylast=True)
    def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
        self.calls += 1
        if self.calls == 1:
            raise OSError(f"no room for {len(jobs)} jobs, on purpose")


class ArchiveContract(RetentionContract):
    """What a plugin that copies jobs before they go (`toril_before_removal`) keeps to.

        class TestCopies(ArchiveContract):
            plugin = Copies
            ...
            def copies(self) -> Iterable[Copy]: ...
            def broken(self) -> AbstractContextManager[object]: ...

    What goes has been copied, whole and once, however often it is asked; and where it cannot copy
    nothing goes.
    """

    @abstractmethod
    def copies(self) -> Iterable[Copy]:
        """All copies that there are. Called while the App runs."""

    @abstractmethod
    def broken(self) -> AbstractContextManager[object]:
        """Meanwhile nothing can be copied; afterwards it can again."""

    @pytest.mark.asyncio
    async def test_what_goes_has_been_copied(
        self,
        toril_app: DrivenApp,
        clock: ServerClock,
        record_hooks: HookRecorder,
        assert_no_leaks: LeakCheck,
    ) -> None:
        jobs = await self.finish_all(toril_app)
        assert not list(self.copies()), "nothing is copied before its time"
        clock.advance("1d")
        await toril_app.sweep(self.queue)
        assert not await self.left(toril_app)
        self.assert_no_errors(toril_app)
        went = [_copy_of(event.job, event.state) for event in record_hooks.removed]
        assert len(went) == len(jobs)
        assert _sorted(self.copies()) == _sorted(went)
        assert_no_leaks()

    @pytest.mark.asyncio
    async def test_a_job_is_copied_once_however_often_it_comes(self, toril_app: DrivenApp) -> None:
        jobs = [finished_job(self.queue, "job", data, result=data) for data in self.samples]
        jobs.append(finished_job(self.queue, "job", {}, outcome="failed", reason="on purpose"))
        for function in await self.functions(toril_app, HOOK):
            details = {job.id: JobDetails((), {}, {}) for job in jobs}
            for _ in range(3):
                await function.ask_async(jobs=tuple(jobs), details=details)
            await function.ask_async(jobs=(), details={})
        assert _sorted(self.copies()) == _sorted(_copy_of(job, job.outcome) for job in jobs)

    @pytest.mark.asyncio
    async def test_an_id_that_comes_again_is_another_job(
        self, toril_app: DrivenApp, clock: ServerClock, record_hooks: HookRecorder
    ) -> None:
        queue = toril_app.queue(self.queue, A_DAY)
        for number in range(2):
            await queue.add("job", {"number": number}, id="again")
            await toril_app.worker(queue, lambda _: None).run(burst=True)
            clock.advance("1d")
            await toril_app.sweep(queue)
        assert len(record_hooks.removed) == 2
        assert [copy.data for copy in _sorted(self.copies())] == [{"number": 0}, {"number": 1}]

    @pytest.mark.asyncio
    async def test_where_it_cannot_copy_nothing_goes(
        self, toril_app: DrivenApp, clock: ServerClock
    ) -> None:
        jobs = await self.finish_all(toril_app)
        clock.advance("1d")
        with self.broken():
            await sweep_although_it_breaks(toril_app, self.queue)
            assert len(await self.left(toril_app)) == len(jobs)
        clock.advance("1h")
        await toril_app.sweep(self.queue)
        assert not await self.left(toril_app)
        assert len(list(self.copies())) == len(jobs)

    @pytest.mark.asyncio
    async def test_copied_and_not_removed_they_are_copied_once(
        self, toril_app: DrivenApp, clock: ServerClock
    ) -> None:
        """Another copier breaks after it, as if the process had died before the removal."""
        breaks = BreaksOnce()
        options: AppOptions = {
            "plugins": [self.plugin, breaks, "persistence", "cleanup"],
            "config": {**WITHOUT_RESTS, **self.config},
            "clock": clock,
        }
        async with DrivenApp(toril_app.server, **options) as app:
            jobs = await self.finish_all(app)
            clock.advance("1d")
            await sweep_although_it_breaks(app, self.queue)
            assert len(await self.left(app)) == len(jobs)
            clock.advance("1h")
            await app.sweep(self.queue)
            assert not await self.left(app)
            assert breaks.calls > 1
            assert len(list(self.copies())) == len(jobs)


def _copy_of(job: JobSnapshot, state: State) -> Copy:
    """What an archive has to hold of a job."""
    ended = job.result if state == "completed" else job.reason
    return Copy(job.queue, job.id, job.finished or 0, job.data, ended)


async def sweep_although_it_breaks(app: DrivenApp, queue: str) -> None:
    """Sweep a queue once; what a copier breaks is not this caller's."""
    try:
        await app.run_services(queue)
    except Exception:  # noqa: BLE001 - a guard: which error that is is the plugin's business
        return


def _sorted(copies: Iterable[Copy]) -> list[Copy]:
    return sorted(copies, key=lambda copy: (copy.queue, copy.id, copy.finished))
