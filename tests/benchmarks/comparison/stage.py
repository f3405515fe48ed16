"""One server, and the processes that work on it: each run is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Final

from tests.benchmarks.comparison.libraries import Case
from tests.benchmarks.peers.roles import Order
from tests.support.server import Server

DEADLINE: Final = 300.0  # seconds for one process
_SCRIPTS: Final = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_exec", "cmdstat_bzpopmin")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class RunError(RuntimeError):
    """A peer's process failed; the text ends with what it wrote to its standard error."""


@dataclass(frozen=True)
class Spent:
    """What the server did meanwhile.

    `cpu`: processor seconds of its main thread. `scripts`: seconds within scripts, transactions and
    BZPOPMIN, which is all that BullMQ's format needs. `commands`: those of scripts count, too.
    """

    cpu: float
    scripts: float
    commands: int


@dataclass(frozen=True)
class Ran:
    """What a process said, what the server spent, and the process's memory at its marks."""

    result: Mapping[str, Any]
    server: Spent
    rss: Mapping[str, int]

    @property
    def jobs(self) -> float:
        return float(self.result["jobs"])


class Process:
    """A peer at work, on the client's processor."""

    def __init__(self, case: Case, order: Order) -> None:
        place = case.library.place()
        self._name = f"{case.name}, {order.role}"
        self._process = subprocess.Popen(
            [*place.command, json.dumps(asdict(order))],
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})
        self._timer = Timer(DEADLINE, self._process.kill)
        self._timer.start()
        self.rss: dict[str, int] = {}

    def line(self) -> dict[str, Any]:
        """The next line; at a mark the process's memory is noted."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        text = self._process.stdout.readline()
        if not text:
            self._timer.cancel()
            raise RunError(f"{self._name}: {self._process.stderr.read()[-3000:]}")
        try:
            said: dict[str, Any] = json.loads(text)
        except ValueError:
            raise RunError(f"{self._name} says what is no JSON: {text[:300]}") from None
        if "at" in said:
            self.rss[str(said["at"])] = _rss(self._process.pid)
        return said

    def result(self) -> dict[str, Any]:
        """What it says at the end; it has ended then."""
        said = self.line()
        while "at" in said:
            said = self.line()
        self._process.communicate()
        self._timer.cancel()
        return said

    def end(self) -> None:
        """Kill it, if it is still there."""
        self._timer.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def _rss(pid: int) -> int:
    statm = Path(f"/proc/{pid}/statm")
    return int(statm.read_text().split()[1]) * _PAGE if statm.exists() else 0


class Stage:
    """The server, and what is read from it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._client = server.client()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})

    @classmethod
    @contextmanager
    def open(cls) -> Generator[Stage]:
        """With a server of its own."""
        server = Server.start()
        try:
            yield cls(server)
        finally:
            server.stop()

    @property
    def version(self) -> str:
        """`Valkey 9.1.2`."""
        info: Mapping[str, Any] = self._client.info("server")
        return f"Valkey {info['valkey_version']}"

    def empty(self) -> None:
        """Delete everything, before the next run begins and not beside it."""
        self._client.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]

    def memory(self) -> int:
        """Bytes that the server uses when everybody else has gone, with their buffers."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            clients: Mapping[str, Any] = self._client.info("clients")
            if clients["connected_clients"] == 1:
                break
            time.sleep(0.02)
        time.sleep(0.3)  # the server's own housekeeping
        info: Mapping[str, Any] = self._client.info("memory")
        return int(info["used_memory"])

    @contextmanager
    def process(self, case: Case, role: str, **order: Any) -> Generator[Process]:
        """A peer's process in this role; killed if it is still there at the end."""
        options = {**case.options, **order.pop("options", {})}
        process = Process(
            case,
            Order(url=self.server.url, role=role, uvloop=case.uvloop, options=options, **order),
        )
        try:
            yield process
        finally:
            process.end()

    def play(self, case: Case, role: str, jobs: int, **order: Any) -> Ran:
        """A peer's process in this role, from its begin to its end.

        Raises:
            RunError: It failed.
        """
        self._client.config_resetstat()
        before = self._cpu()
        with self.process(case, role, jobs=jobs, **order) as process:
            result = process.result()
        stats: Mapping[str, Mapping[str, float]] = self._client.info("commandstats")
        scripts = sum(float(stats[name]["usec"]) for name in _SCRIPTS if name in stats) / 1e6
        commands = sum(int(stat["calls"]) for stat in stats.values())
        spent = Spent(self._cpu() - before, scripts, commands)
        return Ran({"jobs": jobs, **result}, spent, process.rss)

    def _cpu(self) -> float:
        info: Mapping[str, Any] = self._client.info("cpu")
        return sum(float(info[f"used_cpu_{kind}_main_thread"]) for kind in ("user", "sys"))


def warn(text: str) -> None:
    """Tell who waits for the run."""
    print(text, file=sys.stderr, flush=True)
