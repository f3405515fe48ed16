"""What can be said about a worker when it is made."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypedDict, Unpack, cast

from toril.duration import milliseconds
from toril.limits import RateLimit
from toril.size import size_in_bytes
from toril.worker.retry import BackoffFunction

_SHORTEST_LOCK: Final = 100
_MOST_MINUTES: Final = 100 * 1440


class WorkerOptions(TypedDict, total=False):
    """The options of a worker, all optional."""

    concurrency: int
    """How many jobs it runs at once (1)."""
    lock: timedelta | str
    """How long a job stays this worker's after the last sign of life (`"30s"`)."""
    grace: timedelta | str
    """How long running jobs may go on when the worker is stopped (`"25s"`)."""
    name: str | None
    """A name for dashboards; it is written to the jobs that the worker picks up."""
    max_stalled: int
    """How many times a job may be recovered from a vanished worker before it fails (1)."""
    stalled_interval: timedelta | str
    """How often vanished workers are looked for, in the whole queue (`"30s"`)."""
    backoffs: Mapping[str, BackoffFunction]
    """The functions behind `Backoff.custom(name)`."""
    timeout: timedelta | str | None
    """How long a handler may run, unless its job says otherwise (None: as long as it takes). A
    handler over its time is cancelled and its attempt fails with `JobTimedOut`; in a thread it
    cannot be cancelled: it goes on, holds its job, and fails when it returns."""
    processes: int | None
    """Run the handler in so many processes of its own, one job at a time in each; that is the
    concurrency then. The handler must be importable by its name."""
    recycle_after: int | None
    """With `processes`: replace a process after so many jobs."""
    recycle_above: int | str | None
    """With `processes`: replace a process that uses more memory than that (`"512MiB"`) when its job
    has ended."""
    max_started_attempts: int | None
    """How often a job may be picked up; one that comes more often fails for good, without a run."""
    limiter: RateLimit | None
    """How many jobs begin within a time in the whole queue; a rate that is stored with the queue
    goes before it. Give it to all workers of the queue."""
    max_rate_limit_delay: timedelta | str
    """After which time a worker that has to wait for a rate limit looks whether it still has to
    (`"30s"`)."""
    metrics: timedelta | str | None
    """Count the jobs that this worker ends, per minute, for `Queue.metrics` and for dashboards, and
    keep the numbers of so much time; `"14d"` is usual. None (the default): count nothing."""


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """The processes of a worker: when one is replaced; jobs and bytes."""

    recycle_after: int | None
    recycle_above: int | None


@dataclass(frozen=True, slots=True)
class Terms:
    """The options of a worker, checked; times in milliseconds."""

    concurrency: int
    lock_ms: int
    grace_ms: int
    name: str | None
    max_stalled: int
    stalled_interval_ms: int
    backoffs: Mapping[str, BackoffFunction]
    timeout_ms: int | None
    max_started_attempts: int | None
    pool: PoolTerms | None
    limiter: RateLimit | None
    max_rate_limit_delay_ms: int
    metrics_minutes: int | None


def terms(**options: Unpack[WorkerOptions]) -> Terms:
    """The options, checked.

    Raises:
        TypeError: An unknown option, or a value of the wrong type.
        ValueError: A value out of range.
    """
    for name in options:
        if name not in WorkerOptions.__annotations__:
            near = difflib.get_close_matches(name, WorkerOptions.__annotations__, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"a worker has no option {name!r}{hint}")
    lock_ms = _duration(options, "lock", "30s", _SHORTEST_LOCK)
    limiter = options.get("limiter")
    if limiter is not None and not isinstance(cast(object, limiter), RateLimit):
        raise TypeError(f"limiter is a RateLimit(…), not {limiter!r}")
    timeout = options.get("timeout")
    most_starts = options.get("max_started_attempts")
    worker_name = options.get("name")
    if worker_name is not None and not isinstance(cast(object, worker_name), str):
        raise TypeError(f"a worker's name is a text, not {worker_name!r}")
    if worker_name is not None and (
        not worker_name
        or not worker_name.isprintable()
        or any(char.isspace() for char in worker_name)
    ):
        raise ValueError(f"a worker's name is printable and without blanks, not {worker_name!r}")
    pool = _pool(options)
    processes = options.get("processes")
    return Terms(
        concurrency=count("concurrency", options.get("concurrency", processes or 1)),
        pool=pool,
        lock_ms=lock_ms,
        grace_ms=_duration(options, "grace", "25s", 0),
        name=worker_name,
        max_stalled=count("max_stalled", options.get("max_stalled", 1), lowest=0),
        stalled_interval_ms=_duration(options, "stalled_interval", "30s", _SHORTEST_LOCK),
        backoffs=dict(options.get("backoffs") or {}),
        timeout_ms=None if timeout is None else _duration(options, "timeout", "", 1),
        max_started_attempts=(
            None if most_starts is None else count("max_started_attempts", most_starts)
        ),
        limiter=limiter,
        max_rate_limit_delay_ms=_duration(options, "max_rate_limit_delay", "30s", 1),
        metrics_minutes=_minutes(options.get("metrics")),
    )


def _minutes(duration: timedelta | str | None) -> int | None:
    if duration is None:
        return None
    minutes = milliseconds(duration, "metrics") // 60_000
    if not 1 <= minutes <= _MOST_MINUTES:
        raise ValueError(
            f"metrics is between 1m and {_MOST_MINUTES // 1440}d, as a number is kept for each "
            f"minute, not {duration!r}"
        )
    return minutes


def _pool(options: WorkerOptions) -> PoolTerms | None:
    processes = options.get("processes")
    after, above = options.get("recycle_after"), options.get("recycle_above")
    if processes is None:
        if after is not None or above is not None:
            raise ValueError("recycle_after and recycle_above are said of processes=N")
        return None
    if options.get("concurrency", processes) != count("processes", processes):
        raise ValueError("a worker with processes=N runs N jobs at once; leave out concurrency")
    return PoolTerms(
        None if after is None else count("recycle_after", after),
        None if above is None else size_in_bytes(above),
    )


def count(option: str, value: object, lowest: int = 1) -> int:
    """`value` if it is a whole number of at least `lowest`; else `TypeError` or `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{option} is a whole number, not {value!r}")
    if value < lowest:
        raise ValueError(f"{option} must be at least {lowest}, not {value}")
    return value


def _duration(options: Mapping[str, Any], option: str, default: str, lowest: int) -> int:
    ms = milliseconds(cast("timedelta | str", options.get(option, default)), option)
    if ms < lowest:
        raise ValueError(f"{option} must be at least {lowest} ms")
    return ms
