"""Workers for Django's tasks: `toril worker toril.integrations.django.workers:default`.

The object's name is the alias of a backend. `DJANGO_SETTINGS_MODULE` names the settings; the
command `manage.py toril_worker` sets it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections
from django.utils import timezone

from toril.app import App
from toril.errors import JobSignal, Unrecoverable
from toril.integrations.django.backend import TorilBackend
from toril.integrations.django.tasks import (
    Task,
    TaskContext,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_finished,
    task_started,
)
from toril.types import Json
from toril.worker.active_job import ActiveJob


def __getattr__(alias: str) -> App:
    if alias.startswith("_"):
        raise AttributeError(alias)
    django.setup()
    return app_with_workers(alias)


def app_with_workers(alias: str) -> App:
    """The App of a backend, with a worker for each of its queues.

    Raises `ImproperlyConfigured` if there is no such backend, or it is not Toril's.
    """
    backend = task_backends[alias]
    if not isinstance(backend, TorilBackend):
        raise ImproperlyConfigured(f"TASKS[{alias!r}] is a {type(backend).__name__}, not Toril's")
    if not backend.queues:
        raise ImproperlyConfigured(f"TASKS[{alias!r}]: name the QUEUES that are to be served")
    served = {worker.queue for worker in backend.app.workers}
    for queue in sorted(backend.queues - served):
        backend.app.worker(queue, DjangoTasks(backend))
    return backend.app


class DjangoTasks:
    """The handler: runs `async def` tasks on the event loop, others in a thread."""

    def __init__(self, backend: TorilBackend) -> None:
        self._backend = backend

    def runs_on_loop(self, job: ActiveJob) -> bool:
        """Whether the task's function is `async def`."""
        return inspect.iscoroutinefunction(self._backend.task_of(job.name).func)

    def __call__(self, job: ActiveJob) -> Any:
        """Run a job. Raises `LookupError` if there is no such task."""
        task = self._backend.task_of(job.name)
        if not (
            isinstance(job.data, Mapping)
            and isinstance(job.data.get("args", []), Sequence)
            and isinstance(job.data.get("kwargs", {}), Mapping)
        ):
            raise Unrecoverable(
                f'task {job.name!r}: its payload is {{"args": […], "kwargs": {{…}}}}, '
                f"not {job.data!r:.80}"
            )
        run = _Run(self._backend, task, job)
        return run.on_loop() if inspect.iscoroutinefunction(task.func) else run.in_thread()


class _Run:
    """One attempt of a task."""

    def __init__(self, backend: TorilBackend, task: Task[..., Any], job: ActiveJob) -> None:
        self._sender = type(backend)
        self._task = task
        self._job = job
        self._result: TaskResult[Any] = backend.stored_result(
            job.snapshot, TaskResultStatus.RUNNING
        )
        self._set(started_at=timezone.now(), last_attempted_at=timezone.now())

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self._result, name, value)

    def _called(self) -> Any:
        context = (TaskContext(task_result=self._result),) if self._task.takes_context else ()
        return self._task.func(*context, *self._result.args, **self._result.kwargs)

    async def on_loop(self) -> Json:
        await sync_to_async(self._begin)()
        try:
            value: Json = normalize_json(await self._called())
        except Exception as error:
            await sync_to_async(self._failed)(error)
            raise
        await sync_to_async(self._completed)(value)
        return value

    def in_thread(self) -> Json:
        self._begin()
        try:
            value: Json = normalize_json(self._called())
        except Exception as error:
            self._failed(error)
            raise
        self._completed(value)
        return value

    def _begin(self) -> None:
        close_old_connections()
        task_started.send_robust(self._sender, task_result=self._result)

    def _completed(self, value: Json) -> None:
        self._set(
            status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value
        )
        self._end()

    def _failed(self, error: Exception) -> None:
        """Tell of the failure if no attempt follows."""
        signals = isinstance(error, JobSignal) and not isinstance(error, Unrecoverable)
        left = self._job.snapshot.attempts > self._job.attempt
        if signals or (left and not isinstance(error, Unrecoverable)):
            close_old_connections()
            return
        self._set(status=TaskResultStatus.FAILED, finished_at=timezone.now())
        self._end()

    def _end(self) -> None:
        task_finished.send_robust(self._sender, task_result=self._result)
        close_old_connections()
