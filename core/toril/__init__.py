"""Toril: a job queue for Python on Redis and Valkey that shares its data with BullMQ."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

__all__ = [
    "ActiveJob",
    "App",
    "Backoff",
    "ConfigurationError",
    "Cron",
    "Deduplication",
    "EventValues",
    "Every",
    "Flow",
    "FlowTree",
    "Job",
    "JobFailed",
    "JobNotFound",
    "JobOptions",
    "JobRef",
    "JobRemoved",
    "LockLost",
    "NewJob",
    "PluginError",
    "Queue",
    "QueueEvents",
    "RateLimit",
    "RateLimited",
    "Reject",
    "RetryIn",
    "Said",
    "Schedule",
    "ServerError",
    "Setting",
    "State",
    "SyncApp",
    "Task",
    "TorilError",
    "Unrecoverable",
    "WaitAgain",
    "WaitForChildren",
    "Worker",
    "hookimpl",
]

if TYPE_CHECKING:
    from toril.app import App
    from toril.backoff import Backoff
    from toril.deduplication import Deduplication
    from toril.errors import (
        ConfigurationError,
        JobFailed,
        JobNotFound,
        JobRemoved,
        LockLost,
        PluginError,
        RateLimited,
        Reject,
        RetryIn,
        ServerError,
        TorilError,
        Unrecoverable,
        WaitAgain,
        WaitForChildren,
    )
    from toril.event_values import EventValues
    from toril.events import QueueEvents
    from toril.flow import Flow, FlowTree
    from toril.hooks.markers import hookimpl
    from toril.job import Job
    from toril.limits import RateLimit
    from toril.new_job import JobOptions, NewJob
    from toril.queue import Queue
    from toril.schedule import Cron, Every, Schedule
    from toril.setting import Said, Setting
    from toril.snapshots import JobRef
    from toril.sync import SyncApp
    from toril.task import Task
    from toril.types import State
    from toril.worker import ActiveJob, Worker
else:
    # Each name is imported when it is first asked for, so that a plugin or a command that needs
    # only some of them does not wait for the rest.
    _HOMES = {
        "App": "app",
        "Backoff": "backoff",
        "Cron": "schedule",
        "Deduplication": "deduplication",
        "EventValues": "event_values",
        "Every": "schedule",
        "Flow": "flow",
        "FlowTree": "flow",
        "Job": "job",
        "JobOptions": "new_job",
        "JobRef": "snapshots",
        "NewJob": "new_job",
        "Queue": "queue",
        "QueueEvents": "events",
        "RateLimit": "limits",
        "Said": "setting",
        "Schedule": "schedule",
        "Setting": "setting",
        "State": "types",
        "SyncApp": "sync",
        "Task": "task",
        "hookimpl": "hooks.markers",
        "ActiveJob": "worker",
        "Worker": "worker",
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
