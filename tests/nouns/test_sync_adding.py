"""Adding by many threads: what goes out together, and what becomes of each job then."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis
from tests.nouns.test_app import forked
from tests.support.server import Server

from toril import App, SyncApp, hookimpl
from toril.connection.execute import SyncExecutor
from toril.errors import IndeterminateError, ParentError, ServerFull
from toril.plugins import JobRef, JobSaved
from toril.sync_job import SyncJob

Q = "bull:mail"


class Gate:
    """Holds up calls of `add` while it is closed, and notes how many jobs each has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.error: BaseException | None = None
        run = SyncExecutor.run

        def held(executor: SyncExecutor, request: Any, *rest: Any) -> Any:
            if getattr(request, "script", "") == "add":
                self.sizes.append(len(request.job_ids))
                self.reached.set()
                assert self.opened.wait(10)
                if self.error is not None:
                    error, self.error = self.error, None
                    raise error
            return run(executor, request, *rest)

        monkeypatch.setattr(SyncExecutor, "run", held)


@pytest.fixture
def app(redis_url: str) -> Iterator[SyncApp]:
    with App(redis_url, plugins=[]).sync as made:
        yield made


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def waiting(app: SyncApp) -> int:
    return len(app.adds("mail")._waiting)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def add_behind_one(
    app: SyncApp, gate: Gate, threads: ThreadPoolExecutor, number: int, **options: Any
) -> list[Future[SyncJob]]:
    """A job whose call is held up, and so many more that came in this order meanwhile."""
    queue = app.queue("mail")
    adds = [threads.submit(queue.add, "n", 0)]
    assert gate.reached.wait(10)
    for i in range(1, number + 1):
        adds.append(threads.submit(queue.add, "n", i, **(options if i == 2 else {})))
        until(lambda i=i: waiting(app) == i)  # type: ignore[misc]
    return adds


def test_threads_share_calls_in_the_order_in_which_they_came(
    app: SyncApp, raw: redis.Redis, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    adds = add_behind_one(app, gate, threads, 12)
    gate.opened.set()
    jobs = [add.result(10) for add in adds]
    assert gate.sizes == [1, 12]
    assert [job.data for job in jobs] == list(range(13))
    assert raw.lrange(f"{Q}:wait", 0, -1) == [job.id for job in reversed(jobs)]


def test_all_that_many_threads_add_is_added(app: SyncApp, threads: ThreadPoolExecutor) -> None:
    def some(thread: int) -> list[str]:
        queue = app.queue("mail")
        return [queue.add("n", [thread, i]).id for i in range(20)]

    ids = [id for some_ids in threads.map(some, range(20)) for id in some_ids]
    found = list(app.queue("mail").jobs("waiting"))
    assert sorted(job.id for job in found) == sorted(ids)
    of_one = [job.data[1] for job in found if isinstance(job.data, list) and job.data[0] == 7]
    assert of_one == list(range(20))


def test_one_that_is_refused_stops_no_other(
    app: SyncApp, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    adds = add_behind_one(app, gate, threads, 3, parent=JobRef("orders", "nobody"))
    gate.opened.set()
    with pytest.raises(ParentError):
        adds[2].result(10)
    assert [adds[i].result(10).data for i in (0, 1, 3)] == [0, 1, 3]
    assert gate.sizes == [1, 3]


def test_a_full_server_refuses_each(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(maxmemory_policy="noeviction")
    with App(server.url, plugins=[]).sync as app, ThreadPoolExecutor(3) as threads:
        with server.client() as raw:
            raw.config_set("maxmemory", "1")
        adds = [threads.submit(app.queue("mail").add, "n", i) for i in range(3)]
        errors = [add.exception(10) for add in adds]
    assert [type(error) for error in errors] == [ServerFull] * 3
    assert len({id(error) for error in errors}) == 3


def test_when_the_thread_that_sends_is_interrupted(
    app: SyncApp, raw: redis.Redis, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    adds = add_behind_one(app, gate, threads, 2)
    gate.error = KeyboardInterrupt()  # of the first call
    gate.opened.set()
    assert isinstance(adds[0].exception(10), KeyboardInterrupt)
    assert [adds[i].result(10).data for i in (1, 2)] == [1, 2]
    assert raw.llen(f"{Q}:wait") == 2


def test_whose_job_was_in_an_interrupted_call_of_another_thread_is_told(
    app: SyncApp, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    adds = add_behind_one(app, gate, threads, 2)
    drive, calls = app.runtime.drive_sync, []

    def interrupted(procedure: Any, untold: Any = None) -> Any:
        calls.append(procedure)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return drive(procedure, untold)

    app.runtime.drive_sync = interrupted  # type: ignore[method-assign]
    gate.opened.set()
    assert adds[0].result(10).data == 0
    assert isinstance(adds[1].exception(10), KeyboardInterrupt)
    error = adds[2].exception(10)
    assert isinstance(error, IndeterminateError)
    assert len(error.job_ids) == 1
    assert app.queue("mail").add("n", 3).data == 3


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT interrupts, also where this process was started with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_who_is_interrupted_takes_back_what_was_not_sent(
    app: SyncApp, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    adds = add_behind_one(app, gate, threads, 1)

    def interrupt() -> None:
        until(lambda: waiting(app) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threads.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        app.queue("mail").add("n", "mine")
    interrupting.result(10)
    gate.opened.set()
    assert [add.result(10).data for add in adds] == [0, 1]
    assert app.queue("mail").count("waiting") == 2


def test_a_hook_can_add_to_the_same_queue(redis_url: str) -> None:
    class Follow:
        toril_name = "follow"

        @hookimpl
        def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
            for event in events:
                if event.job.name == "first":
                    following.queue("mail").add("second")

    with App(redis_url, plugins=[Follow()]).sync as following:
        following.queue("mail").add("first")
        assert [job.name for job in following.queue("mail").jobs()] == ["first", "second"]


def test_a_child_forked_while_a_call_is_under_way_adds(
    app: SyncApp, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    adds = add_behind_one(app, gate, threads, 1)

    def child() -> None:
        gate.opened.set()
        assert app.queue("mail").add("n", "child").data == "child"

    assert forked(child) == 0
    gate.opened.set()
    assert [add.result(10).data for add in adds] == [0, 1]
    assert app.queue("mail").count("waiting") == 3
