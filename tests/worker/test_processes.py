"""Workers as processes: killed, aborted by a job, and steered by the command line and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from tests.worker.conftest import Listener, until

from toril.app import App
from toril.cli.worker import worker
from toril.job import Job
from toril.job_events import JobAttemptFailed, JobStalled
from toril.worker import ActiveJob

HERE = Path(__file__).parent
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn(redis_url: str, tmp_path: Path) -> Iterator[Spawn]:
    """Start `toril worker ARGUMENTS…` in the folder of these tests."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, url: str = redis_url) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "TORIL_URL": url,
            "TORIL_TEST_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "toril", "worker", *arguments],
            cwd=HERE, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def runs(folder: Path, job: Job) -> list[int]:
    """The processes that have begun to run the job, in order."""
    path = folder / job.id
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def test_the_jobs_of_a_killed_worker_are_run_by_another(
    heard: App, listener: Listener, spawn: Spawn, tmp_path: Path
) -> None:
    job = await heard.queue("q").add("slow")
    first = spawn("app_for_processes:worker")
    await until(lambda: runs(tmp_path, job))
    first.kill()
    first.wait()

    async def handler(job: ActiveJob) -> str:
        return f"attempt {job.attempt}, stalled {job.snapshot.stalled_count}"

    async with heard.worker("q", handler, lock="300ms", stalled_interval="100ms"):
        assert await job.result(timeout="10s") == "attempt 1, stalled 1"
    assert [(e.job.id, e.stalled_count, e.fails_next) for e in listener.of(JobStalled)] == [
        (job.id, 1, False)
    ]


async def test_a_job_that_kills_its_workers_fails(
    heard: App, listener: Listener, spawn: Spawn, tmp_path: Path
) -> None:
    job = await heard.queue("q").add("abort", attempts=10)
    for _ in range(2):
        process = spawn("app_for_processes:worker")
        await asyncio.to_thread(process.wait, 20)
        assert process.returncode == -signal.SIGABRT

    async def handler(job: ActiveJob) -> None:
        raise AssertionError("it must not run again")

    async with heard.worker("q", handler, lock="300ms", stalled_interval="100ms"):
        await until(lambda: listener.of(JobAttemptFailed))
    assert len(runs(tmp_path, job)) == 2
    (failed,) = listener.of(JobAttemptFailed)
    assert (failed.final, failed.cause) == (True, "stalled")
    assert failed.reason == "job stalled more than allowable limit"


async def test_a_stopped_process_cannot_finish_a_job_that_another_has_run(
    app: App, raw: redis.Redis, spawn: Spawn, tmp_path: Path
) -> None:
    job = await app.queue("threads").add("quick")
    raw.hset("bull:threads:meta", "paused", 1)
    process = spawn("app_for_processes:threads")
    assert process.stderr is not None
    slow = await app.queue("threads").add("slow")
    raw.hdel("bull:threads:meta", "paused")
    raw.zadd("bull:threads:marker", {"0": 0})
    await until(lambda: runs(tmp_path, slow))
    process.send_signal(signal.SIGSTOP)

    async def handler(job: ActiveJob) -> str:
        return "mine"

    async with app.worker("threads", handler, lock="300ms", stalled_interval="100ms"):
        assert await slow.result(timeout="10s") == "mine"
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # a second TERM could be merged with the first
    process.wait(20)
    assert await slow.result() == "mine"
    assert await job.state() == "completed"


async def test_a_burst_ends_with_0(app: App, spawn: Spawn) -> None:
    jobs = [await app.queue("q").add(name) for name in ("one", "fail")]
    process = spawn("app_for_processes:app", "--burst", "-c", "2")
    _, talk = process.communicate(timeout=20)
    assert process.returncode == 0, talk
    assert [await job.state() for job in jobs] == ["completed", "failed"]
    assert "queue q: up to 2 jobs at once" in talk
    assert "queue threads: up to 2 jobs at once" in talk


async def test_only_the_queues_that_are_named(app: App, spawn: Spawn) -> None:
    ours, other = await app.queue("q").add("one"), await app.queue("threads").add("one")
    process = spawn("app_for_processes:app", "--burst", "-q", "q")
    process.communicate(timeout=20)
    assert (await ours.state(), await other.state()) == ("completed", "waiting")


@pytest.mark.parametrize("target", ["worker", "factory", "threads"])
async def test_a_term_signal_lets_jobs_finish_and_another_gives_them_back(
    app: App, spawn: Spawn, tmp_path: Path, target: str
) -> None:
    job = await app.queue("threads" if target == "threads" else "q").add("slow")
    process = spawn(f"app_for_processes:{target}", "--grace", "50s")
    await until(lambda: runs(tmp_path, job))
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    line = ""
    while "stopping: running jobs may finish" not in line:
        line = process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=20)
    assert process.returncode == 7, talk
    assert "1 jobs were not finished in time and were put back" in talk
    assert await job.state() == "waiting"
    assert (await job.refresh()).attempts_made == 0


async def test_after_the_grace_time_jobs_are_given_back(
    app: App, spawn: Spawn, tmp_path: Path
) -> None:
    job = await app.queue("q").add("slow")
    process = spawn("app_for_processes:worker", "--grace", "100ms")
    await until(lambda: runs(tmp_path, job))
    process.send_signal(signal.SIGTERM)
    _, talk = process.communicate(timeout=20)
    assert process.returncode == 7, talk
    assert await job.state() == "waiting"


async def test_the_third_signal_kills_even_a_blocked_process(
    app: App, spawn: Spawn, tmp_path: Path
) -> None:
    job = await app.queue("q").add("block")
    process = spawn("app_for_processes:worker")
    await until(lambda: runs(tmp_path, job))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    await until(lambda: _delivered(process.pid))
    assert process.poll() is None

    def ended() -> bool:
        process.send_signal(signal.SIGTERM)
        return process.poll() is not None

    await until(ended)
    assert process.returncode == 1


def _delivered(pid: int) -> bool:
    """Whether no signal is pending for the process (or it is gone)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    pending = [line.split()[1] for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return all(int(mask, 16) == 0 for mask in pending)


async def test_usr1_is_quiet_and_usr2_shows_stacks(
    app: App, raw: redis.Redis, spawn: Spawn, tmp_path: Path
) -> None:
    job = await app.queue("q").add("slow")
    process = spawn("app_for_processes:worker")
    await until(lambda: runs(tmp_path, job))
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGUSR1)
    await until(lambda: _delivered(process.pid))
    await until(lambda: not raw.info("clients")["blocked_clients"])
    later = await app.queue("q").add("one")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # a second TERM could be merged with the first
    _, talk = process.communicate(timeout=20)
    assert "asyncio.sleep(60)" in talk
    assert "toril-locks" in talk or "locks.py" in talk
    assert f"queue q: running {job.id}" in talk
    assert await later.state() == "waiting"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("no_such_module:app",), 2, "cannot import"),
        (("app_for_processes:nothing",), 2, "cannot find"),
        (("app_for_processes",), 2, "not of the form MODULE:OBJECT"),
        (("app_for_processes:number",), 2, "which is no App, no Queue and no Worker"),
        (("app_for_processes:fetcher",), 2, "hands its jobs to a program"),
        (("app_for_processes:empty",), 2, "an App without workers"),
        (("app_for_processes:app", "-q", "other"), 2, "there are q, threads"),
        (("app_for_processes:app", "--grace", "5"), 2, "not a duration"),
        ((), 2, "Missing argument"),
        (("app_for_processes.py:app",), 2, "leave off the .py"),
        (("app_for_processes:broken",), 2, "it raised: RuntimeError: no account ("),
    ],
)
def test_usage_errors(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, text: str
) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = CliRunner().invoke(worker, arguments)
    assert result.exit_code == code
    assert text in result.output


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("import nothing_there", "No module named 'nothing_there' (PATH, line 1)"),
        ("x = 1\ny = 1 / 0", "ZeroDivisionError: division by zero (PATH, line 2)"),
        ("x = = 1", "SyntaxError: invalid syntax (broken_program.py, line 1)"),
        ("raise SystemExit('no')", "SystemExit: no (PATH, line 1)"),
        (
            "from toril import App\nApp('redis://x').worker('q', 3)",
            "not 3 (PATH, line 2)",
        ),
    ],
)
def test_a_program_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, text: str
) -> None:
    file = tmp_path / "broken_program.py"
    file.write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = CliRunner().invoke(worker, ["broken_program:app"])
    sys.modules.pop("broken_program", None)
    assert result.exit_code == 2
    assert text.replace("PATH", str(file)) in result.output


def test_no_url(spawn: Spawn) -> None:
    process = spawn("app_for_processes:worker", url="")
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 2, talk
    assert "Three ways out" in talk


async def test_an_idle_worker_says_that_it_waits(app: App, spawn: Spawn) -> None:
    process = spawn("app_for_processes:worker")
    assert process.stderr is not None
    lines: list[Any] = []
    while not lines or "waiting for jobs" not in lines[-1]:
        lines.append(process.stderr.readline())
    assert any("plugins:" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_uvloop_is_used_where_it_is_installed(spawn: Spawn, tmp_path: Path) -> None:
    # A module of that name stands for it: it says that it was asked, and has asyncio's loop.
    (tmp_path / "uvloop.py").write_text(
        "import asyncio, pathlib\n"
        "def new_event_loop():\n"
        "    (pathlib.Path(__file__).parent / 'asked').touch()\n"
        "    return asyncio.new_event_loop()\n"
    )
    before = sys.path[:]
    sys.path.insert(0, str(tmp_path))
    try:
        process = spawn("app_for_processes:worker", "--burst")
    finally:
        sys.path[:] = before
    assert process.wait(20) == 0
    assert (tmp_path / "asked").exists()
