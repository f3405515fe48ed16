"""Adding an archived job anew: the same work, as another job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from toril import Backoff, NewJob, Setting
from toril.plugins import FinishedJob, JobStateError
from toril_plugins.archive.record import ArchivedJob
from toril_plugins.retention.resolve import own_values, resolve
from toril_plugins.retention.values import Retention

_NUMBERS: Final = (
    ("attempts", "attempts", 1),
    ("priority", "priority", 1),
    ("size_limit", "sizeLimit", 0),
    ("keep_logs", "keepLogs", 0),
    ("stack_trace_limit", "stackTraceLimit", 0),
)
"""What is said again: our word, BullMQ's, and the least that means something."""


def as_new(archived: ArchivedJob, find: Callable[[str, str], Any], id: str | None) -> NewJob:
    """The job to add: name, data, how it is tried, and what was said for it.

    Left out is what was about that one occasion: delay, times, parent, schedule, deduplication.
    `find` finds what plugins registered.

    Raises:
        JobStateError: its data had gone before it was archived.
        ValueError: its data or options are garbled.
        ConfigurationError: something was said for it whose plugin is not in use.
    """
    if archived.job.is_data_taken:
        raise JobStateError(
            f"the data of job {archived.id!r} of queue {archived.queue!r} had gone when it was "
            f"archived ({archived.rule}): there is nothing to run it with; `restore` brings back "
            "what is left",
            queue=archived.queue,
            job_id=archived.id,
        )
    job = archived.job
    opts = job.opts
    options: dict[str, Any] = {"id": id, "backoff": Backoff.decode(opts.get("backoff"))}
    for ours, stored, least in _NUMBERS:
        value = opts.get(stored)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            options[ours] = value
    if opts.get("lifo") is True:
        options["lifo"] = True
    return NewJob(job.name, job.data, *_settings(job, find), **options)


def _settings(job: FinishedJob, find: Callable[[str, str], Any]) -> Iterator[Setting]:
    """What was said for the job, its flow or its schedule, as said for the new job alone."""
    completed, failed = (
        resolve(own_values(job, outcome), outcome) for outcome in ("completed", "failed")
    )
    if completed.said or failed.said:
        yield Retention(
            completed=completed.keep if completed.said else None,
            failed=failed.keep if failed.said else None,
        )
    for name in job.settings.names:
        if name != Retention.name:
            kind: type[Setting] = find("setting", name)
            value = job.settings.get(kind)
            if value is not None:
                yield value
