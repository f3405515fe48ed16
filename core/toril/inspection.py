"""What a queue has done and who works on it: the methods that `Queue` and `SyncQueue` have for it.

Each operation is written once, as a procedure; the two faces differ in how they wait.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeVar

from toril.arguments import limit_of, text, whole_number
from toril.connection.blocking import worker_client_name
from toril.connection.call import Procedure, only
from toril.context import Context
from toril.errors import ConfigurationError
from toril.exposition import prometheus_text
from toril.protocol import inspecting, reading
from toril.protocol.codec import encode_json
from toril.protocol.inspecting import Beat, Client, MinuteMetrics
from toril.protocol.reading import QueueMeta
from toril.protocol.settings_log import SettingEntry, read_log
from toril.types import STATES, Json, Outcome

T = TypeVar("T")

_BULLMQ_EVENTS: Final = frozenset(
    {
        *("added", "waiting", "delayed", "waiting-children", "active", "completed", "failed"),
        *("retries-exhausted", "stalled", "progress", "removed", "duplicated", "deduplicated"),
        *("cleaned", "drained", "paused", "resumed", "debounced", "error"),
    }
)


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker of a queue, of any library, as it shows on the server.

    `address`, `age`, `idle`: of the connection on which it waits for jobs (seconds since it was
    opened and since its last command); None while it has none. `beat`: what a worker of Toril last
    said of itself, not more than a minute ago; None of others.
    """

    name: str | None
    library: Literal["toril", "bullmq", "bullmq-python"]
    address: str | None = None
    age: int | None = None
    idle: int | None = None
    beat: Beat | None = None


class InspectionOperations:
    """Looking at one queue, as procedures."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        self._name = name
        self._key = context.key(name)

    def metrics(self, outcome: Outcome, start: int, stop: int) -> Procedure[MinuteMetrics]:
        """Jobs that ended, per minute."""
        if outcome not in ("completed", "failed"):
            raise ConfigurationError(
                f"there are metrics of 'completed' and 'failed' jobs, not of {outcome!r}"
            )
        for what, minute in (("start", start), ("stop", stop)):
            whole_number(minute, what, least=-sys.maxsize)
        return only(inspecting.minute_metrics(self._key, outcome, start, stop))

    def workers(self) -> Procedure[tuple[WorkerSeen, ...]]:
        """Who works on the queue."""
        beats: tuple[Beat, ...] = yield from inspecting.beats(
            self._key, self._context.clock.now_ms()
        )
        clients: tuple[Client, ...] = yield from inspecting.clients()
        here = worker_client_name(self._context.prefix, self._name)
        waiting = {client.id: client for client in clients if _named(client, here) and client.id}
        seen = [_beating(beat, waiting.pop(beat.client, None)) for beat in beats]
        seen += [_connected(client, here, "bullmq") for client in waiting.values()]
        # BullMQ for Python gives two connections the same name; on one of them it waits.
        seen += [
            _connected(client, self._key, "bullmq-python")
            for client in clients
            if _named(client, self._key) and client.command == "bzpopmin"
        ]
        return tuple(seen)

    def event_readers(self) -> Procedure[tuple[Client, ...]]:
        """Who reads the event stream."""
        clients: tuple[Client, ...] = yield from inspecting.clients()
        name = worker_client_name(self._context.prefix, self._name) + ":qe"
        return tuple(client for client in clients if client.name == name)

    def prometheus(self, labels: Mapping[str, str]) -> Procedure[str]:
        """The state of the queue for a Prometheus server."""
        counts: dict[str, int] = yield reading.counts(self._key, sorted(STATES))
        totals: dict[str, int] = {}
        outcomes: tuple[Outcome, ...] = ("completed", "failed")
        for outcome in outcomes:
            ended: MinuteMetrics = yield inspecting.minute_metrics(self._key, outcome, 0, 0)
            totals[outcome] = ended.total
        return prometheus_text(self._name, counts, totals, labels)

    def meta(self) -> Procedure[QueueMeta]:
        """What is stored of the queue as a whole."""
        return only(reading.meta(self._key))

    def settings_log(self, limit: int) -> Procedure[tuple[SettingEntry, ...]]:
        """Who said what for the queue."""
        return only(read_log(self._key, whole_number(limit, "limit", least=1)))

    def trim_events(self, most: int) -> Procedure[int]:
        """Cut the event stream."""
        whole_number(most, "most")
        return only(inspecting.trim_events(self._key, most))

    def keep_events(self, most: int) -> Procedure[None]:
        """Say how long the event stream may become."""
        whole_number(most, "most", least=1)
        return only(inspecting.keep_events(self._key, most))

    def publish(self, kind: str, fields: Mapping[str, Json], most: int | None) -> Procedure[str]:
        """Add an event of somebody's own."""
        text(kind, "the name of an event")
        if not kind or kind in _BULLMQ_EVENTS or kind.startswith("toril:"):
            raise ValueError(f"{kind!r} is no name for an event of your own")
        if not isinstance(fields, Mapping):
            raise TypeError(f"the fields of an event are names and values, not {fields!r}")
        if "event" in fields:
            raise ValueError("'event' is the event's name; no field can be called so")
        limit_of(most, "most")
        told = {
            name: value if isinstance(value, str) else encode_json(value, f"field {name!r}")
            for name, value in fields.items()
        }
        return only(inspecting.publish(self._key, kind, told, most))


def _named(client: Client, name: str) -> bool:
    return client.name == name or client.name.startswith(f"{name}:w:")


def _beating(beat: Beat, client: Client | None) -> WorkerSeen:
    if client is None:
        return WorkerSeen(beat.name, "toril", beat=beat)
    return WorkerSeen(beat.name, "toril", client.address, client.age, client.idle, beat)


def _connected(
    client: Client, here: str, library: Literal["bullmq", "bullmq-python"]
) -> WorkerSeen:
    name = client.name.removeprefix(here).removeprefix(":w:") or None
    return WorkerSeen(name, library, client.address, client.age, client.idle)


class Inspection(ABC):
    """Looking at a queue; a part of `Queue`."""

    @cached_property
    @abstractmethod
    def _inspection(self) -> InspectionOperations: ...

    @abstractmethod
    async def _perform(self, procedure: Procedure[T]) -> T: ...

    async def metrics(
        self, outcome: Outcome = "completed", start: int = 0, stop: int = -1
    ) -> MinuteMetrics:
        """How many jobs ended in each minute.

        Args:
            outcome: `completed` or `failed`.
            start: The first minute wanted; 0 is the newest for which there is a number.
            stop: The last, inclusive; -1 is the oldest.
        """
        return await self._perform(self._inspection.metrics(outcome, start, stop))

    async def workers(self) -> tuple[WorkerSeen, ...]:
        """The workers of this queue, of any library and on any machine."""
        return await self._perform(self._inspection.workers())

    async def event_readers(self) -> tuple[Client, ...]:
        """Who waits for events of this queue, through `app.events` or Node's `QueueEvents`.

        BullMQ for Python gives such a connection no name, so that it is not among them.
        """
        return await self._perform(self._inspection.event_readers())

    async def prometheus(self, **labels: str) -> str:
        """Counts of jobs as text for a Prometheus server, under BullMQ's names.

        `labels` are added to each; the totals are those of `metrics`.
        """
        return await self._perform(self._inspection.prometheus(labels))

    async def meta(self) -> QueueMeta:
        """What is stored of the queue as a whole: limits, the version that wrote it, all fields."""
        return await self._perform(self._inspection.meta())

    async def settings_log(self, *, limit: int = 100) -> tuple[SettingEntry, ...]:
        """Who said what for the whole queue, when, and what it was before: newest first.

        About the last 1,000 changes are kept, of all settings and levels.
        """
        return await self._perform(self._inspection.settings_log(limit))

    async def trim_events(self, most: int) -> int:
        """Keep the newest `most` events of the stream; returns how many went."""
        return await self._perform(self._inspection.trim_events(most))

    async def keep_events(self, most: int) -> None:
        """Let the event stream hold about `most` events from now on, whoever writes to it.

        A `Queue` of Node that is opened afterwards says its own number: 10,000, or its option
        `streams.events.maxLen`.
        """
        await self._perform(self._inspection.keep_events(most))

    async def publish(
        self, kind: str, fields: Mapping[str, Json] | None = None, *, most: int | None = None
    ) -> str:
        """Add an event of your own to the stream; returns its id.

        Args:
            kind: Its name; not one of BullMQ's.
            fields: Texts are stored as they are, other values as JSON; readers get texts.
            most: Cut the stream to about so many events; None: as many as the queue keeps.

        Raises:
            ValueError: A name that cannot be.
            InvalidJob: A value that JSON cannot hold.
            IndeterminateError: The reply was lost; it may have been added.
        """
        return await self._perform(self._inspection.publish(kind, fields or {}, most))


class SyncInspection(ABC):
    """Looking at a queue; a part of `SyncQueue`. Every method is that of `Queue`."""

    @cached_property
    @abstractmethod
    def _inspection(self) -> InspectionOperations: ...

    @abstractmethod
    def _perform(self, procedure: Procedure[T]) -> T: ...

    def metrics(
        self, outcome: Outcome = "completed", start: int = 0, stop: int = -1
    ) -> MinuteMetrics:
        """How many jobs ended in each minute."""
        return self._perform(self._inspection.metrics(outcome, start, stop))

    def workers(self) -> tuple[WorkerSeen, ...]:
        """The workers of this queue."""
        return self._perform(self._inspection.workers())

    def event_readers(self) -> tuple[Client, ...]:
        """Who waits for events of this queue."""
        return self._perform(self._inspection.event_readers())

    def prometheus(self, **labels: str) -> str:
        """Counts of jobs as text for a Prometheus server."""
        return self._perform(self._inspection.prometheus(labels))

    def meta(self) -> QueueMeta:
        """What is stored of the queue as a whole."""
        return self._perform(self._inspection.meta())

    def settings_log(self, *, limit: int = 100) -> tuple[SettingEntry, ...]:
        """Who said what for the whole queue."""
        return self._perform(self._inspection.settings_log(limit))

    def trim_events(self, most: int) -> int:
        """Keep the newest `most` events of the stream."""
        return self._perform(self._inspection.trim_events(most))

    def keep_events(self, most: int) -> None:
        """Let the event stream hold about `most` events from now on."""
        self._perform(self._inspection.keep_events(most))

    def publish(
        self, kind: str, fields: Mapping[str, Json] | None = None, *, most: int | None = None
    ) -> str:
        """Add an event of your own to the stream."""
        return self._perform(self._inspection.publish(kind, fields or {}, most))
