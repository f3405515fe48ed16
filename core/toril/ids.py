"""Job ids made by the client."""

from __future__ import annotations

import itertools
import os
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LAST_TWO: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_HALF: Final = 8
_FIRST_LETTER: Final = 10 * 62 ** (_HALF - 1)
"""Added to the time, so that its first digit is a letter and no id looks like an integer."""


class _Ids:
    """Ids of one process: the time in ms, then a count from a random start, 8 digits each.

    Safe to use from several threads without a lock, which costs more than the rest where an id is
    made once in a while: none gets the number of another.
    """

    def __init__(self) -> None:
        self.reseed()

    def reseed(self) -> None:
        # Half of the range, so that counting up does not leave it.
        self._count = itertools.count(int.from_bytes(os.urandom(8)) % (62**_HALF // 2))
        self._time = -1, ""  # each with its digits
        self._front = -1, ""

    def new(self) -> str:
        ms = time.time_ns() // 1_000_000
        last, text = self._time
        if ms > last:  # else it goes on with the last one, so that ids stay in their order
            text = _digits(ms + _FIRST_LETTER, _HALF)
            self._time = ms, text
        number, place = divmod(next(self._count), len(_LAST_TWO))
        last, front = self._front
        if number != last:
            front = _digits(number, _HALF - 2)
            self._front = number, front
        return text + front + _LAST_TWO[place]


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
