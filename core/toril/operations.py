"""What can be done with queues and jobs, each operation once, as a procedure.

Both faces run these: `App` and `SyncApp` differ only in how they wait. What a caller got wrong is
raised when a procedure is made, before anything is sent; the plan hooks are asked when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

from toril.arguments import kind_of_setting, limit_of, text, whole_number
from toril.connection.call import Procedure, Series, only
from toril.context import Context, existing_job
from toril.deduplication import check_window
from toril.duration import milliseconds
from toril.errors import ConfigurationError, JobError
from toril.job_operations import JobOperations
from toril.new_job import (
    CheckedOptions,
    Drafted,
    JobOptions,
    NewJob,
    QueueDefaults,
    check_options,
    checked_priority,
    draft,
)
from toril.protocol import adding, changing, reading, removing
from toril.protocol.adding import Added, NewNode
from toril.protocol.settings import SettingChange, change_live, read_live, set_live
from toril.removals import Removals
from toril.setting import Level, Said, Setting
from toril.settings import say
from toril.snapshots import JobSnapshot
from toril.types import CLEANABLE, STATES, Json, Outcome, State

S = TypeVar("S", bound=Setting)
T = TypeVar("T")

_PAGE: Final = 100
MOST_DATA: Final = 1_048_576
"""Characters of payload in one call that adds."""


class QueueOperations:
    """The operations of one queue."""

    def __init__(self, context: Context, name: str, defaults: QueueDefaults | None = None) -> None:
        self._context = context
        self._checked = CheckedOptions(defaults)
        self._counter = bool(defaults and defaults.get("counter_ids"))
        self.name = name
        self.key = context.key(name)

    def job(self, id: str) -> JobOperations:
        """The operations of one job of it."""
        return JobOperations(self._context, self.name, id)

    def drafted(self, jobs: Sequence[NewJob]) -> list[Drafted]:
        """The jobs as the plugins get them, checked."""
        for number, job in enumerate(jobs):
            if not isinstance(cast(object, job), NewJob):
                raise TypeError(f"item {number} of the jobs is a NewJob(name, …), not {job!r}")
        return [self._drafted(job.name, job.data, job.settings, job.options) for job in jobs]

    def drafted_one(
        self, name: str, data: Json, settings: tuple[Setting, ...], options: JobOptions
    ) -> Drafted:
        """The same for a single job, as `add` gets it."""
        if options:
            check_options("add", options)
        return self._drafted(name, data, settings, options)

    def _drafted(
        self, name: str, data: Json, settings: tuple[Setting, ...], options: JobOptions
    ) -> Drafted:
        now = self._context.clock.now_ms()
        return draft(
            self.key,
            name,
            data,
            options,
            self._checked,
            now=now,
            said=say("job", settings, "Queue.add", now) if settings else (),
            counter=self._counter,
        )

    def planned_now(self, drafted: Drafted) -> NewNode | None:
        """`planned` for one job; None if the server has to be asked something before."""
        return self._context.planned_now(drafted)

    def planned(self, drafted: Sequence[Drafted]) -> Procedure[list[NewNode]]:
        """The jobs as they are to be written, once every plugin has been asked about each."""
        return self._context.planned(drafted)

    def save(self, nodes: Sequence[NewNode]) -> Procedure[list[JobSnapshot | JobError]]:
        """Write jobs, in calls of at most 200 and 1 MiB; for each the job, or why it is none."""
        parts = list(_parts(nodes))
        if len(parts) == 1:
            return (yield from self.save_in_one(nodes))
        saved: list[list[JobSnapshot | JobError]] = yield Series(map(self.save_in_one, parts))
        return [one for part in saved for one in part]

    def save_in_one(self, nodes: Sequence[NewNode]) -> Procedure[list[JobSnapshot | JobError]]:
        """`save` for jobs that one call can take, see `in_one_call`."""
        saved: list[JobSnapshot | JobError] = []
        with self._context.lanes.call() as record:
            added: tuple[Added, ...] = yield adding.add_jobs(
                nodes,
                now=self._context.clock.now_ms(),
                record=record,
                wants=self._context.plugins.wants,
            )
        for node, one in zip(nodes, added, strict=True):
            if one.duplicate:
                saved.append((yield from existing_job(node, one)))
            else:
                saved.append(one.error or node.snapshot(one.id))
        return saved

    def add(self, jobs: Sequence[NewJob]) -> Procedure[list[JobSnapshot]]:
        """Add jobs. All are checked and planned before the first is written."""
        return self.add_drafted(self.drafted(jobs))

    def add_drafted(self, drafted: Sequence[Drafted]) -> Procedure[list[JobSnapshot]]:
        """`add` for jobs that have been checked."""
        saved = yield from self.save((yield from self.planned(drafted)))
        jobs = [one for one in saved if isinstance(one, JobSnapshot)]
        for error in saved:
            if isinstance(error, JobError):
                if len(saved) > 1:
                    error.add_note(f"{len(jobs)} of the {len(saved)} jobs were added")
                raise error
        return jobs

    def get(self, id: str) -> Procedure[JobSnapshot | None]:
        """The job with that id."""
        return only(reading.job(self.key, text(id, "the id of a job")))

    def deduplication_owner(self, id: str) -> Procedure[str | None]:
        """The id of the job that owns a deduplication window."""
        check_window(id)
        return only(reading.window_owner(self.key, id))

    def remove_deduplication(self, id: str) -> Procedure[bool]:
        """Close a deduplication window."""
        check_window(id)
        return only(changing.close_window(self.key, id))

    def pages(
        self,
        states: Sequence[State],
        *,
        start: int = 0,
        limit: int | None = None,
        ascending: bool | None = None,
    ) -> Pages:
        """The jobs of some states, page by page."""
        return Pages(self.key, states, start=start, limit=limit, ascending=ascending)

    def counts(self, states: Sequence[State] = ()) -> Procedure[dict[State, int]]:
        """How many jobs are in each of some states."""
        return only(reading.counts(self.key, known_states(states)))

    def counts_per_priority(self, priorities: Sequence[int]) -> Procedure[dict[int, int]]:
        """How many jobs wait with each of some priorities."""
        if not priorities:
            raise ValueError("counts_per_priority(0, 1, …): say which priorities are counted")
        return only(reading.counts_per_priority(self.key, [*map(checked_priority, priorities)]))

    def pause(self) -> Procedure[None]:
        """Let no worker begin another job."""
        return only(changing.pause(self.key))

    def resume(self) -> Procedure[None]:
        """Undo `pause`."""
        return changing.resume(self.key)

    def is_paused(self) -> Procedure[bool]:
        """Whether the queue is paused."""
        meta: reading.QueueMeta = yield reading.meta(self.key)
        return meta.paused

    def retry_all(
        self,
        state: Outcome,
        *,
        limit: int | None,
        older_than: timedelta | str | None,
        reset_attempts: bool,
        reset_started: bool,
    ) -> Procedure[int]:
        """Let finished jobs of one outcome run again."""
        limit_of(limit)
        if state not in ("completed", "failed"):
            raise ConfigurationError(
                f"retry_all: jobs that are {state!r} have not finished; "
                "'completed' and 'failed' have"
            )
        age = 0 if older_than is None else milliseconds(older_than, "older_than")
        return self._retry_all(
            state,
            age,
            limit=limit,
            reset_attempts=reset_attempts,
            reset_started=reset_started,
        )

    def _retry_all(self, state: Outcome, age: int, **terms: Any) -> Procedure[int]:
        before, wants = self._context.clock.now_ms() - age, self._context.plugins.wants
        return (yield from changing.retry_all(self.key, state, before=before, wants=wants, **terms))

    def promote_all(self, limit: int | None) -> Procedure[int]:
        """Let delayed jobs run now."""
        limit_of(limit)
        return changing.promote_all(self.key, limit)

    def drain(self, *, delayed: bool) -> Procedure[Removals]:
        """Remove the jobs that wait to run."""
        context = self._context
        states: tuple[State, ...] = ("waiting", "prioritized", *(("delayed",) if delayed else ()))
        context.ask_before_removal(self.name, "drain", states=states)
        return (
            yield from removing.drain(
                self.key, delayed=delayed, now=context.clock.now_ms(), wants=context.plugins.wants
            )
        )

    def clean(
        self, state: State, *, older_than: timedelta | str, limit: int | None
    ) -> Procedure[Removals]:
        """Remove old jobs of one state."""
        age = milliseconds(older_than, "older_than")
        limit_of(limit)
        if state not in CLEANABLE:
            raise ConfigurationError(
                f"clean: jobs that are {state!r} cannot be cleaned; those that are "
                f"{', '.join(CLEANABLE)} can"
            )
        return self._clean(state, age, limit or 0)

    def _clean(self, state: State, age: int, limit: int) -> Procedure[Removals]:
        context = self._context
        context.ask_before_removal(self.name, "clean", states=(state,))
        now = context.clock.now_ms()
        return (
            yield from removing.clean(
                self.key, state, now - age, limit=limit, now=now, wants=context.plugins.wants
            )
        )

    def obliterate(self, *, force: bool) -> Procedure[None]:
        """Remove the queue with everything in it."""
        context = self._context
        context.ask_before_removal(self.name, "obliterate")
        yield from removing.obliterate(
            self.key, force=force, now=context.clock.now_ms(), wants=context.plugins.wants
        )

    def change(
        self, kind: type[S], change: Callable[[S | None], S | None], source: str
    ) -> Procedure[Said[S] | None]:
        """Say something for the whole queue, made from what is said."""

        def checked(before: S | None) -> S | None:
            after = change(before)
            if after is not None:
                self._context.check_settings(say("queue", (after,), source, now))
            return after

        kind_of_setting(kind)
        now = self._context.clock.now_ms()
        changed: SettingChange[S] = yield from change_live(
            self.key, kind, "queue", checked, how="set", source=source, now=now
        )
        return changed.standing

    def set(self, setting: Setting, source: str = "Queue.set") -> Procedure[None]:
        """Say something for the whole queue."""
        (said,) = say("queue", (setting,), source, self._context.clock.now_ms())
        return self._set(said)

    def _set(self, said: Said[Any]) -> Procedure[None]:
        self._context.check_settings((said,))
        value: Setting = said.value
        yield from self._live(type(value), value, said.source)

    def unset(
        self, kind: type[Setting], level: Level = "queue", source: str = "Queue.unset"
    ) -> Procedure[None]:
        """Take back what was said for the queue at a live level."""
        kind_of_setting(kind)
        yield from self._live(kind, None, source, level)

    def _live(
        self, kind: type[S], value: S | None, source: str, level: Level = "queue"
    ) -> Procedure[None]:
        now = self._context.clock.now_ms()
        yield from set_live(self.key, kind, level, value, how="set", source=source, now=now)

    def said(self, kind: type[S]) -> Procedure[Said[S] | None]:
        """What is said for the queue now."""
        live = yield from self.said_by_level(kind)
        return live[0] if live else None

    def said_by_level(self, kind: type[S]) -> Procedure[tuple[Said[S], ...]]:
        """All that is said for the queue, most specific first."""
        kind_of_setting(kind)
        live: tuple[Said[S], ...] = yield read_live(self.key, kind)
        return live


def _parts(nodes: Sequence[NewNode]) -> Iterator[Sequence[NewNode]]:
    """The nodes in parts that one call can take without holding up the server."""
    start = 0
    while start < len(nodes):
        end = start + in_one_call(nodes[start : start + adding.MOST_ADDED])
        yield nodes[start:end]
        start = end


def in_one_call(nodes: Sequence[NewNode]) -> int:
    """How many of the first of these nodes, at most 200, are added in one call: 1 MiB of data."""
    size = 0
    for count, node in enumerate(nodes):
        size += len(node.data)
        if size > MOST_DATA and count:
            return count
    return len(nodes)


def known_states(states: Sequence[State]) -> list[State]:
    """The states, each once; without any, all. Raises `ConfigurationError` for one there is not."""
    for state in states:
        if state not in STATES:
            raise ConfigurationError(
                f"there is no state {state!r} to list; there are {', '.join(STATES)}"
            )
    return list(dict.fromkeys(states or STATES))


class Pages:
    """The jobs of some states, state by state, in pages of 100. See `Queue.jobs`."""

    def __init__(
        self,
        key: str,
        states: Sequence[State],
        *,
        start: int,
        limit: int | None,
        ascending: bool | None,
    ) -> None:
        whole_number(start, "start")
        limit_of(limit, least=0)
        self._key = key
        self._states = known_states(states)
        self._ascending = ascending
        self._left = limit
        self._start = start
        self._seen: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether all pages have been read."""
        return not self._states or self._left == 0

    def following(self) -> Procedure[list[reading.ListedJob]]:
        """The next page; jobs that have been given before are left out."""
        state = self._states[0]
        size = _PAGE if self._left is None else min(_PAGE, self._left)
        ascending = self._ascending
        if ascending is None:
            ascending = state not in ("completed", "failed")
        page: reading.Page = yield from reading.page(
            self._key, (state,), self._start, self._start + size - 1, ascending=ascending
        )
        self._start += size
        if self._start >= page.total:
            del self._states[0]
            self._start = max(0, self._start - size - page.total)
        fresh = [listed for listed in page.jobs if listed.job.id not in self._seen]
        self._seen.update(listed.job.id for listed in fresh)
        if self._left is not None:
            self._left = max(0, self._left - len(fresh))
        return fresh
