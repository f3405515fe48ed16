from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import redis
from tests.nouns.witness import until

from toril import App, Job, JobFailed, JobRemoved, NewJob, results
from toril.errors import ServerUnavailable

Q = "bull:mail"


def end(raw: redis.Redis, id: str, outcome: str = "completed", value: str = '{"ok": true}') -> None:
    """Let a job end as BullMQ does, event included."""
    now = int(time.time() * 1000)
    field = "returnvalue" if outcome == "completed" else "failedReason"
    raw.lrem(f"{Q}:wait", 1, id)
    raw.zadd(f"{Q}:{outcome}", {id: now})
    raw.hset(f"{Q}:{id}", mapping={field: value, "finishedOn": now})
    raw.xadd(f"{Q}:events", {"event": outcome, "jobId": id, field: value, "prev": "active"})


def forget(raw: redis.Redis, id: str) -> None:
    """Remove every trace of the job but its events."""
    for outcome in ("completed", "failed"):
        raw.zrem(f"{Q}:{outcome}", id)
    raw.lrem(f"{Q}:wait", 1, id)
    raw.delete(f"{Q}:{id}")


async def listening(app: App, count: int) -> None:
    """Return when so many waits are under way."""
    await until(lambda: app.results.waiting >= count)


def readers(raw: redis.Redis) -> list[dict[str, Any]]:
    """The connections that read events."""
    return [client for client in raw.client_list() if client["name"].endswith(":qe")]


async def reading(raw: redis.Redis) -> dict[str, Any]:
    """The connection that reads events, once it does."""
    await until(lambda: readers(raw))
    (reader,) = readers(raw)
    return reader


@pytest.fixture
async def job(app: App) -> Job:
    return await app.queue("mail").add("send")


async def test_a_job_that_has_completed(job: Job, raw: redis.Redis) -> None:
    end(raw, job.id)
    assert await job.result(timeout="5s") == {"ok": True}


async def test_a_job_that_completes_meanwhile(app: App, job: Job, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(job.result(timeout="5s"))
    await listening(app, 1)
    end(raw, job.id)
    assert await waiting == {"ok": True}


async def test_a_job_that_has_failed(job: Job, raw: redis.Redis) -> None:
    end(raw, job.id, "failed", "no luck")
    with pytest.raises(JobFailed, match="no luck") as caught:
        await job.result(timeout="5s")
    assert (caught.value.reason, caught.value.job_id, caught.value.queue) == (
        "no luck",
        job.id,
        "mail",
    )


async def test_a_job_that_fails_meanwhile(app: App, job: Job, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(job.result(timeout="5s"))
    await listening(app, 1)
    end(raw, job.id, "failed", "no luck")
    with pytest.raises(JobFailed, match="no luck"):
        await waiting


@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_a_job_that_was_removed_when_it_ended(
    job: Job, raw: redis.Redis, outcome: str
) -> None:
    end(raw, job.id, outcome, '"seven"')
    forget(raw, job.id)
    for number in range(1200):  # the answer is not on the first page of the stream
        raw.xadd(f"{Q}:events", {"event": "added", "jobId": f"x{number}", "name": "y"})
    if outcome == "completed":
        assert await job.result(timeout="5s") == "seven"
    else:
        with pytest.raises(JobFailed, match='"seven"'):
            await job.result(timeout="5s")


async def test_the_last_end_counts(job: Job, raw: redis.Redis) -> None:
    end(raw, job.id, "failed", "first")
    end(raw, job.id, "completed", "2")
    forget(raw, job.id)
    assert await job.result(timeout="5s") == 2


async def test_a_job_that_is_gone_without_a_trace(job: Job, raw: redis.Redis) -> None:
    forget(raw, job.id)
    with pytest.raises(JobRemoved, match=job.id):
        await job.result(timeout="5s")


async def test_a_job_that_is_removed_meanwhile(app: App, job: Job) -> None:
    waiting = asyncio.create_task(job.result())
    await listening(app, 1)
    await job.remove()
    with pytest.raises(JobRemoved):
        await asyncio.wait_for(waiting, 2)


async def test_a_job_that_does_not_end(job: Job) -> None:
    with pytest.raises(TimeoutError, match=f"{job.id}.*within 30ms"):
        await job.result(timeout="30ms")


async def test_a_wait_of_no_time_asks_once(job: Job, raw: redis.Redis) -> None:
    with pytest.raises(TimeoutError):
        await job.result(timeout="0s")
    end(raw, job.id)
    assert await job.result(timeout="0s") == {"ok": True}


async def test_an_end_whose_event_was_lost_is_found_by_asking_again(
    app: App, job: Job, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ASK_AGAIN", 0.02)
    waiting = asyncio.create_task(job.result(timeout="5s"))
    await listening(app, 1)
    raw.lrem(f"{Q}:wait", 1, job.id)
    raw.hset(f"{Q}:{job.id}", "returnvalue", "5")
    raw.zadd(f"{Q}:completed", {job.id: 1})
    assert await waiting == 5


async def test_a_result_that_is_no_json(job: Job, raw: redis.Redis) -> None:
    end(raw, job.id, value="not json")
    assert await job.result(timeout="5s") == "not json"


async def test_many_waits_share_one_connection(app: App, raw: redis.Redis) -> None:
    jobs = await app.queue("mail").add_many(NewJob("n", i) for i in range(200))
    waits = [asyncio.create_task(job.result(timeout="10s")) for job in jobs]
    again = asyncio.create_task(jobs[0].result(timeout="10s"))
    await listening(app, 201)
    await reading(raw)
    for number, job in enumerate(jobs):
        end(raw, job.id, value=json.dumps(number))
    assert await asyncio.gather(*waits) == list(range(200))
    assert await again == 0
    assert len(readers(raw)) <= 1
    assert app.results.waiting == 0


async def test_a_wait_that_is_given_up_leaves_nothing(app: App, job: Job, raw: redis.Redis) -> None:
    waiting = asyncio.create_task(job.result())
    await listening(app, 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert app.results.waiting == 0
    await until(lambda: not readers(raw))


async def test_waiting_goes_on_when_the_connection_breaks(
    app: App, job: Job, raw: redis.Redis
) -> None:
    waiting = asyncio.create_task(job.result(timeout="10s"))
    await listening(app, 1)
    raw.client_kill_filter(_id=(await reading(raw))["id"])
    end(raw, job.id)
    assert await waiting == {"ok": True}


async def test_closing_the_app_ends_the_waits(redis_url: str, raw: redis.Redis) -> None:
    app = App(redis_url, plugins=[])
    job = await app.queue("mail").add("send")
    waiting = asyncio.create_task(job.result())
    await listening(app, 1)
    await app.aclose()
    with pytest.raises(ServerUnavailable, match="closed"):
        await asyncio.wait_for(waiting, 2)
    assert not app.runtime.started
    assert not readers(raw)
