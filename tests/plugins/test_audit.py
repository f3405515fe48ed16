"""An audit of retention: what was said and does not happen is found, repaired, and gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import redis
from tests.support.place import START, finish_jobs

from toril import App, NewJob, Setting, hookimpl
from toril.plugins import Finding, FinishedJob, ManualClock
from toril_plugins import Ceiling, IdWindow, Keep, Retention

Q = "bull:mail"
OWN = f"{Q}:toril:cleanup"
DAY = 86_400_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def app(redis_url: str, clock: ManualClock) -> AsyncIterator[App]:
    async with App(redis_url, plugins=["persistence", "cleanup"], clock=clock) as made:
        yield made


async def found(app: App) -> dict[str, list[Finding]]:
    kinds: dict[str, list[Finding]] = {}
    for finding in (await app.audit("mail")).findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


async def repair(findings: Sequence[Finding]) -> None:
    for finding in findings:
        assert finding.repair is not None, finding
        assert await finding.repair.run(), finding


async def test_all_is_well(app: App, clock: ManualClock) -> None:
    queue = await finish_jobs(
        app,
        NewJob("a"),
        NewJob("a", {}, Retention(completed="1h")),
        NewJob("a", {}, Retention(completed=5)),
        NewJob("bad", {}, Retention(failed=Keep(last=2, key="name"))),
    )
    await queue.set(Retention(completed="1d", failed=100))
    await app.run_services("mail")
    assert await found(app) == {}
    clock.advance("9m")
    assert await found(app) == {}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (Retention(completed="1h"), "by age, under the rule queue: 1h"),
        (Retention(completed=1), "by their number"),
        (Retention(completed=Keep(last=1, key="name")), "in groups of which too many are kept"),
    ],
    ids=["age", "number", "groups"],
)
async def test_overdue_by_the_live_rule(
    app: App, clock: ManualClock, raw: redis.Redis, said: Retention, what: str
) -> None:
    queue = await finish_jobs(app, NewJob("a"), NewJob("a"), NewJob("a"))
    if "groups" in what:
        await queue.set(Retention(completed=Keep(last=5, key="name")))
        await app.run_services("mail")
        (bucket,) = raw.keys(f"{OWN}:bucket:completed:*")
        raw.sadd(f"{OWN}:over:completed", str(bucket).rpartition(":")[2])
    await queue.set(said)
    clock.advance("2h")
    kinds = await found(app)
    assert set(kinds) == {"overdue", "unswept"}
    (overdue,) = kinds["overdue"]
    assert what in overdue.what
    assert overdue.count == {"by age, under the rule queue: 1h": 3, "by their number": 2}.get(
        what, 1
    )
    assert kinds["unswept"][0].severity == "problem"
    await repair([overdue])
    assert await found(app) == {}
    assert raw.zcard(f"{Q}:completed") == (0 if said.completed == Keep(age="1h") else 1)


async def test_a_number_is_not_overdue_while_somebody_sweeps(app: App, raw: redis.Redis) -> None:
    queue = await finish_jobs(app, NewJob("a"), NewJob("a"), NewJob("a"))
    await queue.set(Retention(completed=1))
    raw.set(f"{Q}:toril:lease:sweep", "somebody", px=30_000)
    assert await found(app) == {}


async def test_overdue_by_a_time_of_its_own(app: App, clock: ManualClock) -> None:
    await finish_jobs(app, NewJob("a", {}, Retention(completed="1h")))
    clock.advance("59m")
    assert set(await found(app)) == {"unswept"}  # what is decided about single jobs is due, too
    clock.advance("5m")
    kinds = await found(app)
    (overdue,) = kinds["overdue"]
    assert overdue.what == "1 jobs are overdue by a time of their own"
    await repair([overdue])
    assert await found(app) == {}


async def test_a_process_that_only_reports_is_noted(
    app: App, redis_url: str, clock: ManualClock
) -> None:
    await finish_jobs(
        app, NewJob("a"), NewJob("a"), NewJob("a", {}, Retention(completed="1h")), NewJob("bad")
    )
    config = {"cleanup": {"report_only": True}}
    clock.advance("2h")
    async with App(redis_url, plugins=["*"], config=config, clock=clock) as reporting:
        await reporting.run_services("mail")
        kinds = await found(app)
        assert set(kinds) == {"report-only"}
        (note,) = kinds["report-only"]  # nothing is said about those that failed
        assert (note.severity, note.key, note.repair) == ("note", f"{Q}:completed", None)
        assert note.what.endswith("removes nothing; 1 jobs are overdue by a time of their own")
        await app.queue("mail").set(Retention(completed=1))
        (note,) = (await found(app))["report-only"]
        assert note.what.endswith("own; 1 jobs are overdue by their number")
    clock.advance("11m")  # neither does it report any more
    assert set(await found(app)) == {"overdue", "unswept"}
    await app.run_services("mail")
    assert await found(app) == {}


async def test_a_fresh_rule_that_nobody_sweeps_yet_is_well(
    app: App, clock: ManualClock, raw: redis.Redis
) -> None:
    queue = await finish_jobs(app, NewJob("a"))
    await queue.set(Retention(completed="30d"))
    raw.delete(f"{Q}:toril:lease:sweep")
    raw.hdel(f"{Q}:meta", "toril.cleanup.swept")
    assert await found(app) == {}
    clock.advance("11m")
    (unswept,) = (await found(app))["unswept"]
    assert "nobody carries out queue: 30d" in unswept.what
    await repair([unswept])
    assert await found(app) == {}


def retried_elsewhere(raw: redis.Redis, id: str) -> None:
    """As a dashboard does it."""
    raw.zrem(f"{Q}:completed", id)
    raw.hdel(f"{Q}:{id}", "finishedOn", "returnvalue", "processedOn")
    raw.lpush(f"{Q}:wait", id)


def removed_elsewhere(raw: redis.Redis, id: str) -> None:
    raw.zrem(f"{Q}:completed", id)
    raw.delete(f"{Q}:{id}")


async def test_gone_before_its_time(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    await finish_jobs(app, NewJob("a", {}, Retention(completed="7d"), id="j1"))
    await app.run_services("mail")
    removed_elsewhere(raw, "j1")
    (early,) = (await found(app))["early"]
    assert (early.key, early.severity) == (f"{Q}:j1", "problem")
    assert "was to be kept until 2026-" in early.what
    await repair([early])
    assert await found(app) == {}
    assert raw.keys(f"{OWN}:*") == []


@pytest.mark.parametrize("elsewhere", [retried_elsewhere, removed_elsewhere])
@pytest.mark.parametrize(
    "said",
    [Retention(completed=5), Retention(completed=Keep(last=3, key="name"))],
    ids=["number", "groups"],
)
async def test_drift(
    app: App,
    raw: redis.Redis,
    said: Retention,
    elsewhere: Callable[[redis.Redis, str], None],
) -> None:
    await finish_jobs(app, NewJob("a", {}, said, id="j1"), NewJob("a", {}, said, id="j2"))
    await app.run_services("mail")
    elsewhere(raw, "j1")
    drift = (await found(app))["drift"]
    assert {each.severity for each in drift} == {"note"}
    assert f"{OWN}:own:completed" in {each.key for each in drift}
    assert drift[0].repair is not None
    assert await drift[0].repair.run()
    assert not await drift[0].repair.run()
    assert "drift" not in await found(app)
    assert raw.zrange(f"{OWN}:own:completed", 0, -1) == ["j2"]


@pytest.mark.parametrize("index", ["at", "nth", "due", "rule"])
async def test_drift_of_a_single_index(app: App, raw: redis.Redis, index: str) -> None:
    await finish_jobs(app, NewJob("a", id="j1"))
    key = f"{OWN}:{index}:completed"
    if index == "rule":
        raw.hset(key, "j1", "x")
    else:
        raw.zadd(key, {"j1": START + DAY})
    (drift,) = (await found(app))["drift"]
    assert drift.key == f"{OWN}:{index}:completed"
    await repair([drift])
    assert await found(app) == {}
    assert raw.keys(f"{OWN}:*") == []


async def test_drift_of_a_bucket_of_the_live_rule(app: App, raw: redis.Redis) -> None:
    queue = await finish_jobs(app, NewJob("a", id="j1"), NewJob("a", id="j2"))
    await queue.set(Retention(completed=Keep(last=5, key="name")))
    await app.run_services("mail")
    removed_elsewhere(raw, "j1")
    (drift,) = (await found(app))["drift"]
    assert ":bucket:" in drift.key
    await repair([drift])
    (bucket,) = raw.keys(f"{OWN}:bucket:completed:*")
    assert raw.zrange(bucket, 0, -1) == ["j2"]


async def test_tombstones_and_taken_ids_without_an_end(app: App, raw: redis.Redis) -> None:
    await finish_jobs(app, NewJob("a"))
    raw.hset(f"{OWN}:tomb:@gone", "name", "a")
    raw.set(f"{OWN}:taken:@gone", "1")
    raw.set(f"{OWN}:taken:@fine", "1", px=60_000)
    raw.set(f"{OWN}:of-another-version", "1")
    kinds = await found(app)
    assert sorted(each.key for each in kinds["endless"]) == [
        f"{OWN}:taken:@gone", f"{OWN}:tomb:@gone",
    ]  # fmt: skip
    (leftover,) = kinds["leftover"]
    assert (leftover.severity, leftover.repair) == ("note", None)
    await repair(kinds["endless"])
    assert set(await found(app)) == {"leftover"}
    assert raw.exists(f"{OWN}:taken:@fine") == 1


class Strategy:
    toril_name = "strategy"

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return Keep(age="1h") if job.name == "a" else None


async def test_with_a_strategy(redis_url: str, clock: ManualClock) -> None:
    async with App(redis_url, plugins=["cleanup", Strategy()], clock=clock) as app:
        await finish_jobs(app, NewJob("a"), NewJob("b"))
        clock.advance("2h")
        (overdue,) = (await found(app))["overdue"]
        assert overdue.count == 1
        await repair([overdue])
        assert await found(app) == {}


async def test_a_parent_that_waits_for_the_job_is_no_reason_to_complain(
    app: App, clock: ManualClock
) -> None:
    from toril import Flow

    await app.add_flow(
        Flow("mail", "top", id="top", children=[Flow("mail", "bad", None, Retention(failed="1h"))])
    )
    await finish_jobs(app)
    clock.advance("2h")
    await app.run_services("mail")
    assert (await found(app)).keys() <= {"unswept"}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (Retention(completed="30d"), Retention(completed="60d")),
        (Ceiling(completed="30d"), Ceiling(completed="60d")),
        (IdWindow("30d"), IdWindow("60d")),
    ],
    ids=["retention", "ceiling", "id window"],
)
async def test_workers_that_disagree(app: App, older: Setting, newer: Setting) -> None:
    async def handle(job: object) -> None: ...

    await app.queue("mail").add("a")
    await app.worker("mail", handle, older).run(burst=True)
    assert "disagreement" not in await found(app)
    await app.worker("mail", handle, newer).run(burst=True)
    (note,) = (await found(app))["disagreement"]
    assert (note.severity, note.repair) == ("note", None)
    assert f" says {newer}; " in note.what
    assert f" said {older}, which counts no more" in note.what
