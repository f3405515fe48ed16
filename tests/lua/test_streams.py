from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.running import Runner
from tests.lua.seeding import OTHER, Q

from toril.protocol.streams import QueueEvent, events_after, last_event_id, wait_for_events


def add(raw: redis.Redis, queue: str = Q, **fields: Any) -> str:
    stored: dict[Any, Any] = fields
    return str(raw.xadd(f"{queue}:events", stored))


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"event": "added", "jobId": "j", "name": "send"}, {"name": "send"}),
        ({"event": "waiting", "jobId": "j", "prev": "failed"}, {"prev": "failed"}),
        ({"event": "completed", "jobId": "j", "returnvalue": '{"a":[1]}'},
         {"returnvalue": {"a": [1]}}),
        ({"event": "completed", "jobId": "j", "returnvalue": "oops"}, {"returnvalue": "oops"}),
        ({"event": "failed", "jobId": "j", "failedReason": '"quoted"'},
         {"failedReason": '"quoted"'}),
        ({"event": "progress", "jobId": "j", "data": "50"}, {"data": 50}),
        ({"event": "delayed", "jobId": "j", "delay": "1790000060000"}, {"delay": 1790000060000}),
        ({"event": "retries-exhausted", "jobId": "j", "attemptsMade": "3"}, {"attemptsMade": 3}),
        ({"event": "mine", "jobId": "j", "data": "50"}, {"data": "50"}),
    ],
)  # fmt: skip
def test_what_an_entry_says(
    run: Runner, raw: redis.Redis, fields: dict[str, str], event: dict[str, Any]
) -> None:
    entry = add(raw, **fields)
    [found] = run(events_after(Q, "0-0", 10))
    assert found == QueueEvent(fields["event"], entry, "j", event)
    assert found.timestamp == int(entry.partition("-")[0])


def test_events_without_a_job(run: Runner, raw: redis.Redis) -> None:
    add(raw, event="drained")
    add(raw, event="cleaned", count="7")
    add(raw, strange="entry")
    found = run(events_after(Q, "0-0", 10))
    assert [(event.kind, event.job_id, event.fields) for event in found] == [
        ("drained", None, {}),
        ("cleaned", None, {"count": 7}),
        ("", None, {"strange": "entry"}),
    ]


def test_bytes_that_are_no_text_do_not_stop_a_reader(run: Runner, raw: redis.Redis) -> None:
    add(raw, event="completed", jobId="j", returnvalue=b"\xff\xfe")
    [found] = run(events_after(Q, "0-0", 10))
    assert found.fields == {"returnvalue": "\ufffd\ufffd"}


def test_going_on_behind_an_entry(run: Runner, raw: redis.Redis) -> None:
    assert run(last_event_id(Q)) == "0-0"
    assert run(events_after(Q, "0-0", 10)) == ()
    ids = [add(raw, event=f"e{n}") for n in range(5)]
    assert run(last_event_id(Q)) == ids[-1]
    assert [event.id for event in run(events_after(Q, ids[1], 2))] == ids[2:4]
    assert run(events_after(Q, ids[-1], 2)) == ()


def test_waiting_for_several_queues(run: Runner, raw: redis.Redis) -> None:
    first = add(raw, event="a")
    second = add(raw, event="b")
    other = add(raw, OTHER, event="c")
    command, parse = wait_for_events({Q: first, OTHER: "0-0"}, 1, 10)
    found = parse(run.raw(*command))
    assert {queue: [event.id for event in events] for queue, events in found.items()} == {
        Q: [second],
        OTHER: [other],
    }
    command, parse = wait_for_events({Q: second}, 1, 10)
    assert parse(run.raw(*command)) == {}
