"""What the tests of crashes and lost replies share.

What they do by chance they do by a seed, which is printed where a test fails;
`TORIL_SEED=… pytest tests/chaos` does the same again.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger import ledger_path

HERE = Path(__file__).parent
CONCURRENCY = 10
"""Jobs at once, per queue and process."""


@pytest.fixture
def chance() -> random.Random:
    """The source of everything random in a test."""
    seed = int(os.environ.get("TORIL_SEED") or secrets.randbelow(2**32))
    print(f"TORIL_SEED={seed}")
    return random.Random(seed)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until `condition` (plain or asynchronous) holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


class Herd:
    """Processes that run `toril worker workers:app`; what they say is in files of the folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "TORIL_URL": url,
            "TORIL_TEST_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._living: list[subprocess.Popen[bytes]] = []
        self.killed: dict[int, float] = {}
        """When each killed process was killed, on the ledgers' clock."""

    def spawn(self) -> None:
        with (self._folder / f"worker-{time.monotonic_ns()}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "toril", "worker", "workers:app", "-c", str(CONCURRENCY)],
                cwd=HERE, env=self._environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._living.append(process)

    def at_work(self) -> list[int]:
        """The processes that have begun a job."""
        busy = {ledger_path(self._folder, process.pid): process.pid for process in self._living}
        return [pid for path, pid in busy.items() if path.exists() and path.stat().st_size]

    def kill(self, pid: int) -> None:
        process = next(process for process in self._living if process.pid == pid)
        process.kill()
        self.killed[pid] = time.monotonic()
        process.wait()
        self._living.remove(process)

    def stop(self) -> set[int]:
        """Let all of them finish; their exit codes, but for those that had only just been made."""
        begun = self.at_work()
        for process in self._living:
            process.send_signal(signal.SIGTERM)
        codes = {process.pid: process.wait(30) for process in self._living}
        self._living.clear()
        return {code for pid, code in codes.items() if pid in begun}

    def end(self) -> None:
        """Kill what is left."""
        for process in self._living:
            process.kill()
            process.wait()

    @property
    def said(self) -> str:
        """What the processes logged."""
        logs = sorted(self._folder.glob("worker-*.log"))
        return "\n".join(log.read_text(errors="replace") for log in logs)


@pytest.fixture
def herd(redis_url: str, tmp_path: Path) -> Iterator[Herd]:
    processes = Herd(tmp_path, redis_url)
    yield processes
    processes.end()
