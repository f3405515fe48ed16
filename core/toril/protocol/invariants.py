"""What holds of every stored job at any moment, whoever works: one checker for audit and tests.

A rule sees one job as it was stored at one moment (`StoredJob`) and says what is wrong about it.
Kinds of what can be wrong, and what repairs it, are in the documentation of the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

LISTS: Final = ("wait", "paused", "active")
SETS: Final = ("delayed", "prioritized", "waiting-children", "completed", "failed")
JOB_FIELDS: Final = ("name", "data", "opts", "timestamp")
NUMBERS: Final = (
    *("timestamp", "delay", "priority", "processedOn", "finishedOn"),
    *("atm", "ats", "stc"),
)
PARTS: Final[Mapping[str, str]] = {
    "lock": "string",
    "logs": "list",
    "dependencies": "set",
    "processed": "hash",
    "failed": "hash",
    "unsuccessful": "zset",
}
"""The further keys of a job, and their types."""

QUEUE_KEYS: Final[Mapping[str, str]] = {
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
    "toril:said": "stream",
}
"""What follows a queue's key in its other keys, and their types."""

LAST_DATE: Final = 8.64e15
"""Milliseconds since the epoch; a finished job with a score beyond it is marked, not dated."""


@dataclass(frozen=True, slots=True)
class OpenChild:
    """A child that a parent waits for: the parent it names itself, and whether it has completed."""

    key: str
    parent_key: str = ""
    exists: bool = True
    completed: bool = False


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it was stored at one moment.

    `type` is that of its key (`hash`; `none`: there is none), `scores` the sorted sets it is in,
    `lists` how often it is in which list, `parts` its further keys and their types, `lock_ttl` the
    milliseconds until its lock ends (-1: never). `open` counts the children it waits for, of which
    `children` are some.
    """

    queue: str
    id: str
    type: str
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    lists: Mapping[str, int] = field(default_factory=dict[str, int])
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    lock_ttl: int | None = None
    open: int = 0
    children: Sequence[OpenChild] = ()

    @property
    def key(self) -> str:
        return f"{self.queue}:{self.id}"

    @property
    def states(self) -> list[str]:
        """Where it is."""
        return [*self.scores, *self.lists]


@dataclass(frozen=True, slots=True)
class OtherKey:
    """A key of a queue that is no job's: what follows the queue's in it, and its type.

    `ttl`: milliseconds until it ends (-1: never, -2: it is gone). `names_job`: it is a text, the id
    of a job that is there.
    """

    rest: str
    type: str
    ttl: int
    names_job: bool = False


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that must not be: which kind, at which key, and what is wrong.

    `children`: the children that it is about.
    """

    kind: str
    key: str
    what: str
    children: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.what}"


def wrong_about(job: StoredJob) -> list[Wrong]:
    """Everything that is wrong about a job; empty if all is well."""
    if job.type != "hash":
        return list(_no_hash(job))
    return [wrong for rule in _RULES for wrong in rule(job)]


def wrong_about_key(queue: str, key: OtherKey) -> list[Wrong]:
    """Everything that is wrong about a key that is no job's; who owns it is not asked."""
    rest, head = key.rest, key.rest.partition(":")[0]
    name = f"{queue}:{rest}"
    if key.type == "none":
        return []  # it has ended meanwhile
    if head == "de" and not key.names_job and key.ttl == -1:
        return [Wrong("window-left", name, "a window without an end, of a job that is gone")]
    if rest.startswith(("toril:call:", "toril:lease:")) and key.ttl == -1:
        return [Wrong("endless", name, "has no end")]
    if QUEUE_KEYS.get(rest, key.type) != key.type:
        return [Wrong("garbled", name, f"a {key.type} where a {QUEUE_KEYS[rest]} belongs")]
    if rest not in QUEUE_KEYS and head not in ("de", "dn", "repeat", "metrics", "toril"):
        return [Wrong("strange-key", name, f"a {key.type} that belongs to nothing")]
    return []


Half = Literal["repeat", "toril:flows"]
HALVES: Final[tuple[Half, ...]] = ("repeat", "toril:flows")
"""What stands in a list and has a key of its own: schedules, and flows on their way in."""


def halves(queue: str, kind: Half, listed: set[str], stored: set[str]) -> list[Wrong]:
    """Schedules and unfinished flows that are only listed, or only stored."""
    what = "a schedule by halves" if kind == "repeat" else "a flow by halves"
    return [Wrong("half", f"{queue}:{kind}:{name}", f"is {what}") for name in listed ^ stored]


def _no_hash(job: StoredJob) -> Iterator[Wrong]:
    if job.type != "none":
        yield Wrong("garbled", job.key, f"a {job.type} where the hash of a job belongs")
        return
    if job.states:
        yield Wrong("no-hash", job.key, f"is in {' and '.join(job.states)} but has no hash")
    for part in sorted(job.parts):
        yield Wrong("orphan-key", f"{job.key}:{part}", "belongs to a job that is gone")


def _one_state(job: StoredJob) -> Iterator[Wrong]:
    if not job.states:
        yield Wrong("no-state", job.key, "is in no state")
    if len(job.states) > 1:
        yield Wrong("two-states", job.key, f"is in {' and '.join(job.states)}")
    for state, times in job.lists.items():
        if times > 1:
            yield Wrong("twice", job.key, f"is {times} times in {state}")


def _fields(job: StoredJob) -> Iterator[Wrong]:
    missing = [name for name in JOB_FIELDS if name not in job.fields]
    if missing:
        yield Wrong("garbled", job.key, f"has no {', '.join(missing)}")
    for name in NUMBERS:
        if name in job.fields and not job.fields[name].isdecimal():
            yield Wrong("garbled", job.key, f"{name} is {job.fields[name]!r}, not a number")
    for part, kind in job.parts.items():
        if kind != PARTS[part]:
            yield Wrong("garbled", f"{job.key}:{part}", f"a {kind} where a {PARTS[part]} belongs")


def _times(job: StoredJob) -> Iterator[Wrong]:
    if len(job.states) != 1:
        return
    state, fields = job.states[0], job.fields
    score, finished = job.scores.get(state), fields.get("finishedOn")
    if state in ("completed", "failed"):
        result = "returnvalue" if state == "completed" else "failedReason"
        # What a rule has emptied (`ctx.strip`) has neither data nor result any more.
        if result not in fields and fields.get("data") not in ("{ }", "{}", "null"):
            yield Wrong("garbled", job.key, f"is {state} without {result}")
        if score is not None and score <= LAST_DATE and _number(finished) != score:
            yield Wrong("score", job.key, f"finished on {finished}, but its score is {score:.0f}")
    elif finished is not None:
        yield Wrong("garbled", job.key, f"is in {state} but finished on {finished}")
    if state == "prioritized" and score is not None:
        priority = int(score // 2**32)
        if _number(fields.get("priority")) != priority:
            told = fields.get("priority")
            yield Wrong("garbled", job.key, f"priority {told}, but its score says {priority}")


def _locks(job: StoredJob) -> Iterator[Wrong]:
    if "lock" not in job.parts:
        return
    if "active" not in job.lists:
        where = " and ".join(job.states) or "no state"
        yield Wrong("lock-left", f"{job.key}:lock", f"is locked but in {where}")
    if job.lock_ttl == -1:
        yield Wrong("lock-endless", f"{job.key}:lock", "has no end")


def _parents(job: StoredJob) -> Iterator[Wrong]:
    if "waiting-children" in job.scores:
        if not job.open:
            yield Wrong("stuck-parent", job.key, "waits for children but has no open one")
        elif "unsuccessful" in job.parts or "defa" in job.fields:
            yield Wrong("decided-parent", job.key, "waits for children although one has failed it")
        done = tuple(child.key for child in job.children if child.completed)
        if done:
            yield Wrong(
                "completed-child", job.key, f"waits for {done[0]}, which is completed", done
            )
    gone = tuple(child.key for child in job.children if not child.exists)
    if gone:
        yield Wrong("missing-child", job.key, f"its open child {gone[0]} is gone", gone)
    for child in job.children:
        if child.exists and child.parent_key != job.key:
            yield Wrong("strange-child", job.key, f"{child.key} belongs to {child.parent_key!r}")


def _attempts(job: StoredJob) -> Iterator[Wrong]:
    ended, begun = _number(job.fields.get("atm")) or 0, _number(job.fields.get("ats")) or 0
    if ended > begun:
        yield Wrong("garbled", job.key, f"{ended:.0f} attempts ended, {begun:.0f} began")


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


_RULES: Final[Sequence[Callable[[StoredJob], Iterator[Wrong]]]] = (
    _one_state,
    _fields,
    _times,
    _locks,
    _parents,
    _attempts,
)
