"""Several processes under one command: killed, replaced, and stopped, and no job is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.worker.conftest import until

from toril import App, NewJob
from toril.cli.supervisor import Supervisor
from toril.cli.worker import worker
from toril.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
TARGET = "tests.worker.app_for_supervisor:worker"
IS_READY = re.compile(r"process (\d) is ready \(pid (\d+)\)")


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class Command:
    """`toril worker …` in a process of its own, and what it says."""

    def __init__(self, folder: Path, url: str, *arguments: str, cwd: Path = ROOT) -> None:
        self.folder = folder
        environment = {
            **os.environ,
            "TORIL_URL": url,
            "TORIL_TEST_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "toril", "worker", *arguments],
            cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.said.extend(lines)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def pids(self) -> dict[str, int]:
        """The newest process of each number that said that it is ready."""
        return {number: int(pid) for number, pid in IS_READY.findall(self.text)}

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def says(self, text: str, times: int = 1, seconds: float = 30) -> None:
        try:
            await until(lambda: self.text.count(text) >= times, seconds)
        except AssertionError:
            raise AssertionError(f"it did not say {text!r}:\n{self.text}") from None

    async def ends(self) -> int:
        code = await asyncio.to_thread(self.process.wait, 40)
        await asyncio.to_thread(self._reader.join, 20)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join(30)

    def runs(self) -> Counter[str]:
        """How often each job was run."""
        path = self.folder / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.split()[0] for line in lines)


Start = Callable[..., Command]


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    started: list[Command] = []

    def begin(*arguments: str, cwd: Path = ROOT, url: str = redis_url) -> Command:
        command = Command(tmp_path, url, *arguments, cwd=cwd)
        started.append(command)
        return command

    yield begin
    for command in started:
        command.kill()


async def all_done(app: App, number: int) -> None:
    async def done() -> bool:
        return (await app.queue("q").counts())["completed"] == number

    await until(done, 60)


async def test_a_killed_process_is_started_again_and_its_jobs_run(app: App, start: Start) -> None:
    command = start(TARGET, "--processes", "2", "-c", "2")
    await command.says("is ready", 2)
    first = command.pids()
    slow = await app.queue("q").add("slow")
    await until(lambda: command.runs()[slow.id])
    holder = int((command.folder / "runs").read_text().split()[1])
    jobs = await app.queue("q").add_many([NewJob("n") for _ in range(50)])
    os.kill(holder, signal.SIGKILL)
    await command.says("was ended by SIGKILL; it is started again in")
    await command.says("is ready", 3)
    await all_done(app, 50)
    await until(lambda: command.runs()[slow.id] == 2)  # it was recovered as stalled
    assert {await job.state() for job in jobs} == {"completed"}
    second = command.pids()
    assert len(set(first.values()) & set(second.values())) == 1
    command.send(signal.SIGUSR2)
    await command.says("queue q: running", 2)
    assert any(line.startswith("[1] ") for line in command.said)
    assert any(line.startswith("[2] ") for line in command.said)
    command.send(signal.SIGTERM)
    await command.says("stopping: running jobs may finish", 2)
    command.send(signal.SIGINT)
    assert await command.ends() == 7, command.text
    assert await slow.state() == "waiting"
    assert not any(map(lives, second.values()))


async def test_a_reload_under_load_loses_no_job_and_runs_none_twice(app: App, start: Start) -> None:
    command = start(TARGET, "--processes", "2")
    await command.says("is ready", 2)
    before = command.pids()
    jobs = await app.queue("q").add_many([NewJob("n") for _ in range(250)])
    command.send(signal.SIGHUP)
    jobs += await app.queue("q").add_many([NewJob("n") for _ in range(250)])
    await command.says("all processes have been replaced")
    await command.says("is ready", 4)
    jobs += await app.queue("q").add_many([NewJob("n") for _ in range(20)])
    await all_done(app, 520)
    after = command.pids()
    assert set(before.values()).isdisjoint(after.values())
    assert not any(map(lives, before.values()))
    assert command.runs() == dict.fromkeys((job.id for job in jobs), 1)
    command.send(signal.SIGTERM)
    assert await command.ends() == 0, command.text


PROGRAM = """
from toril import App
app = App(plugins=[])
async def handle(job):
    return "ANSWER"
app.worker("q", handle)
"""


async def test_a_program_that_is_broken_is_not_taken_over(
    app: App, start: Start, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("ANSWER", "first"))
    command = start("program:app", "--processes", "1", cwd=tmp_path)
    await command.says("is ready")
    program.write_text("x = = 1")
    command.send(signal.SIGHUP)
    await command.says("the old processes go on; mend it and ask again")
    await command.says("the new process 1 ended with exit code 2")
    assert await (await app.queue("q").add("n")).result(timeout="10s") == "first"
    program.write_text(PROGRAM.replace("ANSWER", "second"))
    command.send(signal.SIGHUP)
    await command.says("all processes have been replaced")
    assert await (await app.queue("q").add("n")).result(timeout="10s") == "second"


async def test_changed_files_are_taken_over(app: App, start: Start, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("ANSWER", "first"))
    command = start("program:app", "--reload", cwd=tmp_path)
    await command.says("is ready")
    assert await (await app.queue("q").add("n")).result(timeout="10s") == "first"

    async def taken_over() -> bool:
        # Written again until the watch has begun, which nobody tells.
        program.write_text(PROGRAM.replace("ANSWER", "second"))
        return "changed: program.py" in command.text

    await until(taken_over)
    await command.says("all processes have been replaced")
    assert await (await app.queue("q").add("n")).result(timeout="10s") == "second"
    command.send(signal.SIGINT)
    assert await command.ends() == 0, command.text


async def test_processes_stop_when_their_supervisor_is_killed(app: App, start: Start) -> None:
    command = start(TARGET, "--processes", "2")
    await command.says("is ready", 2)
    pids = command.pids().values()
    command.send(signal.SIGKILL)
    await until(lambda: not any(map(lives, pids)), 30)
    assert command.text.count("the supervisor has gone") == 2


async def test_a_burst_ends_when_all_have_ended(app: App, start: Start) -> None:
    await app.queue("q").add_many([NewJob("n") for _ in range(30)])
    command = start(TARGET, "--processes", "2", "--burst")
    assert await command.ends() == 0, command.text
    assert (await app.queue("q").counts())["completed"] == 30


async def test_the_third_signal_kills(app: App, start: Start) -> None:
    command = start(TARGET, "--processes", "1", "--grace", "50s")
    await command.says("is ready")
    (pid,) = command.pids().values()
    os.kill(pid, signal.SIGSTOP)
    for text in ("stopping all processes", "stopping them now", "killing all processes"):
        command.send(signal.SIGTERM)
        await command.says(text)
    assert await command.ends() == 1
    assert not lives(pid)


@pytest.mark.parametrize(
    ("target", "url", "code"),
    [("tests.worker.no_such:app", None, 2), (TARGET, "redis://127.0.0.1:1", 3)],
)
async def test_what_cannot_start_is_not_tried_for_ever(
    start: Start, redis_url: str, target: str, url: str | None, code: int
) -> None:
    command = start(target, "--processes", "2", url=url or redis_url)
    assert await command.ends() == code, command.text


def test_reload_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    supervisor = Supervisor(["worker", "a:b"], 1, watched=tmp_path)
    with pytest.raises(ConfigurationError, match=r"pip install 'toril\[reload\]'"):
        asyncio.run(supervisor.run())


def test_a_number_of_processes_is_checked() -> None:
    result = CliRunner().invoke(worker, [TARGET, "--processes", "0"])
    assert result.exit_code == 2
    assert "--processes" in result.output
