from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import redis
from tests.nouns.witness import Colour, Witness
from tests.support.server import Server

from toril import (
    App,
    ConfigurationError,
    Flow,
    Job,
    JobNotFound,
    NewJob,
    PluginError,
    Reject,
    hookimpl,
)
from toril.connection.execute import Executor
from toril.connection.steps import Steps
from toril.errors import InvalidJob, JobLocked, JobStateError, ParentError, ServerFull
from toril.plugins import Draft, JobRef, JobRemoved, JobRetried, JobSaved, Removal

Q = "bull:mail"


def finish(raw: redis.Redis, id: str, outcome: str = "failed", queue: str = Q) -> None:
    """Let the waiting job end as BullMQ would."""
    raw.lrem(f"{queue}:wait", 1, id)
    now = int(time.time() * 1000)
    raw.zadd(f"{queue}:{outcome}", {id: now})
    field = "returnvalue" if outcome == "completed" else "failedReason"
    raw.hset(f"{queue}:{id}", mapping={field: '"done"', "finishedOn": now, "atm": 1})


class TestAdd:
    async def test_states(self, app: App) -> None:
        queue = app.queue("mail")
        jobs = [
            await queue.add("a"),
            await queue.add("b", delay="1h"),
            await queue.add("c", priority=3),
        ]
        assert [await job.state() for job in jobs] == ["waiting", "delayed", "prioritized"]
        assert await queue.counts() == {
            "waiting": 1,
            "active": 0,
            "delayed": 1,
            "prioritized": 1,
            "waiting-children": 0,
            "completed": 0,
            "failed": 0,
        }

    async def test_lifo_goes_first(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        first, second = await queue.add("a"), await queue.add("b", lifo=True)
        assert raw.lrange(f"{Q}:wait", 0, -1) == [first.id, second.id]  # taken from the tail

    async def test_an_existing_id_gives_the_job_that_exists(self, app: App) -> None:
        queue = app.queue("mail")
        await queue.add("a", {"n": 1}, id="one")
        again = await queue.add("b", {"n": 2}, id="one")
        assert (again.name, again.data) == ("a", {"n": 1})
        assert (await queue.counts())["waiting"] == 1

    async def test_a_child_of_an_existing_job(self, app: App, raw: redis.Redis) -> None:
        parent = await app.queue("orders").add("order")
        child = await app.queue("mail").add("send", parent=parent, on_failure="fail")
        assert raw.smembers(f"bull:orders:{parent.id}:dependencies") == {f"{Q}:{child.id}"}
        found = await child.parent()
        assert found is not None
        assert found.ref == parent.ref
        assert json.loads(str(raw.hget(f"{Q}:{child.id}", "parent")))["fpof"] is True

    async def test_a_missing_parent(self, app: App) -> None:
        with pytest.raises(ParentError, match="parent"):
            await app.queue("mail").add("send", parent=JobRef("orders", "nobody"))
        assert sum((await app.queue("mail").counts()).values()) == 0


class TestAddMany:
    async def test_the_order_is_kept_over_several_calls(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        jobs = await queue.add_many(NewJob(f"n{i}", i) for i in range(450))
        assert [job.data for job in jobs] == list(range(450))
        assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id for job in reversed(jobs)]

    async def test_none(self, app: App) -> None:
        assert await app.queue("mail").add_many([]) == []
        wrong: Any = ["b"]
        with pytest.raises(TypeError, match=r"item 1 of the jobs is a NewJob\(name, …\), not 'b'"):
            await app.queue("mail").add_many([NewJob("a"), *wrong])
        assert await app.queue("mail").count() == 0

    async def test_one_refusal_refuses_all_and_names_the_item(
        self, watched: App, witness: Witness, raw: redis.Redis
    ) -> None:
        def refuse(draft: Draft) -> None:
            if draft.data == 333:
                raise Reject("not this one")

        witness.refuse = refuse
        with pytest.raises(Reject, match="not this one") as caught:
            await watched.queue("mail").add_many(NewJob(f"n{i}", i) for i in range(450))
        assert (caught.value.plugin, caught.value.item) == ("witness", "n333")
        assert raw.keys("*") == []

    async def test_one_wrong_item_stops_all(self, app: App, raw: redis.Redis) -> None:
        with pytest.raises(InvalidJob, match="'b'"):
            await app.queue("mail").add_many([NewJob("a"), NewJob("b", float("inf"))])
        assert raw.keys("*") == []

    async def test_a_plugin_that_breaks_refuses_all(
        self, watched: App, witness: Witness, raw: redis.Redis
    ) -> None:
        def refuse(draft: Draft) -> None:
            raise ZeroDivisionError("oops")

        witness.refuse = refuse
        with pytest.raises(PluginError, match=r"witness.*oops") as caught:
            await watched.queue("mail").add_many([NewJob("a")])
        assert caught.value.hook == "toril_plan_save"
        assert any("job 'a' for queue 'mail'" in note for note in caught.value.__notes__)
        assert raw.keys("*") == []

    async def test_a_refused_parent_names_its_item(self, app: App) -> None:
        jobs = [NewJob("a"), NewJob("b", parent=JobRef("orders", "nobody"))]
        with pytest.raises(ParentError) as caught:
            await app.queue("mail").add_many(jobs)
        assert caught.value.__notes__ == ["1 of the 2 jobs were added"]


class TestReading:
    async def test_get(self, app: App) -> None:
        queue = app.queue("mail")
        job = await queue.add("a", {"n": 1})
        found = await queue.get(job.id)
        assert found is not None
        assert (found.name, found.data, found.ref) == ("a", {"n": 1}, job.ref)
        assert await queue.get("nobody") is None
        assert await queue.state(job.id) == "waiting"
        assert await queue.state("nobody") == "unknown"

    async def test_jobs_in_the_order_in_which_they_run(self, app: App) -> None:
        queue = app.queue("mail")
        waiting = await queue.add_many(NewJob("w", i) for i in range(250))
        delayed = [await queue.add("d", i, delay=f"{9 - i}h") for i in range(3)]
        assert [job.data async for job in queue.jobs("waiting")] == list(range(250))
        assert [job.id async for job in queue.jobs("delayed")] == [j.id for j in reversed(delayed)]
        assert len([job async for job in queue.jobs()]) == 253
        some = [job.id async for job in queue.jobs("waiting", "delayed", limit=251)]
        assert some == [job.id for job in waiting] + [delayed[2].id]
        assert [job async for job in queue.jobs("waiting", limit=0)] == []
        with pytest.raises(ValueError, match="limit is at least 0"):
            _ = [job async for job in queue.jobs("waiting", limit=-1)]

    async def test_finished_jobs_newest_first(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        jobs = await queue.add_many(NewJob("w", i) for i in range(3))
        for number, job in enumerate(jobs):
            finish(raw, job.id)
            raw.zadd(f"{Q}:failed", {job.id: number + 1})
        assert [job.data async for job in queue.jobs("failed")] == [2, 1, 0]

    async def test_an_unknown_state_is_no_state(self, app: App) -> None:
        with pytest.raises(ConfigurationError, match="no state 'wait'"):
            _ = [job async for job in app.queue("mail").jobs("wait")]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def test_queues(self, app: App) -> None:
        assert await app.queues() == []
        await app.queue("b").add("x")
        await app.queue("a").add("x")
        assert await app.queues() == ["a", "b"]


class TestSteering:
    async def test_pause_and_resume(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        assert not await queue.is_paused()
        await queue.pause()
        assert await queue.is_paused()
        assert raw.hget(f"{Q}:meta", "paused") == "1"
        await queue.resume()
        assert not await queue.is_paused()

    async def test_drain(self, watched: App, witness: Witness) -> None:
        queue = watched.queue("mail")
        await queue.add_many([NewJob("w"), NewJob("p", priority=1), NewJob("d", delay="1h")])
        assert len(await queue.drain()) == 2
        assert len(await queue.drain(delayed=True)) == 1
        assert [r.states for r in witness.removals] == [
            ("waiting", "prioritized"),
            ("waiting", "prioritized", "delayed"),
        ]
        gone = [event for event in witness.events if isinstance(event, JobRemoved)]
        assert [(event.job.name, event.cause) for event in gone] == [
            ("w", "drain"),
            ("p", "drain"),
            ("d", "drain"),
        ]

    async def test_clean(self, watched: App, witness: Witness, raw: redis.Redis) -> None:
        queue = watched.queue("mail")
        jobs = await queue.add_many(NewJob("w", i) for i in range(3))
        for age, job in enumerate(jobs):
            finish(raw, job.id)
            raw.zadd(f"{Q}:failed", {job.id: int(time.time() * 1000) - age * 3_600_000})
        assert await queue.clean("failed", older_than="30m", limit=1) == [jobs[2].id]
        assert await queue.clean("failed", older_than="30m") == [jobs[1].id]
        assert await queue.clean("failed", older_than="30m") == []
        assert [r.action for r in witness.removals] == ["clean"] * 3
        assert await queue.state(jobs[0].id) == "failed"

    @pytest.mark.parametrize(
        ("state", "options", "error"),
        [
            ("waiting-children", {"older_than": "1h"}, ConfigurationError),
            ("failed", {"older_than": "1h", "limit": 0}, ValueError),
            ("failed", {"older_than": 5}, TypeError),
        ],
    )
    async def test_clean_asked_wrongly(
        self, state: Any, options: dict[str, Any], error: type[Exception]
    ) -> None:
        app = App("redis://localhost:1", plugins=[])
        with pytest.raises(error):
            await app.queue("mail").clean(state, **options)

    async def test_obliterate(self, watched: App, witness: Witness, raw: redis.Redis) -> None:
        queue = watched.queue("mail")
        await queue.add_many(NewJob("w", i) for i in range(150))
        raw.lmove(f"{Q}:wait", f"{Q}:active", "RIGHT", "LEFT")
        with pytest.raises(JobLocked):
            await queue.obliterate()
        await queue.obliterate(force=True)
        assert raw.keys(f"{Q}:*") == []
        assert witness.removals[-1].action == "obliterate"
        assert sum(isinstance(event, JobRemoved) for event in witness.events) == 150

    @pytest.mark.parametrize("act", ["drain", "clean", "obliterate", "remove", "job.remove"])
    async def test_a_plugin_refuses_a_removal(
        self, watched: App, witness: Witness, raw: redis.Redis, act: str
    ) -> None:
        queue = watched.queue("mail")
        job = await queue.add("w", id="one")
        before = set(raw.keys("*"))

        def refuse(removal: Removal) -> None:
            raise Reject("kept by law")

        witness.refuse = refuse
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "drain": queue.drain,
            "clean": lambda: queue.clean("waiting", older_than="0s"),
            "obliterate": queue.obliterate,
            "remove": lambda: queue.remove("one"),
            "job.remove": job.remove,
        }
        with pytest.raises(Reject, match="kept by law") as caught:
            await operations[act]()
        assert caught.value.plugin == "witness"
        assert caught.value.item == ("one" if "remove" in act else "mail")
        assert set(raw.keys("*")) == before
        assert raw.hget(f"{Q}:meta", "paused") is None

    async def test_retry_all(self, watched: App, witness: Witness, raw: redis.Redis) -> None:
        queue = watched.queue("mail")
        jobs = await queue.add_many(NewJob("w", i) for i in range(120))
        for job in jobs:
            finish(raw, job.id)
        await asyncio.sleep(0.002)
        assert await queue.retry_all(reset_attempts=True) == 120
        assert (await queue.counts())["waiting"] == 120
        assert raw.hget(f"{Q}:{jobs[0].id}", "atm") is None
        assert sum(isinstance(event, JobRetried) for event in witness.events) == 120

    async def test_promote_all(self, app: App) -> None:
        queue = app.queue("mail")
        await queue.add_many(NewJob("w", i, delay="1h") for i in range(250))
        assert await queue.promote_all() == 250
        assert (await queue.counts())["waiting"] == 250

    async def test_remove(self, watched: App, witness: Witness) -> None:
        queue = watched.queue("mail")
        job = await queue.add("w", {"n": 1})
        assert await queue.remove(job.id)
        assert not await queue.remove(job.id)
        saved, removed = witness.events
        assert isinstance(saved, JobSaved)
        assert isinstance(removed, JobRemoved)
        assert (removed.job.data, removed.state, removed.cause) == ({"n": 1}, "waiting", "operator")
        assert witness.removals[0].ids == (job.id,)


class TestJob:
    async def test_refresh(self, app: App, raw: redis.Redis) -> None:
        job = await app.queue("mail").add("w", {"n": 1})
        raw.hset(f"{Q}:{job.id}", "data", '{"n":2}')
        assert job.data == {"n": 1}
        assert (await job.refresh()).data == {"n": 2}
        await job.remove()
        with pytest.raises(JobNotFound, match=job.id):
            await job.refresh()

    async def test_update_progress_and_log(self, app: App, raw: redis.Redis) -> None:
        job = await app.queue("mail").add("w", keep_logs=2)
        await job.update({"n": 3})
        await job.progress({"part": 0.5})
        assert [await job.log(line) for line in ("a", "b", "c")] == [1, 2, 2]
        assert await job.logs() == ("b", "c")
        assert await job.logs(limit=1) == ("c",)
        assert await job.logs(limit=0) == ()
        await job.refresh()
        assert (job.data, job.snapshot.progress) == ({"n": 3}, {"part": 0.5})

    @pytest.mark.parametrize(
        "act",
        [
            *("update", "progress", "log", "retry", "promote", "refresh", "explain", "unlink"),
            *("change_priority", "change_delay", "clear_logs", "remove_unprocessed_children"),
        ],
    )
    async def test_a_job_that_is_gone(self, app: App, act: str) -> None:
        job = await app.queue("mail").add("w")
        await job.remove()
        given: dict[str, Any] = {"change_priority": 1, "change_delay": "5m"}
        given |= dict.fromkeys(("update", "progress", "log"), "x")
        arguments: tuple[Any, ...] = (given[act],) if act in given else ()
        with pytest.raises(JobNotFound, match=job.id):
            await getattr(job, act)(*arguments)

    async def test_promote(self, app: App) -> None:
        queue = app.queue("mail")
        job = await queue.add("w", delay="1h", priority=2)
        await job.promote()
        assert await job.state() == "prioritized"
        with pytest.raises(JobStateError, match="not delayed"):
            await job.promote()

    @pytest.mark.parametrize("outcome", ["completed", "failed"])
    async def test_retry(
        self, watched: App, witness: Witness, raw: redis.Redis, outcome: str
    ) -> None:
        job = await watched.queue("mail").add("w")
        with pytest.raises(JobStateError, match="it is waiting"):
            await job.retry()
        finish(raw, job.id, outcome)
        await job.retry(reset_attempts=True)
        assert await job.state() == "waiting"
        assert raw.hget(f"{Q}:{job.id}", "atm") is None
        retried = witness.events[-1]
        assert isinstance(retried, JobRetried)
        assert (retried.job, retried.previous) == (job.ref, outcome)

    async def test_wrong_payloads(self, app: App) -> None:
        job = await app.queue("mail").add("w")
        with pytest.raises(InvalidJob):
            await job.update(float("nan"))
        with pytest.raises(InvalidJob, match="progress"):
            await job.progress({"x": float("inf")})


class TestSettings:
    async def test_set_and_unset(self, watched: App, raw: redis.Redis) -> None:
        queue = watched.queue("mail")
        assert await queue.said(Colour) is None
        await queue.set(Colour("red"), source="me")
        said = await queue.said(Colour)
        assert said is not None
        assert (said.value, said.level, said.source) == (Colour("red"), "queue", "me")
        assert raw.hget(f"{Q}:meta", "toril.colour.first") == "red"
        assert [each.value for each in await queue.said_by_level(Colour)] == [Colour("red")]
        await queue.unset(Colour)
        assert await queue.said(Colour) is None
        assert raw.hget(f"{Q}:meta", "toril.colour.first") is None

    async def test_a_setting_without_its_plugin_is_never_ignored(self, app: App) -> None:
        with pytest.raises(ConfigurationError, match="Colour"):
            await app.queue("mail").set(Colour("red"))
        with pytest.raises(ConfigurationError, match="Colour"):
            await app.queue("mail").add("w", None, Colour("red"))
        assert sum((await app.queue("mail").counts()).values()) == 0

    async def test_what_is_said_for_a_job_is_stored_with_it(self, watched: App) -> None:
        job = await watched.queue("mail").add("w", None, Colour("red"))
        (said,) = (await job.refresh()).snapshot.settings.said(Colour)
        assert (said.value, said.level, said.source) == (Colour("red"), "job", "Queue.add")

    async def test_two_of_one_kind(self, watched: App) -> None:
        with pytest.raises(TypeError, match="two settings of kind Colour"):
            await watched.queue("mail").add("w", None, Colour("red"), Colour("blue"))

    async def test_no_setting(self, app: App) -> None:
        with pytest.raises(TypeError, match="not a setting"):
            await app.queue("mail").add("w", None, "red")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class TestManyTasks:
    async def test_adds_of_many_tasks_share_calls_and_keep_their_order(
        self, app: App, raw: redis.Redis
    ) -> None:
        queue = app.queue("mail")
        await queue.add("first")
        before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
        jobs = await asyncio.gather(*(queue.add("n", i) for i in range(500)))
        after = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert after - before <= 5
        waiting = raw.lrange(f"{Q}:wait", 0, -1)
        assert waiting[:500] == [job.id for job in reversed(jobs)]
        assert [job.data for job in jobs] == list(range(500))

    async def test_a_lone_add_needs_no_task(self, app: App) -> None:
        queue, loop, made = app.queue("mail"), asyncio.get_running_loop(), 0
        await queue.add("first")

        def make(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
            nonlocal made
            made += 1
            return asyncio.Task(work, loop=loop, **more)

        loop.set_task_factory(make)
        for i in range(10):
            await queue.add("n", i)
        loop.set_task_factory(None)
        assert made == 0

    @pytest.mark.parametrize(("callers", "calls"), [(2, 1), (10, 1), (100, 2)])
    async def test_callers_that_come_back_together_go_out_together(
        self, app: App, raw: redis.Redis, callers: int, calls: int
    ) -> None:
        queue = app.queue("mail")
        await queue.add("first")

        async def add() -> None:
            for i in range(20):
                await queue.add("n", i)

        before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
        await asyncio.gather(*(add() for _ in range(callers)))
        made = raw.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert made <= 20 * calls * 1.5
        assert raw.llen(f"{Q}:wait") == 20 * callers + 1

    async def test_one_that_is_refused_stops_no_other(
        self, watched: App, witness: Witness, raw: redis.Redis
    ) -> None:
        def refuse(draft: Draft) -> None:
            if draft.data == 3:
                raise Reject("no")

        witness.refuse = refuse
        queue = watched.queue("mail")
        nobody = JobRef("orders", "nobody")
        adds = [queue.add("n", i, parent=nobody if i == 5 else None) for i in range(8)]
        results = await asyncio.gather(*adds, return_exceptions=True)
        assert isinstance(results[3], Reject)
        assert isinstance(results[5], ParentError)
        assert raw.llen(f"{Q}:wait") == 6

    async def test_an_add_that_is_given_up_before_it_is_sent_is_not_done(
        self, app: App, raw: redis.Redis
    ) -> None:
        queue = app.queue("mail")
        await queue.counts()
        adds = [asyncio.create_task(queue.add("n", i)) for i in range(3)]
        await asyncio.sleep(0)  # the first is on its way
        adds[2].cancel()
        await asyncio.gather(*adds, return_exceptions=True)
        assert [job.data async for job in queue.jobs("waiting")] == [0, 1]

    async def test_large_payloads_go_in_several_calls(self, app: App, raw: redis.Redis) -> None:
        payload = "x" * 400_000
        before = raw.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        await app.queue("mail").add_many(NewJob("n", payload) for _ in range(6))
        calls = raw.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert calls in (3, 4)  # the first may have to load the script
        assert raw.llen(f"{Q}:wait") == 6

    async def test_a_full_server_refuses_each(self, fresh_server: Callable[..., Server]) -> None:
        server = fresh_server(maxmemory="3mb", maxmemory_policy="noeviction")
        async with App(server.url, plugins=[]) as app:
            queue = app.queue("mail")
            with server.client() as raw:
                raw.config_set("maxmemory", "1")
            adds = [queue.add("n", i) for i in range(3)]
            results = await asyncio.gather(*adds, return_exceptions=True)
        assert [type(result) for result in results] == [ServerFull] * 3
        assert len({id(result) for result in results}) == 3

    async def test_who_was_added_before_the_server_was_full_is_told_so(
        self, app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = app.queue("mail")
        await queue.add("first")
        converse = Executor.converse
        calls: list[Any] = []

        def converse_once(self: Executor, request: Any) -> Steps[Any]:
            if getattr(request, "script", "") == "add":
                calls.append(request)
                if len(calls) == 2:
                    raise ServerFull("full")
            return (yield from converse(self, request))

        monkeypatch.setattr(Executor, "converse", converse_once)
        adds = [queue.add("n", str(i) * 600_000) for i in range(3)]
        results = await asyncio.gather(*adds, return_exceptions=True)
        assert [type(result) for result in results] == [Job, ServerFull, Job]
        assert raw.llen(f"{Q}:wait") == 3

    async def test_queues_and_options_do_not_mix(self, app: App, raw: redis.Redis) -> None:
        def add(i: int) -> Any:
            queue = app.queue(f"q{i % 3}", attempts=i % 3 + 1)
            if i % 2:
                return queue.add("n", i, priority=i)
            return queue.add("n", i, delay=timedelta(seconds=i) if i % 4 else None)

        jobs = await asyncio.gather(*(add(i) for i in range(60)))
        for i, job in enumerate(jobs):
            assert (job.queue, job.data) == (f"q{i % 3}", i)
            stored = (await job.refresh()).snapshot
            assert stored.opts["attempts"] == i % 3 + 1
            assert stored.priority == (i if i % 2 else 0)
            assert stored.delay == (0 if i % 2 or i % 4 == 0 else i * 1000)

    async def test_a_hook_can_add_to_the_same_queue(self, redis_url: str) -> None:
        class Follow:
            toril_name = "follow"

            @hookimpl
            async def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
                for event in events:
                    if event.job.name == "first":
                        await app.queue("mail").add("second")

        async with App(redis_url, plugins=[Follow()]) as app:
            async with asyncio.timeout(5):
                await app.queue("mail").add("first")
            names = [job.name async for job in app.queue("mail").jobs()]
        assert names == ["first", "second"]

    async def test_what_plugins_are_told_is_told_before_the_app_is_closed(
        self, watched: App, witness: Witness
    ) -> None:
        queue = watched.queue("mail")
        await queue.counts()
        add = asyncio.create_task(queue.add("n"))
        while not await queue.count("waiting"):
            await asyncio.sleep(0)
        add.cancel()
        await watched.aclose()
        assert [type(event) for event in witness.events] == [JobSaved]

    async def test_what_waits_when_the_app_is_closed_is_added(self, app: App) -> None:
        queue = app.queue("mail")
        await queue.counts()
        adds = [asyncio.create_task(queue.add("n", i)) for i in range(450)]
        await asyncio.sleep(0)
        await app.aclose()
        assert [job.data for job in await asyncio.gather(*adds)] == list(range(450))
        assert await queue.count("waiting") == 450


class TestCounterIds:
    async def test_numbers_instead_of_ids(
        self, watched: App, witness: Witness, raw: redis.Redis
    ) -> None:
        queue = watched.queue("mail", counter_ids=True, attempts=2)
        one, two = await queue.add("a"), await queue.add("b", {"n": 2})
        own = await queue.add("c", id="mine")
        many = await queue.add_many([NewJob("d"), NewJob("e")])
        assert [job.id for job in (one, two, own, *many)] == ["1", "2", "mine", "3", "4"]
        assert raw.get(f"{Q}:id") == "4"
        assert json.loads(str(raw.hget(f"{Q}:1", "opts"))) == {"attempts": 2}
        assert (await two.refresh()).data == {"n": 2}
        saved = [event.job.id for event in witness.events if isinstance(event, JobSaved)]
        assert saved == ["1", "2", "mine", "3", "4"]

    async def test_flows_have_ids(self, app: App) -> None:
        queue = app.queue("mail", counter_ids=True)
        root = await app.add_flow(Flow(queue, "root", children=[Flow(queue, "kid")]))
        assert len(root.id) == 16

    def test_an_unknown_default(self) -> None:
        with pytest.raises(TypeError, match="did you mean 'attempts'"):
            App("redis://localhost").queue("mail", atempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
