"""Erasing jobs: nothing is left that names them, also of what a team's own plugin keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest
import redis
from tests.support.invariants import check

from toril import (
    ActiveJob,
    App,
    Flow,
    Job,
    JobRemoved,
    PluginError,
    Reject,
    Unrecoverable,
    hookimpl,
)
from toril.errors import JobLocked, JobStateError
from toril.plugins import JobCompleted, JobRef, Recalled, Registry, Removal
from toril.plugins import JobRemoved as Removed

SECRET = "ada@example.org"
ANYTHING = {"to": SECRET}


class Copies:
    """Keeps copies of completed jobs, keeps what it is told to, and refuses what it is told to."""

    toril_name = "copies"

    def __init__(self) -> None:
        self.kept: dict[JobRef, JobCompleted] = {}
        self.removed: list[Removed] = []
        self.broken = False
        self.refused: set[str] = set()

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.lua(
            "removing",
            "if ctx.meta('toril.copies.keep') == ctx.id then ctx.keep('by ' .. ctx.cause) end",
            meta=("toril.copies.keep",),
        )

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        self.kept |= {JobRef(event.job.queue, event.job.id): event for event in events}

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[Removed]) -> None:
        self.removed += events

    @hookimpl
    def toril_plan_remove(self, removal: Removal) -> None:
        if removal.action == "erase" and self.refused & set(removal.ids or ()):
            raise Reject("not this one")

    @hookimpl
    async def toril_erase_job(self, job: JobRef) -> str | None:
        await asyncio.sleep(0)
        if self.broken:
            raise RuntimeError("the disk is on fire")
        return "1 copy" if self.kept.pop(job, None) else None

    @hookimpl
    def toril_recall_job(self, job: JobRef) -> Recalled | None:
        found = self.kept.get(job)
        if found is None:
            return None
        ended = found.job
        return Recalled("completed", ended.finished or 0, result=ended.result, parent=ended.parent)


class Quiet:
    """Keeps nothing."""

    toril_name = "quiet"

    @hookimpl
    def toril_erase_job(self) -> None: ...


@pytest.fixture
def copies() -> Copies:
    return Copies()


@pytest.fixture
async def app(redis_url: str, copies: Copies) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[copies, Quiet()]) as made:
        yield made


async def send(job: ActiveJob) -> dict[str, str]:
    if job.name == "bad":
        raise Unrecoverable(f"no such mailbox: {SECRET}")
    await job.log(f"to {SECRET}")
    return {"sent to": SECRET}


async def report(job: ActiveJob) -> int:
    return len((await job.children()).processed)


def traces(raw: redis.Redis, *words: str) -> set[str]:
    """The keys in whose name or value a word stands; call records run out by themselves."""
    found: set[str] = set()
    for key in cast("list[str]", raw.keys("*")):
        if ":toril:call:" in key:
            continue
        readers: dict[str, Callable[[str], Any]] = {
            "hash": raw.hgetall,
            "list": lambda key: raw.lrange(key, 0, -1),
            "set": raw.smembers,
            "zset": lambda key: raw.zrange(key, 0, -1),
            "stream": raw.xrange,
            "string": raw.get,
        }
        value = f"{key} {readers[str(raw.type(key))](key)}"
        found |= {key for word in words if word in value}
    return found


async def sent(app: App, **options: Any) -> Job:
    """A job that has been run."""
    job = await app.queue("mail").add("send", ANYTHING, **options)
    await app.worker("mail", send).run(burst=True)
    return job


async def test_everything_goes(app: App, raw: redis.Redis, copies: Copies) -> None:
    other = await sent(app)
    job = await sent(app)
    raw.xadd(
        "bull:mail:events", {"event": "deduplicated", "jobId": "x", "deduplicatedJobId": job.id}
    )
    raw.sadd("bull:mail:stalled", job.id)
    erased = await job.erase()
    assert (erased.job, erased.in_parent, erased.plugins) == (True, 0, {"copies": "1 copy"})
    assert erased.events == 6, "added, waiting, active, completed, deduplicated, removed"
    assert traces(raw, job.id) == set()
    assert job.ref not in copies.kept
    assert [(event.job.id, event.cause) for event in copies.removed] == [(job.id, "erase")]
    with pytest.raises(JobRemoved):
        await job.result()
    assert await other.result() == {"sent to": SECRET}
    assert traces(raw, other.id) == {
        "bull:mail:completed", "bull:mail:events", f"bull:mail:{other.id}",
        f"bull:mail:{other.id}:logs",
    }  # fmt: skip
    await other.erase()
    assert traces(raw, SECRET) == set()
    assert check(raw, at_rest=True) == []


async def test_a_job_that_waits(app: App, raw: redis.Redis) -> None:
    for options in ({}, {"delay": "1h"}, {"priority": 3}):
        job = await app.queue("mail").add("send", ANYTHING, **cast(Any, options))
        await job.erase()
        assert traces(raw, job.id, SECRET) == set()


async def test_again_and_of_a_job_that_is_gone(app: App, raw: redis.Redis, copies: Copies) -> None:
    job = await sent(app)
    await job.remove()
    erased = await app.queue("mail").erase(job.id)
    assert (erased.job, erased.events, erased.plugins) == (False, 5, {"copies": "1 copy"})
    assert traces(raw, job.id, SECRET) == set()
    again = await job.erase()
    assert (again.job, again.in_parent, again.events, again.plugins) == (False, 0, 0, {})
    assert not (await app.queue("mail").erase("wait")).job, "that is a list, not a job"


async def test_in_a_long_stream(app: App, raw: redis.Redis) -> None:
    job = await app.queue("mail").add("send", ANYTHING)
    for number in range(1200):
        raw.xadd("bull:mail:events", {"event": "progress", "jobId": job.id, "data": SECRET})
        raw.xadd("bull:mail:events", {"event": "active", "jobId": str(number), "prev": job.id})
    erased = await job.erase()
    assert erased.events == 1203
    assert raw.xlen("bull:mail:events") == 1200


async def test_a_running_job_is_refused(app: App, raw: redis.Redis) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(job: ActiveJob) -> None:
        began.set()
        await go_on.wait()

    job = await app.queue("mail").add("send", ANYTHING)
    async with app.worker("mail", slow):
        await began.wait()
        with pytest.raises(JobLocked):
            await job.erase()
        assert f"bull:mail:{job.id}" in traces(raw, SECRET)
        go_on.set()
        await job.result(timeout="5s")
    assert (await job.erase()).job


async def test_a_job_that_a_plugin_keeps_is_refused(
    app: App, raw: redis.Redis, copies: Copies
) -> None:
    job = await sent(app)
    before = traces(raw, job.id)
    raw.hset("bull:mail:meta", "toril.copies.keep", job.id)
    with pytest.raises(Reject, match="by erase"):
        await job.erase()
    raw.hdel("bull:mail:meta", "toril.copies.keep")
    copies.refused.add(job.id)
    with pytest.raises(Reject, match="not this one"):
        await job.erase()
    assert traces(raw, job.id) == before
    assert job.ref in copies.kept


async def test_a_plugin_that_breaks_and_another_time(
    app: App, raw: redis.Redis, copies: Copies
) -> None:
    job = await sent(app)
    copies.broken = True
    with pytest.raises(PluginError, match="the disk is on fire") as caught:
        await job.erase()
    assert "erasing it again" in caught.value.__notes__[0]
    assert traces(raw, job.id) == set()
    copies.broken = False
    assert (await job.erase()).plugins == {"copies": "1 copy"}


async def test_the_synchronous_face(redis_url: str, raw: redis.Redis, copies: Copies) -> None:
    def of_one() -> None:
        with App(redis_url, plugins=[copies, Quiet()]).sync as app:
            job = app.queue("mail").add("send", ANYTHING)
            assert job.erase().job
            copies.broken = True
            with pytest.raises(PluginError):
                app.queue("mail").erase(job.id)
        with App(redis_url, plugins=[]).sync as app:
            assert app.queue("mail").erase("unknown").plugins == {}

    await asyncio.to_thread(of_one)
    assert traces(raw, SECRET) == set()


class TestInAFlow:
    async def family(self, app: App, *names: str, policy: Any = "ignore") -> tuple[Job, list[Job]]:
        """A parent with children that have ended; the parent has not."""
        children = [Flow("mail", name, ANYTHING) for name in names]
        root = await app.add_flow(
            Flow("reports", "sum", children=children, on_child_failure=policy)
        )
        await app.worker("mail", send).run(burst=True)
        return root, [node.job for node in (await app.flow_tree(root)).children]

    @pytest.mark.parametrize("policy", ["ignore", "fail", "continue"])
    async def test_its_values_in_a_parent_that_has_ended(
        self, app: App, raw: redis.Redis, policy: Any
    ) -> None:
        root, children = await self.family(app, "send", "bad", policy=policy)
        await app.worker("reports", report).run(burst=True)
        state = await root.state()
        for child in children:
            erased = await child.erase()
            assert (erased.job, erased.in_parent) == (True, 1)
        ids = [child.id for child in children]
        assert traces(raw, SECRET) == set()
        # The reason for which a parent failed names the child: that is the parent's own.
        left = {f"bull:reports:{root.id}", "bull:reports:events"} if policy == "fail" else set()
        assert traces(raw, *ids) == left
        assert await root.state() == state

    @pytest.mark.parametrize("policy", ["ignore", "fail", "wait"])
    @pytest.mark.parametrize("name", ["send", "bad"])
    async def test_refused_while_its_parent_needs_it(
        self, app: App, raw: redis.Redis, policy: Any, name: str
    ) -> None:
        root, (child,) = await self.family(app, name, policy=policy)
        before = traces(raw, child.id), raw.dbsize()
        with pytest.raises(JobStateError, match="has a parent that has not ended"):
            await child.erase()
        assert (traces(raw, child.id), raw.dbsize()) == before
        await root.remove(children=False)
        await child.erase()
        assert traces(raw, child.id, SECRET) == set()

    async def test_of_a_child_that_is_gone(
        self, app: App, raw: redis.Redis, copies: Copies
    ) -> None:
        """The values in its parent are found by what the caller, or a plugin, knows of it."""
        for by in ("caller", "plugin", "nobody"):
            root, (child,) = await self.family(app, "send")
            await app.worker("reports", report).run(burst=True)
            raw.delete(f"bull:mail:{child.id}")
            if by == "caller":
                copies.kept.clear()
                erased = await child.erase()
            else:
                if by == "nobody":
                    copies.kept.clear()
                erased = await app.queue("mail").erase(child.id)
            assert erased.in_parent == (by != "nobody")
            assert raw.hlen(f"bull:reports:{root.id}:processed") == (by == "nobody")

    async def test_a_parent(self, app: App, raw: redis.Redis) -> None:
        """Its children stay, and are jobs without a parent."""
        root = await app.add_flow(Flow("reports", "sum", children=[Flow("mail", "send", ANYTHING)]))
        (node,) = (await app.flow_tree(root)).children
        await root.erase()
        assert traces(raw, root.id) == {f"bull:mail:{node.job.id}"}, "the child names it"
        await app.worker("mail", send).run(burst=True)
        assert await node.job.result() == {"sent to": SECRET}


async def test_dying_at_every_boundary(
    app: App, raw: redis.Redis, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was sent before the end, erasing again erases what is left."""
    drive = app.runtime.drive
    boundary = 0
    while True:
        root, (child,) = await TestInAFlow().family(app, "send")
        await app.worker("reports", report).run(burst=True)
        left = boundary

        async def dying(procedure: Any, **more: Any) -> Any:
            """Carries out so many requests of it, and dies."""

            def some() -> Any:
                nonlocal left
                answer = None
                while True:
                    try:
                        request = procedure.send(answer)
                    except StopIteration as stop:
                        return stop.value
                    if left == 0:
                        raise asyncio.CancelledError
                    left -= 1
                    answer = yield request

            return await drive(some(), **more)

        monkeypatch.setattr(app.runtime, "drive", dying)
        died = False
        try:
            await child.erase()
        except asyncio.CancelledError:
            died = True
        monkeypatch.setattr(app.runtime, "drive", drive)
        if not died:
            break
        await child.erase()
        assert traces(raw, child.id, SECRET) == set()
        assert copies.kept == {root.ref: copies.kept[root.ref]}
        assert check(raw, at_rest=True) == []
        await root.erase()
        boundary += 1
    assert boundary >= 3
