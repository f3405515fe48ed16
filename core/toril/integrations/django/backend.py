"""The backend: Django's tasks as jobs of Toril, and their results."""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, cast

from django.db import connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from toril.app import App
from toril.clock import as_datetime
from toril.errors import ConfigurationError
from toril.ids import new_id
from toril.integrations.django.tasks import (
    BaseTaskBackend,
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from toril.new_job import JobOptions, QueueDefaults
from toril.protocol.codec import encode_json
from toril.snapshots import JobSnapshot
from toril.types import JsonObject, State

HIGHEST: Final = 100
"""Django's priorities go from -100 to 100, the highest first."""
_OPTIONS: Final = (
    "app", "url", "prefix", "attempts", "backoff", "enqueue_on_commit", "database",
)  # fmt: skip
_ERROR: Final = re.compile(r"([A-Za-z_][\w.]*)(?::|$)")
_STATUS: Final[Mapping[State, Any]] = {
    "active": TaskResultStatus.RUNNING,
    "completed": TaskResultStatus.SUCCESSFUL,
    "failed": TaskResultStatus.FAILED,
}
"""In any other state a job is ready to be run."""

_apps: dict[tuple[str | None, str], App] = {}
_making = threading.Lock()


class TorilBackend(BaseTaskBackend):
    """A backend of `django.tasks` that keeps its tasks in queues of Toril.

    The job's name is the path of the task's function, its payload is
    `{"args": […], "kwargs": {…}}`; the id of a result is `QUEUE:JOB`. `OPTIONS`, all optional:

    - `url`: the server; without it what `TORIL_URL` says; `prefix`: of its keys (`"bull"`);
    - `app`: instead, the path of an `App` of your own (`"shop.jobs.app"`);
    - `attempts`, `backoff`: as for `App.queue`;
    - `enqueue_on_commit` (True): within a transaction, add the job when that is committed; with
      `database`: of which database (`"default"`).
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        options: dict[str, Any] = dict(self.options)
        if unknown := options.keys() - set(_OPTIONS):
            raise ConfigurationError(
                f"TASKS[{alias!r}]: there is no option {min(unknown)!r}; "
                f"there are {', '.join(_OPTIONS)}"
            )
        self._path: str | None = options.get("app")
        self._place = (options.get("url"), options.get("prefix", "bull"))
        self._on_commit: bool = options.get("enqueue_on_commit", True)
        self._database: str = options.get("database", "default")
        self.defaults = cast(
            QueueDefaults,
            {name: options[name] for name in ("attempts", "backoff") if name in options},
        )

    @property
    def app(self) -> App:
        """The App, one for each server in this process: Django makes a backend for each thread."""
        if self._path is not None:
            return cast(App, import_string(self._path))
        with _making:
            app = _apps.get(self._place)
            if app is None:
                url, prefix = self._place
                app = _apps[self._place] = App(url, prefix=prefix)
                atexit.register(app.sync.close)
        return app

    def enqueue(
        self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult[Any]:
        """Add a task's job, or have it added at the end of the transaction.

        Raises `InvalidTaskError`, `TypeError` or `InvalidJob` for what cannot be a job.
        """
        self.validate_task(task)
        result = self.result_of(task, f"{task.queue_name}:{new_id()}", args, kwargs)
        payload: JsonObject = {"args": result.args, "kwargs": result.kwargs}
        encode_json(payload, f"task {task.name!r}")  # what cannot be stored is told now
        add = partial(self._add, task, result, payload)
        if self._on_commit and connections[self._database].in_atomic_block:
            transaction.on_commit(add, using=self._database)
        else:
            add()
        return result

    def _add(self, task: Task[..., Any], result: TaskResult[Any], payload: Any) -> None:
        options: JobOptions = {
            "id": result.id.partition(":")[2],
            "priority": HIGHEST + 1 - task.priority,
            "delay": _aware(task.run_after),
        }
        queue = self.app.sync.queue(task.queue_name, **self.defaults)
        job = queue.add(task.module_path, payload, **options)
        object.__setattr__(result, "enqueued_at", as_datetime(job.snapshot.created))
        task_enqueued.send_robust(type(self), task_result=result)

    def get_result(self, result_id: str) -> TaskResult[Any]:
        """The result with that id. Raises `TaskResultDoesNotExist`, also if its job was removed."""
        name, _, id = result_id.partition(":")
        if id and (not self.queues or name in self.queues):
            queue = self.app.sync.queue(name)
            # In this order: a job that ends in between is as it was, and not an end without result.
            state = queue.state(id)
            job = queue.get(id)
            if job is not None and state != "unknown":
                status = _STATUS.get(state, TaskResultStatus.READY)
                return self.stored_result(job.snapshot, status)
        raise TaskResultDoesNotExist(result_id)

    def stored_result(self, job: JobSnapshot, status: Any) -> TaskResult[Any]:
        """What Django wants to know of a job. Raises `LookupError` if it is of no task."""
        payload = cast("dict[str, Any]", job.data if isinstance(job.data, dict) else {})
        result = self.result_of(
            self.task_of(job.name),
            f"{job.queue}:{job.id}",
            payload.get("args", []),
            payload.get("kwargs", {}),
        )
        done = status in {TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED}
        started = job.processed
        fields: dict[str, Any] = {
            "status": status,
            "enqueued_at": as_datetime(job.created),
            "started_at": started and as_datetime(started),
            "last_attempted_at": started and as_datetime(started),
            "finished_at": as_datetime(job.finished) if done and job.finished else None,
            "errors": [TaskError(exception_class_path=_class_in(one), traceback=one)
                       for one in job.stacktrace],
            "worker_ids": [job.processed_by or "toril"] * job.attempts_started,
            "_return_value": job.result if status is TaskResultStatus.SUCCESSFUL else None,
        }  # fmt: skip
        for name, value in fields.items():
            object.__setattr__(result, name, value)
        return result

    def result_of(
        self, task: Task[..., Any], id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult[Any]:
        """The result of a task that has not begun."""
        ready: Any = TaskResultStatus.READY
        return TaskResult(
            task=task,
            id=id,
            status=ready,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    def task_of(self, path: str) -> Task[..., Any]:
        """The task at that path. Raises `LookupError` if there is none."""
        try:
            found = import_string(path)
        except ImportError as error:
            raise LookupError(f"no task {path!r}: {error}") from error
        if not isinstance(found, Task):
            raise LookupError(f"{path!r} is no task, but {found!r}")  # noqa: TRY004 - as above
        return found


def _aware(moment: datetime | None) -> datetime | None:
    if moment is None or timezone.is_aware(moment):
        return moment
    made: datetime = timezone.make_aware(moment)
    return made


def _class_in(trace: str) -> str:
    """The path of the exception's class, as the last line of a traceback names it."""
    lines = [line for line in trace.splitlines() if line and not line[0].isspace()]
    for line in reversed(lines):
        if found := _ERROR.match(line):
            name = found[1]
            return name if "." in name else f"builtins.{name}"
    return "builtins.Exception"
