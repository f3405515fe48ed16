"""Renewing the locks of running jobs, from a thread of its own.

A handler that blocks the event loop must not lose its job; so the renewal has its own thread and
its own connection. What holds Python's global lock (a regular expression gone wild, JSON of some
hundred megabytes) stops this thread too: such work belongs in a process of its own. A loop that has
been stuck for longer than `MOST_BLOCKED` locks is taken for dead, and its jobs are given up, so
that others recover them.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from toril.errors import ServerError
from toril.protocol.locking import MOST_RENEWED
from toril.worker.active_job import ActiveJob

log = logging.getLogger("toril.worker")

MOST_BLOCKED: Final = 5
"""Locks are renewed while the loop has been alive within that many locks."""
_STACK_FRAMES: Final = 30

Renew = Callable[[Sequence[ActiveJob]], "set[str]"]
"""Renews the locks of some jobs and tells the ids whose lock is lost. Blocks; own connection."""


class LockKeeper:
    """The thread that renews. The loop hands it jobs with `hold` and shows itself alive by `beat`.

    Args:
        lock: How long a lock lasts, in seconds.
        renew: See `Renew`.
        lost: Called from the thread with the jobs whose locks are lost.
        close: Ends the connection; called once, from the thread.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        lock: float,
        renew: Renew,
        lost: Callable[[Sequence[ActiveJob]], object],
        close: Callable[[], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = lock
        self._renew = renew
        self._lost = lost
        self._close = close
        self._now = now
        self._held: tuple[ActiveJob, ...] = ()
        self._beat = self._renewed = self._woke = now()
        self._warned = self._gave_up = False
        self._stop = threading.Event()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="toril-locks", daemon=True)

    @property
    def period(self) -> float:
        """Seconds between two renewals."""
        return self._lock / 4

    def start(self) -> None:
        self._loop_thread = threading.get_ident()
        self._beat = self._renewed = self._woke = self._now()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it may take as long as a call in flight."""
        self._held = ()
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for the thread, for some seconds at most."""
        self._thread.join(seconds)

    def hold(self, jobs: Iterable[ActiveJob]) -> None:
        """From now on these jobs are renewed, and no others."""
        self._held = tuple(jobs)

    def beat(self) -> None:
        """The loop is alive."""
        self._beat = self._now()
        self._warned = False

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            self.run_once()
        self._close()

    def run_once(self) -> None:
        """Renew what is held, unless the loop seems dead."""
        now, held = self._now(), self._held
        gap, self._woke = now - self._woke, now
        blocked = now - self._beat
        if not held:
            self._renewed = now
            return
        if gap > self._lock / 2:
            log.warning(
                "locks were not renewed for %.1f s: something held up all threads of this "
                "process, such as C code that keeps Python's lock; the loop is at:\n%s",
                gap, self._stack(),
            )  # fmt: skip
        elif blocked > self._lock / 2 and not self._warned:
            self._warned = True
            log.warning(
                "the event loop has been blocked for %.1f s; it is at:\n%s", blocked, self._stack()
            )
        if blocked > self._lock * MOST_BLOCKED:
            self._renewed = now  # its locks run out; whether they have, the next renewal tells
            return
        self._renew_all(held)

    def _renew_all(self, held: tuple[ActiveJob, ...]) -> None:
        lost: list[ActiveJob] = []
        try:
            for first in range(0, len(held), MOST_RENEWED):
                part = held[first : first + MOST_RENEWED]
                gone = self._renew(part)
                lost += [job for job in part if job.id in gone]
            self._renewed = self._now()
            self._gave_up = False
        except ServerError as error:
            if self._now() - self._renewed > self._lock:
                lost = [job for job in held if not job.lost]
                if not self._gave_up:
                    log.warning("no lock could be renewed for a whole lock's time: %s", error)
                self._gave_up = True
        except Exception:
            log.exception("renewing locks broke")
        if lost:
            self._lost(lost)

    def _stack(self) -> str:
        frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        frame = frames.get(self._loop_thread)
        return "".join(traceback.format_stack(frame, _STACK_FRAMES)) if frame else "(unknown)"
