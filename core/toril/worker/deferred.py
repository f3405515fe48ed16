"""Jobs of which somebody has decided that they must fail: how that is done, without a run."""

from __future__ import annotations

import contextlib

from toril.errors import Unrecoverable
from toril.protocol.finishing import Finish
from toril.snapshots import JobSnapshot
from toril.types import FinishCause, Json
from toril.worker.traces import reason_of, with_trace


def deferred_finish(job: JobSnapshot, token: str, reason: str, *, from_head: bool) -> Finish:
    """The end of a picked-up job that must fail for `reason`."""
    error = Unrecoverable(reason)
    limit: Json = None
    with contextlib.suppress(ValueError):  # garbled options ask for nothing
        limit = job.opts.get("stackTraceLimit")
    return Finish(
        job,
        token,
        "failed",
        reason_of(error),
        stacktrace=with_trace(job, error, limit),
        from_head=from_head,
        cause=_who_decided(reason),
    )


def _who_decided(reason: str) -> FinishCause:
    """Who decided that a job must fail, by the reason that BullMQ's format has for each."""
    if reason == "job stalled more than allowable limit":
        return "stalled"
    if reason.startswith("child ") and reason.endswith(" failed"):
        return "child"
    return "deferred"
