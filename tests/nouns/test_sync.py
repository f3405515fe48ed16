from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from tests.nouns.test_app import Lifecycle, forked
from tests.nouns.test_results import end, forget
from tests.nouns.witness import Colour, Witness

from toril import (
    App,
    ConfigurationError,
    Flow,
    Job,
    JobFailed,
    JobNotFound,
    JobRemoved,
    NewJob,
    Queue,
    Reject,
    SyncApp,
    hookimpl,
)
from toril.plugins import Draft, Fact, JobRef
from toril.sync import SyncQueue
from toril.sync_job import SyncJob

Q = "bull:mail"


@pytest.fixture
def app(redis_url: str) -> Iterator[SyncApp]:
    with App(redis_url, plugins=[]).sync as made:
        yield made


@pytest.mark.parametrize(("here", "there"), [(SyncQueue, Queue), (SyncJob, Job)])
def test_both_faces_offer_the_same(here: type, there: type) -> None:
    def offered(face: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(face, inspect.isfunction)
            if not name.startswith("_")
        }

    assert offered(here) == offered(there)


def test_adding_and_reading(app: SyncApp, raw: redis.Redis) -> None:
    queue = app.queue("mail", attempts=3)
    job = queue.add("send", {"n": 1}, delay="1h")
    assert (job.name, job.data, job.state(), job.snapshot.attempts) == (
        "send",
        {"n": 1},
        "delayed",
        3,
    )
    job.promote()
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id]
    many = queue.add_many(NewJob("n", i) for i in range(250))
    assert [found.data for found in queue.jobs("waiting", limit=3)] == [{"n": 1}, 0, 1]
    assert queue.counts()["waiting"] == 251
    found = queue.get(many[7].id)
    assert found is not None
    assert (found.data, found.ref, queue.state(found.id)) == (7, many[7].ref, "waiting")
    assert app.queues() == ["mail"]


def test_steering(app: SyncApp) -> None:
    queue = app.queue("mail")
    queue.pause()
    assert queue.is_paused()
    queue.resume()
    assert not queue.is_paused()
    queue.add_many(NewJob("n", i, delay="1h") for i in range(3))
    assert queue.promote_all() == 3
    assert len(queue.clean("waiting", older_than="0s", limit=1)) == 1
    assert len(queue.drain()) == 2
    assert queue.retry_all() == 0
    queue.obliterate()
    assert app.queues() == []


def test_acting_on_a_job(app: SyncApp) -> None:
    job = app.queue("mail").add("send")
    job.update([1])
    job.progress(5)
    assert job.log("a line") == 1
    assert job.logs() == ("a line",)
    assert job.refresh().data == [1]
    assert [fact.subject for fact in job.explain()] == ["state", "attempts"]
    assert job.remove()
    with pytest.raises(JobNotFound):
        job.refresh()


def test_flows(app: SyncApp) -> None:
    root = app.add_flow(Flow("p", "root", children=[Flow("mail", "kid")]))
    tree = app.flow_tree(root)
    assert [node.job.name for node in tree] == ["root", "kid"]
    parent = tree.children[0].job.parent()
    assert parent is not None
    assert parent.ref == root.ref
    assert len(root.children().unprocessed) == 1


class TestResult:
    def test_that_is_there(self, app: SyncApp, raw: redis.Redis) -> None:
        job = app.queue("mail").add("send")
        end(raw, job.id)
        assert job.result(timeout="5s") == {"ok": True}

    @pytest.mark.parametrize("outcome", ["completed", "failed", "removed"])
    def test_that_comes(self, app: SyncApp, raw: redis.Redis, outcome: str) -> None:
        job = app.queue("mail").add("send")

        def later() -> None:
            while not any(client["cmd"] == "xread" for client in raw.client_list()):
                time.sleep(0.005)
            if outcome == "removed":
                app.queue("mail").remove(job.id)
            else:
                end(raw, job.id, outcome, "7")

        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(later)
            if outcome == "completed":
                assert job.result(timeout="5s") == 7
            else:
                with pytest.raises(JobFailed if outcome == "failed" else JobRemoved):
                    job.result(timeout="5s")
            ending.result()

    def test_of_a_job_that_is_gone(self, app: SyncApp, raw: redis.Redis) -> None:
        job = app.queue("mail").add("send")
        end(raw, job.id)
        forget(raw, job.id)
        assert job.result(timeout="5s") == {"ok": True}

    def test_that_does_not_come(self, app: SyncApp) -> None:
        job = app.queue("mail").add("send")
        with pytest.raises(TimeoutError, match="within 30ms"):
            job.result(timeout="30ms")


class TestPlugins:
    def test_asynchronous_hooks_run_on_one_loop_while_the_caller_waits(
        self, redis_url: str
    ) -> None:
        plugin = Lifecycle()
        with App(redis_url, plugins=[plugin]).sync as app:
            app.queue("mail").add("a")
            assert plugin.log == ["start", "saved"]
            (loop,) = plugin.loops
            assert loop.is_running()
        assert plugin.log == ["start", "saved", "stop"]
        assert loop.is_closed()
        assert not any(thread.name == "toril-hooks" for thread in threading.enumerate())

    def test_without_asynchronous_hooks_there_is_no_thread(self, app: SyncApp) -> None:
        app.queue("mail").add("a")
        assert not any(thread.name == "toril-hooks" for thread in threading.enumerate())

    def test_events_and_refusals(self, redis_url: str, raw: redis.Redis) -> None:
        witness = Witness()
        with App(redis_url, plugins=[witness]).sync as app:
            queue = app.queue("mail", Colour("red"))
            job = queue.add("a", None, Colour("blue"))
            assert job.snapshot.settings.get(Colour) == Colour("blue")
            said = queue.said(Colour)
            assert said is not None
            assert said.value == Colour("red")
            queue.set(Colour("green"))
            assert [each.value.value for each in queue.said_by_level(Colour)] == ["green"]
            queue.unset(Colour)
            assert queue.said(Colour) is None
            job.remove()
            assert [type(event).__name__ for event in witness.events] == ["JobSaved", "JobRemoved"]

            def refuse(draft: Draft) -> None:
                raise Reject("no")

            witness.refuse = refuse
            with pytest.raises(Reject):
                queue.add("b")
        assert raw.llen(f"{Q}:wait") == 0

    def test_what_plugins_know_of_a_job(self, redis_url: str) -> None:
        class Knows:
            toril_name = "knows"

            @hookimpl
            async def toril_explain_job(self, job: JobRef) -> Sequence[Fact]:
                return [Fact("luck", f"{job.id} is lucky")]

        with App(redis_url, plugins=[Knows()]).sync as app:
            facts = app.queue("mail").add("a", id="x").explain()
        assert facts[-1] == Fact("luck", "x is lucky")

    def test_threads_share_one_start(self, redis_url: str) -> None:
        plugin = Lifecycle()
        app = App(redis_url, plugins=[plugin])

        def add(number: int) -> SyncJob:
            return app.sync.queue("mail").add("n", number)

        with ThreadPoolExecutor(8) as threads:
            jobs = list(threads.map(add, range(40)))
        assert len({job.id for job in jobs}) == 40
        assert plugin.log.count("start") == 1
        assert 1 <= plugin.log.count("saved") <= 40  # once for the jobs of a call
        app.sync.close()
        assert plugin.log[-1] == "stop"


class TestLoops:
    async def test_on_the_apps_own_loop_it_would_block(self, redis_url: str) -> None:
        async with App(redis_url, plugins=[]) as app:
            with pytest.raises(ConfigurationError, match="use `await`"):
                app.sync.queue("mail").counts()

    async def test_from_a_thread_beside_the_loop(self, redis_url: str) -> None:
        plugin = Lifecycle()
        async with App(redis_url, plugins=[plugin]) as app:
            await asyncio.to_thread(lambda: app.sync.queue("mail").add("a"))
            assert plugin.log == ["start", "saved"]
            assert (await app.queue("mail").counts())["waiting"] == 1

    def test_a_loop_after_the_thread_is_refused(self, redis_url: str) -> None:
        app = App(redis_url, plugins=[Lifecycle()])
        app.sync.queue("mail").add("a")
        with pytest.raises(ConfigurationError, match=r"app\.sync"):
            asyncio.run(app.queue("mail").counts())
        app.sync.close()

        async def afterwards() -> int:
            async with app:
                return (await app.queue("mail").counts())["waiting"]

        assert asyncio.run(afterwards()) == 1

    def test_a_loop_after_a_start_without_one(self, redis_url: str) -> None:
        app = App(redis_url, plugins=[])
        app.sync.queue("mail").add("a")

        async def both() -> int:
            async with app:
                return (await app.queue("mail").counts())["waiting"]

        assert asyncio.run(both()) == 1


def test_after_a_fork(redis_url: str) -> None:
    plugin = Lifecycle()
    app = App(redis_url, plugins=[plugin]).sync
    app.queue("mail").add("parent")

    def child() -> None:
        app.queue("mail").add("child")
        assert plugin.log == ["start", "saved", "start", "saved"]
        app.close()

    assert forked(child) == 0
    app.queue("mail").add("parent again")
    assert [job.name for job in app.queue("mail").jobs()] == ["parent", "child", "parent again"]
    assert plugin.log == ["start", "saved", "saved"]
    app.close()


def test_closing_twice_and_using_again(redis_url: str) -> None:
    app: Any = App(redis_url, plugins=[]).sync
    app.close()
    app.queue("mail").add("a")
    app.close()
    app.close()
    assert app.queue("mail").counts()["waiting"] == 1
    app.close()


def test_deduplication(app: SyncApp) -> None:
    queue = app.queue("mail")
    jobs = [queue.add("send", deduplication="d") for _ in range(2)]
    assert [job.duplicate for job in jobs] == [False, True]
    assert queue.deduplication_owner("d") == jobs[0].id
    assert jobs[0].remove_deduplication()
    assert not jobs[0].remove_deduplication()
    assert not queue.remove_deduplication("d")
