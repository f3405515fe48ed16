"""What plugins still know of jobs that are gone, with a plugin of a team's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from tests.nouns.witness import until

from toril import ActiveJob, App, Flow, JobFailed, JobNotFound, JobRemoved, hookimpl
from toril.plugins import JobCompleted, JobRef, Recalled


class Memory:
    """Remembers completed jobs, for as long as the test runs."""

    toril_name = "memory"

    def __init__(self) -> None:
        self.known: dict[JobRef, Recalled] = {}
        self.asked: list[JobRef] = []

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        for event in events:
            job = event.job
            ended = Recalled("completed", job.finished or 0, job.name, job.result)
            self.known[JobRef(job.queue, job.id)] = ended

    @hookimpl
    async def toril_recall_job(self, job: JobRef) -> Recalled | None:
        self.asked.append(job)
        await asyncio.sleep(0)
        return self.known.get(job)


class Broken:
    toril_name = "broken"

    @hookimpl
    def toril_recall_job(self, job: JobRef) -> Recalled | None:
        raise RuntimeError("the disk is on fire")


class Careless:
    toril_name = "careless"

    @hookimpl
    def toril_recall_job(self, job: JobRef) -> Any:
        return {"outcome": "completed"}


class Empty:
    """Asked first, and knows nothing."""

    toril_name = "empty"

    @hookimpl(tryfirst=True)
    def toril_recall_job(self) -> Recalled | None:
        return None


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def app(redis_url: str, memory: Memory) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[Broken(), Empty(), Careless(), memory]) as made:
        yield made


async def double(job: ActiveJob) -> int:
    return 2 * (job.get("n", int) or 0)


def forget(raw: redis.Redis) -> None:
    """All jobs and all that the stream tells of them are gone."""
    raw.flushdb()


async def test_a_result(
    app: App, raw: redis.Redis, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    job = await app.queue("mail").add("double", {"n": 4})
    await app.worker("mail", double).run(burst=True)
    assert await job.result() == 8
    assert memory.asked == [], "the job is there"
    forget(raw)
    assert await job.result() == 8
    assert memory.asked == [job.ref]
    assert "the disk is on fire" in caplog.text
    assert "which is no Recalled" in caplog.text
    assert await asyncio.to_thread(lambda: app.sync.queue("mail").recall(job.id)) == Recalled(
        "completed", memory.known[job.ref].finished, "double", 8, told_by="memory"
    )


async def test_a_result_that_is_waited_for(app: App, raw: redis.Redis, memory: Memory) -> None:
    """The job goes without a word that a reader of events could catch."""
    job = await app.queue("mail").add("double", {"n": 4})
    waiting = asyncio.create_task(job.result(timeout="5s"))
    await until(lambda: app.results.waiting)
    memory.known[job.ref] = Recalled("failed", job.snapshot.created, reason="no luck")
    raw.delete(f"bull:mail:{job.id}")
    raw.xadd("bull:mail:events", {"event": "removed", "jobId": job.id})
    with pytest.raises(JobFailed, match="no luck"):
        await waiting


async def test_an_earlier_job_of_that_id_tells_nothing(
    app: App, raw: redis.Redis, memory: Memory
) -> None:
    job = await app.queue("mail").add("double", {"n": 4}, id="again")
    memory.known[job.ref] = Recalled("completed", job.snapshot.created - 3_600_000, result=1)
    forget(raw)
    with pytest.raises(JobRemoved, match="nothing tells how it ended"):
        await job.result()


async def test_a_result_that_was_not_kept(app: App, raw: redis.Redis, memory: Memory) -> None:
    job = await app.queue("mail").add("double", {"n": 4})
    now = job.snapshot.created
    memory.known[job.ref] = Recalled("completed", now, has_result=False)
    forget(raw)
    with pytest.raises(JobRemoved, match="its result was not kept"):
        await job.result()


async def test_the_synchronous_face(redis_url: str, raw: redis.Redis, memory: Memory) -> None:
    def of_one() -> None:
        with App(redis_url, plugins=[memory]).sync as app:
            job = app.queue("mail").add("double", {"n": 4})
            memory.known[job.ref] = Recalled("completed", int(time.time() * 1000), result=8)
            forget(raw)
            assert job.result() == 8
            assert [fact.text for fact in job.explain()] == [
                "gone; it completed, as 'memory' tells"
            ]
            assert app.queue("mail").recall("unknown") is None

    await asyncio.to_thread(of_one)


async def test_explain(app: App, raw: redis.Redis, memory: Memory) -> None:
    job = await app.queue("mail").add("double", {"n": 4})
    forget(raw)
    with pytest.raises(JobNotFound):
        await job.explain()
    memory.known[job.ref] = Recalled("failed", 1_790_000_000_000, reason="no luck")
    assert [(fact.subject, fact.text, fact.at) for fact in await job.explain()] == [
        ("state", "gone; it failed, as 'memory' tells", 1_790_000_000_000),
        ("failure", "its last attempt failed: no luck", 1_790_000_000_000),
    ]


async def test_children_in_the_view_of_a_flow(app: App, raw: redis.Redis) -> None:
    children = [Flow("mail", "double", {"n": 4}), Flow("mail", "later", delay="1h")]
    root = await app.add_flow(Flow("reports", "sum", children=children))
    await app.worker("mail", double).run(burst=True)
    found = {node.job.name: node.job for node in await app.flow_tree(root)}
    raw.delete(f"bull:mail:{found['double'].id}", f"bull:mail:{found['later'].id}")
    tree = await app.flow_tree(root)
    assert tree.children == ()
    recalled = tree.gone[found["double"].ref]
    assert recalled is not None
    assert (recalled.outcome, recalled.result, recalled.told_by) == ("completed", 8, "memory")
    assert tree.gone[found["later"].ref] is None
