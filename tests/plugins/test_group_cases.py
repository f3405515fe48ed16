"""Cases of plugin authors whose strategy counts jobs in groups of its own."""

from __future__ import annotations

from tests.plugins.cases import (
    first_failure,
    sampling,
)

from toril import ActiveJob, Job, Unrecoverable
from toril.testing import (
    DrivenApp,
    LeakCheck,
    Removed,
    ServerClock,
    finished_job,
)
from toril_plugins import Keep
from toril_plugins.testing import StrategyContract


async def work(job: ActiveJob) -> None:
    """Fails with the reason that the payload gives, if it gives one."""
    reason = job.get("reason", str)
    if reason is not None:
        raise Unrecoverable(reason)


class TestFirstFailure(StrategyContract):
    plugin = first_failure
    examples = (
        (
            finished_job("jobs", "x", outcome="failed", reason="user 17 at 0xff: no mail"),
            Keep(first=1, group="user N at N: no mail"),
        ),
        (finished_job("jobs", "x"), None),
    )

    async def test_of_failures_that_look_alike_the_first_stays(
        self, toril_app: DrivenApp, clock: ServerClock, assert_no_leaks: LeakCheck
    ) -> None:
        queue = toril_app.queue("jobs")
        toril_app.worker("jobs", work)
        reasons = ["user 1: no mail", "user 2: no mail", "disk is full", "user 33: no mail"]
        jobs: list[Job] = []
        for reason in reasons:
            jobs.append(await queue.add("job", {"reason": reason}))
            await toril_app.drain()
            clock.advance("1m")
        await toril_app.sweep()
        left = [job.id async for job in queue.jobs("failed")]
        assert sorted(left) == sorted([jobs[0].id, jobs[2].id])
        assert_no_leaks()


class TestSampling(StrategyContract):
    plugin = sampling
    examples = (
        (
            finished_job("jobs", "mail", finished=1_700_000_000_000),
            Keep(first=1, group="mail 2023-11-14 22", age="30d"),
        ),
        (finished_job("jobs", "mail", outcome="failed"), None),
    )

    async def test_one_an_hour_and_name_is_kept(
        self, toril_app: DrivenApp, clock: ServerClock, removed: Removed
    ) -> None:
        queue = toril_app.queue("jobs")
        toril_app.worker("jobs", work)
        now = clock.now()
        clock.advance_to(now.replace(minute=0, second=0, microsecond=0).replace(year=now.year + 1))
        for _ in range(2):
            for name in ("mail", "mail", "bill", "mail"):
                await queue.add(name)
                await toril_app.drain()
                clock.advance("1m")
            clock.advance("56m")
        await toril_app.sweep()
        left = sorted([job.name async for job in queue.jobs("completed")])
        assert left == ["bill", "bill", "mail", "mail"]
        clock.advance("31d")
        await toril_app.sweep()
        assert len(removed) == 8
