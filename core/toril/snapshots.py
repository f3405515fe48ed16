"""What hooks get to see: frozen pictures of jobs and of what happened to them.

A snapshot is taken before a removal, and holds enough to act on a job that is already gone. It
decodes the job's stored fields when they are asked for, so that a picture nobody looks at costs
next to nothing. Where a foreign program has garbled a field, reading it raises `ValueError` naming
job and field; the picture as a whole can still be passed around.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar, cast

import msgspec

from toril.options import long_names
from toril.setting import Level, Said, Setting
from toril.types import FinishCause, Json, JsonObject, Outcome, RemovalCause, State

T = TypeVar("T")
S = TypeVar("S", bound=Setting)

_NO_DATA: Final = b"{ }"
"""As the script part `no-data` has it."""


@dataclass(frozen=True, slots=True)
class JobRef:
    """The name of a job: its queue and its id.

    `prefix`: what its keys begin with, if that is not the prefix of the App.
    """

    queue: str
    id: str
    prefix: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ParentRef:
    """A job's parent. `queue_key` is the stored, prefixed name of its queue."""

    queue_key: str
    id: str

    @property
    def queue(self) -> str:
        return self.queue_key.rpartition(":")[2]


class SettingsView:
    """The settings that were stored with a job, most specific first."""

    __slots__ = ("_stored",)

    def __init__(self, stored: Mapping[str, list[dict[str, Any]]]) -> None:
        self._stored = stored

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the kinds of which something is stored."""
        return tuple(self._stored)

    def said(self, kind: type[S]) -> tuple[Said[S], ...]:
        """All stored values of this kind, most specific first, with who said them."""
        return tuple(
            Said(kind.decode(entry["v"]), cast(Level, entry["l"]), entry["s"], entry["t"])
            for entry in self._stored.get(kind.name, ())
        )

    def get(self, kind: type[S]) -> S | None:
        """The most specific stored value of this kind, or None."""
        said = self.said(kind)
        return said[0].value if said else None

    def __bool__(self) -> bool:
        return bool(self._stored)


class JobSnapshot:
    """A job as it was stored at one moment.

    `fields` is the job's hash as read from the server: field name → bytes. `prefix`: what its keys
    begin with, if that is not the prefix of the App.
    """

    duplicate = False
    """An add returned it for a job that was not added: it has that id, or stands for that job."""

    def __init__(
        self, queue: str, id: str, fields: Mapping[bytes, bytes], prefix: str | None = None
    ) -> None:
        self.queue = queue
        self.id = id
        self.fields = fields
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.queue}/{self.id} {self.name!r}>"

    def _text(self, field: bytes) -> str | None:
        raw = self.fields.get(field)
        return None if raw is None else raw.decode("utf-8", "replace")

    def _number(self, field: bytes) -> int | None:
        raw = self.fields.get(field)
        try:
            return None if raw is None else int(float(raw))
        except (ValueError, OverflowError):
            return None

    def _json(self, field: bytes) -> Json:
        raw = self.fields.get(field)
        if raw is None:
            return None
        try:
            return cast(Json, msgspec.json.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(
                f"field {field.decode()!r} of job {self.id!r} in queue {self.queue!r} "
                f"is not JSON: {error}"
            ) from error

    @property
    def name(self) -> str:
        return self._text(b"name") or ""

    @cached_property
    def data(self) -> Json:
        """The payload."""
        return self._json(b"data")

    @property
    def is_data_taken(self) -> bool:
        """Whether a rule has taken its data, which reads as `{}` since."""
        return self.fields.get(b"data") == _NO_DATA

    @cached_property
    def opts(self) -> JsonObject:
        """The stored options under their public, long BullMQ names."""
        stored = self._json(b"opts")
        return long_names(stored) if isinstance(stored, dict) else {}

    @cached_property
    def settings(self) -> SettingsView:
        """The settings that were stored with this job."""
        own = self._own
        said = own.get("said") if isinstance(own, dict) else None
        return SettingsView(cast("Mapping[str, list[dict[str, Any]]]", said or {}))

    @property
    def _own(self) -> Json:
        """What Toril stored beside BullMQ's fields; of a schedule's run it is among the options."""
        if b"toril" not in self.fields and b'"toril"' in self.fields.get(b"opts", b""):
            return self.opts.get("toril")
        return self._json(b"toril")

    def plugin_field(self, plugin: str) -> Json:
        """What a plugin stored with this job through `SavePlan.field`, or None."""
        own = self._own
        fields = own.get("plugins") if isinstance(own, dict) else None
        return fields.get(plugin) if isinstance(fields, dict) else None

    @property
    def created(self) -> int:
        """When it was added, in milliseconds since the epoch (0 if that was garbled)."""
        return self._number(b"timestamp") or 0

    @property
    def processed(self) -> int | None:
        """When it was last picked up, in milliseconds since the epoch."""
        return self._number(b"processedOn")

    @property
    def finished(self) -> int | None:
        """When it ended, in milliseconds since the epoch."""
        return self._number(b"finishedOn")

    @property
    def delay(self) -> int:
        """Milliseconds it is (or was) to wait before it may run."""
        return self._number(b"delay") or 0

    @property
    def priority(self) -> int:
        """0: none; 1 is the most urgent."""
        return self._number(b"priority") or 0

    @property
    def attempts_made(self) -> int:
        """Attempts that have ended."""
        made = self._number(b"attemptsMade")
        return made if made is not None else (self._number(b"atm") or 0)

    @property
    def attempts_started(self) -> int:
        """Times it was picked up."""
        return self._number(b"ats") or 0

    @property
    def processed_by(self) -> str | None:
        """The name of the worker that picked it up last, if it has one."""
        return self._text(b"pb")

    @property
    def stalled_count(self) -> int:
        """Times its worker vanished."""
        return self._number(b"stc") or 0

    @property
    def attempts(self) -> int:
        """How many attempts it may have in all; 0 (as if garbled) and 1 both mean: one."""
        try:
            value = self.opts.get("attempts")
        except ValueError:
            return 0
        return value if isinstance(value, int) else 0

    @property
    def deduplication_id(self) -> str | None:
        """The id of its deduplication; None: it has none."""
        return self._text(b"deid")

    @cached_property
    def result(self) -> Json:
        """What its handler returned. Text that is not JSON is given as it is."""
        try:
            return self._json(b"returnvalue")
        except ValueError:
            return self._text(b"returnvalue")

    @property
    def reason(self) -> str | None:
        """The message of its last failure."""
        return self._text(b"failedReason")

    @property
    def deferred_failure(self) -> str | None:
        """The reason with which the next worker has to fail it without running it."""
        return self._text(b"defa")

    @cached_property
    def stacktrace(self) -> tuple[str, ...]:
        """One entry per failed attempt, oldest first."""
        try:
            entries = self._json(b"stacktrace")
        except ValueError:
            return ()
        return tuple(str(entry) for entry in entries) if isinstance(entries, list) else ()

    @cached_property
    def progress(self) -> Json:
        """What was last reported as progress; 0 if nothing was."""
        stored = self._json(b"progress")
        return 0 if stored is None else stored

    @cached_property
    def parent(self) -> ParentRef | None:
        key = self._text(b"parentKey")
        if not key:
            return None
        queue_key, _, parent_id = key.rpartition(":")
        return ParentRef(queue_key, parent_id)

    def get(self, path: str, kind: type[T]) -> T | None:
        """The value at a dotted `path` of the data if it is there and of that type, else None."""
        value: Any = self.data
        for step in path.split("."):
            if not isinstance(value, dict) or step not in value:
                return None
            value = cast("dict[str, Any]", value)[step]
        if not isinstance(value, kind):
            return None
        found: T = value
        return None if isinstance(found, bool) and kind is not bool else found

    def with_fields(self, changed: Mapping[bytes, bytes]) -> JobSnapshot:
        """The same job with some stored fields replaced."""
        return type(self)(self.queue, self.id, {**self.fields, **changed}, self.prefix)


@dataclass(frozen=True, slots=True)
class JobParts:
    """What is stored of a job beside its hash, byte for byte.

    `logs`: its log lines, oldest first. What its children left with it, by the child's key
    (`bull:steps:c1`): `processed` the results (JSON) of those that completed, `failed` the reasons
    of those that failed without failing it, `unsuccessful` when those failed that fail it (ms).
    """

    logs: tuple[bytes, ...] = ()
    processed: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    failed: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    unsuccessful: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])


class FinishedJob(JobSnapshot):
    """A job that has ended: `outcome`, and who ended it (`cause`)."""

    def __init__(
        self,
        queue: str,
        id: str,
        fields: Mapping[bytes, bytes],
        outcome: Outcome,
        cause: FinishCause = "processor",
    ) -> None:
        super().__init__(queue, id, fields)
        self.outcome: Outcome = outcome
        self.cause: FinishCause = cause

    def with_fields(self, changed: Mapping[bytes, bytes]) -> FinishedJob:
        return FinishedJob(
            self.queue, self.id, {**self.fields, **changed}, self.outcome, self.cause
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A job about to be saved.

    `opts` are the BullMQ options (long names) as the caller and earlier plugins gave them;
    `said` the settings given for this job, its flow or its schedule template. `prefix`: what its
    keys will begin with, if that is not the prefix of the App.
    """

    queue: str
    id: str
    name: str
    data: Json
    opts: Mapping[str, Json]
    said: Sequence[Said[Any]]
    parent: ParentRef | None = None
    has_children: bool = False
    at_save: Mapping[type[Setting], Sequence[Said[Any]]] = field(
        default_factory=dict[type[Setting], Sequence[Said[Any]]]
    )
    prefix: str | None = None

    def live(self, kind: type[S]) -> Sequence[Said[S]]:
        """What is said for the whole queue, most specific first, as read at most 10 seconds ago.

        For settings declared with `registry.setting(kind, at_save=True)`.
        """
        return self.at_save.get(kind, ())


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What a plugin adds to a job about to be saved.

    `opts`: BullMQ options by their long names. `settings`: which of the things said shall be
    stored with the job, where `job.settings` finds them again. `field`: a value of the plugin's
    own, found again by `job.plugin_field(name)`.
    """

    opts: Mapping[str, Json] | None = None
    settings: Sequence[Said[Any]] = ()
    field: Json = None


@dataclass(frozen=True, slots=True)
class Removal:
    """An operator's removal about to happen. `ids` is None when it is a whole state or queue."""

    queue: str
    action: RemovalCause
    ids: Sequence[str] | None
    states: Sequence[State] | None
    now: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is still known of a job that is gone.

    `finished`: when it ended, in milliseconds since the epoch. `has_result` is False if it
    completed and its result was not kept. `told_by`: the plugin that knows; Toril fills it in.
    """

    outcome: Outcome
    finished: int
    name: str = ""
    result: Json = None
    reason: str | None = None
    has_result: bool = True
    parent: ParentRef | None = None
    told_by: str = ""
