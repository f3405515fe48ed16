"""Jobs that are fetched and ended by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
import redis
from tests.worker.conftest import Listener, until

from toril import ActiveJob, App, Backoff, Flow, JobFailed, NewJob
from toril.errors import InvalidJob, JobStateError, JobTimedOut, LockLost
from toril.job_events import JobAttemptFailed, JobCompleted
from toril.worker import HeldJob


async def fetched(fetcher: Any) -> HeldJob:
    job = await fetcher.next_job(wait="10s")
    assert isinstance(job, HeldJob)
    return job


async def test_a_job_is_completed_by_hand_and_its_hooks_fire(
    heard: App, listener: Listener, raw: redis.Redis
) -> None:
    job = await heard.queue("q").add("n", {"x": 1})
    async with heard.fetcher("q", name="hand") as fetcher:
        held = await fetched(fetcher)
        assert (held.id, held.data, held.attempt) == (job.id, {"x": 1}, 1)
        assert await job.state() == "active"
        assert raw.get(f"bull:q:{job.id}:lock") == held.token
        await held.log("half way")
        await held.complete({"y": 2})
        assert await job.state() == "completed"
    assert await job.result() == {"y": 2}
    assert await job.logs() == ("half way",)
    await until(lambda: listener.of(JobCompleted))
    assert raw.hget(f"bull:q:{job.id}", "pb") == "hand"


async def test_a_failure_by_hand_is_tried_again_as_any_other(
    heard: App, listener: Listener
) -> None:
    job = await heard.queue("q").add("n", attempts=3, backoff=Backoff.fixed("1h"))
    async with heard.fetcher("q") as fetcher:
        await (await fetched(fetcher)).fail("no luck")
        assert await job.state() == "delayed"
        await job.promote()
        await (await fetched(fetcher)).fail(ValueError("hopeless"), retry=False)
        with pytest.raises(JobFailed, match="hopeless"):
            await job.result()
    await until(lambda: len(listener.of(JobAttemptFailed)) == 2)
    told = [(event.reason, event.final) for event in listener.of(JobAttemptFailed)]
    assert told == [("no luck", False), ("hopeless", True)]


async def test_delayed_and_given_back_by_hand_count_no_attempt(app: App) -> None:
    job = await app.queue("q").add("n")
    async with app.fetcher("q") as fetcher:
        await (await fetched(fetcher)).delay("1h")
        assert await job.state() == "delayed"
        await job.promote()
        await (await fetched(fetcher)).give_back()
        assert await job.state() == "waiting"
        held = await fetched(fetcher)
        assert (held.attempt, held.starts) == (1, 3)
        await held.complete()
    assert await job.result() is None


async def test_a_rate_limit_by_hand(app: App) -> None:
    job = await app.queue("q").add("n")
    async with app.fetcher("q") as fetcher:
        held = await fetched(fetcher)
        with pytest.raises(ValueError, match="at least 1"):
            await held.rate_limit("0s")
        await held.rate_limit("100ms")
        assert await job.state() == "waiting"
        assert await fetcher.next_job(wait="0s") is None
        again = await fetched(fetcher)
        assert (again.attempt, again.starts) == (1, 2)
        await again.complete()
    assert await job.result() is None


async def test_a_parent_waits_for_children_by_hand(app: App) -> None:
    async with app.fetcher("q") as fetcher, app.fetcher("children") as children:
        root = await app.queue("q").add("n")
        held = await fetched(fetcher)
        await held.add_children([Flow("children", "child")])
        with pytest.raises(JobStateError, match="pending dependencies"):
            await held.complete()
    assert await root.state() == "failed"
    async with app.fetcher("q") as fetcher, app.fetcher("children") as children:
        root = await app.queue("q").add("n")
        held = await fetched(fetcher)
        await held.add_children([Flow("children", "child")])
        await held.wait_for_children()
        assert await root.state() == "waiting-children"
        for _ in range(2):  # the first is the one that its parent did not wait for
            await (await fetched(children)).complete("done")
        await (await fetched(fetcher)).complete("all")
    assert await root.result() == "all"


async def test_who_does_not_want_to_wait_gets_none(app: App) -> None:
    async with app.fetcher("q") as fetcher:
        assert await fetcher.next_job(wait="0s") is None
        assert await fetcher.next_job(wait="1ms") is None
        await app.queue("q").add("n")
        assert await fetcher.next_job(wait="0s") is not None
        await app.queue("q").pause()
        await app.queue("q").add("n")
        assert await fetcher.next_job(wait="0s") is None
        await app.queue("q").resume()
        assert await fetcher.next_job(wait="0s") is not None


async def test_who_waits_gets_a_job_when_it_comes(app: App) -> None:
    async with app.fetcher("q") as fetcher:
        waiting = [asyncio.create_task(fetcher.next_job()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await app.queue("q").add_many([NewJob("n", n) for n in range(5)])
        held = await asyncio.gather(*waiting)
        assert [job.data for job in held if job] == [0, 1, 2]
        counts = await app.queue("q").counts()
        assert (counts["active"], counts["waiting"]) == (3, 2)
        waiting = [asyncio.create_task(fetcher.next_job(wait="10s")) for _ in range(3)]
        await until(lambda: sum(task.done() for task in waiting) == 2)
    assert [await task for task in waiting][2] is None  # the fetcher has stopped
    assert fetcher.given_back == 5
    counts = await app.queue("q").counts()
    assert (counts["active"], counts["waiting"]) == (0, 5)


async def test_a_job_for_somebody_who_has_gone_is_given_back(app: App) -> None:
    async with app.fetcher("q") as fetcher:
        for _ in range(20):
            waiting = asyncio.create_task(fetcher.next_job())
            adding = asyncio.create_task(app.queue("q").add("n"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait((waiting, adding))

        async def all_wait() -> bool:
            return (await app.queue("q").counts())["waiting"] == 20

        await until(all_wait)  # one may still be on its way here, and goes back, too
        assert not fetcher.running


async def test_a_held_job_keeps_its_lock_until_it_is_taken_away(app: App, raw: redis.Redis) -> None:
    job = await app.queue("q").add("n")
    async with app.fetcher("q", lock="800ms") as fetcher:
        held = await fetched(fetcher)
        late = time.monotonic() + 1.2  # without a renewal the lock would be gone
        await until(lambda: time.monotonic() > late)
        assert raw.get(f"bull:q:{job.id}:lock") == held.token
        await held.extend_lock("1m")
        assert raw.pttl(f"bull:q:{job.id}:lock") > 59_000
        raw.set(f"bull:q:{job.id}:lock", "somebody else")
        await until(lambda: held.lost)
        with pytest.raises(LockLost):
            await held.complete()


async def test_a_lock_that_is_gone_is_found_out_at_the_end(app: App, raw: redis.Redis) -> None:
    job = await app.queue("q").add("n")
    async with app.fetcher("q") as fetcher:
        held = await fetched(fetcher)
        raw.set(f"bull:q:{job.id}:lock", "somebody else")
        with pytest.raises(LockLost):
            await held.complete()
    assert await job.state() == "active"


async def test_a_job_is_ended_once(app: App) -> None:
    await app.queue("q").add_many([NewJob("n"), NewJob("n"), NewJob("n")])
    async with app.fetcher("q") as fetcher:
        held = await fetched(fetcher)
        with pytest.raises(InvalidJob, match="cannot be stored as JSON"):
            await held.complete(cast(Any, object()))
        with pytest.raises(ValueError, match="not a duration"):
            await held.delay("soon")
        await held.complete()
        with pytest.raises(JobStateError, match="not held any more"):
            await held.fail("no")
        cancelled = await fetched(fetcher)
        fetcher.cancel(cancelled.id, "withdrawn")
        await until(cancelled.verdict.done)
        with pytest.raises(JobStateError, match="has failed: withdrawn"):
            await cancelled.complete()
        left = await fetched(fetcher)
    with pytest.raises(JobStateError, match="not held any more"):
        await left.complete()


async def test_a_held_job_has_a_time_out_too(app: App) -> None:
    job = await app.queue("q").add("n")
    async with app.fetcher("q", timeout="20ms") as fetcher:
        held = await fetched(fetcher)
        with pytest.raises(JobFailed, match="timed out"):
            await job.result(timeout="10s")
        assert isinstance(held.interruption, JobTimedOut)


async def test_what_cannot_be_asked_of_a_fetcher(app: App) -> None:
    with pytest.raises(TypeError, match="no concurrency"):
        app.fetcher("q", concurrency=3)
    fetcher = app.fetcher("q")
    with pytest.raises(RuntimeError, match="async with"):
        await fetcher.next_job()
    assert app.workers == ()
    with pytest.raises(TypeError, match="as many jobs as you fetch"):
        fetcher.concurrency = 3


async def test_handlers_and_hands_share_a_queue(app: App) -> None:
    async def handler(job: ActiveJob) -> str:
        return "by a handler"

    async def by_hand() -> None:
        while job := await fetcher.next_job():
            await job.complete("by hand")

    jobs: Sequence[Any] = await app.queue("q").add_many([NewJob("n") for _ in range(100)])
    async with app.fetcher("q") as fetcher:
        hands = [asyncio.create_task(by_hand()) for _ in range(3)]
        async with app.worker("q", handler, concurrency=3):
            results = [await job.result(timeout="10s") for job in jobs]
    await asyncio.gather(*hands)
    assert set(results) <= {"by a handler", "by hand"}
    assert (await app.queue("q").counts())["completed"] == 100
