"""Running jobs."""

from toril.worker.active_job import ActiveJob, SyncActiveJob
from toril.worker.by_hand import Fetcher, HeldJob
from toril.worker.invoking import Handler
from toril.worker.options import WorkerOptions
from toril.worker.retry import BackoffFunction
from toril.worker.worker import Worker

__all__ = [
    "ActiveJob",
    "BackoffFunction",
    "Fetcher",
    "Handler",
    "HeldJob",
    "SyncActiveJob",
    "Worker",
    "WorkerOptions",
]
