"""The keeper of an embedded server: a process that ends the server when nobody uses it any more.

Run by path, with the standard library only, so that it starts quickly and holds little memory:

    python embedded_watch.py DIR SERVER-PROGRAM

It takes the lock on `DIR/running` and goes into the background. It starts the server as its child,
on a unix socket and nothing else, and waits, without polling, for one member after the other to
go: each member holds a lock on a file of its own in `DIR/members`, which the kernel releases
however the member ends. The lock on `DIR/running` is shared with the server, so that it is free
only when both are gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

SOCKET_PATH_LIMIT = 100
"""Bytes in the path of a unix socket that every system allows."""
STOP_TIMEOUT = 10.0
"""Seconds that the server has to end by itself."""

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def locked(path: Path) -> Generator[None, None, None]:
    """Hold the lock on the file `path`; wait for it if need be."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock on the file `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


class _ServerEnded(Exception):
    pass


class _Keeper:
    def __init__(self, directory: Path, program: str) -> None:
        self._directory = directory
        self._program = program
        self._short: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        running = os.open(self._directory / "running", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # somebody else keeps this directory
        if os.fork():
            os._exit(0)  # who started us waits for this, and is left with no child
        os.chdir("/")
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the members
        try:
            # Before the start, so that no end is missed.
            signal.signal(signal.SIGCHLD, _end)
            self._start_server(running)
            self._wait_for_members()
        except _ServerEnded:
            self._stop_server()
        finally:
            (self._directory / "socket").unlink(missing_ok=True)
            if self._short is not None:
                shutil.rmtree(self._short, ignore_errors=True)

    def _start_server(self, running: int) -> None:
        data = self._directory / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        socket = self._directory / "server.sock"
        if len(os.fsencode(socket)) > SOCKET_PATH_LIMIT:
            self._short = Path(tempfile.mkdtemp(prefix="toril-"))
            socket = self._short / "server.sock"
        socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "daemonize": "no",
        }
        command = [self._program]
        for name, value in options.items():
            command += [f"--{name}", value]
        with (self._directory / "server.log").open("ab") as log:
            self._server = subprocess.Popen(  # noqa: S603 - no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(running,),
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - there is one thread
                cwd=data,
            )
        pointer = self._directory / "socket.new"
        pointer.write_text(str(socket))
        pointer.replace(self._directory / "socket")

    def _wait_for_members(self) -> None:
        while True:
            member = self._a_living_member()
            if member is not None:
                self._wait_for(member)
                continue
            # Under the lock nobody joins; whoever waits for it starts a server anew.
            with locked(self._directory / "lock"):
                if self._a_living_member() is None:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    self._stop_server()
                    return

    def _a_living_member(self) -> Path | None:
        for member in (self._directory / "members").iterdir():
            if not is_free(member):
                return member
            member.unlink(missing_ok=True)
        return None

    def _wait_for(self, member: Path) -> None:
        with contextlib.suppress(FileNotFoundError), locked_if_there(member):
            member.unlink(missing_ok=True)

    def _stop_server(self) -> None:
        server = self._server
        if server is None:
            return
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def locked_if_there(path: Path) -> Generator[None, None, None]:
    """Like `locked`, but makes no file. Raises `FileNotFoundError`."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _end(_signal: int, _frame: object) -> None:
    raise _ServerEnded


def _die_with_parent() -> None:
    """Runs in the server's process: it is not to outlive a keeper that was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    _Keeper(Path(sys.argv[1]), sys.argv[2]).run()
