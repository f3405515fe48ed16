"""Changing jobs and reading parts of a queue, by the methods of jobs and queues."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import redis
from tests.nouns.test_queue import finish
from tests.nouns.witness import Witness

from toril import App, ConfigurationError, Flow, JobNotFound
from toril.errors import InvalidJob, JobStateError, ParentError

Q = "bull:mail"


async def test_logs_page_by_page(app: App) -> None:
    job = await app.queue("mail").add("w")
    for line in "abcde":
        await job.log(line)
    assert await job.logs(limit=2, skip=1) == ("c", "d")
    assert await job.logs(skip=3) == ("a", "b")
    assert await job.logs(limit=9, skip=4) == ("a",)
    assert await job.logs(limit=2, skip=9) == ()
    await job.clear_logs(keep=2)
    assert await job.logs() == ("d", "e")
    await job.clear_logs()
    assert await job.logs() == ()
    for wrong in (
        lambda: job.logs(limit=-1),
        lambda: job.logs(skip=-1),
        lambda: job.clear_logs(keep=-1),
    ):
        with pytest.raises(ValueError, match="at least 0"):
            await wrong()


async def test_change_delay(app: App, raw: redis.Redis) -> None:
    job = await app.queue("mail").add("w", delay="1h")
    await job.change_delay("2h")
    assert (await job.refresh()).snapshot.delay == 7_200_000
    await job.change_delay(datetime.now(UTC) - timedelta(hours=1))
    assert (await job.refresh()).snapshot.delay == 0
    await job.promote()
    with pytest.raises(JobStateError, match="is not delayed"):
        await job.change_delay("5m")
    with pytest.raises(TypeError):
        await job.change_delay(cast(Any, 5))


async def test_change_priority(app: App) -> None:
    queue = app.queue("mail")
    jobs = [await queue.add("w") for _ in range(3)]
    await jobs[1].change_priority(4)
    await jobs[2].change_priority(4, lifo=True)
    assert await queue.counts_per_priority(4, 0, 9) == {4: 2, 0: 1, 9: 0}
    assert [job.id async for job in queue.jobs("prioritized")] == [jobs[2].id, jobs[1].id]
    await jobs[2].change_priority(0)
    assert await jobs[2].state() == "waiting"
    for wrong in (-1, 2**21):
        with pytest.raises(InvalidJob, match="priority must be between"):
            await jobs[0].change_priority(wrong)
        with pytest.raises(InvalidJob, match="priority must be between"):
            await queue.counts_per_priority(wrong)
    with pytest.raises(ValueError, match="which priorities"):
        await queue.counts_per_priority()


async def test_unlink_and_remove_unprocessed_children(watched: App, witness: Witness) -> None:
    flow = Flow("p", "root", children=[Flow("mail", name) for name in ("a", "b", "c")])
    root = await watched.add_flow(flow)
    tree = await watched.flow_tree(root)
    first, *others = (node.job for node in tree.children)
    assert await first.unlink() is True
    assert (await first.refresh()).snapshot.parent is None
    with pytest.raises(ParentError, match="no living parent"):
        await first.unlink()
    await first.remove()
    with pytest.raises(JobNotFound):
        await first.remove_unprocessed_children()
    assert sorted(await root.remove_unprocessed_children()) == sorted(job.id for job in others)
    assert await root.state() == "waiting"
    assert await root.remove_unprocessed_children() == []
    assert witness.removals[-1].queue == "mail"
    assert witness.removals[-1].action == "operator"
    assert sorted(witness.removals[-1].ids or ()) == sorted(job.id for job in others)


async def test_by_its_id(app: App) -> None:
    queue = app.queue("mail")
    job = await queue.add("w")
    await queue.update(job.id, {"n": 1})
    await queue.progress(job.id, 50)
    assert [await queue.log(job.id, line, keep=2) for line in "abc"] == [1, 2, 2]
    await job.refresh()
    assert (job.data, job.snapshot.progress) == ({"n": 1}, 50)
    assert await job.logs() == ("b", "c")
    with pytest.raises(JobNotFound, match="'nobody'"):
        await queue.log("nobody", "x")


async def test_counts(app: App) -> None:
    queue = app.queue("mail")
    for options in ({}, {}, {"delay": "1h"}, {"priority": 2}):
        await queue.add("w", **cast(Any, options))
    assert await queue.counts("delayed", "waiting") == {"delayed": 1, "waiting": 2}
    assert await queue.count("delayed", "prioritized") == 2
    assert await queue.count() == 4
    with pytest.raises(ConfigurationError, match="there is no state 'paused'"):
        await queue.count(cast(Any, "paused"))


async def test_ranges(app: App, raw: redis.Redis) -> None:
    queue = app.queue("mail")
    jobs = [await queue.add("w", number) for number in range(250)]
    late = await queue.add("w", 250, delay="1h")

    async def found(*states: Any, **terms: Any) -> list[Any]:
        return [job.data async for job in queue.jobs(*states, **terms)]

    assert await found("waiting", start=2, limit=3) == [2, 3, 4]
    assert await found("waiting", start=2, limit=3, ascending=False) == [247, 246, 245]
    assert await found("waiting", start=240) == list(range(240, 250))
    assert await found("waiting", "delayed", start=249) == [249, 250]
    assert await found("waiting", "delayed", start=250) == [250]
    assert await found("active", "waiting", start=248) == [248, 249]
    assert await found("waiting", start=250) == []
    for job in jobs[:2]:
        finish(raw, job.id)
    raw.zincrby(f"{Q}:failed", 10, jobs[1].id)
    assert await found("failed") == [1, 0]
    assert await found("failed", ascending=True) == [0, 1]
    assert await found("failed", "delayed", start=1, ascending=True) == [1, late.data]
    with pytest.raises(ValueError, match="start is at least 0"):
        await found("waiting", start=-1)


async def test_retry_some(app: App, raw: redis.Redis) -> None:
    queue = app.queue("mail")
    jobs = [await queue.add("w") for _ in range(5)]
    for job in jobs:
        finish(raw, job.id)
    hour = 3_600_000
    for job in jobs[:3]:
        raw.zincrby(f"{Q}:failed", -hour, job.id)
    raw.hset(f"{Q}:{jobs[0].id}", "ats", 7)
    assert await queue.retry_all(limit=1, reset_started=True) == 1
    assert (await jobs[0].refresh()).snapshot.attempts_started == 0
    assert await queue.retry_all(older_than="30m") == 2
    assert await queue.count("failed") == 2
    raw.hset(f"{Q}:{jobs[3].id}", "ats", 7)
    await jobs[3].retry(reset_started=True)
    assert (await jobs[3].refresh()).snapshot.attempts_started == 0
    with pytest.raises(ValueError, match="limit is at least 1"):
        await queue.retry_all(limit=0)
    with pytest.raises(ConfigurationError, match="have not finished"):
        await queue.retry_all(cast(Any, "active"))


async def test_promote_some(app: App) -> None:
    queue = app.queue("mail")
    for hours in (3, 1, 2):
        await queue.add("w", hours, delay=f"{hours}h")
    assert await queue.promote_all(limit=2) == 2
    assert [job.data async for job in queue.jobs("waiting")] == [1, 2]
    with pytest.raises(ValueError, match="limit is at least 1"):
        await queue.promote_all(limit=0)
