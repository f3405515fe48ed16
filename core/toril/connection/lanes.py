"""Numbering calls, so that one whose reply was lost can be sent again without harm."""

from __future__ import annotations

import os
import threading

import msgspec

from toril.errors import IndeterminateError
from toril.ids import new_id


class CallRecord(msgspec.Struct, frozen=True, gc=False):
    """The number of one call: `who` makes it, on which `lane`, and the how-manieth there (`n`).

    The script stores its reply in `Q:toril:call:<who>:<lane>` together with `n`.
    """

    who: str
    lane: int
    n: int


class LanePool:
    """Hands out call records: one call at a time on a lane, with numbers that only grow.

    A lane whose call ended in doubt is not used again: a late original must not meet a younger
    call. Safe to use from several threads, and in a forked child, which gets a name of its own.

    `who` is unique among all processes that use the server; None: a new one is made.
    """

    def __init__(self, who: str | None = None) -> None:
        self._lock = threading.Lock()
        self._start(who or new_id())

    def _start(self, who: str) -> None:
        self._who = who
        self._pid = os.getpid()
        self._lanes = 0
        self._free: list[tuple[int, int]] = []

    @property
    def who(self) -> str:
        """The name under which this process makes its calls."""
        return self._who

    def call(self) -> LaneOfCall:
        """The record of one call, which is made and answered within the `with` block."""
        return LaneOfCall(self)

    def take(self) -> CallRecord:
        """A record on a lane that nobody uses."""
        if os.getpid() != self._pid:
            # The parent's numbers go on there; and its lock may be held for ever here.
            self._lock = threading.Lock()
            self._start(new_id())
        with self._lock:
            if self._free:
                lane, n = self._free.pop()
            else:
                lane, n = self._lanes, 0
                self._lanes += 1
            return CallRecord(self._who, lane, n + 1)

    def give_back(self, record: CallRecord) -> None:
        """The lane can be used again."""
        with self._lock:
            if record.who == self._who:
                self._free.append((record.lane, record.n))


class LaneOfCall:
    """A lane of a pool while a call is made on it."""

    __slots__ = ("_pool", "_record")

    def __init__(self, pool: LanePool) -> None:
        self._pool = pool

    def __enter__(self) -> CallRecord:
        self._record = self._pool.take()
        return self._record

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Not when it is not known whether the call was made, nor when it was given up.
        if kind is None or (
            issubclass(kind, Exception) and not issubclass(kind, IndeterminateError)
        ):
            self._pool.give_back(self._record)
