"""Typed tasks on a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.nouns.witness import Colour, Witness
from tests.support.driver import Driver
from tests.tasks.kinds import HOME, Address, Line, Point
from tests.worker.conftest import until

from toril import (
    ActiveJob,
    App,
    ConfigurationError,
    Every,
    JobFailed,
    Queue,
    Task,
    WaitForChildren,
)
from toril.errors import InvalidJob, InvalidResult
from toril.plugins import Json

Q = "bull:work"


async def add(first: int, second: int = 1) -> int:
    """Add two numbers."""
    return first + second


def where(name: str) -> str:
    return f"{name} in {threading.current_thread().name}"


async def told(job: ActiveJob, line: str, *, times: int = 1) -> tuple[str, int]:
    for _ in range(times):
        await job.log(line)
    return job.id, job.attempt


def told_in_a_thread(job: ActiveJob, line: str) -> None:
    job.sync.log(line)


async def middle(line: Line, *, at: datetime, home: Address | None = None) -> Point:
    x = (line.start.x + line.end.x) // 2
    return Point(x, at.year if home is None else home.number)


async def fails() -> None:
    raise RuntimeError("on purpose")


async def lies() -> int:
    wrong: Any = "text"
    return wrong  # type: ignore[no-any-return]  # what no type checker saw


STARTED: list[str] = []


async def for_ever() -> None:
    STARTED.append("for_ever")
    await asyncio.Event().wait()


def until_cancelled(job: ActiveJob) -> None:
    STARTED.append("until_cancelled")
    while not job.cancelled:
        time.sleep(0.005)


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[]) as made:
        yield made


@pytest.fixture
def queue(app: App) -> Queue:
    return app.queue("work", attempts=3)


def stored(raw: redis.Redis, id: str) -> Any:
    return json.loads(str(raw.hget(f"{Q}:{id}", "data")))


class TestAdding:
    async def test_arguments_and_result(self, app: App, queue: Queue, raw: redis.Redis) -> None:
        task = queue.task(add)
        async with app.worker(queue):
            job = await task.add(2, second=3)
            assert await job.result(timeout="10s") == 5
            assert await (await task.add(2)).result(timeout="10s") == 3
        assert (job.name, job.data) == ("add", {"first": 2, "second": 3})
        assert stored(raw, job.id) == {"first": 2, "second": 3}
        assert raw.hget(f"{Q}:{job.id}", "returnvalue") == "5"
        assert job.snapshot.attempts == 3, "the queue's defaults hold"

    async def test_rich_types(self, app: App, queue: Queue, raw: redis.Redis) -> None:
        task = queue.task(middle)
        at = datetime(2026, 11, 23, 10, tzinfo=UTC)
        line = Line(Point(0), Point(4, 1), frozenset({"t"}))
        async with app.worker(queue):
            job = await task.add(line, at=at)
            assert await job.result(timeout="10s") == Point(2, 2026)
            with_home = await task.add(line, at=at, home=HOME)
            assert await with_home.result(timeout="10s") == Point(2, 7)
        assert stored(raw, with_home.id) == {
            "line": {"start": {"x": 0, "y": 0}, "end": {"x": 4, "y": 1}, "tags": ["t"]},
            "at": "2026-11-23T10:00:00Z",
            "home": {"street": "Calle Mayor", "no": 7},
        }

    async def test_a_wrong_argument_writes_nothing(self, queue: Queue, raw: redis.Redis) -> None:
        task: Any = queue.task(add)
        with pytest.raises(InvalidJob, match="task 'add': argument 'first': expected `int`"):
            await task.add("2")
        with pytest.raises(TypeError, match="task 'add': missing a required argument: 'first'"):
            await task.add()
        with pytest.raises(InvalidJob, match="2\\^53"):
            await task.add(2**60)
        assert raw.keys("*") == []

    async def test_options(self, queue: Queue, redis_url: str) -> None:
        task = queue.task(attempts=5, priority=2, name="sum")(add)
        wrong: Any = task
        job = await task.add(1)
        assert (job.name, job.snapshot.attempts, job.snapshot.priority) == ("sum", 5, 2)
        other = await task.options(delay="5m", attempts=7, id="mine").add(1)
        assert (other.id, await other.state(), other.snapshot.attempts) == ("mine", "delayed", 7)
        assert other.snapshot.priority == 2
        with pytest.raises(TypeError, match="did you mean 'delay'"):
            wrong.options(dealy="5m")

    async def test_settings(self, redis_url: str) -> None:
        async with App(redis_url, plugins=[Witness()]) as app:
            task = app.queue("work").task(Colour("red"))(add)
            job = await task.add(1)
            assert job.snapshot.settings.get(Colour) == Colour("red")
            job = await task.options(Colour("blue")).add(1)
            assert [said.value for said in job.snapshot.settings.said(Colour)] == [Colour("blue")]
            schedule = await task.schedule("s", Every("1h"), 1)
            assert schedule.name == "add"

    async def test_many(self, app: App, queue: Queue) -> None:
        task, other = queue.task(add), queue.task(fails)
        jobs = await task.add_many(task.new(n, n) for n in range(300))
        async with app.worker(queue, concurrency=50):
            results = await asyncio.gather(*(job.result(timeout="20s") for job in jobs))
        assert results == [2 * n for n in range(300)]
        with pytest.raises(ValueError, match="'fails' is no job of task 'add'"):
            await task.add_many([other.new()])
        both = await queue.add_many([task.options(lifo=True).new(1), other.new()])
        assert [job.name for job in both] == ["add", "fails"]

    async def test_looking_up(self, queue: Queue) -> None:
        task, other = queue.task(add), queue.task(fails)
        job = await task.add(1)
        found = await task.get(job.id)
        assert found is not None
        assert found.ref == job.ref
        assert await other.get(job.id) is None
        assert await task.get("nobody") is None

    async def test_calling_a_task_calls_its_function(self, queue: Queue) -> None:
        task, plain = queue.task(add), queue.task(where)
        assert await task(2, 3) == 5
        assert plain("me") == "me in MainThread"
        assert (task.__name__, task.__doc__) == ("add", "Add two numbers.")
        assert repr(task) == "<Task 'add' of queue 'work'>"


class TestRunning:
    async def test_def_in_a_thread_and_async_def_on_the_loop(self, app: App, queue: Queue) -> None:
        @queue.task
        async def here() -> str:
            return threading.current_thread().name

        thread = queue.task(where)
        async with app.worker("work", concurrency=4):
            in_thread = await (await thread.add("me")).result(timeout="10s")
            on_loop = await (await here.add()).result(timeout="10s")
        assert in_thread.startswith("me in toril-job")
        assert on_loop == threading.current_thread().name

    async def test_what_is_on_the_loop_can_be_cancelled_and_a_thread_is_told(
        self, app: App, queue: Queue
    ) -> None:
        on_loop, in_thread = queue.task(for_ever), queue.task(until_cancelled)
        async with app.worker(queue, concurrency=2) as worker:
            jobs = [await task.options(attempts=1).add() for task in (on_loop, in_thread)]
            await until(lambda: len(STARTED) == 2)
            STARTED.clear()
            for job in jobs:
                assert worker.cancel(job.id, "enough")
            with pytest.raises(JobFailed, match="enough"):
                await jobs[0].result(timeout="10s")
            await jobs[1].result(timeout="10s")

    async def test_the_job_is_given_and_not_stored(self, app: App, queue: Queue) -> None:
        task, plain = queue.task(told), queue.task(told_in_a_thread)
        async with app.worker(queue):
            job = await task.add("hello", times=2)
            assert await job.result(timeout="10s") == (job.id, 1)
            other = await plain.add("from a thread")
            await other.result(timeout="10s")
        assert job.data == {"line": "hello", "times": 2}
        assert await job.logs() == ("hello", "hello")
        assert await other.logs() == ("from a thread",)
        assert (await other.refresh()).snapshot.result is None

    async def test_an_error_is_a_failed_attempt(self, app: App, queue: Queue) -> None:
        task = queue.task(fails)
        async with app.worker(queue):
            job = await task.add()
            with pytest.raises(JobFailed, match="on purpose"):
                await job.result(timeout="10s")
        assert (await job.refresh()).attempts_made == 3
        traces = job.snapshot.stacktrace
        assert len(traces) == 3
        assert all(trace.count('File "') == 1 and "in fails" in trace for trace in traces)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            ({"first": "2"}, "task 'add': argument 'first': expected `int`, got `str`; it is '2'"),
            ({}, "task 'add': argument 'first' is missing"),
            (None, "task 'add': argument 'first' is missing"),
            ([1, 2], "task 'add': its arguments are a JSON object, not [1, 2]"),
            (
                {"first": 1, "third": 1},
                "task 'add': unknown argument 'third'; its arguments are: first, second",
            ),
        ],
    )
    async def test_a_bad_payload_fails_without_retries(
        self, app: App, queue: Queue, data: Json, reason: str
    ) -> None:
        queue.task(add)
        job = await queue.add("add", data, attempts=5)
        async with app.worker(queue):
            with pytest.raises(JobFailed) as caught:
                await job.result(timeout="10s")
        assert caught.value.reason == reason
        assert (await job.refresh()).attempts_made == 1

    async def test_an_unknown_task_is_a_failed_attempt(self, app: App, queue: Queue) -> None:
        queue.task(add)
        job = await queue.add("multiply", {}, attempts=2)
        async with app.worker(queue):
            with pytest.raises(JobFailed, match="no task 'multiply' in queue 'work'; there are"):
                await job.result(timeout="10s")
        assert (await job.refresh()).attempts_made == 2, "a newer worker may know it"

    async def test_a_result_of_another_type(self, app: App, queue: Queue) -> None:
        task = queue.task(lies)
        async with app.worker(queue):
            job = await task.add()
            with pytest.raises(InvalidResult, match="not what task 'lies' returns: expected `int`"):
                await job.result(timeout="10s")
        plain = await queue.get(job.id)
        assert plain is not None
        assert await plain.result(timeout="10s") == "text"


class TestFlows:
    async def test_of_tasks(self, app: App, queue: Queue) -> None:
        other = app.queue("total")
        part = queue.task(add)

        @other.task
        async def total(job: ActiveJob, title: str) -> str:
            return f"{title}: {sum(part.results(await job.children()))}"

        flow = total.options(priority=1).flow("sum").after(part.flow(1, 2), part.flow(3, 4))
        flow = flow.after(part.flow(5), on_child_failure="fail")
        assert flow.on_child_failure == "fail"
        async with app.worker(queue), app.worker(other):
            root = total.of(await app.add_flow(flow))
            assert await root.result(timeout="10s") == "sum: 16"
        assert root.snapshot.priority == 1

    async def test_keep_the_defaults_of_their_queue(self, queue: Queue) -> None:
        part = queue.task(add)
        assert part.flow(1).after(part.flow(2)).defaults == {"attempts": 3}

    async def test_children_from_a_running_job(self, app: App, queue: Queue) -> None:
        part = queue.task(add)

        @app.queue("total").task
        async def total(job: ActiveJob, upto: int) -> int:
            done = await job.children()
            if not done.processed:
                await job.add_children([part.flow(n) for n in range(upto)])
                raise WaitForChildren
            return sum(part.results(done))

        async with app.worker(queue), app.worker("total"):
            assert await (await total.add(4)).result(timeout="10s") == 10

    async def test_results_of_another_type(self, app: App, queue: Queue) -> None:
        part, wrong = queue.task(add), queue.task(lies)

        @app.queue("total").task
        async def total(job: ActiveJob) -> list[int]:
            return part.results(await job.children())

        async with app.worker(queue), app.worker("total"):
            root = await app.add_flow(total.flow().after(wrong.flow()))
            with pytest.raises(JobFailed, match="is not what task 'add' returns"):
                await root.result(timeout="10s")


async def test_schedules(app: App, queue: Queue) -> None:
    task = queue.task(told)
    await task.options(attempts=2).schedule("often", Every("1h"), "again", times=3)
    (run,) = [job async for job in queue.jobs()]
    async with app.worker(queue):
        assert (await task.of(run).result(timeout="10s"))[1] == 1
        manual = task.of(await queue.run_schedule("often"))
        assert await manual.result(timeout="10s") == (manual.id, 1)
    assert run.data == {"line": "again", "times": 3}
    assert run.snapshot.attempts == 2
    assert len(await manual.logs()) == 3
    with pytest.raises(InvalidJob, match="id"):
        await task.options(id="mine").schedule("other", Every("1h"), "x")


async def test_the_synchronous_face(app: App, queue: Queue) -> None:
    task = queue.task(add)
    loop = asyncio.get_running_loop()

    def produce() -> list[Any]:
        job = task.sync.add(2, second=3)
        many = task.sync.add_many(task.new(n) for n in range(3))
        found = task.sync.get(job.id)
        assert found is not None
        assert task.sync.get("nobody") is None
        task.options(lifo=True).sync.schedule("s", Every("1h"), 1)
        assert job.snapshot.attempts == 3
        return [each.result(timeout="10s") for each in (job, found, *many)]

    async with app.worker(queue):
        assert await loop.run_in_executor(None, produce) == [5, 5, 1, 2, 3]
    assert repr(task.sync) == "<SyncTask 'add' of queue 'work'>"


class TestDeclaring:
    async def test_two_of_one_name(self, app: App, queue: Queue) -> None:
        queue.task(add)
        app.queue("work").task(add)  # the same once more: a module that is read again
        with pytest.raises(ConfigurationError, match="has a task 'add' already"):
            queue.task(name="add")(where)
        app.queue("other").task(name="add")(where)
        assert list(app.tasks("work")) == ["add"]

    async def test_what_is_no_function(self, queue: Queue) -> None:
        wrong: Any = queue
        with pytest.raises(TypeError, match="takes a function or settings, not 5"):
            wrong.task(5)
        with pytest.raises(TypeError, match="did you mean 'attempts'"):
            wrong.task(atempts=5)

    async def test_a_worker_without_anything_to_run(self, app: App) -> None:
        with pytest.raises(ConfigurationError, match="worker for queue 'work' needs a handler"):
            app.worker("work")
        assert app.workers == ()

    async def test_workers_for_all_tasks(self, app: App, queue: Queue) -> None:
        queue.task(add)
        app.queue("other").task(add)
        app.tasks("none")
        own = app.worker("other", concurrency=3)
        assert [worker.queue for worker in app.serve_tasks()] == ["other", "work"]
        assert app.serve_tasks()[0] is own
        assert len(app.serve_tasks()) == 2


@pytest.mark.parametrize("name", ["node", "node5", "python"])
async def test_jobs_that_another_library_adds(
    app: App, queue: Queue, library: Callable[[str], Driver], name: str
) -> None:
    queue.task(middle)
    task: Task[..., Point, Any] = queue.task(middle)
    producer = library(name)
    data = {"line": {"start": {"x": 2}, "end": {"x": 4}}, "at": "2026-11-23T10:00:00.000Z"}
    good = await producer.add("work", "middle", data, {"attempts": 3})
    bad = await producer.add("work", "middle", {**data, "at": 5, "line": []}, {"attempts": 3})
    async with app.worker(queue):
        job = await task.get(good)
        assert job is not None
        assert await job.result(timeout="10s") == Point(3, 2026)
        failing = await task.get(bad)
        assert failing is not None
        with pytest.raises(JobFailed, match="argument 'line': expected `object`, got `array`"):
            await failing.result(timeout="10s")
    seen = await producer.job("work", good)
    assert seen is not None
    assert seen["result"] == {"x": 3, "y": 2026}
    failed = await producer.job("work", bad)
    assert failed is not None
    assert (failed["attempts_made"], failed["state"]) == (1, "failed")
    await producer.reset()


MODULE = """
from toril import App

app = App({url!r}, plugins=[])
queue = app.queue("work")
empty = app.queue("empty")


@queue.task
async def add(first: int, second: int = 1) -> int:
    return first + second


@app.queue("other").task
def size(text: str) -> int:
    return len(text)
"""


@pytest.mark.parametrize(
    ("target", "served"), [("tasks_of:app", {"work", "other"}), ("tasks_of:queue", {"work"})]
)
async def test_the_command_line(
    app: App, queue: Queue, redis_url: str, tmp_path: Path, target: str, served: set[str]
) -> None:
    (tmp_path / "tasks_of.py").write_text(MODULE.format(url=redis_url))
    jobs = [
        await queue.add("add", {"first": 2}),
        await app.queue("other").add("size", {"text": "four"}),
    ]
    command = [sys.executable, "-m", "toril", "worker", target, "--burst"]
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=False)
    ended = await asyncio.to_thread(run, command)
    assert ended.returncode == 0, ended.stderr
    results = [(await job.refresh()).snapshot.result for job in jobs if job.queue in served]
    assert results == [3, 4][: len(served)]
    assert [await job.state() for job in jobs if job.queue not in served] == ["waiting"] * (
        2 - len(served)
    )


def test_the_command_line_without_a_task(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "tasks_of.py").write_text(MODULE.format(url=redis_url))
    command = [sys.executable, "-m", "toril", "worker", "tasks_of:empty"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "'tasks_of:empty': a worker for queue 'empty' needs a handler" in ended.stderr
