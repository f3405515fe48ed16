"""`toril worker --processes N`: processes of workers, kept alive and replaced one by one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from toril.cli.exits import Exit
from toril.cli.supervised import READY, VARIABLE
from toril.errors import ConfigurationError

log = logging.getLogger("toril.supervisor")

Changes: TypeAlias = "AsyncIterator[Iterable[tuple[object, str]]]"
"""Files that have changed, as watchfiles tells them."""

_SHORTEST_PAUSE: Final = 0.5
"""Seconds until a process that has ended by itself is started again; doubled each time."""
_LONGEST_PAUSE: Final = 30.0
_STEADY: Final = 10.0
"""A process that has been ready for so many seconds has done well: the pauses begin anew."""
_TO_BE_READY: Final = 60.0
"""Seconds in which a new process has to be ready while the one that it replaces goes on."""
_MEANT: Final = frozenset({Exit.DONE, Exit.UNFINISHED, -signal.SIGTERM})
"""How a process ends that was asked to; by the signal itself if it had hardly begun."""


class Supervisor:
    """Runs a command in several processes.

    Args:
        command: The arguments of `toril` in each of them.
        number: How many.
        burst: One that ends with 0 is done.
        watched: A folder; when Python files below it change, the processes are replaced.
    """

    def __init__(
        self, command: Sequence[str], number: int, *, burst: bool = False, watched: Path | None
    ) -> None:
        self._command = command
        self._burst = burst
        self._watched = watched
        self._slots: list[_Process | None] = [None] * number
        self._living: set[_Process] = set()
        self._stops = 0
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()
        self._code: int = Exit.DONE
        self._was_ready = False

    async def run(self) -> int:
        """Work until told to stop, or until all are done. Returns the exit code."""
        changes = _changes(self._watched) if self._watched is not None else None
        with self._signals():
            helpers = [asyncio.create_task(self._replace_when_asked())]
            if changes is not None:
                helpers.append(asyncio.create_task(self._watch(changes)))
            keepers = [asyncio.create_task(self._keep(slot)) for slot in range(len(self._slots))]
            try:
                await asyncio.gather(*keepers)
            finally:
                self._ask_to_stop(signal.SIGTERM)
                for helper in helpers:
                    helper.cancel()
                await asyncio.wait(helpers)
                await asyncio.gather(*(process.ended() for process in self._living))
        return self._code

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload.set,
            signal.SIGUSR1: lambda: self._pass_on(signal.SIGUSR1),
            signal.SIGUSR2: lambda: self._pass_on(signal.SIGUSR2),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self._stops += 1
        if self._stops > 2:
            log.warning("killing all processes")
            self._code = Exit.UNEXPECTED
            self._ask_to_stop(signal.SIGKILL)
            return
        log.info("stopping all processes" if self._stops == 1 else "stopping them now")
        self._ask_to_stop(signal.SIGTERM)

    def _ask_to_stop(self, number: signal.Signals) -> None:
        self._stopping.set()
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for process in self._living:
            process.send(number)

    def _pass_on(self, number: signal.Signals) -> None:
        """Send a signal to those that know it already: it would kill one that has just begun."""
        for process in self._living:
            if process.is_ready:
                process.send(number)

    async def _start(self, slot: int) -> _Process:
        process = await _Process.start(slot + 1, self._command)
        self._living.add(process)
        if self._stopping.is_set():
            process.send(signal.SIGTERM)
        return process

    async def _ended(self, process: _Process) -> int:
        """Wait for its end, and take note of how that was."""
        code = await process.ended()
        self._living.discard(process)
        if self._stopping.is_set() and self._code != Exit.UNEXPECTED:
            if code not in _MEANT:
                log.error("process %d %s", process.number, _how(code))
                self._code = self._code or Exit.UNEXPECTED
            elif code == Exit.UNFINISHED:
                self._code = self._code or code
        return code

    async def _in_slot(self, slot: int) -> _Process:
        """The process in this slot; a new one if there is none."""
        found = self._slots[slot]
        if found is not None:
            return found
        made = await self._start(slot)
        replaced = self._slots[slot]
        if replaced is not None:  # a replacement has come in meanwhile
            made.send(signal.SIGTERM)
            return replaced
        self._slots[slot] = made
        return made

    async def _keep(self, slot: int) -> None:
        """See that there is a process in this slot."""
        pause = _SHORTEST_PAUSE / 2
        while not self._stopping.is_set():
            process = await self._in_slot(slot)
            telling = asyncio.create_task(self._tell_ready(process))
            code = await self._ended(process)
            await telling
            if self._slots[slot] is not process:
                continue  # it was replaced
            self._slots[slot] = None
            if self._stopping.is_set() or (self._burst and code == Exit.DONE):
                return
            if not self._was_ready and code in {Exit.USAGE, Exit.SERVER}:
                self._code = code  # another try would end in the same way
                self._ask_to_stop(signal.SIGTERM)
                return
            pause = _SHORTEST_PAUSE if process.steady else min(2 * pause, _LONGEST_PAUSE)
            log.warning(
                "process %d %s; it is started again in %.1f s", process.number, _how(code), pause
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _tell_ready(self, process: _Process) -> None:
        if await process.ready():
            log.info("process %d is ready (pid %d)", process.number, process.pid)
            self._was_ready = True

    async def _replace_when_asked(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            log.info("replacing all processes, one by one")
            for slot in range(len(self._slots)):
                if not await self._replace(slot):
                    log.error("the old processes go on; mend it and ask again")
                    break
            else:
                log.info("all processes have been replaced")

    async def _replace(self, slot: int) -> bool:
        """Put a new process into the slot. False if it does not come up; then the old one stays."""
        new = await self._start(slot)
        try:
            async with asyncio.timeout(_TO_BE_READY):
                came_up = await new.ready()
        except TimeoutError:
            came_up = False
            new.send(signal.SIGKILL)
        if not came_up:
            log.error("the new process %d %s", new.number, _how(await self._ended(new)))
            return False
        old, self._slots[slot] = self._slots[slot], new
        if old is None:  # it was about to be started again: its keeper finds the new one
            return True
        old.send(signal.SIGTERM)
        await old.ended()
        return True

    async def _watch(self, changes: Changes) -> None:
        async for changed in changes:
            names = ", ".join(sorted({Path(path).name for _, path in changed}))
            log.info("changed: %s", names)
            self._reload.set()


class _Process:
    """One process, and the line by which it tells that it is ready, and learns of our end."""

    def __init__(
        self, number: int, process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        self.number = number
        self._process = process
        self._reader = reader
        self._writer = writer
        self._ready: asyncio.Task[bool] = asyncio.create_task(self._hear())
        self._since = 0.0

    @classmethod
    async def start(cls, number: int, command: Sequence[str]) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own: a terminal's Ctrl-C is for the supervisor, which passes it on.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "toril", *command,
                env={**os.environ, VARIABLE: f"{number}:{theirs.fileno()}"},
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        return cls(number, process, *await asyncio.open_unix_connection(sock=ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """It picks up jobs, or has done so."""
        return self._since > 0

    @property
    def steady(self) -> bool:
        """It has been at work for a while."""
        return self.is_ready and time.monotonic() - self._since > _STEADY

    async def _hear(self) -> bool:
        try:
            heard = await self._reader.readexactly(len(READY))
        except (EOFError, OSError):
            return False
        self._since = time.monotonic()
        return heard == READY

    async def ready(self) -> bool:
        """Wait until it picks up jobs; False if it ends before."""
        return await asyncio.shield(self._ready)

    async def ended(self) -> int:
        """Wait for its end. Returns the exit code, or the negative number of the signal."""
        code = await self._process.wait()
        await self._ready
        self._writer.close()
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _changes(folder: Path) -> Changes:
    """What changes below a folder. Raises `ConfigurationError` without the library for it."""
    try:
        import watchfiles
    except ImportError as error:
        raise ConfigurationError(
            "--reload needs the library watchfiles: pip install 'toril[reload]'"
        ) from error
    library: Any = watchfiles  # its types name another library, which need not be installed
    changes: Changes = library.awatch(folder, watch_filter=watchfiles.PythonFilter())
    return changes
