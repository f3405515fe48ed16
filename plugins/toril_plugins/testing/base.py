"""What the contracts of this package are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from toril import ActiveJob, App, Job, Unrecoverable
from toril.plugins import FinishedJob, JobSnapshot, Json
from toril.testing import HOSTILE_DATA, AppOptions, DrivenApp, HookRecorder, PluginContract
from toril_plugins.retention.values import Retention

A_DAY = Retention(completed="1d", failed="1d")
WITHOUT_RESTS: Final = {"cleanup": {"rest": 0}}
"""Sweeps go on at once after a slice: there is nobody whom a rest would spare."""


class RetentionContract(PluginContract):
    """A plugin beside our own two, whatever else is installed."""

    @pytest.fixture
    def toril_options(self) -> AppOptions:
        config = {**WITHOUT_RESTS, **self.config}
        return {"plugins": [self.plugin, "persistence", "cleanup"], "config": config}

    async def finish_all(self, app: DrivenApp) -> Sequence[Job]:
        """Finish jobs with every payload of `samples` and some hostile ones, of both outcomes.

        They fall due a day later.
        """
        payloads = (*self.samples, *HOSTILE_DATA)
        queue = app.queue(self.queue, A_DAY)
        jobs = [await queue.add("job", {"fails": n % 2, "data": d}) for n, d in enumerate(payloads)]
        jobs += [await queue.add("job", data) for data in payloads]

        async def handle(job: ActiveJob) -> Json:
            if job.get("fails", int):
                raise Unrecoverable(f"on purpose: {job.id}")
            return job.data

        app.worker(self.queue, handle)
        await app.drain()
        return jobs

    async def left(self, app: DrivenApp) -> set[str]:
        """The ids of the jobs that have finished and are still there."""
        return {job.id async for job in app.queue(self.queue).jobs("completed", "failed")}


async def finish(app: App, example: FinishedJob, hooks: HookRecorder) -> FinishedJob:
    """Finish a job like this one by a worker of an App whose hooks are recorded.

    Returns the job as it had ended.
    """

    def handle(job: ActiveJob) -> Json:
        del job
        if example.outcome == "failed":
            raise Unrecoverable(example.reason or "")
        return example.result

    job = await app.queue(example.queue).add(example.name, example.data)
    await app.worker(example.queue, handle).run(burst=True)
    ended: list[JobSnapshot] = [event.job for event in hooks.completed]
    ended += [event.job for event in hooks.failed]
    found = next((each for each in ended if each.id == job.id), None)
    assert isinstance(found, FinishedJob), f"{job!r} has not run"
    return found
