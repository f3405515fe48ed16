"""The table of docs/lifecycle.md, walked: each row is performed on a server and compared."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.docs.blocks import DOCS
from tests.docs.stage import DEADLINE, Stage
from tests.support.server import Server
from toril import (
    ActiveJob,
    Backoff,
    Cron,
    Deduplication,
    Flow,
    Job,
    RateLimited,
    RetryIn,
    Unrecoverable,
    WaitAgain,
    WaitForChildren,
)
from toril_plugins import IdWindow, Keep, Retention


@dataclass(frozen=True)
class Hook:
    """A hook, and the attributes that its event must have."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Row:
    transition: str
    script: str
    stream: list[str]
    hooks: list[Hook]
    process: str | None


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _hooks(cell: str) -> Iterator[Hook]:
    hook: Hook | None = None
    for word in _code(cell):
        name, assigned, value = word.partition("=")
        if not assigned:
            hook = Hook(name)
            yield hook
        elif hook is not None:
            hook.attributes[name] = ast.literal_eval(value)


def table() -> list[Row]:
    """The rows of the section "Transitions"."""
    section = (DOCS / "lifecycle.md").read_text().split("\n## Transitions\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows: list[Row] = []
    for line in lines[1:]:
        transition, _, script, stream, hooks, process = (
            cell.strip() for cell in line.strip("|").split(" | ")
        )
        (script_name,) = _code(script)
        fires_in = None if process == "none" else process
        rows.append(Row(transition, script_name, _code(stream), list(_hooks(hooks)), fires_in))
    return rows


Scenario = Callable[[Stage], Awaitable[Job]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(transition: str) -> Callable[[Scenario], Scenario]:
    def register(function: Scenario) -> Scenario:
        SCENARIOS[transition] = function
        return function

    return register


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """One whose settings are ours: it notes every command."""
    server = Server.start({"slowlog-log-slower-than": "0", "slowlog-max-len": "100000"})
    yield server
    server.stop()


def test_every_row_is_performed() -> None:
    assert list(SCENARIOS) == [row.transition for row in table()]


@pytest.mark.parametrize("row", table(), ids=lambda row: row.transition)
async def test_row(row: Row, own_server: Server) -> None:
    async with Stage(own_server.url) as stage:
        job = await SCENARIOS[row.transition](stage)
        await asyncio.wait_for(stage.marked.wait(), DEADLINE)
        stream = await stage.stream(job.ref, row.stream)
        await stage.hooks(job.ref, len(row.hooks))
        scripts = await stage.scripts()
    told = stage.about(job.ref)

    assert stream[: len(row.stream)] == row.stream
    # What follows is not part of the transition: the job is picked up again.
    assert stream[len(row.stream) :] in ([], ["active"])
    assert row.script in scripts
    # When the curtain fell, the handler went on and the job completed: that is the next transition.
    if len(told) > len(row.hooks) and told[-1][1] == "toril_jobs_completed":
        told.pop()
    assert [(process, hook) for process, hook, _ in told] == [
        (row.process, hook.name) for hook in row.hooks
    ]
    for (_, _, event), hook in zip(told, row.hooks, strict=True):
        assert {name: getattr(event, name) for name in hook.attributes} == hook.attributes


# The handlers


async def well(job: ActiveJob) -> str:
    return "done"


async def badly(job: ActiveJob) -> None:
    raise ValueError("no")


def then_waits(
    stage: Stage, first: Exception | None = None
) -> Callable[[ActiveJob], Awaitable[None]]:
    """A handler that marks the beginning of the transition at its first run, and then raises or
    returns. At a later run it waits.
    """
    runs = 0

    async def handler(job: ActiveJob) -> None:
        nonlocal runs
        runs += 1
        if runs > 1:
            await stage.gate.wait()
            return
        await stage.mark()
        if first is not None:
            raise first

    return handler


# The rows


@scenario("new → waiting")
async def _(stage: Stage) -> Job:
    await stage.mark()
    return await stage.add()


@scenario("new → delayed")
async def _(stage: Stage) -> Job:
    await stage.mark()
    return await stage.add(delay="1h")


@scenario("new → prioritized")
async def _(stage: Stage) -> Job:
    await stage.mark()
    return await stage.add(priority=3)


@scenario("new → waiting-children")
async def _(stage: Stage) -> Job:
    await stage.mark()
    return await stage.producer.add_flow(Flow("stage", "parent", children=[Flow("stage", "child")]))


async def run_of(stage: Stage, schedule: str) -> Job:
    """The run of a schedule that is to come."""
    found = await stage.producer.queue("stage").get_schedule(schedule)
    assert found is not None
    job = await stage.producer.queue("stage").get(f"repeat:{schedule}:{found.stored.due}")
    assert job is not None
    return job


@scenario("new → delayed, of a schedule")
async def _(stage: Stage) -> Job:
    await stage.mark()
    await stage.producer.queue("stage").schedule("s", Cron("0 3 * * *"), "job")
    return await run_of(stage, "s")


@scenario("new → delayed, the next of a schedule")
async def _(stage: Stage) -> Job:
    queue = stage.producer.queue("stage")
    await queue.schedule("s", Cron("0 3 * * *", immediately=True), "job")
    first = (await run_of(stage, "s")).id
    await stage.mark()
    await stage.start(then_wait(stage))
    async with asyncio.timeout(DEADLINE):
        while (following := await run_of(stage, "s")).id == first:
            await asyncio.sleep(0.01)
    return following


@scenario("new → nothing")
async def _(stage: Stage) -> Job:
    await stage.add(id="same")
    await stage.mark()
    return await stage.add(id="same")


@scenario("new → nothing, taken")
async def _(stage: Stage) -> Job:
    await stage.producer.queue("stage").set(IdWindow("1h"))
    await stage.raw.set("bull:stage:toril:cleanup:taken:@same", 1)
    await stage.mark()
    return await stage.add(id="same")


@scenario("new → nothing, deduplicated")
async def _(stage: Stage) -> Job:
    await stage.add(deduplication="d")
    await stage.mark()
    return await stage.add(deduplication="d")


@scenario("new → waiting, kept for later")
async def _(stage: Stage) -> Job:
    window = Deduplication("d", keep_last=True)
    go = asyncio.Event()

    async def handler(job: ActiveJob) -> None:
        await (go if job.name == "owner" else stage.gate).wait()

    owner = await stage.add("owner", deduplication=window)
    await stage.start(handler)
    await stage.until(lambda: stage.state(owner), "active")
    await stage.add("kept", deduplication=window)
    kept = await stage.raw.hget("bull:stage:dn:d", "jid")
    await stage.mark()
    go.set()
    async with asyncio.timeout(DEADLINE):
        while (job := await stage.producer.queue("stage").get(kept)) is None:
            await asyncio.sleep(0.01)
    return job


@scenario("delayed → waiting")
async def _(stage: Stage) -> Job:
    job = await stage.add(delay="200ms")
    await stage.mark()
    await stage.start(then_wait(stage))
    return job


@scenario("delayed → waiting, promoted")
async def _(stage: Stage) -> Job:
    job = await stage.add(delay="1h")
    await stage.mark()
    await (await stage.find(job)).promote()
    return job


@scenario("delayed → delayed")
async def _(stage: Stage) -> Job:
    job = await stage.add(delay="1h")
    await stage.mark()
    await (await stage.find(job)).change_delay("2h")
    return job


@scenario("waiting → prioritized")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.mark()
    await (await stage.find(job)).change_priority(2)
    return job


@scenario("waiting → active")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.mark()
    await stage.start(then_wait(stage))
    return job


def then_wait(stage: Stage) -> Callable[[ActiveJob], Awaitable[None]]:
    async def handler(job: ActiveJob) -> None:
        await stage.gate.wait()

    return handler


@scenario("active → completed")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage))
    return await stage.add()


@scenario("active → waiting, next attempt")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage, ValueError("no")))
    return await stage.add(attempts=2)


@scenario("active → delayed, next attempt")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage, ValueError("no")))
    return await stage.add(attempts=2, backoff=Backoff.fixed("1h"))


@scenario("active → delayed, asked for")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage, RetryIn("1h")))
    return await stage.add()


@scenario("active → waiting, given back")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    worker = await stage.start(then_wait(stage))
    await stage.until(lambda: stage.state(job), "active")
    await stage.mark()
    await worker.stop(grace="0s")
    return job


@scenario("active → waiting, asked for")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage, WaitAgain()))
    return await stage.add()


@scenario("active → waiting, rate limited")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage, RateLimited("1h")))
    return await stage.add()


@scenario("active → failed")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage, Unrecoverable("no")))
    return await stage.add(attempts=1)


@scenario("active → waiting-children")
async def _(stage: Stage) -> Job:
    async def handler(job: ActiveJob) -> None:
        await job.add_children([Flow("elsewhere", "child")])
        await stage.mark()
        raise WaitForChildren

    await stage.start(handler)
    return await stage.add()


@scenario("waiting-children → waiting")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", children=[Flow("elsewhere", "child")])
    job = await stage.producer.add_flow(flow)
    await stage.start(then_waits(stage), queue="elsewhere")
    return job


@scenario("waiting-children → waiting, to fail")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", on_child_failure="fail", children=[Flow("elsewhere", "child")])
    job = await stage.producer.add_flow(flow)
    await stage.start(then_waits(stage, ValueError("no")), queue="elsewhere")
    return job


@scenario("waiting-children → waiting, unlinked")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", children=[Flow("stage", "child")])
    job = await stage.producer.add_flow(flow)
    (child,) = (await stage.producer.flow_tree(job)).children
    await stage.mark()
    await (await stage.find(child.job)).unlink()
    return job


@scenario("active → failed, by a child")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", on_child_failure="fail", children=[Flow("elsewhere", "child")])
    job = await stage.producer.add_flow(flow)
    async with stage.worker.worker("elsewhere", badly):
        await stage.until(lambda: stage.state(job), "waiting")
    await stage.mark()
    await stage.start(well)
    return job


@scenario("waiting → failed, rescued")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", on_child_failure="fail", children=[Flow("elsewhere", "child")])
    job = await stage.producer.add_flow(flow)
    async with stage.worker.worker("elsewhere", badly):
        await stage.until(lambda: stage.state(job), "waiting")
    await stage.raw.zadd("bull:elsewhere:toril:deferred", {f"bull:stage:{job.id}": 0})
    await stage.mark()
    await stage.worker.run_services("elsewhere")
    return job


async def vanish(stage: Stage, job: Job) -> None:
    """Leave the job as a worker leaves it that was killed long ago."""
    await stage.raw.lrem("bull:stage:wait", 1, job.id)
    await stage.raw.lpush("bull:stage:active", job.id)
    await stage.raw.sadd("bull:stage:stalled", job.id)


@scenario("active → waiting, stalled")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await vanish(stage, job)
    await stage.mark()
    await stage.start(then_wait(stage))
    return job


@scenario("active → failed, stalled")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await vanish(stage, job)
    await stage.operator.queue("stage").pause()
    async with stage.worker.worker("stage", well, max_stalled=0):
        await stage.until(lambda: stage.state(job), "waiting")
    await stage.operator.queue("stage").resume()
    await stage.mark()
    await stage.start(well)
    return job


@scenario("completed → waiting")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.finish(job, well)
    await stage.mark()
    await (await stage.find(job)).retry()
    return job


@scenario("failed → waiting")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.finish(job, badly)
    await stage.mark()
    await (await stage.find(job)).retry()
    return job


@scenario("any → removed")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.mark()
    await (await stage.find(job)).remove()
    return job


@scenario("any → removed, with its parent")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", children=[Flow("elsewhere", "child", id="child")])
    parent = await stage.producer.add_flow(flow)
    child = await stage.operator.queue("elsewhere").get("child")
    assert child is not None
    await stage.mark()
    await (await stage.find(parent)).remove()
    return child


@scenario("any → removed, not processed")
async def _(stage: Stage) -> Job:
    flow = Flow("stage", "parent", children=[Flow("elsewhere", "child", id="child")])
    parent = await stage.producer.add_flow(flow)
    child = await stage.operator.queue("elsewhere").get("child")
    assert child is not None
    await stage.mark()
    await (await stage.find(parent)).remove_unprocessed_children()
    return child


@scenario("any → removed, erased")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.finish(job, well)
    await stage.mark()
    await (await stage.find(job)).erase()
    return job


@scenario("any → removed, its flow taken back")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    listed = {"nodes": 501, "lease": 0, f"+bull:stage:{job.id}": ""}
    await stage.raw.hset(f"bull:stage:toril:flows:{job.id}", mapping=listed)
    await stage.raw.zadd("bull:stage:toril:flows", {job.id: 0})
    await stage.mark()
    await stage.worker.run_services("stage")
    return job


@scenario("any → removed, cleaned")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.finish(job, well)
    await stage.mark()
    await stage.operator.queue("stage").clean("completed", older_than="0s")
    return job


@scenario("delayed → removed, with its schedule")
async def _(stage: Stage) -> Job:
    await stage.producer.queue("stage").schedule("s", Cron("0 3 * * *"), "job")
    job = await run_of(stage, "s")
    await stage.mark()
    await stage.operator.queue("stage").remove_schedule("s")
    return job


@scenario("delayed → removed, replaced")
async def _(stage: Stage) -> Job:
    window = Deduplication("d", replace=True)
    job = await stage.add(delay="1h", deduplication=window)
    await stage.mark()
    await stage.add(delay="1h", deduplication=window)
    return job


@scenario("waiting → removed, drained")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.mark()
    await stage.operator.queue("stage").drain()
    return job


@scenario("any → removed, obliterated")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.mark()
    await stage.operator.queue("stage").obliterate()
    return job


@scenario("completed → removed, at the finish")
async def _(stage: Stage) -> Job:
    await stage.start(then_waits(stage))
    return await stage.add("job", None, Retention(completed=Keep.nothing()))


@scenario("completed → removed, swept")
async def _(stage: Stage) -> Job:
    job = await stage.add()
    await stage.finish(job, well)
    await stage.mark()
    await stage.operator.queue("stage").set(Retention(completed="1ms"))
    await stage.start(well)
    return job
