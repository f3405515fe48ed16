"""An audit of a queue: that what is stored agrees with itself.

It reads while others work. So what looks wrong is looked at once more, alone and at one moment,
before it is said to be. Reads are small, with a pause after each as long as it took. It remembers
eight bytes of each waiting job, and next to nothing of all others.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from toril.arguments import limit_of
from toril.connection.call import Request, only
from toril.errors import PluginError
from toril.hooks.findings import Audit, AuditReport, Finding, Repair, Severity
from toril.hooks.function import settle
from toril.protocol import auditing, reading
from toril.protocol.invariants import (
    HALVES,
    LISTS,
    PARTS,
    SETS,
    Half,
    OtherKey,
    StoredJob,
    Wrong,
    halves,
    wrong_about,
    wrong_about_key,
)
from toril.protocol.keys import can_be_job

if TYPE_CHECKING:
    from toril.runtime import Runtime

T = TypeVar("T")

MOST_OF_A_PLUGIN: Final = 250_000
"""Keys that one plugin keeps for a queue: they are remembered, and told it all at once."""
OTHER_KEYS: Final = 10_000
"""Keys that are no job's and no plugin's that are remembered until they are looked at."""
MOST_OF_A_KIND: Final = 1_000
"""Findings of one kind that are told one by one; the others are counted."""
GAUGE: Final = "toril_audit_findings"
_HOOK_DEADLINE: Final = 600.0
"""Seconds that one plugin may take."""
_NEW_MS: Final = 10 * 60_000
"""A flow so young may still be on its way in."""
_LONG_LIST: Final = 20_000
"""From so many ids on a list is looked through for one job a call."""

_REPAIRS: Final[Mapping[str, str]] = {
    "orphan-key": "remove what is left of the job",
    "no-hash": "take the id out",
    "no-state": "put it where it belongs: a finished job under its rule, another one to run",
    "two-states": "leave it only where its hash says it is",
    "twice": "leave it there once",
    "score": "take the score for the time",
    "lock-left": "remove the lock",
    "lock-endless": "let it end in 30 seconds",
    "stuck-parent": "let it run",
    "missing-child": "wait for it no longer",
    "completed-child": "count the child as completed",
    "decided-parent": "let it fail, as was decided",
    "window-left": "close the window",
    "endless": "let it end in 30 seconds",
    "deferred-left": "forget the parent",
}
"""What the script `repair` can do, for people."""


class Auditor:
    """Audits one queue, once.

    Args:
        runtime: The App's.
        queue: The queue's name.
        most: Jobs and keys that are looked at; None: all.
    """

    def __init__(self, runtime: Runtime, queue: str, most: int | None = None) -> None:
        self._runtime = runtime
        self._queue = queue
        self._key = runtime.context.key(queue)
        self._most = limit_of(most, "most") or sys.maxsize
        self._now = runtime.clock.now_ms()
        self._looked: Counter[str] = Counter()
        self._whole = True
        self._findings: dict[tuple[str, str], Finding] = {}
        self._kinds: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._listed: dict[str, array[int]] = {}
        self._unread = set(LISTS)
        self._other_keys: dict[str, None] = {}
        self._halves: dict[Half, set[str]] = {kind: set() for kind in HALVES}
        self._own: defaultdict[str, list[str]] = defaultdict(list)

    async def run(self) -> AuditReport:
        """Look at everything. Raises `ServerError`."""
        meta = await self._ask(reading.meta(self._key))
        self._note_version(meta.version)
        self._noted: Mapping[str, float] = await self._ask(auditing.noted(self._key))
        await self._walk_states()
        for state, hashes in self._listed.items():
            self._listed[state] = array("q", sorted(hashes))
        await self._walk_keys()
        await self._look_at_halves()
        await self._look_at_deferred()
        self._look_at_leftovers()
        findings = [*self._findings.values(), *await self._ask_plugins()]
        findings += self._counted_only()
        self._gauge(findings)
        return AuditReport(self._queue, tuple(findings), dict(self._looked), self._whole)

    def _gauge(self, findings: Sequence[Finding]) -> None:
        """Tell exporters how much was found of each kind; 0 of what is not found any more."""
        metrics = self._runtime.metrics
        counts: Counter[tuple[str, str]] = Counter()
        for sample in metrics.samples():
            if sample.name == GAUGE and sample.labels["queue"] == self._queue:
                counts[sample.labels["kind"], sample.labels["severity"]] = 0
        for finding in findings:
            counts[finding.kind, finding.severity] += finding.count
        for (kind, severity), count in counts.items():
            metrics.gauge(GAUGE, count, queue=self._queue, kind=kind, severity=severity)
        metrics.gauge("toril_audited_timestamp_seconds", self._now / 1000, queue=self._queue)

    async def _ask(self, request: Request) -> Any:
        """Carry out one request, and leave the server alone for as long as that took."""
        started = time.perf_counter()
        result = await self._runtime.drive(only(request))
        await asyncio.sleep(min(time.perf_counter() - started, 0.05))
        return result

    def _note_version(self, version: str | None) -> None:
        if version is not None:
            self._add(
                Finding(
                    "foreign-version",
                    self._queue,
                    f"{self._key}:meta",
                    f"programs with {version} open this queue, too, and act by their own rules",
                    "note",
                )
            )

    # Ids that stand in a state.

    async def _walk_states(self) -> None:
        for state in (*LISTS, *SETS):
            first = 0
            if state in LISTS:
                self._listed[state] = array("q")
            while True:
                if self._full("ids"):
                    return
                size, gone = await self._ask(auditing.without_hash(self._key, state, first))
                if state in LISTS:
                    ids = await self._ask(auditing.listed(self._key, state, first))
                    self._listed[state].extend(map(hash, ids))
                self._looked["ids"] += size
                await self._confirm(gone)
                first += auditing.MOST_IDS
                if size < auditing.MOST_IDS:
                    self._unread.discard(state)
                    break

    def _full(self, what: str) -> bool:
        if self._looked[what] >= self._most:
            self._whole = False
        return self._looked[what] >= self._most

    # Keys, and the jobs that they are of.

    async def _walk_keys(self) -> None:
        cursor = "0"
        while True:
            keys, cursor = await self._ask(reading.keys_of(self._key, cursor))
            await self._look(self._jobs_of(keys))
            if cursor == "0" or len(self._other_keys) >= OTHER_KEYS:
                await self._look_at_other_keys()
            if cursor == "0":
                return

    def _jobs_of(self, keys: Iterable[str]) -> Iterator[str]:
        """The ids of the jobs that these keys are, or are parts of; each once."""
        ids: dict[str, None] = {}
        for key in keys:
            rest = key[len(self._key) + 1 :]
            first, _, last = rest.rpartition(":")
            if can_be_job(rest):
                ids[rest] = None
            elif first and last in PARTS and can_be_job(first):
                ids[first] = None
            elif rest.startswith("toril:"):
                self._note_own(rest)
            else:
                self._other_keys[rest] = None
        return iter(ids)

    def _note_own(self, rest: str) -> None:
        _, owner, *suffix = rest.split(":", 2)
        if not suffix or owner in _OWN_OF_CORE:
            self._other_keys[rest] = None
        elif len(self._own[owner]) < min(self._most, MOST_OF_A_PLUGIN):
            self._own[owner].append(suffix[0])
        else:
            self._whole = False

    async def _look(self, ids: Iterator[str]) -> None:
        for some in _chunks(list(ids), auditing.MOST_LOOKS):
            if self._full("jobs"):
                return
            looks: list[StoredJob] = await self._ask(auditing.looks(self._key, some, lists=False))
            self._looked["jobs"] += len(looks)
            await self._confirm([job.id for job in looks if self._is_suspect(self._placed(job))])

    def _is_suspect(self, job: StoredJob) -> bool:
        """Whether something seems wrong; where a job is, only those lists tell that were read."""
        kinds = {each.kind for each in self._wrong(job)}
        return bool(kinds - _BY_LISTS if self._unread else kinds)

    def _placed(self, job: StoredJob) -> StoredJob:
        """The job with the lists that it was in when those were read."""
        times = {state: _count(hash(job.id), hashes) for state, hashes in self._listed.items()}
        return replace(job, lists={state: count for state, count in times.items() if count})

    async def _confirm(self, ids: Sequence[str]) -> None:
        """Look at jobs again, each at one moment, and tell what is wrong then."""
        long = self._unread or sum(map(len, self._listed.values())) > _LONG_LIST
        for some in _chunks(ids, 1 if long else 20):
            looks: list[StoredJob] = await self._ask(auditing.looks(self._key, some, lists=True))
            for job in looks:
                for wrong in self._wrong(job):
                    self._tell(job.id, wrong)

    def _wrong(self, job: StoredJob) -> list[Wrong]:
        """What is wrong about a job; not what a flow on its way in looks like."""
        created = job.fields.get("timestamp", "")
        new = created.isdecimal() and self._now - int(created) < _NEW_MS
        found = [*wrong_about(job), *self._decided(job)]
        return [each for each in found if not (new and each.kind == "missing-child")]

    def _decided(self, job: StoredJob) -> Iterator[Wrong]:
        """Somebody has decided that it must fail, and nobody does it."""
        waits = {"wait", "paused", "delayed", "prioritized"}.intersection(job.states)
        since = self._now - self._noted.get(job.key, 0)
        if waits and "defa" in job.fields and since > _NEW_MS:
            yield Wrong("decided-parent", job.key, "must fail, and nobody takes it")

    # Other keys.

    async def _look_at_other_keys(self) -> None:
        keys, self._other_keys = list(self._other_keys), {}
        for kind, stored in self._halves.items():
            begin = f"{kind}:"
            stored.update(key.removeprefix(begin) for key in keys if key.startswith(begin))
        for rests in _chunks(keys, auditing.MOST_KEYS):
            if self._full("keys"):
                return
            found: list[OtherKey] = await self._ask(auditing.key_looks(self._key, rests))
            self._looked["keys"] += len(found)
            for look in found:
                for wrong in wrong_about_key(self._key, look):
                    self._tell(look.rest, wrong, "note" if wrong.kind in _NOTES else "problem")

    async def _look_at_halves(self) -> None:
        for kind, stored in self._halves.items():
            listed = set(await self._ask(auditing.members(self._key, kind)))
            for wrong in halves(self._key, kind, listed, stored):
                self._tell("", wrong, "note")

    def _look_at_leftovers(self) -> None:
        for owner, keys in self._own.items():
            self._looked["keys"] += len(keys)
            if owner not in self._runtime.plugins.active:
                key = f"{self._key}:toril:{owner}:"
                what = f"{len(keys)} keys of a plugin that is not in use here"
                self._add(Finding("leftover", self._queue, key, what, "note", len(keys)))

    async def _look_at_deferred(self) -> None:
        gone = await self._ask(auditing.missing(list(self._noted))) if self._noted else ()
        for parent in gone:
            key = f"{self._key}:toril:deferred"
            self._tell(parent, Wrong("deferred-left", key, f"names {parent}, which is gone"))

    # Plugins.

    async def _ask_plugins(self) -> list[Finding]:
        audit = Audit(self._queue, self._key, self._now, self._most, dict(self._own))
        found: list[Finding] = []
        for function in self._runtime.plugins.functions("toril_audit_queue"):
            try:
                told = await function.guarded({"audit": audit}, _wait_long, lambda: self._queue)
                found += told or ()
            except PluginError as error:
                key = f"{self._key}:toril:{function.plugin}:"
                found.append(Finding("not-audited", self._queue, key, str(error)))
        return found

    # What was found.

    def _tell(self, id: str, wrong: Wrong, severity: Severity = "problem") -> None:
        repair = None
        if wrong.kind in _REPAIRS:
            repair = Repair(_REPAIRS[wrong.kind], lambda: self._repair(id, wrong))
        found = Finding(wrong.kind, self._queue, wrong.key, wrong.what, severity, repair=repair)
        self._add(found)

    def _add(self, finding: Finding) -> None:
        key = (finding.kind, finding.key)
        if key in self._findings:
            return
        if self._kinds[finding.kind] >= MOST_OF_A_KIND:
            self._more[finding.kind] += 1
        else:
            self._kinds[finding.kind] += 1
            self._findings[key] = finding

    def _counted_only(self) -> list[Finding]:
        return [
            Finding(kind, self._queue, self._key, f"and {count} more", count=count)
            for kind, count in self._more.items()
        ]

    async def _repair(self, id: str, wrong: Wrong) -> bool:
        now = self._runtime.clock.now_ms()
        call = auditing.repair(self._key, wrong.kind, id, now=now, children=wrong.children)
        done: bool = await self._runtime.drive(only(call))
        return done


_NOTES: Final = frozenset({"strange-key"})
_BY_LISTS: Final = frozenset({"no-state", "lock-left"})
"""What is wrong about a job only if no list has it."""
_OWN_OF_CORE: Final = frozenset({"call", "lease", "flows", "stalled", "deferred", "workers"})


async def _wait_long(awaitable: Any, deadline: float, /) -> Any:
    del deadline
    return await settle(awaitable, _HOOK_DEADLINE)


def _count(value: int, ascending: Sequence[int]) -> int:
    """How often a value stands in an ascending sequence."""
    return bisect_right(ascending, value) - bisect_left(ascending, value)


def _chunks(ids: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
