"""What a plugin is given to work with: contexts, and the small values that hooks exchange."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from toril.clock import Clock, as_datetime
from toril.metrics import Metrics, Sample
from toril.protocol.reading import FinishedCursor, FinishedPage

if TYPE_CHECKING:
    from toril.hooks.configuration import Configuration
    from toril.hooks.function import HookFunction
    from toril.job_events import JobEvent
    from toril.setting import Said, Setting
    from toril.snapshots import JobParts, JobSnapshot
    from toril.types import Json, Outcome, State

T = TypeVar("T")
S = TypeVar("S", bound="Setting")


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker of this App. `given_back` counts the jobs it returned when it stopped."""

    queue: str
    name: str
    concurrency: int
    given_back: int = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing a plugin knows about a job's present or future, for `job.explain()`.

    `subject` says what it is about (`"rule"`, `"removal"`), `text` says it to a person; `at` is
    when it happens or happened (milliseconds since the epoch), `level` who said so.
    """

    subject: str
    text: str
    at: int | None = None
    level: str | None = None


class Service(Protocol):
    """Work on one queue that only one process at a time does."""

    async def run_once(self, context: ServiceContext) -> float | None:
        """Do what is due; return the seconds until the next time (None: a minute, 0: more is due).

        The lease can be lost during any pause: pass `context.token` to scripts that write, and let
        them ask `ctx.lease_held(service, token)`. What is raised is logged, and `run_once` comes
        again after a pause.
        """
        ...


class Host(Protocol):
    """What an App does for its plugins. Every `async` method raises `ServerError`."""

    @property
    def clock(self) -> Clock:
        """The App's clock."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Where plugins count."""
        ...

    def samples(self) -> Sequence[Sample]:
        """See `App.metrics`."""
        ...

    async def run_script(self, queue: str, plugin: str, script: str, args: Json) -> Json:
        """Run a plugin's own script on a queue, publish its events, return its value."""
        ...

    async def read_jobs(self, queue: str, ids: Sequence[str]) -> Sequence[JobSnapshot | None]:
        """Jobs by their ids."""
        ...

    async def read_parts(self, queue: str, ids: Sequence[str]) -> Sequence[JobParts]:
        """What is stored of jobs beside their hashes."""
        ...

    async def read_finished(
        self,
        queue: str,
        outcome: Outcome,
        after: FinishedCursor | None,
        limit: int,
        before: int | None,
    ) -> FinishedPage:
        """A page of finished jobs, oldest first."""
        ...

    async def read_counts(self, queue: str) -> Mapping[State, int]:
        """How many jobs are in each state."""
        ...

    async def read_live(self, queue: str, kind: type[S]) -> Sequence[Said[S]]:
        """What is said for a whole queue, most specific first."""
        ...

    async def run_services(self, queue: str) -> bool:
        """See `App.run_services`."""
        ...

    async def publish(self, events: Sequence[JobEvent]) -> None:
        """Tell the plugins."""
        ...


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What a plugin of an App can use, from `toril_start` until after `toril_stop`.

    `name` is the plugin's name. Methods that are `async` belong on the App's loop.
    """

    name: str
    host: Host
    configuration: Configuration
    functions: Callable[[str], tuple[HookFunction, ...]]
    finder: Callable[[str, str], Any]
    spawner: Callable[[str, Coroutine[Any, Any, None]], None]

    @property
    def clock(self) -> Clock:
        """The App's clock; a test moves it by hand."""
        return self.host.clock

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""
        return self.host.clock.now_ms()

    def now(self) -> datetime:
        """The time in UTC."""
        return as_datetime(self.now_ms())

    def config(self, kind: type[T]) -> T:
        """The plugin's table of the configuration as an instance of the dataclass `kind`.

        Raises:
            ConfigurationError: an option that `kind` has not (the nearest one is named), or a value
                that does not fit.
        """
        return self.configuration.options(self.name, kind)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` on the App's loop until it ends; it is cancelled before `toril_stop`.

        What it raises is logged under the plugin's name and ends that work alone.
        """
        self.spawner(self.name, work)

    def implementations(self, hook: str) -> tuple[HookFunction, ...]:
        """The functions of active plugins for a hook, in the order in which they are asked.

        For a plugin that calls a hook of its own in its own way: each has `plugin`,
        `names(argument)`, `ask(…)` for plain functions and `await ask_async(…)`.
        """
        return self.functions(hook)

    def named(self, kind: str, name: str) -> Any:
        """What a plugin registered with `registry.name(kind, name, value)`.

        Raises:
            ConfigurationError: no plugin in use offers it; those that are offered are named.
        """
        return self.finder(kind, name)

    def call(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Ask all plain functions of a hook: plugin and answer, in order.

        Raises:
            PluginError: one of them broke; it is logged already.
        """
        return [(each.plugin, each.ask(**arguments)) for each in self.functions(hook)]

    async def call_async(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Ask all functions of a hook, plain or asynchronous, one after the other.

        Raises:
            PluginError: one of them broke or took longer than 10 seconds; it is logged already.
        """
        return [(each.plugin, await each.ask_async(**arguments)) for each in self.functions(hook)]

    async def run_script(self, queue: str, name: str, args: Json = None) -> Json:
        """Run a script that this plugin registered, on a queue, in one atomic step.

        Jobs that it removed are reported to `toril_jobs_removed`. Raises `ServerError`.
        """
        return await self.host.run_script(queue, self.name, name, args)

    async def jobs(self, queue: str, ids: Sequence[str]) -> Sequence[JobSnapshot | None]:
        """Jobs by their ids, None where there is none. Raises `ServerError`."""
        return await self.host.read_jobs(queue, ids)

    async def parts(self, queue: str, ids: Sequence[str]) -> Sequence[JobParts]:
        """What is stored of jobs beside their hashes: log lines, and what children left with them.

        Read in pages, of any size. Raises `ServerError`.
        """
        return await self.host.read_parts(queue, ids)

    async def finished(
        self,
        queue: str,
        outcome: Outcome,
        *,
        after: FinishedCursor | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> FinishedPage:
        """A page of finished jobs, oldest first; `after` is the cursor of the page before.

        `limit`: at most 100. `before`: only those that ended up to then, in milliseconds since the
        epoch. Raises `ServerError`.
        """
        return await self.host.read_finished(queue, outcome, after, limit, before)

    async def counts(self, queue: str) -> Mapping[State, int]:
        """How many jobs of a queue are in each state. Raises `ServerError`."""
        return await self.host.read_counts(queue)

    async def live(self, queue: str, kind: type[S]) -> Sequence[Said[S]]:
        """What is said for a whole queue, most specific first. Raises `ServerError`."""
        return await self.host.read_live(queue, kind)

    async def publish(self, events: Sequence[JobEvent]) -> None:
        """Report what the plugin did to jobs by other means than its scripts."""
        await self.host.publish(events)

    async def run_services(self, queue: str) -> bool:
        """Run Toril's and the plugins' services of a queue here and now, until nothing is due.

        Not from within a service. Returns False if somebody else runs one of them already. Raises
        whatever a service raises.
        """
        return await self.host.run_services(queue)

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter of this process, for whoever exports counters; from any thread.

        `name` is one of Prometheus and ends in `_total`; past 1,000 sets of labels under one name
        further ones are counted together. Raises `ValueError` for what is no name.
        """
        self.host.metrics.count(name, amount, **labels)

    def gauge(self, name: str, value: float | None, /, **labels: str) -> None:
        """Set a gauge, as `count` does a counter; None takes it back."""
        self.host.metrics.gauge(name, value, **labels)

    def metrics(self) -> Sequence[Sample]:
        """All counters and gauges of this process as they are now; for exporters."""
        return self.host.samples()


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a service gets for one `run_once` on one queue.

    `token` proves the lease: `ctx.lease_held(service, token)` in the plugin's scripts.
    """

    plugin: PluginContext
    service: str
    queue: str
    token: str

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""
        return self.plugin.now_ms()

    async def run_script(self, name: str, args: Mapping[str, Json] | None = None) -> Json:
        """Run a script of the plugin on this queue; `token` and `service` are added to `args`."""
        lease: dict[str, Json] = {"token": self.token, "service": self.service}
        return await self.plugin.run_script(self.queue, name, {**lease, **(args or {})})

    async def jobs(self, ids: Sequence[str]) -> Sequence[JobSnapshot | None]:
        """Jobs of this queue by their ids, None where there is none."""
        return await self.plugin.jobs(self.queue, ids)

    async def parts(self, ids: Sequence[str]) -> Sequence[JobParts]:
        """What is stored of jobs of this queue beside their hashes."""
        return await self.plugin.parts(self.queue, ids)

    async def finished(
        self,
        outcome: Outcome,
        *,
        after: FinishedCursor | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> FinishedPage:
        """A page of this queue's finished jobs, oldest first."""
        return await self.plugin.finished(
            self.queue, outcome, after=after, limit=limit, before=before
        )

    async def live(self, kind: type[S]) -> Sequence[Said[S]]:
        """What is said for this queue as a whole, most specific first."""
        return await self.plugin.live(self.queue, kind)

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """`PluginContext.count`, labelled with this queue."""
        self.plugin.count(name, amount, queue=self.queue, **labels)

    def gauge(self, name: str, value: float | None, /, **labels: str) -> None:
        """`PluginContext.gauge`, labelled with this queue."""
        self.plugin.gauge(name, value, queue=self.queue, **labels)
