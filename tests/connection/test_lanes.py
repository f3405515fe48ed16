"""Numbers of calls: never twice the same, never two at a time on a lane."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from toril.connection.lanes import CallRecord, LanePool
from toril.errors import IndeterminateError, ServerFull


def test_calls_one_after_the_other_use_one_lane() -> None:
    lanes = LanePool("anna")
    numbers: list[CallRecord] = []
    for _ in range(3):
        with lanes.call() as record:
            numbers.append(record)
    assert numbers == [CallRecord("anna", 0, n) for n in (1, 2, 3)]


def test_calls_at_once_use_a_lane_each() -> None:
    lanes = LanePool()
    with lanes.call() as one, lanes.call() as two:
        assert (one.who, one.n) == (two.who, two.n)
        assert one.lane != two.lane


def test_lane_goes_on_after_a_clear_failure() -> None:
    lanes = LanePool()
    with pytest.raises(ServerFull), lanes.call():
        raise ServerFull
    with lanes.call() as record:
        assert (record.lane, record.n) == (0, 2)


@pytest.mark.parametrize("doubt", [IndeterminateError("?"), asyncio.CancelledError()])
def test_lane_is_dropped_after_a_doubt(doubt: BaseException) -> None:
    lanes = LanePool()
    with pytest.raises(type(doubt)), lanes.call():
        raise doubt
    with lanes.call() as record:
        assert (record.lane, record.n) == (1, 1)


def test_threads_never_share_a_number() -> None:
    lanes = LanePool()
    seen: list[CallRecord] = []

    def work() -> None:
        for _ in range(300):
            with lanes.call() as record:
                seen.append(record)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == len(seen) == 8 * 300
    assert {record.lane for record in seen} <= set(range(8))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_makes_its_calls_under_its_own_name() -> None:
    lanes = LanePool()
    with lanes.call():
        pass
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with lanes.call() as record:
                os.write(write_end, f"{record.who} {record.n}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    who, n = os.read(read_end, 100).decode().split()
    os.close(read_end)
    os.close(write_end)
    assert who != lanes.who
    assert n == "1"
