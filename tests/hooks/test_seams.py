"""The seams on a real server, each used by a plugin that is not ours.

The plugin marks jobs: people say `Mark(...)`, it is stored with the job and with the queue, counted
in Lua at the finish, looked after by a leased service, and explained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest
import redis

from toril import App, Flow
from toril.clock import ManualClock
from toril.errors import ConfigurationError, PluginError, Reject
from toril.plugins import (
    Draft,
    Fact,
    FinishedJob,
    JobEvent,
    JobRef,
    JobRemoved,
    JobSaved,
    Json,
    PluginContext,
    Registry,
    Removal,
    Said,
    SavePlan,
    ServiceContext,
    Setting,
    hookimpl,
)

COUNT = """
    local key = ctx.own('marks')
    redis.call('HINCRBY', key, ctx.plan and ctx.plan.mark or 'none', 1)
    redis.call('HINCRBY', key, 'live ' .. (ctx.meta('toril.mark.colour') or 'none'), 1)
"""
COUNT_SAVED = "ctx.report({saved = ctx.id}) redis.call('HINCRBY', ctx.own('marks'), 'saved', 1)"
SWEEP = """
    if not ctx.lease_held(args.service, args.token) then return {lost = true} end
    local removed = {}
    for _, job in ipairs(args.jobs) do
        local done, why = ctx.remove(job[1], 'completed', 'mark ' .. job[1], job[2])
        removed[#removed + 1] = done and job[1] or why
    end
    ctx.set_meta('toril.marker.swept', #removed)
    return {removed = removed, token = args.token}
"""


@dataclass(frozen=True)
class Mark(Setting):
    name = "mark"
    colour: str

    def encode(self) -> Json:
        return self.colour

    @classmethod
    def decode(cls, value: Json) -> Self:
        return cls(str(value))

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        return {"colour": live[0].value.colour} if live else {}


class Marker:
    """The plugin."""

    toril_name = "marker"

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.life: list[str] = []
        self.reported: list[Any] = []
        self.swept: list[Any] = []
        self.sweeps = False

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Mark)
        registry.lua("saved", COUNT_SAVED)
        registry.lua("finished", COUNT, meta=("toril.mark.colour",))
        registry.script("sweep", SWEEP)
        registry.script("swept", "return ctx.meta('toril.marker.swept')")
        registry.reports(self.reported.append)
        registry.service("marks", lambda: self)

    @hookimpl
    async def toril_start(self, context: PluginContext) -> None:
        self.context = context
        self.life.append("start")

    @hookimpl
    def toril_stop(self) -> None:
        self.life.append("stop")

    @hookimpl
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        if draft.name == "forbidden":
            raise Reject("no such jobs here")
        if draft.name == "breaks":
            raise RuntimeError("cannot think")
        return SavePlan(opts={"attempts": 3}, settings=draft.said, field={"seen": draft.name})

    @hookimpl
    def toril_plan_finish(self, job: FinishedJob) -> Json:
        mark = job.settings.get(Mark)
        return {"mark": mark.colour} if mark else None

    @hookimpl
    def toril_plan_remove(self, removal: Removal) -> None:
        if removal.queue == "kept":
            raise Reject("kept by law")

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        self.events += events

    @hookimpl
    async def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.events += events

    @hookimpl
    async def toril_explain_job(self, job: JobRef) -> Sequence[Fact]:
        (found,) = await self.context.jobs(job.queue, [job.id])
        mark = found.settings.get(Mark) if found else None
        return [Fact("mark", mark.colour if mark else "none")]

    async def run_once(self, context: ServiceContext) -> float | None:
        """The service: remove all completed jobs, a page at a time."""
        cursor = None
        while self.sweeps:
            page = await context.finished("completed", after=cursor, limit=2)
            if page.cursor is None:
                break
            cursor = page.cursor
            jobs: Json = [[job.id, job.finished] for job in page.jobs]
            self.swept.append(await context.run_script("sweep", {"jobs": jobs}))
        return 5.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def work(app: App, queue: str) -> None:
    """Run all jobs of a queue."""

    async def handler(job: object) -> str:
        del job
        return "done"

    async with app.worker(queue, handler):
        counts = await app.queue(queue).counts()
        while counts["waiting"] or counts["active"]:
            counts = await app.queue(queue).counts()


async def test_a_setting_is_stored_where_it_was_said(redis_url: str, raw: redis.Redis) -> None:
    marker = Marker()
    async with App(redis_url, plugins=[marker]) as app:
        job = await app.queue("mail", Mark("green")).add("send", {}, Mark("red"))
        assert [said.value for said in await marker.context.live("mail", Mark)] == [Mark("green")]
        (stored,) = await marker.context.jobs("mail", [job.id])
        assert stored is not None
        (said,) = stored.settings.said(Mark)
        assert (said.value, said.level) == (Mark("red"), "job")
        assert stored.plugin_field("marker") == {"seen": "send"}
        assert stored.attempts == 3
        assert raw.hget("bull:mail:meta", "toril.mark.colour") == "green"
        facts = [(fact.subject, fact.text) for fact in await job.explain()]
        assert ("mark", "red") in facts


async def test_a_setting_whose_plugin_is_not_in_use_is_refused(redis_url: str) -> None:
    async with App(redis_url, plugins=[]) as app:
        with pytest.raises(ConfigurationError, match="declares the setting Mark"):
            await app.queue("mail").add("send", {}, Mark("red"))
        assert not any((await app.queue("mail").counts()).values())


async def test_a_save_is_refused_whole(redis_url: str, raw: redis.Redis) -> None:
    async with App(redis_url, plugins=[Marker()]) as app:
        with pytest.raises(Reject, match="no such jobs here") as rejected:
            await app.add_flow(Flow("mail", "sum", {}, children=[Flow("mail", "forbidden", {})]))
        assert (rejected.value.plugin, rejected.value.item) == ("marker", "forbidden")
        with pytest.raises(PluginError, match="cannot think"):
            await app.queue("mail").add("breaks", {})
        assert raw.keys("bull:mail:*") == []


async def test_an_operators_removal_is_refused(redis_url: str) -> None:
    async with App(redis_url, plugins=[Marker()]) as app:
        job = await app.queue("kept").add("send", {})
        with pytest.raises(Reject, match="kept by law"):
            await job.remove()
        with pytest.raises(Reject, match="kept by law"):
            await app.queue("kept").drain()
        assert (await app.queue("kept").counts())["waiting"] == 1


async def test_chunks_services_own_scripts_and_reported_removals(
    redis_url: str, raw: redis.Redis, clock: ManualClock
) -> None:
    marker = Marker()
    async with App(redis_url, plugins=[marker], clock=clock) as app:
        queue = app.queue("mail", Mark("green"))
        jobs = [await queue.add("send", {"n": n}, Mark("red")) for n in range(3)]
        await work(app, "mail")
        counted = raw.hgetall("bull:mail:toril:marker:marks")
        assert counted == {"saved": "3", "red": "3", "live green": "3"}
        assert marker.reported == [{"saved": job.id} for job in jobs]

        # The worker's turn at the service was cut short by its end, so it is left to this one.
        marker.sweeps = True
        assert await app.run_services("mail")
        swept_ids = [job_id for each in marker.swept for job_id in each["removed"]]
        assert len(marker.swept) == 2
        assert sorted(swept_ids) == sorted(job.id for job in jobs)
        removed = [event for event in marker.events if isinstance(event, JobRemoved)]
        assert {event.job.id for event in removed} == {job.id for job in jobs}
        assert {(event.cause, event.plugin, event.state) for event in removed} == {
            ("rule", "marker", "completed")
        }
        assert removed[0].rule == f"mark {removed[0].job.id}"
        assert removed[0].job.get("n", int) is not None
        swept = await marker.context.run_script("mail", "swept")
        assert int(str(swept)) == len(marker.swept[-1]["removed"])
        assert raw.hgetall("bull:mail:toril:marker:marks") == counted
    assert marker.life == ["start", "stop"]


def test_the_synchronous_face_tells_asynchronous_hooks_too(redis_url: str) -> None:
    marker = Marker()
    app = App(redis_url, plugins=[marker])
    queue = app.sync.queue("mail")
    job = queue.add("send", {})
    job.remove()
    app.sync.close()
    assert [type(event) for event in marker.events] == [JobSaved, JobRemoved]
    assert marker.life == ["start", "stop"]


async def test_lua_that_breaks_harms_no_job_and_is_counted(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks:
        toril_name = "breaks"

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            registry.lua("saved", "error('no idea')")
            registry.script("bad", "return nothing.at.all")

        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            self.context = context

    plugin = Breaks()
    async with App(redis_url, plugins=[plugin]) as app:
        for n in range(20):
            await app.queue("mail").add("send", {"n": n})
        assert (await app.queue("mail").counts())["waiting"] == 20
        counts = app.runtime.plugins.counts()["breaks", "its Lua at 'saved'"]
        assert counts.errors == 20
        logged = [each.getMessage() for each in caplog.records if "no idea" in each.getMessage()]
        assert len(logged) == 5
        assert "plugin 'breaks'" in logged[0]
        with pytest.raises(PluginError, match="script 'bad' of plugin 'breaks' failed"):
            await plugin.context.run_script("mail", "bad")
