"""Handlers in processes: they compute, crash, hang and grow, and only their own job feels it."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from tests.worker import app_for_pool
from tests.worker.app_for_pool import handle, handle_on_a_loop
from tests.worker.conftest import Listener, until

from toril import ActiveJob, App, Backoff, ConfigurationError, JobFailed, NewJob
from toril.errors import ProcessDied
from toril.job_events import JobAttemptFailed, JobCompleted


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def gone(*pids: int) -> None:
    await until(lambda: not any(map(lives, pids)))


async def running_in(job: Any) -> Any:
    """The process in which the job runs, which it tells as its progress."""
    return await until(lambda: progress(job))


async def progress(job: Any) -> Any:
    await job.refresh()
    raw = job.snapshot.fields.get(b"progress", b"0")
    return json.loads(raw)


async def test_jobs_run_in_processes_and_hooks_fire_here(heard: App, listener: Listener) -> None:
    jobs = await heard.queue("q").add_many([NewJob("square", n) for n in range(20)])
    where = await heard.queue("q").add("pid")
    async with heard.worker("q", handle, processes=2):
        assert [await job.result(timeout="20s") for job in jobs] == [n * n for n in range(20)]
        told = cast("dict[str, int]", await where.result(timeout="10s"))
    assert told["pid"] != os.getpid()
    await until(lambda: len(listener.of(JobCompleted)) == 21)
    await gone(told["pid"])


async def test_a_process_sees_its_job_and_acts_on_it(app: App, raw: redis.Redis) -> None:
    queue = app.queue("q")
    seen, spoke = await queue.add("see", attempts=4), await queue.add("speak", {"n": 1})
    again, parent = await queue.add("again"), await queue.add("family")
    async with app.worker("q", handle, processes=1):
        assert await spoke.result(timeout="20s") == {"n": 2}
        id, name, attempt, token, attempts = cast("list[Any]", await seen.result(timeout="10s"))
        assert (id, name, attempt, attempts) == (seen.id, "q", 1, 4)
        assert token
        assert await again.result(timeout="10s") == 1
        assert await parent.result(timeout="10s") == [9, 16]
    assert await spoke.logs() == ("one", "two")
    assert await progress(spoke) == {"half": True}
    assert json.loads(str(raw.hget(f"bull:q:{spoke.id}", "data"))) == {"n": 2}


async def test_a_rate_limit_comes_out_of_a_process(app: App, raw: redis.Redis) -> None:
    job = await app.queue("q").add("limited")
    async with app.worker("q", handle, processes=1):
        assert await job.result(timeout="20s") == 1
    first, again = (
        int(at.split("-")[0])
        for at, told in cast("list[tuple[str, dict[str, str]]]", raw.xrange("bull:q:events"))
        if told["event"] == "active"
    )
    assert again - first >= 100


async def test_a_process_gives_its_job_back_and_prunes_its_children(app: App) -> None:
    job = await app.queue("q").add("prune")
    async with app.worker("q", handle, processes=1):
        assert await job.result(timeout="20s") == [["bull:late:late"], ["late"], [], 0]
    assert await job.logs() == ("two",)
    assert ((await job.refresh()).attempts_made, job.attempts_started) == (1, 2)


async def test_an_asynchronous_handler_runs_in_a_process_too(app: App) -> None:
    job, touches = await app.queue("q").add("n"), await app.queue("q").add("app")
    async with app.worker("q", handle_on_a_loop, processes=1):
        assert await job.result(timeout="20s") != os.getpid()
        with pytest.raises(JobFailed, match="runs one handler for a worker's pool and has no App"):
            await touches.result(timeout="10s")
    assert await job.logs() == ("first", "second")


async def test_a_handler_that_touches_the_app_is_told(app: App) -> None:
    job = await app.queue("q").add("app")
    async with app.worker("q", handle, processes=1):
        with pytest.raises(JobFailed, match="has no App"):
            await job.result(timeout="20s")


CRASHES = [
    ("die", signal.SIGKILL, "the process that ran it was ended by SIGKILL"),
    ("die", signal.SIGSEGV, "the process that ran it was ended by SIGSEGV"),
    ("exit", 3, "the process that ran it ended with exit code 3"),
    ("exit", 0, "the process that ran it ended with exit code 0"),
]


async def test_a_crash_fails_only_its_job(heard: App, listener: Listener) -> None:
    queue = heard.queue("q")
    errors: list[BaseException] = []

    def backoff(attempt: int, error: BaseException, job: ActiveJob) -> str:
        errors.append(error)
        return "0s"

    own = Backoff.custom("own")
    busy = await queue.add("busy", 1)
    crashes = [await queue.add(n, int(data), attempts=2, backoff=own) for n, data, _ in CRASHES]
    others = await queue.add_many([NewJob("square", n) for n in range(5)])
    async with heard.worker("q", handle, processes=2, backoffs={"own": backoff}):
        for job, (_, _, reason) in zip(crashes, CRASHES, strict=True):
            with pytest.raises(JobFailed, match=reason):
                await job.result(timeout="30s")
        assert [await job.result(timeout="10s") for job in others] == [0, 1, 4, 9, 16]
        assert await busy.result(timeout="10s")
    failed = listener.of(JobAttemptFailed)
    expected = [(job.id, crash[2]) for job, crash in zip(crashes, CRASHES, strict=True)]
    assert sorted((event.job.id, event.reason) for event in failed) == sorted(expected * 2)
    assert [type(error) for error in errors] == [ProcessDied] * 4


async def test_a_job_whose_process_died_is_tried_again(app: App) -> None:
    job = await app.queue("q").add("die_once", attempts=2)
    async with app.worker("q", handle, processes=1):
        assert await job.result(timeout="20s") == 2


async def test_an_idle_process_that_dies_harms_no_job(app: App) -> None:
    queue = app.queue("q")
    async with app.worker("q", handle, processes=1):
        for _ in range(3):
            where = cast("dict[str, int]", await (await queue.add("pid")).result(timeout="20s"))
            assert where["runs"] == 1
            os.kill(where["pid"], signal.SIGKILL)


async def test_a_handler_over_its_time_is_killed(app: App) -> None:
    queue = app.queue("q")
    for name in ("spin", "grab"):
        job = await queue.add(name, timeout="500ms")
        async with app.worker("q", handle, processes=1):
            with pytest.raises(JobFailed, match="timed out: its handler ran for longer than 500ms"):
                await job.result(timeout="20s")
            pid = await progress(job)
            await gone(pid)
            assert await (await queue.add("square", 7)).result(timeout="20s") == 49


async def test_what_a_handler_has_started_goes_with_it(app: App) -> None:
    job = await app.queue("q").add("helper")
    worker = app.worker("q", handle, processes=1)
    async with worker:
        child, helper = await running_in(job)
        assert worker.cancel(job.id, "enough")
        with pytest.raises(JobFailed, match="enough"):
            await job.result(timeout="10s")
        await gone(child, helper)


async def test_processes_are_replaced_after_some_jobs(app: App) -> None:
    queue = app.queue("q")
    jobs = await queue.add_many([NewJob("pid") for _ in range(7)])
    async with app.worker("q", handle, processes=1, recycle_after=3):
        told = [cast("dict[str, int]", await job.result(timeout="20s")) for job in jobs]
    assert [one["runs"] for one in told] == [1, 2, 3, 1, 2, 3, 1]
    assert len({one["pid"] for one in told}) == 3


async def test_a_process_that_has_grown_is_replaced(app: App) -> None:
    queue = app.queue("q")
    async with app.worker("q", handle, processes=1, recycle_above="200MiB"):
        pids = []
        for size in (1, 300 * 2**20, 1):
            job = await queue.add("grow", size)
            pids.append(await job.result(timeout="20s"))
    assert pids[0] == pids[1] != pids[2]


async def test_locks_are_kept_while_processes_work(app: App, raw: redis.Redis) -> None:
    jobs = await app.queue("q").add_many([NewJob("busy", 1.2) for _ in range(2)])
    worker = app.worker("q", handle, processes=2, lock="800ms", stalled_interval="200ms")
    async with worker:
        pids = [await job.result(timeout="20s") for job in jobs]
    assert pids[0] != pids[1]
    for job in jobs:
        assert raw.hget(f"bull:q:{job.id}", "stc") is None
        assert raw.hget(f"bull:q:{job.id}", "ats") == "1"


async def test_a_lost_lock_ends_the_handler_where_it_speaks(app: App, raw: redis.Redis) -> None:
    job = await app.queue("q").add("spin")
    worker = app.worker("q", handle, processes=1, lock="500ms")
    async with worker:
        pid = await running_in(job)
        raw.set(f"bull:q:{job.id}:lock", "somebody else")
        await gone(pid)
        assert await job.state() == "active"


async def test_errors_come_back_with_their_trace(heard: App, listener: Listener) -> None:
    queue = heard.queue("q")
    errors: dict[str, BaseException] = {}

    def backoff(attempt: int, error: BaseException, job: ActiveJob) -> None:
        errors[job.name] = error

    names = ("told", "unpicklable", "final", "object", "leave")
    jobs = [await queue.add(n, attempts=2, backoff=Backoff.custom("own")) for n in names]
    async with heard.worker("q", handle, processes=1, backoffs={"own": backoff}):
        for job in jobs:
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
    reasons = {event.job.name: event.reason for event in listener.of(JobAttemptFailed)}
    assert reasons == {
        "told": "as it is",
        "unpicklable": "1 is not 2",
        "final": "never",
        "object": "the result: a value of type object cannot be stored as JSON; give what can: "
        "texts, numbers, booleans, None, lists and dicts of these",
        "leave": "SystemExit",
    }
    assert isinstance(errors["told"], app_for_pool.Told)
    assert getattr(errors["unpicklable"], "kind", None) == "Unpicklable"
    assert "final" not in errors
    (trace,) = (await jobs[1].refresh()).snapshot.stacktrace
    assert 'app_for_pool.py", line' in trace
    assert "raise Unpicklable(1, 2)" in trace
    assert "processes.py" not in trace
    assert trace.rstrip().endswith("Unpicklable: 1 is not 2")


async def test_what_a_process_logs_comes_here(app: App, caplog: pytest.LogCaptureFixture) -> None:
    job = await app.queue("q").add("logging")
    with caplog.at_level(logging.WARNING):
        async with app.worker("q", handle, processes=1):
            await job.result(timeout="20s")
    records = [record for record in caplog.records if record.name == "kitchen"]
    assert [record.getMessage() for record in records] == ["the oven is hot"]
    assert records[0].process != os.getpid()


async def test_a_stop_gives_back_what_is_not_done_in_time(app: App) -> None:
    job = await app.queue("q").add("spin")
    worker = app.worker("q", handle, processes=1, grace="50ms")
    async with worker:
        pid = await running_in(job)
    assert worker.given_back == 1
    assert await job.state() == "waiting"
    assert not lives(pid)


async def test_the_number_of_processes_follows_the_concurrency(app: App) -> None:
    queue = app.queue("q")
    worker = app.worker("q", handle, processes=1)
    assert worker.concurrency == 1
    async with worker:
        worker.concurrency = 3
        spinning = [await queue.add("spin") for _ in range(3)]
        pids = [await running_in(job) for job in spinning]
        assert len(set(pids)) == 3
        worker.concurrency = 1
        assert worker.cancel_all() == 3
        await until(lambda: not worker.running)
        jobs = await queue.add_many([NewJob("pid") for _ in range(4)])
        told = [cast("dict[str, int]", await job.result(timeout="20s")) for job in jobs]
        assert len({one["pid"] for one in told}) == 1


def nested() -> Any:
    def handler(job: ActiveJob) -> None: ...

    return handler


@pytest.mark.parametrize("handler", [eval("lambda job: None"), nested()])
def test_a_handler_that_cannot_be_imported_is_refused_when_it_is_given(handler: Any) -> None:
    with pytest.raises(TypeError, match="put it at the top of a module that can be imported"):
        App("redis://127.0.0.1:1").worker("q", handler, processes=2)


def test_a_handler_of_the_script_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "__module__", "__main__")
    with pytest.raises(TypeError, match="cannot be in the script that was started"):
        App("redis://127.0.0.1:1").worker("q", handle, processes=2)


async def test_a_handler_that_no_process_can_import_ends_the_worker(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "import os\nif os.environ.get('HERE') != str(os.getpid()):\n"
        "    raise RuntimeError('not in another process')\ndef handler(job): pass\n"
    )
    monkeypatch.setenv("HERE", str(os.getpid()))
    monkeypatch.syspath_prepend(tmp_path)
    only_here: Any = importlib.import_module("only_here")
    try:
        with pytest.raises(ConfigurationError, match="RuntimeError: not in another process"):
            await app.worker("q", only_here.handler, processes=2).run(burst=True)
    finally:
        del sys.modules["only_here"]


async def test_a_program_that_breaks_while_it_runs_fails_jobs_until_it_is_mended(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = "import os\ndef handler(job): return os.getpid()\n"
    program = tmp_path / "changing.py"
    program.write_text(good)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    changing: Any = importlib.import_module("changing")
    queue = app.queue("q")
    try:
        async with app.worker("q", changing.handler, processes=1, recycle_after=1):
            program.write_text("raise RuntimeError('half written')\n")
            assert await (await queue.add("n")).result(timeout="20s")
            with pytest.raises(JobFailed, match=r"could not be started(?s:.*)half written"):
                await (await queue.add("n")).result(timeout="20s")
            program.write_text(good)
            job = await queue.add("n", attempts=3)
            assert await job.result(timeout="20s")
    finally:
        del sys.modules["changing"]


async def test_no_job_is_lost_while_processes_are_killed(app: App) -> None:
    queue = app.queue("q")
    jobs = await queue.add_many([NewJob("busy", 0.01, attempts=50) for _ in range(60)])
    killed: set[int] = set()
    async with app.worker("q", handle, processes=2) as worker:
        while len(killed) < 5:
            child = next(iter(_children_of(worker)), None)
            if child is not None and child not in killed:
                killed.add(child)
                os.kill(child, signal.SIGKILL)
            await asyncio.sleep(0.01)
        pids = [await job.result(timeout="30s") for job in jobs]
    assert len(pids) == 60
    assert (await queue.counts())["completed"] == 60


def _children_of(worker: Any) -> list[int]:
    """The processes of a worker that live."""
    pool = worker._session._invoker
    return [child._process.pid for child in pool._children if child.alive]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"processes": 0}, ValueError, "processes must be at least 1"),
        ({"processes": "2"}, TypeError, "processes is a whole number"),
        ({"recycle_after": 5}, ValueError, "said of processes=N"),
        ({"processes": 2, "recycle_after": 0}, ValueError, "recycle_after must be at least 1"),
        ({"processes": 2, "recycle_above": "much"}, ValueError, "'much' is not a size"),
        ({"processes": 2, "concurrency": 3}, ValueError, "leave out concurrency"),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        App("redis://127.0.0.1:1").worker("q", handle, **options)


async def test_processes_end_with_a_worker_that_is_killed(
    app: App, redis_url: str, tmp_path: Path
) -> None:
    await app.queue("q").add_many([NewJob("spin"), NewJob("spin")])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "toril", "worker", "tests.worker.app_for_pool:worker",
        env={
            **os.environ, "TORIL_URL": redis_url, "TORIL_TEST_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    runs = tmp_path / "runs"
    try:
        await until(lambda: runs.exists() and len(runs.read_text().splitlines()) == 2, 20)
    finally:
        process.kill()
        await process.wait()
    pids = [int(line.split()[1]) for line in runs.read_text().splitlines()]
    await until(lambda: not any(map(lives, pids)))
