"""Queues whose event stream tells no values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from tests.conftest import Library
from tests.support.driver import DriverError
from tests.worker.conftest import until

from toril import ActiveJob, App, ConfigurationError, EventValues, JobFailed, JobRemoved, NewJob
from toril.errors import Unrecoverable

SECRET = "ada@example.org"


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[]) as made:
        await made.queue("mail").set(EventValues(False))
        yield made


async def send(job: ActiveJob) -> Any:
    await job.progress({"to": SECRET})
    if job.name == "bad":
        raise Unrecoverable(f"no such mailbox: {SECRET}")
    return {"to": SECRET}


def stream(raw: redis.Redis) -> list[dict[str, str]]:
    entries: Any = raw.xrange("bull:mail:events")
    return [fields for _, fields in entries]


async def test_nothing_of_the_content_is_in_the_stream(app: App, raw: redis.Redis) -> None:
    good, bad = await app.queue("mail").add_many([NewJob("good"), NewJob("bad")])
    await app.worker("mail", send).run(burst=True)
    events = {(event["event"], event.get("jobId")): event for event in stream(raw)}
    assert SECRET not in str(events)
    assert events["completed", good.id] == {
        "event": "completed", "jobId": good.id, "returnvalue": "null", "values": "off",
        "prev": "active",
    }  # fmt: skip
    assert events["failed", bad.id]["failedReason"] == "(not told in the events)"
    assert events["progress", good.id]["data"] == "null"
    assert await good.result() == {"to": SECRET}
    with pytest.raises(JobFailed, match=SECRET):
        await bad.result()

    await app.queue("mail").set(EventValues(True))
    await app.queue("mail").add("good")
    await app.worker("mail", send).run(burst=True)
    assert stream(raw)[-2]["returnvalue"] == '{"to":"' + SECRET + '"}'
    assert not raw.hexists("bull:mail:meta", "toril.events.values")


@pytest.mark.parametrize("name", ["good", "bad"])
async def test_who_waits_reads_the_job(app: App, name: str) -> None:
    job = await app.queue("mail").add(name)

    def blocking() -> Any:
        found = app.sync.queue("mail").get(job.id)
        assert found is not None
        return found.result(timeout="5s")

    waits = [
        asyncio.create_task(job.result(timeout="5s")),
        asyncio.create_task(asyncio.to_thread(blocking)),
    ]
    await until(lambda: app.results.waiting)
    await app.worker("mail", send).run(burst=True)
    for result in await asyncio.gather(*waits, return_exceptions=True):
        if name == "good":
            assert result == {"to": SECRET}
        else:
            assert isinstance(result, JobFailed)
            assert SECRET in result.reason


async def test_of_a_job_that_is_gone_nobody_makes_up_a_result(app: App, raw: redis.Redis) -> None:
    job = await app.queue("mail").add("good")
    await app.worker("mail", send).run(burst=True)
    await job.remove()
    with pytest.raises(JobRemoved, match="its result was not kept"):
        await job.result()


async def test_it_is_said_for_queues_only(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="only at 'queue'"):
        App(redis_url, EventValues(False))
    async with App(redis_url, plugins=[]) as app:
        queue = app.queue("mail", EventValues(False))
        await queue.add("good")
        said = await queue.said(EventValues)
        assert said is not None
        assert said.value == EventValues(False)


@pytest.mark.parametrize("name", ["node", "node5"])
async def test_what_bullmq_makes_of_it(app: App, library: Library, name: str) -> None:
    """Its readers of events go on; who waits for a result there gets null."""
    driver = library(name)
    try:
        good = await app.queue("mail").add("good")
        waiting = asyncio.create_task(driver.wait_until_finished("mail", good.id))
        handle = await driver.events_open("mail")
        await app.worker("mail", send).run(burst=True)
        seen: list[dict[str, Any]] = []

        async def told() -> bool:
            seen.extend(await driver.events_take(handle))
            return any(event["event"] == "completed" for event in seen)

        await until(told)
        assert await waiting in (None, {"to": SECRET}), "by the event, or by the job"
        bad = await app.queue("mail").add("bad")
        failing = asyncio.create_task(driver.wait_until_finished("mail", bad.id))
        await app.worker("mail", send).run(burst=True)
        with pytest.raises(DriverError):
            await failing
        later = await app.queue("mail").add("good")
        await app.worker("mail", send).run(burst=True)
        seen.clear()

        async def went_on() -> bool:
            seen.extend(await driver.events_take(handle))
            return any(event.get("jobId") == later.id for event in seen)

        await until(went_on)
        assert SECRET not in str(seen)
    finally:
        await driver.reset()
