"""Parents that are rescued follow the rules of their own queue, whoever rescues them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from tests.support.invariants import check

from toril import ActiveJob, App, Flow, Job, Unrecoverable, hookimpl
from toril.clock import ManualClock
from toril.plugins import FinishedJob, JobRemoved
from toril_plugins.retention.holds import Hold, hold
from toril_plugins.retention.values import Keep, Retention


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Team:
    """A plugin of a team: a strategy, and an ear for removals."""

    toril_name = "team"

    def __init__(self) -> None:
        self.removed: list[JobRemoved] = []

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return Keep("3h") if job.name == "strategic" else None

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.removed += events


@pytest.fixture
def team() -> Team:
    return Team()


@pytest.fixture
async def app(redis_url: str, clock: ManualClock, team: Team) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[team, "persistence", "cleanup"], clock=clock) as made:
        yield made


async def fail(job: ActiveJob) -> None:
    raise Unrecoverable("broken")


async def rescued(app: App, clock: ManualClock, *said: Retention, name: str = "sum") -> Job:
    """A parent in a queue without workers, failed by the process of its child's queue."""
    flow = Flow(
        "reports", name, None, *said, children=[Flow("steps", "bad")], on_child_failure="fail"
    )
    parent = await app.add_flow(flow)
    await app.worker("steps", fail).run(burst=True)
    clock.advance("61s")
    assert await app.run_services("steps")
    return parent


async def swept(app: App, clock: ManualClock, after: str) -> None:
    clock.advance(after)
    assert await app.run_services("reports")


async def test_nothing_is_to_be_kept(
    app: App, raw: redis.Redis, clock: ManualClock, team: Team
) -> None:
    await app.queue("reports").set(Retention(failed=Keep.nothing()))
    parent = await rescued(app, clock)
    await swept(app, clock, "1s")  # with a strategy around, the sweeper removes
    assert not raw.exists(f"bull:reports:{parent.id}")
    (event,) = team.removed
    assert (event.job.id, event.cause, event.plugin) == (parent.id, "rule", "cleanup")
    assert event.job.reason is not None
    await app.run_services("steps")
    assert check(raw, at_rest=True) == []


@pytest.mark.parametrize(
    ("said", "name", "kept", "gone"),
    [
        ([], "sum", "59m", "2m"),
        ([Retention(failed="2h")], "sum", "119m", "2m"),
        ([], "strategic", "179m", "2m"),
    ],
    ids=["queue", "job", "strategy"],
)
async def test_an_age(
    app: App, clock: ManualClock, said: list[Retention], name: str, kept: str, gone: str
) -> None:
    await app.queue("reports").set(Retention(failed="1h"))
    parent = await rescued(app, clock, *said, name=name)
    await swept(app, clock, kept)
    assert await parent.state() == "failed"
    await swept(app, clock, gone)
    assert await parent.state() == "unknown"


async def test_a_count(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    await app.queue("reports").set(Retention(failed=2))
    parents: list[Any] = [await rescued(app, clock) for _ in range(4)]
    await swept(app, clock, "1s")
    assert raw.zrange("bull:reports:failed", 0, -1) == [parent.id for parent in parents[2:]]


async def test_a_hold(app: App, clock: ManualClock) -> None:
    await app.queue("reports").set(Retention(failed=Keep.nothing()))
    await hold(app.queue("reports"), Hold(name="sum", why="a lawsuit"))
    parent = await rescued(app, clock)
    await swept(app, clock, "1d")
    assert await parent.state() == "failed"
