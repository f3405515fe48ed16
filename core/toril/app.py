"""An App: a server, its plugins, and the queues, workers and flows that live there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from toril.add_batches import AddBatches
from toril.app_options import AppOptions
from toril.arguments import name_of_queue, several
from toril.connection.call import Procedure
from toril.connection.endpoint import Endpoint
from toril.connection.open import open_endpoint
from toril.context import Context
from toril.errors import ConfigurationError
from toril.events import QueueEvents
from toril.flow import Flow, FlowTree, queues_of
from toril.flow_operations import FlowOperations
from toril.job import Job
from toril.job_operations import JobOperations
from toril.metrics import Sample
from toril.new_job import HasRef, QueueDefaults, check_names, ref_of
from toril.operations import QueueOperations
from toril.protocol import reading
from toril.queue import Queue
from toril.removals import Erasure
from toril.results import Results
from toril.runtime import Runtime
from toril.setting import Setting
from toril.snapshots import JobRef, ParentRef

if TYPE_CHECKING:
    from toril.hooks.findings import AuditReport
    from toril.sync import SyncApp
    from toril.task import Tasks
    from toril.worker import Fetcher, Handler, Worker, WorkerOptions

T = TypeVar("T")


class App:
    """One server with one set of plugins; everything else is made from it.

        app = App("redis://localhost")
        emails = app.queue("emails")

        async def main() -> None:
            async with app:
                job = await emails.add("welcome", {"to": "ada@example.org"}, delay="5s")

    Making an App does nothing yet: the first operation that is awaited connects and starts the
    plugins, and `async with` or `aclose` ends them. An App lives on one event loop; `app.sync` is
    its synchronous face.

    Args:
        url: The server; None: what `TORIL_URL` says.
        settings: What is said for all jobs of all queues.
        options: See `AppOptions`: `prefix`, `plugins`, `block`, `config`, `clock`.

    Raises:
        ConfigurationError: The URL cannot be understood.
        TypeError: An unknown option, two settings of one kind, or something that is no setting.
    """

    def __init__(
        self,
        url: str | Endpoint | None = None,
        /,
        *settings: Setting,
        **options: Unpack[AppOptions],
    ) -> None:
        self.runtime = Runtime(url, settings, **options)
        self.results = Results(self)
        self._workers: list[Worker] = []
        self._adds: dict[str, AddBatches] = {}
        self._tasks: dict[str, Tasks] = {}

    @classmethod
    def from_client(
        cls, client: object, /, *settings: Setting, **options: Unpack[AppOptions]
    ) -> Self:
        """An App on the server of a client of redis-py or valkey-py.

        Only its address and login are used: Toril makes connections of its own, and the client
        stays the caller's. The other arguments are those of `App`.
        """
        return cls(open_endpoint(client), *settings, **options)

    def __repr__(self) -> str:
        return f"<App on {self.runtime.place}>"

    @property
    def context(self) -> Context:
        """What operations need to know of this App."""
        return self.runtime.context

    @cached_property
    def sync(self) -> SyncApp:
        """The same queues, flows and jobs for threads, without an event loop."""
        from toril.sync import SyncApp  # many programs have no use for it

        return SyncApp(self.runtime)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers made by `worker`, in that order; `toril worker` runs them."""
        return tuple(self._workers)

    def queue(self, name: str, /, *settings: Setting, **defaults: Unpack[QueueDefaults]) -> Queue:
        """A queue.

        Args:
            name: Its name, without colons.
            settings: What is said for the whole queue. It is published at the first operation on
                it, and gives way to what somebody has set at run time.
            defaults: See `QueueDefaults`: `attempts`, `backoff`, `counter_ids`.

        Raises:
            ConfigurationError: A bad name; or the queue was declared with other settings before.
            TypeError: An unknown option.
        """
        check_names("queue", defaults, QueueDefaults)
        self.runtime.declared.declare(name, settings)
        return Queue(self, name, defaults)

    def adds(self, queue: str) -> AddBatches:
        """Where single jobs of a queue are added; for `Queue.add`."""
        batches = self._adds.get(queue)
        if batches is None:
            operations = QueueOperations(self.context, queue)
            batches = self._adds[queue] = AddBatches(self.runtime, operations)
        return batches

    async def queues(self) -> list[str]:
        """The names of the queues on the server, sorted; it walks all keys of the server."""
        return await self.perform(reading.queues(self.context.prefix))

    def worker(
        self,
        queue: str | Queue,
        handler: Handler | None = None,
        /,
        *settings: Setting,
        **options: Unpack[WorkerOptions],
    ) -> Worker:
        """A worker for a queue.

        It runs with `worker.run()`, `async with worker`, or the command `toril worker module:app`,
        which runs all workers of an App.

        Args:
            queue: The queue, or its name.
            handler: What runs a job: `async def`, or `def` (in a thread), with one argument. None:
                the tasks of the queue.
            settings: What is said for the queue by this worker; what the queue says goes before it.
            options: See `WorkerOptions`: `concurrency`, `lock`, `grace`, …

        Raises:
            ConfigurationError: There is neither a handler nor a task.
            TypeError: An unknown option, or a value of the wrong type.
            ValueError: A value out of range.
        """
        from toril.worker import Worker

        name = name_of_queue(queue)
        if handler is None and not self.tasks(name):
            raise ConfigurationError(
                f"a worker for queue {name!r} needs a handler, or tasks: declare them with "
                "@queue.task, and import the modules where that is done, before the worker is made"
            )
        made = Worker(self, name, handler or self.tasks(name), *settings, **options)
        self._workers.append(made)
        return made

    def fetcher(
        self, queue: str | Queue, /, *settings: Setting, **options: Unpack[WorkerOptions]
    ) -> Fetcher:
        """What fetches jobs of a queue to be ended by hand: a worker without a handler.

            async with app.fetcher("emails") as fetcher:
                while job := await fetcher.next_job(wait="5s"):
                    await job.complete(send(job.data))

        The arguments are those of `worker`. `toril worker` does not run it.
        """
        from toril.worker import Fetcher

        name = name_of_queue(queue)
        return Fetcher(self, name, *settings, **options)

    def tasks(self, queue: str | Queue) -> Tasks:
        """The tasks of a queue by name; also the handler that runs them."""
        from toril.task import Tasks

        name = name_of_queue(queue)
        return self._tasks.setdefault(name, Tasks(name))

    def serve_tasks(self) -> tuple[Worker, ...]:
        """Make a worker for each queue that has tasks and no worker; all workers of the App."""
        served = {worker.queue for worker in self._workers}
        for name, tasks in self._tasks.items():
            if tasks and name not in served:
                self.worker(name)
        return self.workers

    async def add_flow(self, flow: Flow, /, *settings: Setting) -> Job:
        """Add a flow: all its jobs, or none.

        A flow of more than 200 jobs is added in steps: all is checked before the first, no parent
        can run before the last, and other programs may see parents whose children do not exist yet.

        Args:
            flow: The root.
            settings: What is said for all jobs of the flow; a job's own settings go before it.

        Returns:
            The root.

        Raises:
            InvalidJob: Something that cannot be saved.
            ParentError: A job with the `id` of one of its jobs exists and has another parent.
            ConfigurationError: The server is a cluster, and the queues are in different slots.
            Reject: A plugin refuses one of the jobs.
            PluginError: A plugin broke while the jobs were planned.
            IndeterminateError: The reply was lost; `job_ids` names the jobs.
        """
        operations = FlowOperations(self.context)
        one_slot = self.runtime.endpoint.kind == "cluster"
        adding = operations.add(flow, settings, one_slot=one_slot)
        return Job(self, await self.perform(adding, *queues_of(flow)))

    async def add_flows(self, flows: Iterable[Flow], /, *settings: Setting) -> list[Job]:
        """Add several flows, each with all its jobs or none; see `add_flow`. Returns the roots.

        All are checked and planned before the first is written: one refusal refuses all. Flows
        whose roots are of one queue go out together, up to 200 jobs at a time. After one that the
        server refuses, or a lost connection, the first ones may have been added.
        """
        operations = FlowOperations(self.context)
        one_slot = self.runtime.endpoint.kind == "cluster"
        given = several(flows, "the flows to add")
        adding = operations.add_many(given, settings, one_slot=one_slot)
        added = await self.perform(adding, *queues_of(*given))
        return [Job(self, root) for root in added]

    async def flow_tree(
        self, job: HasRef | JobRef, *, depth: int = 10, width: int = 50
    ) -> FlowTree[Job]:
        """A flow as it is stored now, from `job` downwards.

        Args:
            job: Where to begin: a `Job`, or a `JobRef`.
            depth: How many levels are read.
            width: How many children of one job are read; a node with more has `cut` set.

        Raises `JobNotFound` if the job is gone. Of children that are gone the tree tells what
        plugins still know.
        """
        ref = ref_of(job, "where a tree begins")
        tree = await self.perform(FlowOperations(self.context).tree(ref, depth, width))
        recall = self.runtime.dispatcher.recall
        gone = {ref: await recall(ref) for ref in tree.all_gone()}
        return tree.of(lambda snapshot: Job(self, snapshot), gone)

    def events(
        self, queue: str | Queue, *, after: str | None = None, prefix: str | None = None
    ) -> QueueEvents:
        """The events of a queue as they happen, whoever causes them.

        Args:
            queue: The queue, or its name.
            after: Go on behind this event (`QueueEvents.after` of an earlier iteration); `"0-0"`:
                from the oldest that is kept; None: from now.
            prefix: What the queue's keys begin with, if that is not the prefix of the App.
        """
        name = name_of_queue(queue)
        return QueueEvents(self, name, prefix, after=after)

    def named(self, kind: str, name: str) -> Any:
        """What a plugin registered with `registry.name(kind, name, value)`.

        Raises `ConfigurationError` if no plugin in use offers it, naming those that are offered;
        or if the App has not been used yet, as its plugins are loaded then.
        """
        return self.runtime.named(kind, name)

    def metrics(self) -> tuple[Sample, ...]:
        """All counters and gauges of this process: Toril's, and what the plugins count.

        They belong to this App and begin at nothing; a forked child begins anew. Asks no server.
        """
        return self.runtime.samples()

    async def audit(self, queue: str, *, most: int | None = None) -> AuditReport:
        """Look whether what is stored of a queue agrees with itself, and with what was said.

        It only reads, in small steps with pauses, while others work. A finding can be repaired with
        `await finding.repair.run()` if it has a `repair`.

        Args:
            queue: The queue's name.
            most: So many jobs, and entries of each index, are looked at; None: all.

        Raises `ServerError`.
        """
        from toril.auditing import Auditor

        await self.runtime.start()
        return await Auditor(self.runtime, queue, most).run()

    async def erase(self, job: JobRef, parent: ParentRef | None = None) -> Erasure:
        """Erase a job; see `Job.erase`. `parent`: its, as far as the caller knows."""
        await self.runtime.start()
        dispatcher = self.runtime.dispatcher
        ref = ref_of(job, "what is erased")
        operations = JobOperations(self.context, ref.queue, ref.id, ref.prefix)
        recalled = None if parent else await dispatcher.recall(ref)
        known = parent or (recalled.parent if recalled else None)
        traces = await self.perform(operations.erase(known), ref.queue)
        told = await dispatcher.erase(ref)
        return Erasure(traces.job, traces.in_parent, traces.events, told)

    async def run_services(self, queue: str) -> bool:
        """Run Toril's and the plugins' services of a queue here and now, until nothing is due.

        For queues that no worker of Toril serves. From one call to the next they remember how far
        they have come. Returns False if somebody else runs one of them already: it is left to them.
        Raises whatever a service raises.
        """
        await self.runtime.start()
        return await self.runtime.run_services(queue)

    async def perform(self, procedure: Procedure[T], *queues: str) -> T:
        """Carry out a procedure; for Toril's own nouns, and for tools.

        `queues` are the queues it is about: what was declared for them is published first.
        """
        return await self.runtime.perform(procedure, queues)

    async def __aenter__(self) -> Self:
        await self.runtime.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the plugins and close the connections; workers are to be stopped first.

        What is being added is added first. The App can be used again; it then starts anew.
        """
        for adds in self._adds.values():
            await adds.settled()
        await self.results.aclose()
        await self.runtime.aclose()
