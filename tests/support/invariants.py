"""What holds in a database of queues at any moment, whoever works in it.

    assert check(client, "bull") == []

It reads every key under the prefix once, so nothing may write meanwhile, and asks the rules of
Toril's own audit about each job and each key (`toril.protocol.invariants`). Only what has no place
in an audit is said here: that every key belongs to something (`strange`), what holds between
queues at rest (`rest`), and what the cleanup plugin's index may say (`drift`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from toril.protocol.invariants import (
    LISTS,
    PARTS,
    QUEUE_KEYS,
    SETS,
    OpenChild,
    OtherKey,
    StoredJob,
    Wrong,
    halves,
    wrong_about,
    wrong_about_key,
)

_CLEANUP_INDEXES: Final = ("own", "at", "nth", "due", "rule", "bucket")
_READ: Final[dict[str, tuple[Any, ...]]] = {
    "list": ("LRANGE", 0, -1),
    "set": ("SMEMBERS",),
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    "string": ("GET",),
    "stream": ("XLEN",),
}
_CORE: Final = frozenset({"call", "lease", "flows", "workers"})
"""Behind `toril:`, what is not a plugin's."""
_CHUNK: Final = 2000
_GONE: Final = -2
"""The remaining time of a key that does not exist."""


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
    strange: list[Wrong] = field(default_factory=list[Wrong])

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
            stored.strange.append(Wrong("strange", name, f"a {real} where a {kind} belongs"))
            value = None
        elif kind == "zset":
            value = dict(value)
        yield kind or "", value, ttl


def _kind(rest: str) -> str | None:
    """The type that a key must have by its name; None: the name does not tell."""
    first, colon, last = rest.rpartition(":")
    if rest in QUEUE_KEYS:
        return QUEUE_KEYS[rest]
    if not colon:
        return "hash" if rest else None
    if first.partition(":")[0] in ("toril", "de", "dn", "repeat", "metrics"):
        return None
    return PARTS.get(last)


def _place(stored: Stored, key: str, kind: str, value: Any, ttl: int) -> None:
    """Put a key where it belongs."""
    queue_key, rest = stored.split(key)
    queue = stored.queues.setdefault(queue_key, StoredQueue(queue_key))
    if kind == "string":
        stored.ttl[key] = ttl
    first, colon, last = rest.rpartition(":")
    head = rest.partition(":")[0]
    schedule = head == "repeat" and rest.count(":") == 1
    if rest in QUEUE_KEYS or head in ("toril", "de", "dn") or schedule:
        queue.keys[rest] = value
    elif not colon or (head == "repeat" and rest.count(":") == 2):
        if kind == "hash" and rest:
            queue.jobs[rest] = value or {}
        else:
            stored.strange.append(Wrong("strange", key, f"a {kind} that belongs to nothing"))
    elif last in PARTS:
        queue.parts.setdefault(first, {})[last] = value
    else:
        stored.strange.append(Wrong("strange", key, f"a {kind} that belongs to nothing"))


def check(
    client: redis.Redis,
    prefix: str = "bull",
    *,
    at_rest: bool = False,
    owners: Iterable[str] = ("cleanup",),
) -> list[Wrong]:
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
) -> list[Wrong]:
    """`check` for what has been read."""
    found = list(stored.strange)
    unfinished = any(queue.keys.get("toril:flows") for queue in stored.queues.values())
    for queue in stored.queues.values():
        ids = {**queue.jobs, **queue.states, **queue.parts}
        wrong = [each for id in ids for each in wrong_about(_job(stored, queue, id))]
        found += [each for each in wrong if not (unfinished and each.kind == "missing-child")]
        found += [each for rest in queue.keys for each in _key(stored, queue, rest)]
        found += _owners(queue, frozenset(owners))
        found += _drift(queue)
        if at_rest:
            found += _rest(stored, queue)
    return found


def _job(stored: Stored, queue: StoredQueue, id: str) -> StoredJob:
    """The job as the audit sees it."""
    parts = queue.parts.get(id, {})
    return StoredJob(
        queue.key,
        id,
        "hash" if id in queue.jobs else "none",
        queue.jobs.get(id, {}),
        {state: queue.keys[state][id] for state in SETS if id in queue.keys.get(state, {})},
        {state: times for state in LISTS if (times := queue.ids(state).count(id))},
        {name: PARTS[name] for name in parts},
        stored.ttl.get(f"{queue.key}:{id}:lock"),
        len(queue.part(id, "dependencies")),
        [_child(stored, key) for key in queue.part(id, "dependencies")],
    )


def _child(stored: Stored, key: str) -> OpenChild:
    job = stored.job(key)
    completed = stored.states_of(key) == ["completed"]
    return OpenChild(key, (job or {}).get("parentKey", ""), job is not None, completed)


def _key(stored: Stored, queue: StoredQueue, rest: str) -> Iterator[Wrong]:
    value, key = queue.keys[rest], f"{queue.key}:{rest}"
    names_job = isinstance(value, str) and value in queue.jobs
    kind = "string" if key in stored.ttl else QUEUE_KEYS.get(rest, "?")
    yield from wrong_about_key(queue.key, OtherKey(rest, kind, stored.ttl.get(key, -1), names_job))
    if rest == "toril:deferred":
        for parent in value:
            if stored.job(parent) is None:
                yield Wrong("deferred-left", key, f"names {parent}, which is gone")


def _owners(queue: StoredQueue, owners: frozenset[str]) -> Iterator[Wrong]:
    for rest in queue.keys:
        owner = rest.split(":")[1] if rest.startswith("toril:") else ""
        if rest not in QUEUE_KEYS and owner and owner not in _CORE | owners:
            yield Wrong("strange", f"{queue.key}:{rest}", "belongs to nothing")
    for kind in ("repeat", "toril:flows"):
        stored = {rest[len(kind) + 1 :] for rest in queue.keys if rest.startswith(f"{kind}:")}
        yield from halves(queue.key, kind, set(queue.ids(kind)), stored)


def _drift(queue: StoredQueue) -> Iterator[Wrong]:
    """What the cleanup plugin has noted about jobs that are gone."""
    for rest, value in queue.keys.items():
        if rest.startswith("toril:cleanup:") and rest.split(":")[2] in _CLEANUP_INDEXES:
            for id in value:
                if id not in queue.jobs:
                    yield Wrong("drift", f"{queue.key}:{id}", f"is gone but noted in {rest}")


def _rest(stored: Stored, queue: StoredQueue) -> Iterator[Wrong]:
    for id in queue.ids("active"):
        yield Wrong("rest", f"{queue.key}:{id}", "is active, and nobody works")
    for id in queue.ids("waiting-children"):
        children = queue.part(id, "dependencies")
        places = [state for child in children for state in stored.states_of(child)]
        if not {"failed", "waiting-children"}.intersection(places):
            yield Wrong("rest", f"{queue.key}:{id}", "waits for children, and nobody works")
