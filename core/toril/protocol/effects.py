"""What a call did beside its result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from toril.job_events import JobEvent, JobRemoved, JobSaved
from toril.protocol.keys import queue_name
from toril.protocol.replies import hash_fields, text
from toril.snapshots import JobSnapshot
from toril.types import Json, RemovalCause, State

T = TypeVar("T")

Wants: TypeAlias = frozenset[str]
"""The names of the event hooks that somebody implements; other events are not built."""

SAVED: Final = "toril_jobs_saved"
COMPLETED: Final = "toril_jobs_completed"
FAILED: Final = "toril_jobs_failed"
RETRIED: Final = "toril_jobs_retried"
STALLED: Final = "toril_jobs_stalled"
REMOVED: Final = "toril_jobs_removed"

_STATES: Final[dict[str, State]] = {"wait": "waiting", "paused": "waiting"}


@dataclass(frozen=True, slots=True)
class ChunkError:
    """A plugin's Lua broke. The jobs were saved or finished all the same."""

    plugin: str
    point: str
    """Where it was called: `saved`, `finished`, …, or `script` for a script of its own."""
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """A value that a plugin's Lua handed back with `ctx.report`."""

    plugin: str
    value: Json


class Effects(msgspec.Struct, Generic[T], frozen=True):
    """The result of a call, and what it did.

    `events` are for the hooks, in order of their commit; `chunk_errors` are errors of plugins'
    Lua, and `reports` what that Lua handed back.
    """

    value: T
    events: tuple[JobEvent, ...] = ()
    chunk_errors: tuple[ChunkError, ...] = ()
    reports: tuple[Report, ...] = ()


def with_effects(
    value: T,
    told: bytes | list[Any],
    events: Sequence[JobEvent] = (),
    wants: Wants = frozenset(),
) -> Effects[T]:
    """`value` with the effects part of a reply; `events` come before those in it.

    `wants`: the jobs that were saved beside what was asked for are events only if it says so.
    """
    if not told:
        return Effects(value, tuple(events))
    nothing: list[Any] = []
    beside: list[Any] = [nothing, told, nothing, nothing] if isinstance(told, bytes) else told
    errors, reports, removed, saved = beside
    return Effects(
        value,
        (*events, *(map(_saved, saved) if SAVED in wants else ()), *map(_removed, removed)),
        tuple(ChunkError(text(plugin), text(at), text(what)) for plugin, at, what in errors),
        tuple(_reports(cast("bytes", reports))) if reports else (),
    )


def _reports(packed: bytes) -> Iterator[Report]:
    flat = cast("list[Any]", unpack(packed))
    return map(Report, flat[::2], flat[1::2])


def unpack(packed: bytes) -> Json:
    """A value that a script packed. Raises `ValueError` if it holds text that is not UTF-8."""
    return cast(Json, msgspec.msgpack.decode(packed))


def _saved(entry: Sequence[Any]) -> JobSaved:
    queue, id, fields = entry
    return JobSaved(JobSnapshot(queue_name(text(queue)), text(id), hash_fields(fields)))


def _removed(entry: Sequence[Any]) -> JobRemoved:
    queue, job_id, state, cause, rule, plugin = (text(part) for part in entry[:6])
    return JobRemoved(
        JobSnapshot(queue_name(queue), job_id, hash_fields(entry[6])),
        _STATES.get(state, cast(State, state)),
        cast(RemovalCause, cause),
        rule or None,
        plugin or None,
    )
