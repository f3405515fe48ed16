"""Parents whose failure is decided, and whom no worker of their queue takes."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from tests.conftest import Library
from tests.support.invariants import check
from tests.worker.conftest import Listener, until

from toril.app import App
from toril.clock import ManualClock
from toril.errors import JobFailed, Unrecoverable
from toril.flow import Flow
from toril.hooks.context import ServiceContext
from toril.hooks.markers import hookimpl
from toril.hooks.registry import Registry
from toril.job import Job
from toril.job_events import JobAttemptFailed
from toril.snapshots import FinishedJob
from toril.types import Json
from toril.worker import ActiveJob


async def fail(job: ActiveJob) -> Json:
    raise Unrecoverable("broken")


class Planner(Listener):
    """Plans finishes and takes them to Lua, as the plugin of a team may."""

    toril_name = "planner"

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Any] = []

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        chunk = (
            "ctx.report({id = ctx.id, plan = ctx.plan, cause = ctx.cause, at = ctx.finished_on})"
        )
        registry.lua("finished", chunk)
        registry.reports(self.reports.append)

    @hookimpl
    def toril_plan_finish(self, job: FinishedJob) -> Json:
        return f"{job.outcome} {job.cause}"


@pytest.fixture
def planner() -> Planner:
    return Planner()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(redis_url: str, clock: ManualClock, planner: Planner) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[planner], clock=clock) as made:
        yield made


def chain(*queues: str, **options: Any) -> Flow:
    """A flow of one job a queue, from the root down; a failure fails all of them."""
    flow = Flow(queues[-1], "job")
    for queue in reversed(queues[:-1]):
        flow = Flow(queue, "job", children=[flow], on_child_failure="fail", **options)
    return flow


def stream(raw: Any, queue: str) -> list[dict[str, str]]:
    return [entry[1] for entry in raw.xrange(f"bull:{queue}:events")]


async def rescue(app: App, queue: str, clock: ManualClock) -> None:
    """What the process that leads the services of `queue` does a minute later."""
    clock.advance("61s")
    assert await app.run_services(queue)


@pytest.mark.parametrize("by", ["steps", "reports"])
async def test_a_parent_that_nobody_takes_is_failed_by_either_queue(
    app: App, raw: redis.Redis, clock: ManualClock, planner: Planner, by: str
) -> None:
    parent = await app.add_flow(chain("reports", "steps", attempts=3))
    await app.worker("steps", fail).run(burst=True)
    assert await parent.state() == "waiting"
    assert await app.run_services(by)
    assert await parent.state() == "waiting", "before its time"

    planner.events.clear()
    planner.reports.clear()
    before = len(stream(raw, "reports"))
    await rescue(app, by, clock)
    with pytest.raises(JobFailed, match=r"^.*child bull:steps:\w+ failed$"):
        await parent.result()
    stored = (await parent.refresh()).snapshot
    assert (stored.attempts_made, stored.attempts_started) == (1, 1)
    assert stored.finished == stored.processed == clock.now_ms()
    assert stored.deferred_failure is None
    assert stored.stacktrace[-1].startswith("toril.errors.Unrecoverable: child ")

    events = stream(raw, "reports")[before:]
    assert [event["event"] for event in events] == ["active", "failed", "drained"]
    assert events[0] == {"event": "active", "jobId": parent.id, "prev": "waiting"}
    assert events[1]["failedReason"] == stored.reason

    (event,) = planner.of(JobAttemptFailed)
    assert (event.final, event.cause, event.job.id) == (True, "child", parent.id)
    assert dict(event.job.fields) == dict(stored.fields)
    told = {"id": parent.id, "plan": "failed child", "cause": "child", "at": stored.finished}
    assert planner.reports == [told]

    await app.run_services("steps")
    assert not raw.exists("bull:reports:toril:deferred", "bull:steps:toril:deferred")
    assert check(raw) == []


async def test_its_own_parents_follow_although_no_worker_knows_their_queues(
    app: App, raw: redis.Redis, clock: ManualClock
) -> None:
    root = await app.add_flow(chain("top", "upper", "lower", "steps"))
    await app.worker("steps", fail).run(burst=True)
    states: list[dict[str, int]] = []
    for _ in range(3):
        await rescue(app, "steps", clock)
        states.append(
            {name: raw.zcard(f"bull:{name}:failed") for name in ("lower", "upper", "top")}
        )
    assert states == [
        {"lower": 1, "upper": 0, "top": 0},
        {"lower": 1, "upper": 1, "top": 0},
        {"lower": 1, "upper": 1, "top": 1},
    ]
    with pytest.raises(JobFailed, match=r"child bull:upper:\w+ failed"):
        await root.result()


async def test_prioritised(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    parent = await app.add_flow(chain("reports", "steps", priority=7))
    await app.worker("steps", fail).run(burst=True)
    assert await parent.state() == "prioritized"
    await rescue(app, "reports", clock)
    assert await parent.state() == "failed"
    assert not raw.exists("bull:reports:prioritized")


async def test_delayed_once_it_is_due(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    parent = await app.add_flow(chain("reports", "steps", delay="90s"))
    await app.worker("steps", fail).run(burst=True)
    assert await parent.state() == "delayed"
    await rescue(app, "steps", clock)
    assert await parent.state() == "delayed", "it is not due"
    await rescue(app, "steps", clock)
    assert await parent.state() == "failed"
    events = [event["event"] for event in stream(raw, "reports")]
    assert events[-5:] == ["waiting", "active", "failed", "retries-exhausted", "drained"]


async def test_a_paused_queue_is_left_alone(app: App, clock: ManualClock) -> None:
    parent = await app.add_flow(chain("reports", "steps"))
    await app.worker("steps", fail).run(burst=True)
    await app.queue("reports").pause()
    await rescue(app, "steps", clock)
    await rescue(app, "reports", clock)
    assert await parent.state() == "waiting"
    await app.queue("reports").resume()
    await rescue(app, "steps", clock)
    assert await parent.state() == "failed"


async def taken(app: App, parent: Job, clock: ManualClock) -> None:
    """A worker of the parent's queue comes."""
    await app.worker("reports", fail).run(burst=True)


async def rescued(app: App, parent: Job, clock: ManualClock) -> None:
    assert await app.run_services("steps")


async def rescued_there(app: App, parent: Job, clock: ManualClock) -> None:
    assert await app.run_services("reports")


@pytest.mark.parametrize(
    "order",
    list(itertools.permutations([taken, rescued, rescued_there])),
    ids=lambda order: "-".join(step.__name__ for step in order),
)
async def test_whoever_comes_first_has_it(
    app: App, raw: redis.Redis, clock: ManualClock, planner: Planner, order: Any
) -> None:
    parent = await app.add_flow(chain("reports", "steps"))
    await app.worker("steps", fail).run(burst=True)
    planner.events.clear()
    clock.advance("61s")
    for step in order:
        await step(app, parent, clock)
    refreshed = (await parent.refresh()).snapshot
    assert (refreshed.attempts_made, refreshed.attempts_started) == (1, 1)
    assert [event.job.id for event in planner.of(JobAttemptFailed)] == [parent.id]
    assert not raw.exists("bull:reports:toril:deferred", "bull:steps:toril:deferred")
    assert check(raw) == []


def foreign(*queues: str) -> Flow:
    """`chain`, with a leaf that the handlers of other libraries fail."""
    flow = Flow(queues[-1], "bad", {"do": [["unrecoverable", "broken"]]})
    for queue in reversed(queues[:-1]):
        flow = Flow(queue, "job", {}, children=[flow], on_child_failure="fail")
    return flow


@pytest.mark.parametrize("name", ["node", "node5", "python"])
async def test_children_that_other_libraries_fail(
    app: App, raw: redis.Redis, clock: ManualClock, library: Library, name: str
) -> None:
    """They note nothing: the parents are found among the failed children of the queue."""
    driver = library(name)
    try:
        root = await app.add_flow(foreign("top", "reports", "steps"))
        (node,) = (await app.flow_tree(root)).children
        await driver.worker("steps")
        await until(lambda: raw.hexists(f"bull:reports:{node.job.id}", "defa"))
    finally:
        await driver.reset()
    assert not raw.exists("bull:reports:toril:deferred", "bull:steps:toril:deferred")
    clock.advance("60s")  # the other library has a clock of its own
    await rescue(app, "steps", clock)
    with pytest.raises(JobFailed, match=r"child bull:steps:.* failed"):
        await node.job.result()
    await rescue(app, "steps", clock)
    with pytest.raises(JobFailed, match=r"child bull:reports:.* failed"):
        await root.result()
    assert check(raw) == []


@pytest.mark.parametrize("first", ["rescue", "node"])
async def test_beside_a_worker_of_bullmq(
    app: App, raw: redis.Redis, clock: ManualClock, library: Library, first: str
) -> None:
    """Whoever comes first fails the parent; both leave the same."""
    driver = library("node")
    parent = await app.add_flow(foreign("reports", "steps"))
    await app.worker("steps", fail).run(burst=True)
    try:
        if first == "rescue":
            await rescue(app, "steps", clock)
        await driver.worker("reports")
        await until(lambda: raw.zcard("bull:reports:failed"))
        await until(lambda: not raw.exists("bull:reports:active"))
        await rescue(app, "steps", clock)
    finally:
        await driver.reset()
    stored = (await parent.refresh()).snapshot
    assert (stored.attempts_made, stored.attempts_started) == (1, 1)
    assert (stored.reason or "").startswith("child bull:steps:")
    events = [event["event"] for event in stream(raw, "reports")]
    assert events.count("active") == events.count("failed") == 1
    assert not raw.exists("bull:steps:toril:deferred")


async def test_a_worker_of_the_children_does_it_by_itself(
    redis_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toril.worker.rescue.PERIOD", 0.02)
    async with App(redis_url, plugins=[], rescue_after="0s") as app:
        root = await app.add_flow(chain("top", "upper", "steps"))
        async with app.worker("steps", fail):
            with pytest.raises(JobFailed, match="child bull:upper:"):
                await root.result(timeout="10s")
    assert check(raw, at_rest=True) == []


async def test_a_garbled_parent_is_not_in_the_way_of_others(
    app: App, raw: redis.Redis, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    garbled = await app.add_flow(chain("broken", "steps"))
    good = await app.add_flow(chain("reports", "steps"))
    await app.worker("steps", fail).run(burst=True)
    raw.set("bull:broken:failed", "no set")
    await rescue(app, "steps", clock)
    assert await good.state() == "failed"
    assert f"job broken/{garbled.id} has to fail, and cannot: it is garbled" in caplog.text


def failed_elsewhere(raw: redis.Redis, id: str, score: float) -> str:
    """A child that another library failed, and its parent, by its key."""
    parent = f"bull:reports:p-{id}"
    job: dict[Any, Any] = {"name": "x", "data": "{}", "opts": "{}"}
    raw.hset(parent, mapping={**job, "defa": "child x failed"})
    raw.lpush("bull:reports:wait", f"p-{id}")
    link = json.dumps({"id": f"p-{id}", "queueKey": "bull:reports", "fpof": True})
    raw.hset(f"bull:steps:{id}", mapping={**job, "parentKey": parent, "parent": link})
    raw.zadd("bull:steps:failed", {id: score})
    return parent


async def test_failed_children_are_found_wherever_their_score_stands(
    app: App, raw: redis.Redis, clock: ManualClock
) -> None:
    """Behind what has been looked at, ahead of the time, and at the end, where holds put jobs."""
    now = clock.now_ms()
    noted: dict[str, str] = {
        "held": failed_elsewhere(raw, "held", 9e15),
        "ahead": failed_elsewhere(raw, "ahead", now + 300_000),
    }
    assert await app.run_services("steps")
    assert set(raw.zrange("bull:steps:toril:deferred", 0, -1)) == set(noted.values())
    noted["new"] = failed_elsewhere(raw, "new", now + 1)
    clock.advance("15s")
    assert await app.run_services("steps")
    assert raw.zscore("bull:steps:toril:deferred", noted["new"]), "although others are behind it"
    noted["late"] = failed_elsewhere(raw, "late", now - 200_000)
    noted["kept"] = failed_elsewhere(raw, "kept", 9e15)
    assert await app.run_services("steps")
    assert not raw.zscore("bull:steps:toril:deferred", noted["late"])
    clock.advance("10m")
    assert await app.run_services("steps")
    clock.advance("61s")
    assert await app.run_services("steps")
    assert raw.zcard("bull:reports:failed") == len(noted) == 5
    assert not raw.exists("bull:reports:wait", "bull:steps:toril:deferred")


async def test_no_plugin_can_take_the_name_of_the_service(redis_url: str) -> None:
    class Other:
        toril_name = "other"

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            registry.service("rescue", lambda: self)

        async def run_once(self, context: ServiceContext) -> None: ...

    async with App(redis_url, plugins=[Other()]) as app:
        info = app.runtime.plugins.info("other")
        assert info is not None
        assert info.status == "broken"
        assert "Toril uses that name" in (info.error or "")
