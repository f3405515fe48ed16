from __future__ import annotations

import asyncio

import redis
from tests.nouns.witness import until

from toril import App
from toril.plugins import Json


def readers(raw: redis.Redis) -> list[str]:
    return [client["id"] for client in raw.client_list() if client["name"].endswith(":qe")]


async def test_events_as_they_happen(app: App) -> None:
    queue = app.queue("mail")
    await queue.add("before")
    async with app.events("mail") as events:
        job = await queue.add("send")
        await job.progress({"part": 1})
        await job.remove()
        seen: list[tuple[str, str | None]] = []
        fields: dict[str, Json] = {}
        async for event in events:
            seen.append((event.kind, event.job_id))
            fields |= event.fields
            if event.kind == "removed":
                break
    assert seen == [(kind, job.id) for kind in ("added", "waiting", "progress", "removed")]
    assert (fields["name"], fields["data"], fields["prev"]) == ("send", {"part": 1}, "wait")


async def test_going_on_where_one_stopped(app: App) -> None:
    queue = app.queue("mail")
    async with app.events("mail") as events:
        first = await queue.add("a")
        assert (await anext(events)).job_id == first.id
        after = events.after
    second = await queue.add("b")
    async with app.events(queue, after=after) as events:
        kinds = [(event.kind, event.job_id) for event in [await anext(events) for _ in range(3)]]
    assert kinds == [("waiting", first.id), ("added", second.id), ("waiting", second.id)]


async def test_from_the_oldest(app: App) -> None:
    job = await app.queue("mail").add("a")
    async with app.events("mail", after="0-0") as events:
        assert (await anext(events)).job_id == job.id


async def test_iterating_without_a_block_takes_the_position_at_first(app: App) -> None:
    events = app.events("mail")
    first = asyncio.create_task(anext(events))
    await until(lambda: events.after is not None)
    job = await app.queue("mail").add("a")
    assert (await first).job_id == job.id
    await events.aclose()


async def test_closing_ends_the_iteration_and_the_connection(app: App, raw: redis.Redis) -> None:
    events = app.events("mail")

    async def consume() -> list[str]:
        return [event.kind async for event in events]

    consuming = asyncio.create_task(consume())
    await until(lambda: readers(raw))
    await events.aclose()
    assert await asyncio.wait_for(consuming, 2) == []
    assert await asyncio.wait_for(consume(), 2) == []
    await until(lambda: not readers(raw))


async def test_a_broken_connection_is_made_anew_and_nothing_is_missed(
    app: App, raw: redis.Redis
) -> None:
    queue = app.queue("mail")
    async with app.events("mail") as events:
        jobs = [await queue.add("a")]
        assert (await anext(events)).job_id == jobs[0].id
        assert (await anext(events)).kind == "waiting"
        following = asyncio.create_task(anext(events))
        await until(lambda: readers(raw))
        raw.client_kill_filter(_id=readers(raw)[0])
        jobs.append(await queue.add("b"))
        assert (await asyncio.wait_for(following, 5)).job_id == jobs[1].id


async def test_a_consumer_that_is_cancelled_can_go_on(app: App, raw: redis.Redis) -> None:
    queue = app.queue("mail")
    async with app.events("mail") as events:
        waiting = asyncio.create_task(anext(events))
        await until(lambda: readers(raw))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        job = await queue.add("a")
        assert (await asyncio.wait_for(anext(events), 5)).job_id == job.id


async def test_the_name_that_dashboards_know(app: App, raw: redis.Redis) -> None:
    async with app.events("mail") as events:
        waiting = asyncio.create_task(anext(events))
        await until(lambda: readers(raw))
        (name,) = [client["name"] for client in raw.client_list() if client["name"]]
        assert name == "bull:bWFpbA==:qe"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_reading_old_events_may_be_the_first_thing_an_app_does(redis_url: str) -> None:
    async with App(redis_url, plugins=[]) as producer:
        await producer.queue("q").add("n")
    app = App(redis_url, plugins=[])
    events = app.events("q", after="0-0")
    assert (await anext(events)).kind == "added"
    await events.aclose()
    await app.aclose()
