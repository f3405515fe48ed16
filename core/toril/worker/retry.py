"""What follows a failed attempt: another one, and when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from toril.backoff import LONGEST_DELAY, Backoff, delay_ms
from toril.duration import milliseconds

if TYPE_CHECKING:
    from toril.worker.active_job import ActiveJob

log = logging.getLogger("toril.worker")

BackoffFunction: TypeAlias = "Callable[[int, BaseException, ActiveJob], timedelta | str | None]"
"""A backoff of your own: `(attempt, error, job)` → how long to wait, or None to fail the job now.

`attempt` is the number of the attempt that failed, from 1.
"""


def retry_delay(
    job: ActiveJob, error: BaseException, backoffs: Mapping[str, BackoffFunction]
) -> int | None:
    """Milliseconds until the job's next attempt (0: at once), or None if this was its last.

    A custom backoff that this worker does not know, or that breaks, counts as its stored delay.
    """
    attempts = job.opts.get("attempts")
    if not isinstance(attempts, int) or job.attempt >= attempts:
        return None
    stored = job.opts.get("backoff")
    delay = delay_ms(stored, job.attempt)
    if delay is not None:
        return delay
    backoff = Backoff.decode(stored)
    kind = backoff.kind if backoff is not None else ""
    if kind in backoffs:
        try:
            own = backoffs[kind](job.attempt, error, job)
            return None if own is None else min(milliseconds(own), LONGEST_DELAY)
        except Exception:  # a guard: a user's function must not keep the job from being settled
            log.exception("backoff %r broke for job %s/%s", kind, job.queue, job.id)
    else:
        log.warning(
            "job %s/%s asks for the backoff %r, which this worker does not know",
            job.queue, job.id, kind,
        )  # fmt: skip
    return (backoff.delay if backoff is not None else None) or 0
