"""A plan of retention says what would go, and what is applied is what was planned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from tests.support.place import START, finish_jobs

from toril import App, Flow, NewJob, Queue, Reject, hookimpl
from toril.cli import main
from toril.plugins import FinishedJob, ManualClock
from toril_plugins import Ceiling, Hold, Keep, Requires, Retention, hold
from toril_plugins.retention import journal
from toril_plugins.retention.carrying_out import carrying_out
from toril_plugins.retention.planning import Going, Plan, apply, plan, settings_from

Q = "bull:mail"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def app(redis_url: str, clock: ManualClock) -> AsyncIterator[App]:
    async with App(redis_url, plugins=["persistence", "cleanup"], clock=clock) as made:
        yield made


def numbers(planned: Plan) -> dict[str, tuple[int, int]]:
    return {each.rule: (each.now, each.within_day) for each in planned.going}


async def swept(app: App, raw: redis.Redis) -> int:
    """How many finished jobs go."""
    before = raw.zcard(f"{Q}:completed") + raw.zcard(f"{Q}:failed")
    for _ in range(5):
        await app.run_services("mail")
    return before - raw.zcard(f"{Q}:completed") - raw.zcard(f"{Q}:failed")


async def test_it_only_reads(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    queue = await finish_jobs(app, NewJob("a"), NewJob("a", {}, Retention(completed="1h")))
    clock.advance("2h")
    before = {key: raw.dump(key) for key in raw.keys("*")}
    planned = await plan(queue, Retention(completed="1m"), Ceiling(completed=1))
    assert planned.going
    assert {key: raw.dump(key) for key in raw.keys("*")} == before


async def test_who_only_reports_is_named(
    app: App, redis_url: str, raw: redis.Redis, clock: ManualClock
) -> None:
    queue = await finish_jobs(app, NewJob("a"), NewJob("a"))
    await queue.set(Retention(completed=1))
    config = {"cleanup": {"report_only": True}}
    async with App(redis_url, plugins=["persistence", "cleanup"], clock=clock, config=config) as it:
        here = await plan(it.queue("mail"))
        assert here.only_reported == "this process runs with report_only, and removes nothing"
        assert (await plan(queue)).only_reported == ""
        assert await swept(it, raw) == 0
    planned = await plan(queue)
    assert "the process that sweeps the queue runs with report_only" in planned.only_reported
    assert numbers(planned) == {"queue: last 1": (1, 1)}
    assert (await carrying_out(queue)).obstacle == planned.only_reported
    args = ("retention", "plan", "mail", "--url", redis_url)
    shown = await asyncio.to_thread(CliRunner().invoke, main, args)
    assert planned.only_reported in shown.stderr
    assert await swept(app, raw) == 1
    assert (await plan(queue)).only_reported == ""
    assert (await carrying_out(queue)).obstacle is None


@pytest.mark.parametrize(
    ("said", "now", "within_day"),
    [
        (Retention(completed="1h"), 4, 6),
        (Retention(completed="30h"), 0, 4),
        (Retention(completed=2), 4, 4),
        (Retention(completed=Keep(last=1, key="name")), 4, 4),
        (Retention(completed=Keep(first=1, last=1)), 4, 4),
        (Retention(completed=Keep(age="1h", last=5)), 4, 6),
        (Retention(completed=Keep.nothing()), 6, 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [10_000, 5])
async def test_a_live_rule(
    app: App, raw: redis.Redis, clock: ManualClock, said: Retention, now: int, within_day: int,
    most: int,
) -> None:  # fmt: skip
    await finish_jobs(app, *(NewJob("a") for _ in range(4)))
    clock.advance("10h")
    queue = await finish_jobs(app, NewJob("b"), NewJob("b"))
    planned = await plan(queue, said, most=most)
    (going,) = planned.going or (Going("completed", "", 0, 0, 0, exact=True),)
    bucketed = said.completed is not None and (said.completed.key or said.completed.first)
    if most == 5 and bucketed:
        assert not going.exact
        return
    assert (going.now, going.within_day) == (now, within_day)
    assert going.exact
    assert (going.bytes > 0) == (now > 0)
    await queue.set(said)
    assert await swept(app, raw) == now


async def test_decisions_of_their_own(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    queue = await finish_jobs(
        app,
        NewJob("a", {}, Retention(completed="1h")),
        NewJob("a", {}, Retention(completed="1d")),
        NewJob("a", {}, Retention(completed="3d")),
        NewJob("bad", {}, Retention(failed="1h")),
        NewJob("a"),
    )
    clock.advance("2h")
    planned = await plan(queue)
    found = {(each.outcome, each.rule): (each.now, each.within_day) for each in planned.going}
    assert found == {
        ("completed", "job: 1h"): (1, 1), ("completed", "job: 1d"): (0, 1),
        ("failed", "job: 1h"): (1, 1),
    }  # fmt: skip
    assert await swept(app, raw) == 2


async def test_a_ceiling_beats_them(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    queue = await finish_jobs(app, NewJob("a", {}, Retention(completed="9d")), NewJob("a"))
    clock.advance("2h")
    planned = await plan(queue, Ceiling(completed="1h"))
    assert numbers(planned) == {"ceiling of the queue: 1h": (2, 2)}
    await queue.set(Ceiling(completed="1h"))
    assert await swept(app, raw) == 2


async def test_what_stands_in_the_way(app: App, raw: redis.Redis, clock: ManualClock) -> None:
    await app.add_flow(Flow("mail", "top", children=[Flow("mail", "bad")]))
    queue = await finish_jobs(app, NewJob("a", id="kept"), NewJob("a"))
    held = await hold(queue, Hold(id="kept", why="case 7", who="eve"))
    other = await hold(queue, Hold(name="never", why="case 8", who="eve"))
    await queue.set(Requires("vault"))
    clock.advance("2h")
    planned = await plan(queue, Retention(completed="1h", failed="1h"))
    assert numbers(planned) == {"queue: 1h": (1, 1)}
    assert {(each.outcome, each.why, each.count) for each in planned.staying} == {
        ("completed", f"it is held ({held.handle}: id kept, by eve: case 7)", 1),
        ("failed", "its parent waits for it", 1),
    }
    assert other.handle not in str(planned.staying)
    assert planned.requires == "vault"
    assert planned.missing == "vault"


class Strategy:
    toril_name = "strategy"

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return {"a": Keep(age="1h"), "b": Keep.forever()}.get(job.name)


def finish_elsewhere(raw: redis.Redis, queue: str, now: int) -> None:
    """What another library's worker leaves of all that wait."""
    waiting: Any = raw.lrange(f"{queue}:wait", 0, -1)
    for id in waiting:
        raw.lrem(f"{queue}:wait", 0, id)
        raw.hset(f"{queue}:{id}", mapping={"finishedOn": now, "returnvalue": "null"})
        raw.zadd(f"{queue}:completed", {id: now})


async def test_strategies_are_asked(redis_url: str, raw: redis.Redis, clock: ManualClock) -> None:
    async with App(redis_url, plugins=["cleanup", Strategy()], clock=clock) as app:
        queue = app.queue("mail")
        await queue.add_many([NewJob(name) for name in "aabbc"])
        finish_elsewhere(raw, Q, START)
        clock.advance("2h")
        planned = await plan(queue, Retention(completed=0))
        assert numbers(planned) == {"plugin strategy: 1h": (2, 2), "queue: nothing": (1, 1)}
        assert "strategy" in planned.world["plugins with toril_plan_retention"]
        await queue.set(Retention(completed=0))
        assert await swept(app, raw) == 3


class TestApply:
    @pytest.fixture
    async def queue(self, app: App) -> Queue:
        queue = await finish_jobs(app, *(NewJob("a") for _ in range(20)))
        await queue.set(Retention(completed="30d", failed="9d"))
        return queue

    async def test_it_sets_what_was_planned(self, queue: Queue) -> None:
        planned = await plan(queue, Retention(completed=5))
        decoded = Plan.decode(json.loads(json.dumps(planned.encode())))
        assert decoded == planned
        now = await apply(queue, decoded, who="ada")
        assert now.total("completed") == 15
        said = await queue.said(Retention)
        assert said is not None
        assert said.value == Retention(completed=5, failed="9d")
        assert said.source == "ada"
        applied, done, before = await journal.entries(queue)
        assert (applied.what, applied.who, applied.details["goes"]) == ("apply", "ada", "15")
        assert applied.details["sets"] == "retention completed last 5"
        assert (done.what, done.who) == ("set retention", "ada")
        assert done.details["was"] == before.details["now"] == "completed 30d; failed 9d"

    @pytest.mark.parametrize("change", ["retention", "ceiling", "holds", "requires"])
    async def test_what_is_said_has_changed(self, queue: Queue, change: str) -> None:
        planned = await plan(queue, Retention(completed=5))
        if change == "retention":
            await queue.set(Retention(completed="40d"))
        elif change == "ceiling":
            await queue.set(Ceiling(completed="90d"))
        elif change == "holds":
            await hold(queue, Hold(name="x", why="y"))
        else:
            await queue.set(Requires("vault"))
        before = await queue.said(Retention)
        with pytest.raises(Reject, match=f"the world has moved.*{change} of the queue"):
            await apply(queue, planned, who="ada")
        assert await queue.said(Retention) == before

    async def test_clearly_more_would_go(self, app: App, queue: Queue) -> None:
        planned = await plan(queue, Retention(completed=5))
        await finish_jobs(app, *(NewJob("a") for _ in range(10)))
        await apply(queue, planned, who="ada")  # ten more are not yet clearly more
        planned = await plan(queue, Retention(completed=4))
        await finish_jobs(app, *(NewJob("a") for _ in range(2)))
        few = tuple(replace(each, now=0, within_day=0) for each in planned.going)
        await queue.set(Retention(completed="30d"))
        planned = replace(await plan(queue, Retention(completed=0)), going=few)
        await finish_jobs(app, *(NewJob("a") for _ in range(20)))
        with pytest.raises(Reject, match="completed jobs would go now; the plan said 0"):
            await apply(queue, planned, who="ada")

    async def test_a_plan_is_good_for_a_day(self, queue: Queue, clock: ManualClock) -> None:
        planned = await plan(queue, Retention(completed=5))
        clock.advance("25h")
        with pytest.raises(Reject, match="1d 1h old"):
            await apply(queue, planned, who="ada")

    async def test_for_another_queue_or_without_effect(self, app: App, queue: Queue) -> None:
        planned = await plan(queue, Retention(completed=5))
        with pytest.raises(Reject, match="for queue 'mail', not 'other'"):
            await apply(app.queue("other"), planned, who="ada")
        with pytest.raises(Reject, match="nothing to apply"):
            await apply(queue, await plan(queue), who="ada")


def test_what_people_type() -> None:
    assert settings_from(["completed=7d", "ceiling.failed=1000", "failed=last 5 per name"]) == [
        Retention(completed="7d", failed=Keep(last=5, key="name")), Ceiling(failed=1000),
    ]  # fmt: skip
    for texts in (["complete=7d"], ["completed"], ["completed=x y"], ["failed=1", "failed=2"]):
        with pytest.raises(ValueError, match=r"completed|failed|duration"):
            settings_from(texts)


@pytest.mark.parametrize("value", [None, {}, {"v": 1}, []])
def test_what_is_no_plan(value: object) -> None:
    with pytest.raises(ValueError, match="not a plan"):
        Plan.decode(value)


class TestCommands:
    def toril_(self, url: str, *arguments: str) -> Result:
        environ = {"TORIL_URL": url, "TORIL_PLUGINS": "persistence,cleanup"}
        return CliRunner().invoke(main, arguments, env=environ)

    def test_plan_and_apply(self, redis_url: str, raw: redis.Redis, tmp_path: Path) -> None:
        with App(redis_url, plugins=[]).sync as app:
            app.queue("mail").add_many([NewJob("send") for _ in range(3)])
        finish_elsewhere(raw, Q, 1_000)
        args: Sequence[str] = ("retention", "plan", "mail", "--set", "completed=1")
        table = self.toril_(redis_url, *args)
        assert table.exit_code == 0, table.stderr
        assert "queue: last 1" in table.stdout
        made = self.toril_(redis_url, *args, "-o", "json")
        document: dict[str, Any] = json.loads(made.stdout)
        assert document["plan"]["going"][0]["now"] == 2
        file = tmp_path / "plan.json"
        file.write_text(made.stdout)
        applied = self.toril_(redis_url, "retention", "apply", str(file))
        assert applied.exit_code == 0, applied.stderr
        again = self.toril_(redis_url, "retention", "apply", str(file))
        assert again.exit_code == 5
        assert "the world has moved" in again.stderr

    def test_wrong_arguments(self, redis_url: str, tmp_path: Path) -> None:
        done = self.toril_(redis_url, "retention", "plan", "mail", "--set", "complete=1")
        assert (done.exit_code, "completed=7d" in done.stderr) == (2, True)
        file = tmp_path / "plan.json"
        file.write_text("{}")
        assert self.toril_(redis_url, "retention", "apply", str(file)).exit_code == 2
