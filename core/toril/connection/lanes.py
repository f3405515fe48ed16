"""Numbering calls, so that one whose reply was lost can be sent again without harm."""

from __future__ import annotations

import os
from itertools import count

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
        self._start(who or new_id())

    def _start(self, who: str) -> None:
        self._who = who
        self._pid = os.getpid()
        self._numbers = count()
        self._free: list[Lane] = []

    @property
    def who(self) -> str:
        """The name under which this process makes its calls."""
        return self._who

    def call(self) -> Lane:
        """A lane that nobody uses, for one call, which is made and answered within `with`."""
        if os.getpid() != self._pid:
            self._start(new_id())  # the parent's numbers go on there
        try:
            return self._free.pop()  # no other thread gets it, too
        except IndexError:
            return Lane(self._who, next(self._numbers), self._free)


class Lane:
    """A lane of a pool, which goes back to those that are free after a call."""

    __slots__ = ("_free", "_n", "_number", "_who")

    def __init__(self, who: str, number: int, free: list[Lane]) -> None:
        self._who = who
        self._number = number
        self._free = free
        self._n = 0

    def __enter__(self) -> CallRecord:
        self._n += 1
        return CallRecord(self._who, self._number, self._n)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Not when it is not known whether the call was made, nor when it was given up.
        if kind is None or (
            issubclass(kind, Exception) and not issubclass(kind, IndeterminateError)
        ):
            self._free.append(self)
