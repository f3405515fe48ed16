"""Job ids made by the client."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_HALF: Final = 8
_FIRST_LETTER: Final = 10 * 62 ** (_HALF - 1)
"""Added to the time, so that its first digit is a letter and no id looks like an integer."""
_FAST: Final = 3
"""Digits of the time that are written anew for each millisecond; the others stay for minutes."""


class _Ids:
    """Ids of one process: the time in ms, then a count from a random start, 8 digits each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reseed()

    def reseed(self) -> None:
        self._ms = self._minutes = -1
        self._time = self._slow = ""
        # Half of the range, so that counting up does not leave it.
        start = int.from_bytes(os.urandom(8)) % (62**_HALF // 2)
        self._high, self._place = divmod(start, len(_PAIRS))
        self._front = _digits(self._high, _HALF - 2)

    def new(self) -> str:
        with self._lock:
            ms = time.time_ns() // 1_000_000
            if ms > self._ms:  # else it goes on with the last one, so that ids stay in their order
                self._ms = ms
                minutes, rest = divmod(ms, 62**_FAST)
                if minutes != self._minutes:
                    self._minutes = minutes
                    slow = minutes + _FIRST_LETTER // 62**_FAST
                    self._slow = _digits(slow, _HALF - _FAST)
                self._time = self._slow + _digits(rest, _FAST)
            self._place += 1
            if self._place == len(_PAIRS):
                self._high, self._place = self._high + 1, 0
                self._front = _digits(self._high, _HALF - 2)
            return self._time + self._front + _PAIRS[self._place]


def _digits(number: int, length: int) -> str:
    text = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        text = _ALPHABET[digit] + text
    return text


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.reseed)

new_id = _ids.new
"""A new job id: 16 base-62 characters, the first a letter, ordered by time, no colon."""
