"""Looking at queues and jobs. Nothing here writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import msgspec

from toril.connection.call import Call, Procedure, Read, Resend
from toril.protocol.keys import can_be_job, queue_name
from toril.protocol.replies import hash_fields, json_or_text, text
from toril.snapshots import FinishedJob, JobSnapshot
from toril.types import Json, Outcome, State

T = TypeVar("T")

_LIST_KEYS: Final[Mapping[State, tuple[str, ...]]] = {
    "active": ("active",),
    # Jobs left in a 5.x list of a paused queue are waiting too.
    "waiting": ("wait", "paused"),
}


_PRIORITY_STEP: Final = 2**32
"""The score of a prioritised job is its priority times this, plus a sequence."""


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job and the state it was found in."""

    state: State
    job: JobSnapshot


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs of one or several states.

    `total` counts the jobs of all the states asked for; `missing` are ids that are listed although
    their job does not exist.
    """

    jobs: tuple[ListedJob, ...]
    total: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinishedResult:
    """How a job ended. `outcome` is None while it has not; `exists` False if there is no hash.

    `has_value` False: nothing is stored of what it returned, not even that it was nothing.
    """

    exists: bool
    outcome: Outcome | None = None
    value: Json = None
    reason: str | None = None
    has_value: bool = False


@dataclass(frozen=True, slots=True)
class FinishedCursor:
    """A place among the finished jobs of an outcome: behind the job `id` that ended at `score`."""

    score: str
    id: str


@dataclass(frozen=True, slots=True)
class FinishedPage:
    """Finished jobs, oldest first. `cursor` goes on behind them; None at the end.

    `missing` are ids that are listed although their job does not exist.
    """

    jobs: tuple[FinishedJob, ...]
    cursor: FinishedCursor | None
    missing: tuple[str, ...] = ()


def window_owner(queue: str, deduplication: str) -> Read[str | None]:
    """The id of the job that owns a deduplication window; None if it is not open."""

    def parse(replies: list[Any]) -> str | None:
        return None if replies[0] is None else text(replies[0])

    return Read((("GET", f"{queue}:de:{deduplication}"),), parse)


@dataclass(frozen=True, slots=True)
class RateWindow:
    """The window in which a queue's jobs are counted: how many, and how long it still is.

    `left_ms` is None if there is no window, or one without an end, which limits nothing.
    """

    count: int
    left_ms: int | None


def rate_window(queue: str) -> Read[RateWindow]:
    """The window of the rate limit."""
    key = f"{queue}:limiter"

    def parse(replies: list[Any]) -> RateWindow:
        counted, left = replies
        return RateWindow(int(counted or 0), left if left > 0 else None)

    return Read((("GET", key), ("PTTL", key)), parse)


@dataclass(frozen=True, slots=True)
class Logs:
    """Some log lines of a job, oldest first, and how many it has."""

    lines: tuple[str, ...]
    total: int


@dataclass(frozen=True, slots=True)
class QueueMeta:
    """The settings of a queue: BullMQ's own by name, everything as stored in `fields`.

    `concurrency`: jobs running at once in the whole queue; `max` per `duration` (ms): its rate
    limit. None: not set, or not a number.
    """

    paused: bool
    concurrency: int | None
    max: int | None
    duration: int | None
    version: str | None
    fields: Mapping[str, str]


def job(queue: str, id: str, prefix: str | None = None) -> Read[JobSnapshot | None]:
    """The job as it is stored now; None if there is none.

    `prefix`: that of the queue, if the snapshot shall have it.
    """

    def parse(replies: list[Any]) -> JobSnapshot | None:
        if not replies[0] or not can_be_job(id):
            return None
        return JobSnapshot(queue_name(queue), id, hash_fields(replies[0]), prefix)

    command = "HGETALL" if can_be_job(id) else "EXISTS"  # `wait` names a list
    return Read(((command, f"{queue}:{id}"),), parse)


def jobs(
    queue: str, ids: Sequence[str], prefix: str | None = None
) -> Procedure[list[JobSnapshot | None]]:
    """Jobs by their ids; None where there is none, or its key is garbled. `prefix`: see `job`."""
    name = queue_name(queue)
    found: list[JobSnapshot | None] = []
    while len(found) < len(ids):
        part = ids[len(found) : len(found) + 100]
        arguments = (msgspec.msgpack.encode({"ids": part}),)
        hashes: list[Any] = yield Call("jobs", (queue,), arguments, list, Resend.ALWAYS)
        found += [
            JobSnapshot(name, job_id, hash_fields(fields), prefix)
            if fields and can_be_job(job_id)
            else None
            for job_id, fields in zip(part, hashes, strict=False)
        ]
    return found


def state(queue: str, id: str) -> Call[State]:
    """In which state the job is; `unknown` if it is in none."""

    def parse(found: Sequence[Any]) -> State:
        return cast(State, text(found[0]))

    return _look(queue, id, (), parse)


def states(queue: str, ids: Sequence[str]) -> Procedure[list[State]]:
    """In which states jobs are, at most 100 a call."""
    found: list[State] = []
    while len(found) < len(ids):
        part = ids[len(found) : len(found) + 100]
        request = msgspec.msgpack.encode({"ids": part, "fields": ()})
        told: Sequence[Any] = yield Call("state", (queue,), (request,), list, Resend.ALWAYS)
        found.extend(cast(State, text(one[0])) for one in told)
    return found


def finished_result(queue: str, id: str) -> Call[FinishedResult]:
    """Whether the job has ended, and how."""

    def parse(found: Sequence[Any]) -> FinishedResult:
        where, exists, value, reason = text(found[0]), bool(found[1]), found[2], found[3]
        if where not in {"completed", "failed"}:
            return FinishedResult(exists)
        return FinishedResult(
            exists,
            cast(Outcome, where),
            None if value is None else json_or_text(value),
            None if reason is None else text(reason),
            value is not None,
        )

    return _look(queue, id, ("returnvalue", "failedReason"), parse, ended=True)


def counts(queue: str, states: Sequence[State]) -> Read[dict[State, int]]:
    """How many jobs are in each of `states`."""
    commands = tuple(
        ("LLEN" if state in _LIST_KEYS else "ZCARD", f"{queue}:{key}")
        for state in states
        for key in _keys(state)
    )

    def parse(replies: list[Any]) -> dict[State, int]:
        sizes = iter(cast("list[int]", replies))
        return {state: sum(next(sizes) for _ in _keys(state)) for state in states}

    return Read(commands, parse)


def counts_per_priority(queue: str, priorities: Sequence[int]) -> Read[dict[int, int]]:
    """How many jobs wait for a worker with each of these priorities; 0: without any."""
    asked = tuple(dict.fromkeys(priorities))
    commands: list[tuple[str | int, ...]] = []
    for priority in asked:
        if priority:
            lowest = priority * _PRIORITY_STEP
            commands.append(("ZCOUNT", f"{queue}:prioritized", lowest, lowest + _PRIORITY_STEP - 1))
        else:
            commands += [("LLEN", f"{queue}:{key}") for key in _LIST_KEYS["waiting"]]

    def parse(replies: list[Any]) -> dict[int, int]:
        sizes = iter(cast("list[int]", replies))
        lists = len(_LIST_KEYS["waiting"])
        return {
            priority: sum(next(sizes) for _ in range(1 if priority else lists))
            for priority in asked
        }

    return Read(tuple(commands), parse)


def page(
    queue: str, states: Sequence[State], start: int, stop: int, *, ascending: bool
) -> Procedure[Page]:
    """The jobs in the places `start` to `stop` (inclusive, from 0) of some states.

    The states are read as one row, in the order given. `ascending`: what ran or will run first
    comes first. Reads at most 100 jobs at a time, so that a long page is not one moment's picture;
    a job that moved in between is given once.
    """
    listed: dict[str, ListedJob] = {}
    missing: dict[str, None] = {}
    total, place = 0, start
    while True:
        request = {"states": states, "first": place, "last": stop, "ascending": ascending}
        total, following, jobs, gone = yield Call(
            "page", (queue,), (msgspec.msgpack.encode(request),), list, Resend.ALWAYS
        )
        for where, job_id, fields in jobs:
            found = JobSnapshot(queue_name(queue), text(job_id), hash_fields(fields))
            listed.setdefault(found.id, ListedJob(cast(State, text(where)), found))
        missing.update(dict.fromkeys(map(text, gone)))
        if following == place or following > min(stop, total - 1):
            return Page(tuple(listed.values()), total, tuple(missing))
        place = following


def finished_page(
    queue: str,
    outcome: Outcome,
    after: FinishedCursor | None,
    limit: int,
    *,
    before: int | None = None,
) -> Call[FinishedPage]:
    """Up to `limit` (at most 100) jobs that ended with `outcome`, in the order they ended.

    Args:
        queue: The key of the queue.
        outcome: `completed` or `failed`.
        after: Go on behind this place, whether or not its job still exists; None: the oldest.
        limit: At most that many jobs; a page may hold fewer when they are large.
        before: Only jobs that ended up to this time, in milliseconds since the epoch.

    A job that ends later with an earlier time (another clock) is not seen by a later page.
    """
    request = {
        "outcome": outcome,
        "score": after.score if after else "",
        "id": after.id if after else "",
        "before": "" if before is None else str(before),
        "limit": min(limit, 100),
    }

    def parse(reply: Any) -> FinishedPage:
        jobs: list[FinishedJob] = []
        missing: list[str] = []
        for raw_id, _, raw_fields in reply:
            job_id, fields = text(raw_id), hash_fields(raw_fields)
            if fields:
                jobs.append(FinishedJob(queue_name(queue), job_id, fields, outcome, "foreign"))
            else:
                missing.append(job_id)
        cursor = FinishedCursor(text(reply[-1][1]), text(reply[-1][0])) if reply else None
        return FinishedPage(tuple(jobs), cursor, tuple(missing))

    arguments = (msgspec.msgpack.encode(request),)
    return Call("finished", (queue,), arguments, parse, Resend.ALWAYS)


def logs(queue: str, id: str, start: int, stop: int) -> Read[Logs]:
    """The log lines in the places `start` to `stop` (inclusive; -1 is the newest)."""
    key = f"{queue}:{id}:logs"
    return Read(
        (("LRANGE", key, start, stop), ("LLEN", key)),
        lambda replies: Logs(tuple(map(text, replies[0])), replies[1]),
    )


def queues(prefix: str) -> Procedure[list[str]]:
    """The names of the queues under `prefix` (`bull`), sorted: those that have a `meta` hash.

    Walks the key space in steps of about 1000 keys, in a cluster of one server after the other.
    """
    match = f"{_escaped(prefix)}:*:meta"
    found: set[str] = set()
    shard, cursor = 0, "0"
    while (page := (yield _hashes(shard, match, cursor))) is not None:
        keys, cursor = page
        for key in keys:
            name = key[len(prefix) + 1 : -len(":meta")]
            # A colon means: a job called "meta", or a longer prefix.
            if name and ":" not in name:
                found.add(name)
        shard += cursor == "0"
    return sorted(found)


def _hashes(shard: int, match: str, cursor: str) -> Read[tuple[list[str], str] | None]:
    """One step through a server's hashes whose key matches, and the next cursor."""
    command = ("SCAN", cursor, "MATCH", match, "COUNT", 1000, "TYPE", "hash")
    return Read((command,), lambda replies: _scanned(replies[0]) if replies else None, shard)


def _scanned(reply: Sequence[Any]) -> tuple[list[str], str]:
    return list(map(text, reply[1])), text(reply[0])


def queue_keys(queue: str) -> Procedure[list[str]]:
    """Every key that begins with the key of the queue, sorted. Walks the whole key space."""
    found: set[str] = set()
    cursor = "0"
    while True:
        keys, cursor = yield keys_of(queue, cursor)
        found.update(keys)
        if cursor == "0":
            return sorted(found)


def keys_of(queue: str, cursor: str) -> Call[tuple[list[str], str]]:
    """One step through the keys that begin with the key of the queue, and the next cursor.

    About 1,000 keys of its server are looked at. The cursor is `"0"` at both ends.
    """
    request = {"cursor": cursor, "match": f"{_escaped(queue)}:*"}
    return Call("scan", (queue,), (msgspec.msgpack.encode(request),), _scanned, Resend.ALWAYS)


def meta(queue: str) -> Read[QueueMeta]:
    """The settings of the queue."""

    def parse(replies: list[Any]) -> QueueMeta:
        fields = {text(name): text(value) for name, value in hash_fields(replies[0]).items()}

        def number(name: str) -> int | None:
            value = fields.get(name, "")
            return int(value) if value.isdecimal() else None

        return QueueMeta(
            paused="paused" in fields,
            concurrency=number("concurrency"),
            max=number("max"),
            duration=number("duration"),
            version=fields.get("version"),
            fields=fields,
        )

    return Read((("HGETALL", f"{queue}:meta"),), parse)


def _escaped(name: str) -> str:
    """The name as a pattern that matches nothing but itself."""
    return "".join(f"\\{char}" if char in r"\*?[]" else char for char in name)


def _keys(state: State) -> tuple[str, ...]:
    return _LIST_KEYS.get(state, (state,))


def _look(
    queue: str,
    id: str,
    fields: Sequence[str],
    parse: Callable[[Sequence[Any]], T],
    *,
    ended: bool = False,
) -> Call[T]:
    """One job's state, whether its hash exists, and some of its fields, at one moment.

    `ended`: only whether it has ended is of interest, which costs no look through the lists.
    """
    request = msgspec.msgpack.encode({"ids": [id], "fields": fields, "ended": ended})
    return Call("state", (queue,), (request,), lambda reply: parse(reply[0]), Resend.ALWAYS)
