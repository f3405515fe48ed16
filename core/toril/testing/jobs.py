"""Pictures of jobs that no server has, to test functions that look at one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from toril.ids import new_id
from toril.options import short_names
from toril.setting import Setting
from toril.snapshots import FinishedJob, JobSnapshot
from toril.types import FinishCause, Json, Outcome

CREATED: Final = 1_700_000_000_000
"""When such a job was created, in milliseconds since the epoch, unless a test says otherwise."""

HOSTILE_DATA: Final[tuple[Json, ...]] = (
    None,
    0,
    -1.5,
    True,
    "",
    "text",
    [],
    [[], {}],
    {},
    {"": None},
    {"id": {"id": [None]}, "name": 7, "tier": ["gold"], "customer": "nobody"},
    {"customer": {"tier": None, "id": 2**53}, "date": "yesterday", "amount": "12,50"},
    {"a b": "\x00", "ключ": "значение", "😀": "\u2028", "__class__": "str", "toString": 1},
    {"long": "x" * 10_000, "deep": [[[[[[[[[[{}]]]]]]]]]]},
)
"""Payloads that any program may add: valid JSON, and not what a plugin hopes for."""


def job_snapshot(
    queue: str = "jobs",
    name: str = "job",
    data: Json = None,
    /,
    *settings: Setting,
    id: str | None = None,
    opts: Mapping[str, Json] | None = None,
    attempts_made: int = 0,
    created: int = CREATED,
    parent: tuple[str, str] | None = None,
) -> JobSnapshot:
    """A job that waits, as a plugin is shown it.

    Args:
        queue: The name of its queue.
        name: What kind of job it is.
        data: The payload.
        settings: What was said for this one job.
        id: Its id; None: a new one.
        opts: BullMQ options by their long names.
        attempts_made: Attempts that have ended.
        created: When it was added, in milliseconds since the epoch.
        parent: The queue and the id of its parent.
    """
    fields = _fields(name, data, settings, opts, attempts_made, created, parent)
    return JobSnapshot(queue, id or new_id(), fields)


def finished_job(
    queue: str = "jobs",
    name: str = "job",
    data: Json = None,
    /,
    *settings: Setting,
    outcome: Outcome = "completed",
    cause: FinishCause = "processor",
    result: Json = None,
    reason: str = "it went wrong",
    finished: int = CREATED + 1000,
    id: str | None = None,
    opts: Mapping[str, Json] | None = None,
    attempts_made: int = 1,
    created: int = CREATED,
    parent: tuple[str, str] | None = None,
) -> FinishedJob:
    """A job that has ended, as a plugin is shown it.

    Args:
        queue: The name of its queue.
        name: What kind of job it is.
        data: The payload.
        settings: What was said for this one job.
        outcome: How it ended.
        cause: Who ended it.
        result: What its handler returned, if it completed.
        reason: Why it failed, if it did.
        finished: When it ended, in milliseconds since the epoch.
        id: Its id; None: a new one.
        opts: BullMQ options by their long names.
        attempts_made: Attempts that have ended.
        created: When it was added, in milliseconds since the epoch.
        parent: The queue and the id of its parent.
    """
    fields = _fields(name, data, settings, opts, attempts_made, created, parent)
    fields[b"processedOn"] = b"%d" % created
    fields[b"finishedOn"] = b"%d" % finished
    if outcome == "completed":
        fields[b"returnvalue"] = msgspec.json.encode(result)
    else:
        fields[b"failedReason"] = reason.encode()
        fields[b"stacktrace"] = msgspec.json.encode([f"Error: {reason}"])
    return FinishedJob(queue, id or new_id(), fields, outcome, cause)


def hostile_jobs() -> Iterator[FinishedJob]:
    """Finished jobs of every odd kind: each payload of `HOSTILE_DATA`, completed and failed."""
    for data in HOSTILE_DATA:
        yield finished_job("jobs", "job", data)
        yield finished_job("jobs", "", data, outcome="failed", reason="", cause="foreign")
    yield finished_job("jobs", "a:b c", result={"a": [1]}, opts={"attempts": 0}, attempts_made=0)
    yield finished_job("{jobs}", "😀", outcome="failed", reason="\x00 0x1f \u2028 " + "y" * 5000)
    yield finished_job("jobs", "job", {}, parent=("other", "1"), cause="stalled", finished=1)


def _fields(  # noqa: PLR0917 - both callers have them all
    name: str,
    data: Json,
    settings: tuple[Setting, ...],
    opts: Mapping[str, Json] | None,
    attempts_made: int,
    created: int,
    parent: tuple[str, str] | None,
) -> dict[bytes, bytes]:
    """The stored fields that every job has."""
    fields = {
        b"name": name.encode(),
        b"data": msgspec.json.encode(data),
        b"opts": msgspec.json.encode(short_names(opts or {})),
        b"timestamp": b"%d" % created,
        b"delay": b"0",
        b"priority": b"0",
        b"atm": b"%d" % attempts_made,
        b"ats": b"%d" % attempts_made,
    }
    if parent is not None:
        fields[b"parentKey"] = f"bull:{parent[0]}:{parent[1]}".encode()
    if settings:
        said = {
            each.name: [{"v": each.encode(), "l": "job", "s": "test", "t": created}]
            for each in settings
        }
        fields[b"toril"] = msgspec.json.encode({"said": said})
    return fields
