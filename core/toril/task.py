"""Typed tasks: functions whose calls are jobs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import update_wrapper
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from toril.errors import ConfigurationError, InvalidJob, InvalidResult, Unrecoverable
from toril.flow import Flow
from toril.job import Job
from toril.new_job import JobOptions, NewJob, check_options
from toril.payload import Arguments, Misfit
from toril.protocol.dependencies import Dependencies
from toril.setting import Setting
from toril.sync_job import SyncJob
from toril.types import Json
from toril.worker import ActiveJob
from toril.worker.invoking import runs_on_loop

if TYPE_CHECKING:
    from toril.app import App
    from toril.queue import Queue
    from toril.schedule import Pace, Schedule
    from toril.sync import SyncQueue

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])


class Task(Generic[P, R, F]):
    """A function whose calls can be jobs; made by `queue.task`.

        @emails.task(attempts=5)
        async def welcome(address: str, *, lang: str = "en") -> int: ...

        job = await welcome.add("ada@example.org", lang="es")
        sent: int = await job.result(timeout="10s")

    The payload of its jobs is one JSON object, the arguments by name, so that other languages can
    add them. Calling the task itself calls the function, here and now.

    `P` are the arguments, `R` is the result, `F` the function.
    """

    __name__: str

    def __init__(
        self,
        queue: Queue,
        function: F,
        name: str,
        settings: tuple[Setting, ...],
        options: JobOptions,
    ) -> None:
        self.queue = queue
        """Where its jobs go."""
        self.function = function
        """The function itself."""
        self.name = name
        """The name of its jobs."""
        self.settings = settings
        """What is said for each of its jobs."""
        self.job_options = options
        """The options of its jobs."""
        self._arguments = Arguments(function, name)
        update_wrapper(cast(Any, self), function)

    def __repr__(self) -> str:
        return f"<Task {self.name!r} of queue {self.queue.name!r}>"

    @property
    def __call__(self) -> F:
        """Call the function here and now."""
        return self.function

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same without asyncio."""
        return SyncTask(self)

    def options(self, *settings: Setting, **options: Unpack[JobOptions]) -> Task[P, R, F]:
        """The same task with other options, for what is called on it: `.options(delay="5m").add()`.

        Args:
            settings: What is said for these jobs; it replaces what the task says of that kind.
            options: See `Queue.add`.
        """
        check_options("options", options)
        kinds = {type(setting) for setting in settings}
        kept = tuple(setting for setting in self.settings if type(setting) not in kinds)
        merged: JobOptions = {**self.job_options, **options}
        return Task(self.queue, self.function, self.name, kept + settings, merged)

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job of this task that is not added yet.

        For `add_many`, for `Queue.add_many`, and for `ActiveJob.add_children`.

        Raises:
            TypeError: The function does not take these arguments.
            InvalidJob: An argument is not of its type.
        """
        data = self._arguments.encode(args, kwargs)
        return NewJob(self.name, data, *self.settings, **self.job_options)

    def flow(self, *args: P.args, **kwargs: P.kwargs) -> Flow:
        """A node of a flow; `.after(…)` gives it children. Raises what `new` raises."""
        data = self._arguments.encode(args, kwargs)
        return Flow(self.queue, self.name, data, *self.settings, **self.job_options)

    async def add(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Add a job that calls the function with these arguments.

        Raises what `new` and `Queue.add` raise.
        """
        new = self.new(*args, **kwargs)
        return self.of(await self.queue.add(new.name, new.data, *new.settings, **new.options))

    async def add_many(self, jobs: Iterable[NewJob]) -> list[Job[R]]:
        """Add many jobs: `await task.add_many(task.new(n) for n in range(1000))`.

        Raises what `Queue.add_many` raises, and `ValueError` for a job of another task.
        """
        return [self.of(job) for job in await self.queue.add_many(self.own(jobs))]

    async def get(self, id: str) -> Job[R] | None:
        """The job with that id; None if there is none, or it is not of this task."""
        found = await self.queue.get(id)
        return self.of(found) if found is not None and found.name == self.name else None

    async def schedule(self, id: str, pace: Pace, /, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        """Call the function again and again with these arguments; see `Queue.schedule`."""
        new = self.new(*args, **kwargs)
        options: Any = new.options  # an id among them is refused there
        return await self.queue.schedule(id, pace, new.name, new.data, *new.settings, **options)

    def of(self, job: Job[Any]) -> Job[R]:
        """A job of this task that was come by otherwise: its result is decoded as the task's."""
        return Job(self.queue.app, job.snapshot, self.decoder(job.id))

    def own(self, jobs: Iterable[NewJob]) -> Iterator[NewJob]:
        """The jobs, if all are of this task. Raises `ValueError`."""
        for job in jobs:
            if job.name != self.name:
                raise ValueError(
                    f"{job.name!r} is no job of task {self.name!r}; Queue.add_many takes any"
                )
            yield job

    def results(self, children: Dependencies) -> list[R]:
        """The results of those children that completed and were jobs of this task's queue.

            done = total.results(await job.children())

        What children leave does not tell which task they were of: the children that a parent has in
        one queue must have results of one type. Raises `InvalidResult` if one is not.
        """
        queue = self.queue.key
        return [
            self.decoder(key.rpartition(":")[2])(value)
            for key, value in children.processed.items()
            if key.rpartition(":")[0] == queue
        ]

    def decoder(self, job_id: str) -> Callable[[Json], R]:
        """Decodes the result of a job of this task; raises `InvalidResult`."""

        def decode(value: Json) -> R:
            try:
                result: R = self._arguments.decode_result(value)
            except Misfit as error:
                raise InvalidResult(
                    f"the result of job {job_id!r} is not what task {self.name!r} returns: {error}",
                    queue=self.queue.name,
                    job_id=job_id,
                ) from None
            return result

        return decode

    @property
    def is_async(self) -> bool:
        """Whether its function is `async def`."""
        return runs_on_loop(self.function)

    def run(self, job: ActiveJob) -> Any:
        """Call the function with what the job says; returns its result as JSON, or an awaitable.

        Raises `Unrecoverable` for a payload that is not of the function's types.
        """
        try:
            bound = self._arguments.decode(job.data)
        except InvalidJob as error:
            raise Unrecoverable(str(error)) from None
        first = (job,) if self._arguments.takes_job else ()
        result: Any = self.function(*first, *bound.args, **bound.kwargs)
        if inspect.isawaitable(result):
            return self._awaited(result)
        return self._arguments.encode_result(result)

    async def _awaited(self, result: Any) -> Json:
        return self._arguments.encode_result(await result)


class SyncTask(Generic[P, R]):
    """`task.sync`: what a task does, without asyncio. Every method is that of `Task`."""

    def __init__(self, task: Task[P, R, Any]) -> None:
        self._task = task

    def __repr__(self) -> str:
        return f"<SyncTask {self._task.name!r} of queue {self._task.queue.name!r}>"

    @property
    def queue(self) -> SyncQueue:
        """Where its jobs go."""
        queue = self._task.queue
        return queue.app.sync.queue(queue.name, **queue.defaults)

    def add(self, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """Add a job that calls the function with these arguments."""
        new = self._task.new(*args, **kwargs)
        return self.of(self.queue.add(new.name, new.data, *new.settings, **new.options))

    def add_many(self, jobs: Iterable[NewJob]) -> list[SyncJob[R]]:
        """Add many jobs; see `Task.add_many`."""
        return [self.of(job) for job in self.queue.add_many(self._task.own(jobs))]

    def get(self, id: str) -> SyncJob[R] | None:
        """The job with that id; None if there is none, or it is not of this task."""
        found = self.queue.get(id)
        return self.of(found) if found is not None and found.name == self._task.name else None

    def schedule(self, id: str, pace: Pace, /, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        """Call the function again and again with these arguments; see `Queue.schedule`."""
        new = self._task.new(*args, **kwargs)
        options: Any = new.options
        return self.queue.schedule(id, pace, new.name, new.data, *new.settings, **options)

    def of(self, job: SyncJob[Any]) -> SyncJob[R]:
        """A job of this task that was come by otherwise; see `Task.of`."""
        app = self._task.queue.app.sync
        return SyncJob(app, job.snapshot, self._task.decoder(job.id))


class Tasks(Mapping[str, Task[..., Any, Any]]):
    """The tasks of one queue by name, and the handler that runs its jobs with them."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._tasks: dict[str, Task[..., Any, Any]] = {}

    def __getitem__(self, name: str) -> Task[..., Any, Any]:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def declare(self, task: Task[..., Any, Any]) -> None:
        """Note a task. Raises `ConfigurationError` if another function has its name."""
        other = self._tasks.get(task.name)
        if other is not None and _home(other) != _home(task):
            raise ConfigurationError(
                f"queue {self._queue!r} has a task {task.name!r} already, {_home(other)}; give "
                f"{_home(task)} another name=…"
            )
        self._tasks[task.name] = task

    def runs_on_loop(self, job: ActiveJob) -> bool:
        """Whether the job is run on the event loop, and not in a thread."""
        task = self._tasks.get(job.name)
        return task is None or task.is_async

    def __call__(self, job: ActiveJob) -> Any:
        """Run a job with its task. Raises `LookupError` if there is none of its name."""
        task = self._tasks.get(job.name)
        if task is None:
            known = ", ".join(map(repr, self._tasks)) or "none"
            raise LookupError(f"no task {job.name!r} in queue {self._queue!r}; there are: {known}")
        return task.run(job)

    def __reduce__(self) -> tuple[Callable[..., Tasks], tuple[object, ...]]:
        """For processes of a worker, which import the modules of the tasks.

        Raises `TypeError` for a task that cannot be found that way.
        """
        places = [(task.function.__module__, task.function.__qualname__) for task in self.values()]
        if _imported(self._queue, *places) is not self:
            raise TypeError(f"the tasks of queue {self._queue!r} are not those of their modules")
        return _imported, (self._queue, *places)


def _imported(queue: str, *places: tuple[str, str]) -> Tasks:
    """The tasks of a queue, once the modules of these functions have been imported."""
    found: object = None
    for module, path in places:
        found = import_module(module)
        for name in path.split("."):
            found = getattr(found, name, None)
        if module == "__main__" or not isinstance(found, Task):
            raise TypeError(f"{module}.{path} is no task at the top of a module")
    if not isinstance(found, Task):
        raise TypeError(f"queue {queue!r} has no tasks")
    app: App = found.queue.app
    return app.tasks(queue)


def _home(task: Task[..., Any, Any]) -> str:
    function = inspect.unwrap(task.function)
    return f"{function.__module__}.{function.__qualname__}"


class TaskMaker:
    """`queue.task`: makes a task of a function, with or without options."""

    def __init__(
        self,
        queue: Queue,
        name: str | None = None,
        settings: tuple[Setting, ...] = (),
        options: JobOptions | None = None,
    ) -> None:
        self._queue = queue
        self._name = name
        self._settings = settings
        self._options: JobOptions = options or {}

    @overload
    def __call__(  # type: ignore[overload-overlap]  # async def goes before def
        self, function: Callable[Concatenate[ActiveJob, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Callable[Concatenate[ActiveJob, P], Coroutine[Any, Any, R]]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Callable[P, Coroutine[Any, Any, R]]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[ActiveJob, P], R], /
    ) -> Task[P, R, Callable[Concatenate[ActiveJob, P], R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, Callable[P, R]]: ...
    @overload
    def __call__(
        self, *settings: Setting, name: str | None = None, **options: Unpack[JobOptions]
    ) -> TaskMaker: ...
    def __call__(self, *given: Any, name: str | None = None, **options: Unpack[JobOptions]) -> Any:
        """Make a task of a function, or say what the tasks made with it have.

        Args:
            given: The function; or settings, said for each of its jobs.
            name: The name of its jobs; the function's, if nothing is said.
            options: See `Queue.add`.

        Raises:
            TypeError: A parameter of the function has no type, or one that JSON cannot carry; or an
                unknown option.
            ConfigurationError: The queue has another task of that name.
        """
        if len(given) == 1 and callable(given[0]) and not isinstance(given[0], Setting):
            return self._made(given[0])
        for one in given:
            if not isinstance(one, Setting):
                raise TypeError(f"task() takes a function or settings, not {one!r}")
        check_options("task", options)
        merged: JobOptions = {**self._options, **options}
        return TaskMaker(self._queue, name or self._name, self._settings + given, merged)

    def _made(self, function: Callable[..., object]) -> Task[..., Any, Any]:
        name = self._name or function.__name__
        task: Task[..., Any, Any] = Task(self._queue, function, name, self._settings, self._options)
        self._queue.app.tasks(self._queue).declare(task)
        return task
