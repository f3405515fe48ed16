"""Ids made by the client: unique, in the order of their making, and what other libraries accept."""

from __future__ import annotations

import re
import threading
import time

import pytest

from toril import ids
from toril.ids import _Ids


def test_they_are_in_the_order_of_their_making() -> None:
    made = [ids.new_id() for _ in range(10_000)]  # more than the last two digits have values
    assert made == sorted(set(made))


def test_they_look_like_no_number_and_no_key() -> None:
    assert re.fullmatch("[A-Za-z][0-9A-Za-z]{15}", ids.new_id())


def test_the_time_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for ms in (1, 61, 62, 62**3 - 1, 62**3, 1_790_000_000_000, 1_790_000_238_328, 2**42):
        monkeypatch.setattr(time, "time_ns", lambda ms=ms: ms * 1_000_000)
        made.append(_Ids().new())  # each with a start of its own
    assert made == sorted(made)
    assert len({id[8:] for id in made}) == len(made)


def test_a_clock_that_goes_back_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _Ids()
    first = mine.new()
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    assert first < mine.new()


def test_threads_never_share_one() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend([ids.new_id() for _ in range(2_000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8_000
