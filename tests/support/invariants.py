"""What holds in a database of queues at any moment, whoever works in it: one checker for all tests.

    assert check(client, "bull") == []

It reads every key under the prefix once, so nothing may write meanwhile. What it says is numbered:

    I2   every job is in exactly one state, and once
    I3   an id stands for a hash with the fields of a job; times and scores agree
    I4   a lock belongs to an active job and ends by itself; at rest nothing is active
    I5   the further keys of a job belong to a job
    I6   whoever waits for children has open ones; every open child is a job that names its parent
    I7   a deduplication window ends, or belongs to a job; schedules and their records agree
    I9   what plugins' indexes say is said of jobs
    I11  every key belongs to something
    I14  no more attempts have ended than begun, or stalled
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

LISTS: Final = ("wait", "paused", "active")
SETS: Final = ("delayed", "prioritized", "waiting-children", "completed", "failed")
JOB_FIELDS: Final = ("name", "data", "opts", "timestamp")
NUMBERS: Final = (
    *("timestamp", "delay", "priority", "processedOn", "finishedOn"),
    *("atm", "ats", "stc"),
)

_QUEUE_KEYS: Final = {
    **dict.fromkeys(LISTS, "list"),
    **dict.fromkeys((*SETS, "marker", "repeat"), "zset"),
    **dict.fromkeys(("id", "pc", "limiter", "stalled-check"), "string"),
    **dict.fromkeys(("metrics:completed", "metrics:failed"), "hash"),
    **dict.fromkeys(("metrics:completed:data", "metrics:failed:data"), "list"),
    "meta": "hash",
    "stalled": "set",
    "events": "stream",
    "toril:stalled:check": "set",
    "toril:flows": "zset",
    "toril:deferred": "zset",
}
_JOB_KEYS: Final = {
    "lock": "string",
    "logs": "list",
    "dependencies": "set",
    "processed": "hash",
    "failed": "hash",
    "unsuccessful": "zset",
}
_CLEANUP_INDEXES: Final = ("own", "at", "nth", "due", "rule", "bucket")
_READ: Final[dict[str, tuple[Any, ...]]] = {
    "list": ("LRANGE", 0, -1),
    "set": ("SMEMBERS",),
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    "string": ("GET",),
    "stream": ("XLEN",),
}
_CHUNK: Final = 2000
_GONE: Final = -2
"""The remaining time of a key that does not exist."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be: which invariant, at which key, and what is wrong."""

    invariant: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.key}: {self.what}"


@dataclass(slots=True)
class StoredQueue:
    """Everything that is stored of one queue, by the part of the key behind the queue's own."""

    key: str
    keys: dict[str, Any] = field(default_factory=dict[str, Any])
    jobs: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    parts: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Of each id: its further keys by their names."""
    states: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Where each id is."""

    def ids(self, state: str) -> list[str]:
        """The ids in a list, or in a set by their scores."""
        return list(self.keys.get(state, ()))

    def score(self, state: str, job_id: str) -> float | None:
        """The score of an id in a set."""
        found: float | None = self.keys.get(state, {}).get(job_id)
        return found

    def part(self, job_id: str, name: str) -> Any:
        """What a further key of a job holds; empty if there is none."""
        return self.parts.get(job_id, {}).get(name, ())


@dataclass(slots=True)
class Stored:
    """Everything under a prefix: the queues by their keys, and what is wrong about single keys."""

    prefix: str
    queues: dict[str, StoredQueue] = field(default_factory=dict[str, StoredQueue])
    ttl: dict[str, int] = field(default_factory=dict[str, int])
    """Of texts: milliseconds until they end, -1 if they do not."""
    strange: list[Violation] = field(default_factory=list[Violation])

    def job(self, key: str) -> dict[str, str] | None:
        """The hash with that key."""
        queue, job_id = self.split(key)
        found = self.queues.get(queue)
        return None if found is None else found.jobs.get(job_id)

    def states_of(self, key: str) -> list[str]:
        """Where the job with that key is."""
        queue, job_id = self.split(key)
        found = self.queues.get(queue)
        return [] if found is None else found.states.get(job_id, [])

    def split(self, key: str) -> tuple[str, str]:
        """The key of a queue, and what follows it."""
        name, _, rest = key.removeprefix(f"{self.prefix}:").partition(":")
        return f"{self.prefix}:{name}", rest


def read(client: redis.Redis, prefix: str = "bull") -> Stored:
    """Everything under `prefix`. The client decodes replies."""
    stored = Stored(prefix)
    names = sorted(set(client.scan_iter(f"{prefix}:*", count=_CHUNK)))
    for start in range(0, len(names), _CHUNK):
        some = names[start : start + _CHUNK]
        for key, (kind, value, ttl) in zip(some, _values(client, stored, some), strict=True):
            if ttl != _GONE:  # it ran out while this was read
                _place(stored, key, kind, value, ttl)
    for queue in stored.queues.values():
        for state in (*LISTS, *SETS):
            for job_id in queue.ids(state):
                queue.states.setdefault(job_id, []).append(state)
    return stored


def _values(
    client: redis.Redis, stored: Stored, names: Sequence[str]
) -> Iterator[tuple[str, Any, int]]:
    """Type, value and remaining time (ms; texts only) of each key."""
    kinds = [_kind(stored.split(name)[1]) for name in names]
    if None in kinds:
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.type(name)
        kinds = ["string" if kind == "none" else kind for kind in pipe.execute()]
    pipe = client.pipeline(transaction=False)
    execute: Any = pipe.execute_command
    for name, kind in zip(names, kinds, strict=True):
        command, *more = _READ[kind or "string"]
        execute(command, name, *more)
        if kind == "string":
            pipe.pttl(name)
    replies = iter(pipe.execute(raise_on_error=False))
    for name, kind in zip(names, kinds, strict=True):
        value, ttl = next(replies), next(replies) if kind == "string" else -1
        if isinstance(value, redis.ResponseError):
            real: Any = client.type(name)
            stored.strange.append(Violation("I11", name, f"a {real} where a {kind} belongs"))
            value = None
        elif kind == "zset":
            value = dict(value)
        yield kind or "", value, ttl


def _kind(rest: str) -> str | None:
    """The type that a key must have by its name; None: the name does not tell."""
    first, colon, last = rest.rpartition(":")
    if rest in _QUEUE_KEYS:
        return _QUEUE_KEYS[rest]
    if not colon:
        return "hash" if rest else None
    if first.partition(":")[0] in ("toril", "de", "dn", "repeat", "metrics"):
        return None
    return _JOB_KEYS.get(last)


def _place(stored: Stored, key: str, kind: str, value: Any, ttl: int) -> None:
    """Put a key where it belongs."""
    queue_key, rest = stored.split(key)
    queue = stored.queues.setdefault(queue_key, StoredQueue(queue_key))
    if kind == "string":
        stored.ttl[key] = ttl
    first, colon, last = rest.rpartition(":")
    head = rest.partition(":")[0]
    schedule = head == "repeat" and rest.count(":") == 1
    if rest in _QUEUE_KEYS or head in ("toril", "de", "dn") or schedule:
        queue.keys[rest] = value
    elif not colon or (head == "repeat" and rest.count(":") == 2):
        if kind == "hash" and rest:
            queue.jobs[rest] = value or {}
        else:
            stored.strange.append(Violation("I11", key, f"a {kind} that belongs to nothing"))
    elif last in _JOB_KEYS:
        queue.parts.setdefault(first, {})[last] = value
    else:
        stored.strange.append(Violation("I11", key, f"a {kind} that belongs to nothing"))


def check(
    client: redis.Redis,
    prefix: str = "bull",
    *,
    at_rest: bool = False,
    owners: Iterable[str] = ("cleanup",),
) -> list[Violation]:
    """Everything that is wrong under `prefix`; empty if all is well.

    Args:
        client: A client that decodes replies.
        prefix: What the names of all keys begin with.
        at_rest: No worker runs and nothing is left to run: nothing may be active either, and no
            parent wait for children that have ended.
        owners: Names of plugins that keep keys of their own.
    """
    return check_stored(read(client, prefix), at_rest=at_rest, owners=owners)


def check_stored(
    stored: Stored, *, at_rest: bool = False, owners: Iterable[str] = ("cleanup",)
) -> list[Violation]:
    """`check` for what has been read."""
    found = list(stored.strange)
    for queue in stored.queues.values():
        for rule in _RULES:
            found += rule(stored, queue)
        found += _owners(stored, queue, frozenset(owners))
        if at_rest:
            found += _rest(stored, queue)
    return found


def _one_state(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    for job_id in queue.jobs:
        states = queue.states.get(job_id, [])
        if len(states) != 1:
            where = " and ".join(states) or "no state"
            yield Violation("I2", f"{queue.key}:{job_id}", f"is in {where}")
    for state in LISTS:
        for job_id, times in Counter(queue.ids(state)).items():
            if times > 1:
                yield Violation("I2", f"{queue.key}:{job_id}", f"is {times} times in {state}")


def _fields(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    for job_id, states in queue.states.items():
        key, job = f"{queue.key}:{job_id}", queue.jobs.get(job_id)
        if job is None:
            yield Violation("I3", key, f"is in {' and '.join(states)} but has no hash")
            continue
        missing = [name for name in JOB_FIELDS if name not in job]
        if missing:
            yield Violation("I3", key, f"has no {', '.join(missing)}")
        for name in NUMBERS:
            if name in job and not job[name].isdecimal():
                yield Violation("I3", key, f"{name} is {job[name]!r}, not a number")
        yield from _times(queue, job_id, job, states[0])


def _times(queue: StoredQueue, job_id: str, job: dict[str, str], state: str) -> Iterator[Violation]:
    key, score = f"{queue.key}:{job_id}", queue.score(state, job_id) if state in SETS else None
    if state in ("completed", "failed"):
        result = "returnvalue" if state == "completed" else "failedReason"
        if result not in job:
            yield Violation("I3", key, f"is {state} without {result}")
        if str(score) != str(float(job.get("finishedOn", "nan"))):
            yield Violation(
                "I3", key, f"finished on {job.get('finishedOn')}, but its score {score}"
            )
    elif "finishedOn" in job:
        yield Violation("I3", key, f"is in {state} but finished on {job['finishedOn']}")
    if state == "prioritized" and score is not None:
        priority = int(score // 2**32)
        if str(priority) != job.get("priority"):
            yield Violation("I3", key, f"priority {job.get('priority')}, but its score {score}")


def _locks(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    active = frozenset(queue.ids("active"))
    for job_id, parts in queue.parts.items():
        key = f"{queue.key}:{job_id}:lock"
        if "lock" not in parts:
            continue
        if job_id not in active:
            where = " and ".join(queue.states.get(job_id, ["no state"]))
            yield Violation("I4", key, f"is locked but in {where}")
        if stored.ttl.get(key) == -1:
            yield Violation("I4", key, "has no end")


def _parts(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    for job_id, parts in queue.parts.items():
        if job_id not in queue.jobs:
            for name in sorted(parts):
                yield Violation(
                    "I5", f"{queue.key}:{job_id}:{name}", "belongs to a job that is gone"
                )


def _parents(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    unfinished = any(other.keys.get("toril:flows") for other in stored.queues.values())
    for job_id in queue.ids("waiting-children"):
        key = f"{queue.key}:{job_id}"
        if not queue.part(job_id, "dependencies"):
            yield Violation("I6", key, "waits for children but has no open one")
        if queue.part(job_id, "unsuccessful"):
            yield Violation("I6", key, "waits for children although one has failed it")
        for child in queue.part(job_id, "dependencies"):
            if stored.states_of(child) == ["completed"]:
                yield Violation("I6", key, f"waits for {child}, which is completed")
    for job_id in queue.jobs:
        for child in queue.part(job_id, "dependencies") if not unfinished else ():
            job = stored.job(child)
            if job is None:
                yield Violation("I6", f"{queue.key}:{job_id}", f"its open child {child} is gone")
            elif job.get("parentKey") != f"{queue.key}:{job_id}":
                yield Violation(
                    "I6", f"{queue.key}:{job_id}", f"{child} belongs to {job.get('parentKey')}"
                )


def _windows(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    for rest, value in queue.keys.items():
        key = f"{queue.key}:{rest}"
        if rest.startswith("de:") and value not in queue.jobs and stored.ttl.get(key) == -1:
            yield Violation("I7", key, f"points for ever at {value}, which is gone")
    records = {rest.removeprefix("repeat:") for rest in queue.keys if rest.startswith("repeat:")}
    for name in records ^ set(queue.ids("repeat")):
        yield Violation("I7", f"{queue.key}:repeat:{name}", "is a schedule by halves")


def _attempts(_stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    for job_id, job in queue.jobs.items():
        ended, begun = _number(job, "atm"), _number(job, "ats")
        if ended > begun:
            yield Violation(
                "I14", f"{queue.key}:{job_id}", f"{ended} attempts ended, {begun} began"
            )


def _number(job: dict[str, str], name: str) -> int:
    text = job.get(name, "0")
    return int(text) if text.isdecimal() else 0


def _flows(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    records = {
        rest.removeprefix("toril:flows:") for rest in queue.keys if rest.startswith("toril:flows:")
    }
    for root in records ^ set(queue.ids("toril:flows")):
        yield Violation("I11", f"{queue.key}:toril:flows:{root}", "is a flow by halves")
    for job_key in queue.ids("toril:deferred"):
        # A parent in another queue is forgotten at the next look of this queue's rescue.
        if job_key.startswith(f"{queue.key}:") and job_key[len(queue.key) + 1 :] not in queue.jobs:
            yield Violation("I11", f"{queue.key}:toril:deferred", f"names {job_key}, which is gone")


def _indexes(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    """What the cleanup plugin has noted about jobs that are gone."""
    noted: defaultdict[str, list[str]] = defaultdict(list)
    for rest, value in queue.keys.items():
        if rest.startswith("toril:cleanup:") and rest.split(":")[2] in _CLEANUP_INDEXES:
            for job_id in value:
                noted[job_id].append(rest)
    for job_id, places in noted.items():
        if job_id not in queue.jobs:
            yield Violation(
                "I9", f"{queue.key}:{job_id}", f"is gone but noted in {', '.join(places)}"
            )


def _owners(stored: Stored, queue: StoredQueue, owners: frozenset[str]) -> Iterator[Violation]:
    for rest in queue.keys:
        key = f"{queue.key}:{rest}"
        if rest.startswith(("toril:call:", "toril:lease:")):
            if stored.ttl.get(key, -1) == -1:
                yield Violation("I11", key, "has no end")
        elif rest.startswith("toril:") and rest not in _QUEUE_KEYS:
            owner = rest.split(":")[1]
            if owner != "flows" and owner not in owners:
                yield Violation("I11", key, "belongs to nothing")


def _rest(stored: Stored, queue: StoredQueue) -> Iterator[Violation]:
    for job_id in queue.ids("active"):
        yield Violation("I4", f"{queue.key}:{job_id}", "is active, and nobody works")
    for job_id in queue.ids("waiting-children"):
        children = queue.part(job_id, "dependencies")
        places = [state for child in children for state in stored.states_of(child)]
        if not {"failed", "waiting-children"}.intersection(places):
            yield Violation("I6", f"{queue.key}:{job_id}", "waits for children, and nobody works")


_RULES: Final[Sequence[Callable[[Stored, StoredQueue], Iterator[Violation]]]] = (
    _one_state,
    _fields,
    _locks,
    _parts,
    _parents,
    _windows,
    _attempts,
    _flows,
    _indexes,
)
