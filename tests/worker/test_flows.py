"""Parents and children, in two queues, with every policy; children added by a running job."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.worker.conftest import until

from toril.app import App
from toril.backoff import Backoff
from toril.errors import JobFailed, LockLost, Unrecoverable, WaitForChildren
from toril.flow import Flow
from toril.new_job import NewJob
from toril.types import ChildFailurePolicy, Json
from toril.worker import ActiveJob


async def finish(job: ActiveJob) -> Json:
    """What the children are told to do."""
    if job.name == "bad":
        raise Unrecoverable("broken")
    return f"{job.name} done"


async def report(job: ActiveJob) -> Json:
    """What the parents do: tell of their children."""
    children = await job.children()
    return {
        "results": [*sorted(str(result) for result in children.processed.values())],
        "ignored": [*sorted(children.ignored.values())],
        "open": len(children.unprocessed),
        "failed": len(children.failed),
    }


def family(policy: ChildFailurePolicy) -> Flow:
    children = [Flow("steps", name) for name in ("good", "bad")]
    return Flow("reports", "sum", children=children, on_child_failure=policy)


async def run_all(app: App) -> None:
    """Children first, then parents, then what the parents' ends have released."""
    await app.worker("steps", finish).run(burst=True)
    await app.worker("reports", report).run(burst=True)


async def test_a_parent_runs_after_its_children_and_sees_their_results(app: App) -> None:
    flow = Flow("reports", "sum", children=[Flow("steps", "a"), Flow("steps", "b")])
    parent = await app.add_flow(flow)
    await app.worker("reports", report).run(burst=True)
    assert await parent.state() == "waiting-children"
    await run_all(app)
    assert await parent.result() == {
        "results": ["a done", "b done"], "ignored": [], "open": 0, "failed": 0,
    }  # fmt: skip


async def test_policy_fail(app: App) -> None:
    parent = await app.add_flow(family("fail"))
    await run_all(app)
    with pytest.raises(JobFailed, match=r"child bull:steps:.* failed"):
        await parent.result()
    refreshed = await parent.refresh()
    assert (refreshed.attempts_made, refreshed.snapshot.attempts_started) == (1, 1)


async def test_policy_ignore(app: App) -> None:
    parent = await app.add_flow(family("ignore"))
    await run_all(app)
    assert await parent.result() == {
        "results": ["good done"], "ignored": ["broken"], "open": 0, "failed": 0,
    }  # fmt: skip


async def test_policy_remove(app: App) -> None:
    parent = await app.add_flow(family("remove"))
    await run_all(app)
    assert await parent.result() == {
        "results": ["good done"], "ignored": [], "open": 0, "failed": 0,
    }  # fmt: skip


async def test_policy_continue(app: App) -> None:
    parent = await app.add_flow(family("continue"))
    await run_all(app)
    assert await parent.result() == {
        "results": ["good done"], "ignored": ["broken"], "open": 0, "failed": 0,
    }  # fmt: skip


async def test_policy_wait(app: App) -> None:
    parent = await app.add_flow(family("wait"))
    await run_all(app)
    assert await parent.state() == "waiting-children"


async def test_failures_travel_up_a_tree(app: App) -> None:
    leaf = Flow("steps", "bad")
    middle = Flow("reports", "middle", children=[leaf], on_child_failure="fail")
    top = await app.add_flow(Flow("reports", "top", children=[middle], on_child_failure="fail"))
    await run_all(app)
    assert await top.state() == "failed"
    assert "child bull:reports:" in ((await top.refresh()).reason or "")


async def test_a_released_parent_that_ends_with_open_children_is_tried_again(app: App) -> None:
    """`continue` lets the parent run although another child is open; it may not complete then."""
    children = [Flow("steps", "bad"), Flow("slow", "later")]
    flow = Flow("reports", "sum", children=children, on_child_failure="continue", attempts=2)
    parent = await app.add_flow(flow)
    await run_all(app)
    with pytest.raises(JobFailed, match=r"Job .* has pending dependencies. moveToFinished"):
        await parent.result()
    assert (await parent.refresh()).attempts_made == 2


async def test_a_running_parent_whose_child_fails_cannot_complete(app: App) -> None:
    async def parents(job: ActiveJob) -> str:
        await job.add_children([NewJob("bad", on_failure="fail")])
        await app.worker("reports", finish).run(burst=True)  # the child fails meanwhile
        return "done"

    parent = await app.queue("reports").add("sum", attempts=3)
    worker = app.worker("reports", parents)
    await worker.run(burst=True)
    reason = rf"Cannot complete job {parent.id} because it has at least one failed child"
    with pytest.raises(JobFailed, match=reason):
        await parent.result()
    assert (await parent.refresh()).attempts_made == 1  # not tried again


@pytest.mark.parametrize("concurrency", [2, 50])
async def test_parent_and_child_that_end_together(app: App, concurrency: int) -> None:
    """A child behind its parent in one batch: the parent's end is sent again, not failed."""
    started: list[str] = []

    async def handler(job: ActiveJob) -> None:
        started.append(job.name)
        if job.name == "parent":
            await job.add_children([NewJob("child")])
        await until(lambda: "child" in started)

    parent = await app.queue("q").add("parent", attempts=1)
    await app.worker("q", handler, concurrency=concurrency).run(burst=True)
    assert await parent.state() == "completed"


async def test_a_job_waits_for_children_it_adds(app: App, raw: redis.Redis) -> None:
    async def parents(job: ActiveJob) -> Json:
        if not (await job.children()).processed:
            refs = await job.add_children(
                [NewJob("here", 1), Flow("steps", "top", children=[Flow("steps", "leaf")])]
            )
            assert [ref.queue for ref in refs] == ["q", "steps"]
            raise WaitForChildren
        return await report(job)

    async def handler(job: ActiveJob) -> Json:
        return await (parents(job) if job.name == "parent" else finish(job))

    parent = await app.queue("q").add("parent", attempts=1)
    await app.worker("q", handler).run(burst=True)
    assert await parent.state() == "waiting-children"
    await app.worker("steps", finish, concurrency=2).run(burst=True)
    await app.worker("q", handler).run(burst=True)
    assert await parent.result() == {
        "results": ["here done", "top done"], "ignored": [], "open": 0, "failed": 0,
    }  # fmt: skip
    stored: Any = raw.hmget(f"bull:q:{parent.id}", "atm", "ats")
    assert stored == ["1", "2"]


async def test_plain_handlers_can_wait_for_children_too(app: App) -> None:
    def handler(job: ActiveJob) -> Json:
        if job.name == "child":
            return 1
        if not job.sync.children().processed:
            job.sync.add_children([NewJob("child")])
            raise WaitForChildren
        return 2

    parent = await app.queue("q").add("parent")
    await app.worker("q", handler).run(burst=True)
    assert await parent.result() == 2


async def test_waiting_for_no_children_runs_the_job_again(app: App) -> None:
    runs = 0

    async def handler(job: ActiveJob) -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise WaitForChildren
        return job.attempt

    job = await app.queue("q").add("parent")
    await app.worker("q", handler).run(burst=True)
    assert await job.result() == 1


async def test_waiting_for_children_of_which_one_has_failed_fails(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        if job.name == "parent":
            await job.add_children([NewJob("bad", on_failure="fail")])
            await app.worker("q", finish).run(burst=True)
            raise WaitForChildren

    parent = await app.queue("q").add("parent", attempts=3)
    await app.worker("q", handler).run(burst=True)
    with pytest.raises(JobFailed, match="at least one failed child"):
        await parent.result()


async def test_a_parent_that_continues_lets_its_other_children_go(
    app: App, raw: redis.Redis
) -> None:
    async def give_up(job: ActiveJob) -> Json:
        before = await job.children_counts()
        page = await job.children_page("ignored")
        gone = await job.remove_unprocessed_children()
        return [before["unprocessed"], [*page.children.values()], sorted(gone)]

    late = [Flow("steps", "late", id=f"late-{n}", delay="1h") for n in range(3)]
    parent = await app.add_flow(
        Flow("reports", "sum", children=[Flow("steps", "bad", on_failure="continue"), *late])
    )
    await app.worker("steps", finish).run(burst=True)
    await app.worker("reports", give_up).run(burst=True)
    assert await parent.result() == [3, ["broken"], ["late-0", "late-1", "late-2"]]
    assert raw.zcard("bull:steps:delayed") == 0


async def test_the_same_from_a_thread(app: App) -> None:
    def give_up(job: ActiveJob) -> Json:
        sync = job.sync
        sync.log("one")
        sync.log("two")
        sync.clear_logs(keep=1)
        sync.add_children([Flow("steps", "late", id="late", delay="1h")])
        counts, page = sync.children_counts(), sync.children_page("unprocessed", count=5)
        return [counts["unprocessed"], [*page.children], [*sync.remove_unprocessed_children()]]

    job = await app.queue("reports").add("sum")
    await app.worker("reports", give_up).run(burst=True)
    assert await job.result() == [1, ["bull:steps:late"], ["late"]]
    assert await job.logs() == ("two",)


async def test_what_is_lost_is_not_changed(app: App, raw: redis.Redis) -> None:
    refused: list[str] = []

    async def handler(job: ActiveJob) -> None:
        raw.set(f"bull:reports:{job.id}:lock", "another's")
        for act in (job.clear_logs, job.remove_unprocessed_children):
            with pytest.raises(LockLost):
                await act()
            refused.append(act.__name__)

    job = await app.queue("reports").add("sum")
    await job.log("kept")
    worker = app.worker("reports", handler)
    async with worker:
        await until(lambda: len(refused) == 2)
    assert await job.logs() == ("kept",)


@pytest.mark.parametrize("ended", [False, True])
async def test_a_step_that_is_repeated_adds_no_child_twice(
    app: App, raw: redis.Redis, ended: bool
) -> None:
    """Its worker broke between adding the children and remembering that it had."""

    async def handler(job: ActiveJob) -> Json:
        found = await job.children()
        if len(found.processed) < 2:
            await job.add_children([Flow("steps", name, id=name) for name in ("a", "b")])
            if job.attempt == 1:
                raise RuntimeError("broken")
            raise WaitForChildren
        return sorted(str(value) for value in found.processed.values())

    later = Backoff.fixed("1h")
    parent = await app.queue("reports").add("sum", attempts=2, backoff=later)
    await app.worker("reports", handler).run(burst=True)
    if ended:
        await app.worker("steps", finish).run(burst=True)
    await parent.promote()
    for _ in range(2):
        await app.worker("reports", handler).run(burst=True)
        await app.worker("steps", finish).run(burst=True)
    assert await parent.result(timeout="5s") == ["a done", "b done"]
    assert raw.zcard("bull:steps:completed") == 2


async def test_clear_logs_keeps_no_negative_number(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        await job.clear_logs(keep=-1)

    job = await app.queue("reports").add("sum")
    await app.worker("reports", handler).run(burst=True)
    with pytest.raises(JobFailed, match="keep is at least 0"):
        await job.result()
