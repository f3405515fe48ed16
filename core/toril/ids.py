"""Job ids made by the client."""

from __future__ import annotations

import os
import random
import threading
import time

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_LENGTH = 16
_RANDOM_BITS = 47
_FIRST_LETTER = 10 * 62 ** (_LENGTH - 1)
"""Added to every number, so that its first digit is a letter and no id looks like an integer."""


class _Ids:
    """Ids of one process: within a millisecond they count upwards from a random start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reseed()

    def reseed(self) -> None:
        self._random = random.Random(os.urandom(32))
        self._last_ms = 0
        self._high = self._place = 0
        self._front = ""

    def new(self) -> str:
        with self._lock:
            ms = time.time_ns() // 1_000_000
            if ms > self._last_ms:
                self._last_ms = ms
                # Half of the range, so that counting up does not leave it.
                low = self._random.getrandbits(_RANDOM_BITS - 1)
                number = _FIRST_LETTER + (ms << _RANDOM_BITS) + low
                self._high, self._place = divmod(number, len(_PAIRS))
                self._front = _front(self._high)
            elif self._place < len(_PAIRS) - 1:
                self._place += 1  # ids that follow one another differ in their last digits only
            else:
                self._high, self._place = self._high + 1, 0
                self._front = _front(self._high)
            return self._front + _PAIRS[self._place]


def _front(number: int) -> str:
    """All digits of an id but the last two, two by two."""
    front = ""
    for _ in range(_LENGTH // 2 - 1):
        number, pair = divmod(number, len(_PAIRS))
        front = _PAIRS[pair] + front
    return front


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.reseed)

new_id = _ids.new
"""A new job id: 16 base-62 characters, the first a letter, ordered by time, no colon."""
