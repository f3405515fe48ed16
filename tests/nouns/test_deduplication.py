from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import redis
from tests.nouns.witness import Colour, Witness
from tests.support.proxy import FaultProxy
from tests.support.server import Server

from toril import ActiveJob, App, Cron, Deduplication, Every, Flow, NewJob, hookimpl
from toril.errors import InvalidJob
from toril.plugins import Draft, JobRemoved, JobSaved, SavePlan

Q = "bull:mail"


class TestAdding:
    async def test_the_owner_is_returned_and_says_so(self, app: App) -> None:
        queue = app.queue("mail")
        first = await queue.add("send", {"n": 1}, deduplication="d")
        second = await queue.add("send", {"n": 2}, deduplication="d")
        assert (first.duplicate, second.duplicate) == (False, True)
        assert (second.id, second.data) == (first.id, {"n": 1})
        assert second.snapshot.deduplication_id == "d"
        assert sum((await queue.counts()).values()) == 1

    async def test_an_id_given_twice_says_so_too(self, app: App) -> None:
        queue = app.queue("mail")
        added = [await queue.add("send", id="same") for _ in range(2)]
        assert [job.duplicate for job in added] == [False, True]
        assert not (await queue.add("other")).duplicate

    async def test_in_bulk_each_has_its_answer(self, app: App) -> None:
        jobs = await app.queue("mail").add_many(
            NewJob("send", n, deduplication=f"d{n % 2}") for n in range(5)
        )
        assert [job.data for job in jobs] == [0, 1, 0, 1, 0]
        assert [job.duplicate for job in jobs] == [False, False, True, True, True]

    async def test_an_owner_that_is_gone_has_nothing_but_its_id(
        self, app: App, raw: redis.Redis
    ) -> None:
        raw.set(f"{Q}:de:d", "gone", px=60_000)
        job = await app.queue("mail").add("send", {"n": 1}, deduplication="d")
        assert (job.id, job.name, job.duplicate, job.snapshot.fields) == ("gone", "", True, {})

    async def test_what_a_job_cannot_have(self, app: App) -> None:
        queue = app.queue("mail")
        parent = await queue.add("parent")
        with pytest.raises(InvalidJob, match="parent or children"):
            await queue.add_many(
                [NewJob("fine"), NewJob("child", parent=parent, deduplication="d")]
            )
        for flow in (
            Flow("mail", "root", deduplication="d", children=[Flow("mail", "leaf")]),
            Flow("mail", "root", children=[Flow("mail", "leaf", deduplication="d")]),
            Flow(
                "mail",
                "root",
                children=[Flow("mail", "leaf", n, deduplication="d" if n == 555 else None)
                          for n in range(600)],
            ),
        ):  # fmt: skip
            with pytest.raises(InvalidJob, match="parent or children"):
                await app.add_flow(flow)
        assert sum((await queue.counts()).values()) == 1
        with pytest.raises(TypeError, match="an id or a Deduplication"):
            await queue.add("send", deduplication=cast(Any, 5))

    async def test_a_flow_of_one_may(self, app: App) -> None:
        roots = [await app.add_flow(Flow("mail", "root", deduplication="d")) for _ in range(2)]
        assert [root.duplicate for root in roots] == [False, True]
        assert roots[0].id == roots[1].id

    async def test_a_plugin_may_say_it(self, redis_url: str) -> None:
        class ByName:
            @hookimpl
            def toril_plan_save(self, draft: Draft) -> SavePlan:
                return SavePlan(opts={"deduplication": {"id": draft.name}})

        async with App(redis_url, plugins=[ByName()]) as app:
            names = ("a", "a", "b")
            jobs = [await app.queue("mail").add(name) for name in names]
            assert [job.duplicate for job in jobs] == [False, True, False]
            with pytest.raises(InvalidJob, match="parent or children"):
                await app.add_flow(Flow("mail", "root", children=[Flow("mail", "leaf")]))


class TestHooks:
    async def test_a_duplicate_is_planned_but_not_saved(
        self, watched: App, witness: Witness
    ) -> None:
        queue = watched.queue("mail")
        for _ in range(2):
            await queue.add("send", deduplication="d")
        assert len(witness.drafts) == 2
        assert [type(event) for event in witness.events] == [JobSaved]

    async def test_one_that_is_replaced_is_told_as_removed(
        self, watched: App, witness: Witness
    ) -> None:
        queue = watched.queue("mail")
        window = Deduplication("d", replace=True)
        old = await queue.add("send", delay="1h", deduplication=window)
        new = await queue.add("send", delay="1h", deduplication=window)
        assert not new.duplicate
        _, saved, removed = witness.events
        assert isinstance(saved, JobSaved)
        assert isinstance(removed, JobRemoved)
        assert (saved.job.id, removed.job.id, removed.cause) == (new.id, old.id, "replaced")

    async def test_the_kept_one_is_saved_by_the_worker_with_what_was_said_for_it(
        self, redis_url: str, watched: App
    ) -> None:
        queue = watched.queue("mail")
        ran: list[Any] = []

        async def handler(job: ActiveJob) -> None:
            ran.append((job.data, job.settings.get(Colour)))
            if len(ran) == 1:
                for n, colour in ((2, "red"), (3, "blue")):
                    window = Deduplication("d", keep_last=True)
                    again = await queue.add("send", n, Colour(colour), deduplication=window)
                    assert again.duplicate

        their = Witness()
        await queue.add("send", 1, deduplication=Deduplication("d", keep_last=True))
        async with App(redis_url, plugins=[their]) as workers:
            await workers.worker("mail", handler).run(burst=True)
        assert ran == [(1, None), (3, Colour("blue"))]
        saved = [event for event in their.events if isinstance(event, JobSaved)]
        assert [event.job.data for event in saved] == [3]


class TestWindows:
    async def test_looking_and_closing(self, app: App) -> None:
        queue = app.queue("mail")
        assert await queue.deduplication_owner("d") is None
        assert not await queue.remove_deduplication("d")
        job = await queue.add("send", deduplication=Deduplication("d", ttl="1h"))
        assert await queue.deduplication_owner("d") == job.id
        assert await queue.remove_deduplication("d")
        other = await queue.add("send", deduplication="d")
        assert not other.duplicate
        assert not await job.remove_deduplication(), "it is not the owner"
        assert await other.remove_deduplication()
        plain = await queue.add("send")
        assert not await plain.remove_deduplication()

    @pytest.mark.parametrize("bad", ["", "\ud800"])
    async def test_bad_ids(self, app: App, bad: str) -> None:
        queue = app.queue("mail")
        with pytest.raises(InvalidJob, match="deduplication"):
            Deduplication(bad)
        with pytest.raises(InvalidJob, match="deduplication"):
            await queue.deduplication_owner(bad)
        with pytest.raises(InvalidJob, match="deduplication"):
            await queue.remove_deduplication(bad)

    @pytest.mark.parametrize("way", ["remove", "drain", "clean", "obliterate"])
    async def test_removing_the_owner_closes_it(self, app: App, way: str) -> None:
        queue = app.queue("mail")
        job = await queue.add("send", deduplication="d")
        match way:
            case "remove":
                await job.remove()
            case "drain":
                await queue.drain()
            case "clean":
                await queue.clean("waiting", older_than="0s")
            case _:
                await queue.obliterate()
        assert not (await queue.add("send", deduplication="d")).duplicate

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"extend": True}, "needs a ttl"),
            ({"ttl": "1s", "keep_last": True}, "has no ttl"),
            ({"ttl": "0s"}, "1ms or more"),
        ],
    )
    def test_what_contradicts_itself(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Deduplication("d", **options)


class TestSchedules:
    @pytest.mark.parametrize("pace", [Every("1h"), Cron("0 0 1 1 *", immediately=True)])
    async def test_runs_carry_it_and_are_added_in_any_case(
        self, app: App, raw: redis.Redis, pace: Every | Cron
    ) -> None:
        queue = app.queue("mail")
        await queue.schedule("s", pace, "tick", deduplication=Deduplication("d", ttl="1h"))
        assert await queue.deduplication_owner("d") is None
        ran: list[str] = []

        async def handler(job: ActiveJob) -> None:
            ran.append(job.id)

        await app.worker("mail", handler).run(burst=True)
        (following,) = [job async for job in queue.jobs("delayed")]
        assert len(ran) == 1
        assert following.snapshot.deduplication_id == "d"
        assert following.snapshot.opts["deduplication"] == {"id": "d", "ttl": 3_600_000}

    async def test_one_that_is_run_now_is_deduplicated(self, app: App) -> None:
        queue = app.queue("mail")
        await queue.schedule("s", Cron("0 0 1 1 *"), "tick", deduplication="d")
        jobs = [await queue.run_schedule("s") for _ in range(2)]
        assert [job.duplicate for job in jobs] == [False, True]


@pytest.fixture
async def proxied(server: Server, redis_url: str) -> AsyncIterator[tuple[App, FaultProxy]]:
    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as made:
            await made.queue("warm").add("up", deduplication="warm")
            yield made, proxy


@pytest.mark.parametrize("fault", ["drop_reply", "drop_command"])
async def test_a_lost_reply_changes_no_answer(
    proxied: tuple[App, FaultProxy], raw: redis.Redis, fault: str
) -> None:
    app, proxy = proxied
    getattr(proxy, fault)("EVALSHA")
    window = Deduplication("d", replace=True)
    jobs = await app.queue("mail").add_many(
        [NewJob("send", n, delay="1h", deduplication=window) for n in range(2)]
    )
    assert [job.duplicate for job in jobs] == [False, False]
    getattr(proxy, fault)("EVALSHA")
    again = await app.queue("mail").add("send", deduplication="d")
    assert (again.id, again.duplicate) == (jobs[1].id, True)
    assert raw.zrange(f"{Q}:delayed", 0, -1) == [jobs[1].id]


async def test_many_tasks_at_once_add_one(app: App) -> None:
    queue = app.queue("mail")
    jobs = await asyncio.gather(*(queue.add("n", n, deduplication="d") for n in range(100)))
    assert {job.id for job in jobs} == {jobs[0].id}
    assert sum(not job.duplicate for job in jobs) == 1
