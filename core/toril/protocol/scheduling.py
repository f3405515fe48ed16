"""Schedules: creating, replacing, pausing, removing and reading them, and their next runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Read, Resend
from toril.errors import InvalidJob
from toril.job_events import JobSaved
from toril.options import short_names
from toril.protocol.codec import encode_json
from toril.protocol.effects import REMOVED, SAVED, Effects, Wants, with_effects
from toril.protocol.keys import queue_name
from toril.protocol.replies import hash_fields, text
from toril.snapshots import JobSnapshot
from toril.types import Json, JsonObject

PAGE: Final = 100

OF_A_RUN: Final = frozenset(
    {"jobId", "delay", "timestamp", "repeatJobKey", "prevMillis", "repeat", "toril"}
)
"""Options that each run has of its own; the others come from the template."""

_PATTERN_TAKEN: Final = -10
_SLOTS_TAKEN: Final = -11
_FIELDS: Final = ("id", "name", "data", "opts", "timestamp", "delay", "priority", "deid")


@dataclass(frozen=True, slots=True)
class Template:
    """What the runs of a schedule are made from.

    `data` is the payload as JSON text, `opts` the options under BullMQ's long names, `own` the hash
    field `toril` as JSON text.
    """

    name: str
    data: str
    opts: JsonObject
    own: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule: the fields of its record, and when its current run is due, in milliseconds."""

    queue: str
    id: str
    fields: Mapping[bytes, bytes]
    due: int | None

    def get(self, field: str) -> str | None:
        """A field of the record, or None."""
        raw = self.fields.get(field.encode())
        return None if raw is None else text(raw)

    def number(self, field: str) -> int | None:
        """A field that holds a number; None if there is none, or it is garbled."""
        raw = self.get(field)
        try:
            return None if raw is None else int(float(raw))
        except (ValueError, OverflowError):
            return None


def upsert(
    queue: str,
    id: str,
    repetition: JsonObject,
    template: Template,
    *,
    due: int | None,
    now: int,
    wants: Wants = frozenset(),
) -> Call[Effects[int]]:
    """Create or replace a schedule with its next run; when that is due, in ms.

    Args:
        queue: The queue's key.
        id: The schedule's id.
        repetition: BullMQ's repeat options, of which it knows `every` or `pattern`, `tz`, `offset`,
            `startDate`, `endDate` (ms) and `limit`.
        template: What its runs are made from.
        due: When the next run of a pattern is due, in ms; None for an interval.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.

    The result raises `InvalidJob` if jobs with the ids of the next runs exist already.
    """
    record: dict[str, Any] = {"name": template.name, **repetition}
    if template.data != "{}":
        record["data"] = template.data
    if template.opts:
        record["opts"] = encode_json(short_names(template.opts), "opts")
    if template.own is not None:
        record["toril"] = template.own
    record.pop("offset", None)
    run = _run(template.opts, {"count": 1, **repetition})
    run |= {"name": template.name, "data": template.data}
    if template.own is not None:
        run["toril"] = template.own
    request = {
        "schedule": id,
        "now": now,
        "fields": [part for field in record.items() for part in map(str, field)],
        "every": repetition.get("every"),
        "start": repetition.get("startDate"),
        "offset": repetition.get("offset"),
        "due": due,
        "run": run,
        "want_removed": REMOVED in wants,
    }

    def parse(reply: Any) -> Effects[int]:
        code, when, stored, told = reply
        if code in (_PATTERN_TAKEN, _SLOTS_TAKEN):
            raise InvalidJob(
                f"schedule {id!r} of queue {queue_name(queue)!r}: jobs with the ids of its next "
                "runs exist already; remove them, or the schedule"
            )
        return with_effects(int(when), told, _saved(queue, stored, wants))

    # Executed once more it replaces what the first execution made by the same.
    return Call("schedule", (queue,), (_pack(request),), parse, Resend.ALWAYS)


def next_run(
    queue: str,
    job: JobSnapshot,
    schedule: str,
    *,
    due: int | None,
    now: int,
    wants: Wants = frozenset(),
) -> Call[Effects[int | None]]:
    """Add the run that follows `job`, which a worker has picked up; when it is due, in ms.

    None if none follows: it was added before, or the schedule is gone or paused.

    Args:
        queue: The queue's key.
        job: The run that was picked up.
        schedule: The schedule's id.
        due: When the next run of a pattern is due, in ms; None for an interval.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.
    """
    repetition = repetition_of(job)
    template = {name: value for name, value in job.opts.items() if name not in OF_A_RUN}
    count = repetition.get("count")
    repetition["count"] = (count if isinstance(count, int) else 0) + 1
    request = {
        "schedule": schedule,
        "job": job.id,
        "now": now,
        "every": repetition.get("every"),
        "due": due,
        "run": _run({"attempts": 0, **template}, repetition),
    }

    def parse(reply: Any) -> Effects[int | None]:
        when, stored, told = reply
        return with_effects(int(when) or None, told, _saved(queue, stored, wants))

    return Call("next_run", (queue,), (_pack(request),), parse, Resend.ALWAYS)


def repetition_of(job: JobSnapshot) -> JsonObject:
    """The repeat options in a run's own options; empty if there are none."""
    stored = job.opts.get("repeat")
    return dict(stored) if isinstance(stored, dict) else {}


def unschedule(
    queue: str, id: str, *, pause: bool, now: int, wants: Wants = frozenset()
) -> Call[Effects[bool]]:
    """Remove a schedule, or pause it, with its next run; False if there is no such schedule."""
    request = {"schedule": id, "now": now, "pause": pause, "want_removed": REMOVED in wants}

    def parse(reply: Any) -> Effects[bool]:
        found, told = reply
        return with_effects(bool(found), told)

    return Call("unschedule", (queue,), (_pack(request),), parse, Resend.ALWAYS)


def read(queue: str, id: str) -> Read[StoredSchedule | None]:
    """One schedule, or None."""

    def parse(replies: list[Any]) -> StoredSchedule | None:
        score, fields = replies
        return None if score is None else _stored(queue, id, score, fields)

    return Read((("ZSCORE", f"{queue}:repeat", id), ("HGETALL", f"{queue}:repeat:{id}")), parse)


def read_all(queue: str) -> Procedure[list[StoredSchedule]]:
    """All schedules, by the time of their current run. Those without a record are left out."""
    found: list[StoredSchedule] = []
    start = 0
    while True:
        page: list[tuple[str, float]] = yield _listed(queue, start)
        if not page:
            return found
        found += yield _records(queue, page)
        start += PAGE


def _listed(queue: str, start: int) -> Read[list[tuple[str, float]]]:
    def parse(replies: list[Any]) -> list[tuple[str, float]]:
        flat = replies[0]
        if flat and isinstance(flat[0], list | tuple):  # as RESP3 has it
            return [(text(id), float(score)) for id, score in flat]
        return [(text(id), float(score)) for id, score in zip(flat[::2], flat[1::2], strict=True)]

    command = ("ZRANGE", f"{queue}:repeat", start, start + PAGE - 1, "WITHSCORES")
    return Read((command,), parse)


def _records(queue: str, page: Sequence[tuple[str, float]]) -> Read[list[StoredSchedule]]:
    def parse(replies: list[Any]) -> list[StoredSchedule]:
        return [
            _stored(queue, id, score, fields)
            for (id, score), fields in zip(page, replies, strict=True)
            if fields
        ]

    return Read(tuple(("HGETALL", f"{queue}:repeat:{id}") for id, _ in page), parse)


def _stored(queue: str, id: str, score: Any, fields: Any) -> StoredSchedule:
    return StoredSchedule(queue, id, hash_fields(fields), int(float(score)))


def _run(opts: Mapping[str, Json], repetition: JsonObject) -> dict[str, Any]:
    """A run as the scripts get it: its options without those that they add."""
    stored = {name: value for name, value in opts.items() if name not in OF_A_RUN}
    priority = stored.get("priority")
    run: dict[str, Any] = {
        "opts": encode_json(short_names(stored), "opts"),
        "repetition": encode_json(repetition, "repeat options"),
        "pattern": "pattern" in repetition,
        "priority": priority if isinstance(priority, int) else 0,
    }
    if stored.get("lifo") is True:
        run["lifo"] = True
    window = stored.get("deduplication")
    if isinstance(window, dict) and window.get("id") is not None:
        run["deid"] = str(window["id"])
    return run


def _saved(queue: str, stored: Sequence[Any], wants: Wants) -> list[JobSaved]:
    if not stored or SAVED not in wants:
        return []
    fields = {
        field.encode(): value if isinstance(value, bytes) else str(value).encode()
        for field, value in zip(_FIELDS, stored, strict=True)
    }
    id = text(fields.pop(b"id"))
    if not fields[b"deid"]:
        del fields[b"deid"]
    return [JobSaved(JobSnapshot(queue_name(queue), id, fields), scheduled=True)]


def _pack(request: Mapping[str, Any]) -> bytes:
    return msgspec.msgpack.encode(
        {key: value for key, value in request.items() if value is not None}
    )
