"""`toril jobs`: look at jobs. What acts on them is in `job_actions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import click

from toril.app import App
from toril.cli import job_actions
from toril.cli.exits import not_found
from toril.cli.output import Output, connection_options, output_option
from toril.cli.queues import existing
from toril.clock import as_datetime
from toril.duration import milliseconds
from toril.snapshots import JobRef, JobSnapshot, Recalled
from toril.sync import SyncQueue
from toril.types import STATES, State

_NOT_KEPT: Final = "(not kept)"
"""Shown for the result of a job that completed, and of which it is there no more."""


@click.group()
def jobs() -> None:
    """List, show, change, retry, promote and remove jobs."""


@jobs.command("ls")
@click.argument("queue")
@click.option(
    "-s", "--state", "states", multiple=True, type=click.Choice(STATES), help="Only these states."
)
@click.option("--name", help="Only jobs of this name.")
@click.option("--since", metavar="TIME", help="Only jobs added or ended that long ago: 1h, 7d.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@connection_options
@output_option
def ls(
    url: str | None,
    prefix: str,
    output: Output,
    queue: str,
    *,
    states: Sequence[State],
    name: str | None,
    since: str | None,
    limit: int,
) -> None:
    """List the jobs of QUEUE, state by state: what runs next first, what ended last first."""
    oldest = _oldest(since)

    def rows(found: SyncQueue) -> Iterator[dict[str, Any]]:
        left = limit
        for state in states or STATES:
            for job in found.jobs(state):
                if left == 0:
                    return
                stored = job.snapshot
                if name is not None and stored.name != name:
                    continue
                if (stored.finished or stored.created) < oldest:
                    continue
                left -= 1
                yield _row(stored, state)

    with App(url, prefix=prefix).sync as app:
        output.rows(
            "jobs",
            rows(existing(app, queue)),
            ("id", "name", "state", "attempts_made", "created", "finished", "reason"),
        )


@jobs.command("show")
@click.argument("queue")
@click.argument("id")
@connection_options
@output_option
def show(url: str | None, prefix: str, output: Output, queue: str, id: str) -> None:
    """Show everything that is stored of one job; of one that is gone, what plugins still know."""
    with App(url, prefix=prefix).sync as app:
        job = app.queue(queue).get(id)
        if job is None:
            output.record("job", _gone(queue, id, _recalled(app.queue(queue), id)))
            return
        stored, state = job.snapshot, job.state()
        children = job.children()
        taken = state == "completed" and b"returnvalue" not in stored.fields
        record = _row(stored, state) | {
            "priority": stored.priority,
            "delay": stored.delay,
            "progress": _readable(lambda: stored.progress),
            "stalled_count": stored.stalled_count,
            "result": _NOT_KEPT if taken else stored.result,
            "stacktrace": list(stored.stacktrace),
            "opts": _readable(lambda: stored.opts),
            "parent": None
            if stored.parent is None
            else f"{stored.parent.queue}/{stored.parent.id}",
            "children_open": len(children.unprocessed),
            "children_done": len(children.processed),
            "children_failed": len(children.failed) + len(children.ignored),
            "logs": list(job.logs()),
        }
    output.record("job", record)


@jobs.command("explain")
@click.argument("queue")
@click.argument("id")
@connection_options
@output_option
def explain(url: str | None, prefix: str, output: Output, queue: str, id: str) -> None:
    """Say where one job is, why, and what comes next; by Toril and by the plugins."""
    with App(url, prefix=prefix).sync as app:
        job = app.queue(queue).get(id)
        if job is not None:
            facts = job.explain()
        else:
            facts = app.runtime.explain_gone_sync(JobRef(queue, id)) or _no_job(queue, id)
    rows = [
        {"subject": fact.subject, "text": fact.text, "at": _time(fact.at), "level": fact.level}
        for fact in facts
    ]
    output.rows("facts", rows, ("subject", "text", "at", "level"), id="subject")


def _recalled(queue: SyncQueue, id: str) -> Recalled:
    """What plugins still know of a job that is gone."""
    told = queue.recall(id)
    return _no_job(queue.name, id) if told is None else told


def _no_job(queue: str, id: str) -> NoReturn:
    not_found(f"there is no job {id!r} in queue {queue!r}")


def _gone(queue: str, id: str, told: Recalled) -> dict[str, Any]:
    return {
        "id": id,
        "queue": queue,
        "name": told.name,
        "state": "gone",
        "outcome": told.outcome,
        "finished": _time(told.finished),
        "reason": told.reason,
        "result": told.result if told.has_result else _NOT_KEPT,
        "told_by": told.told_by,
    }


def _row(job: JobSnapshot, state: State) -> dict[str, Any]:
    return {
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "state": state,
        "attempts_made": job.attempts_made,
        "created": _time(job.created),
        "processed": _time(job.processed),
        "finished": _time(job.finished),
        "reason": job.reason,
        "data": _readable(lambda: job.data),
    }


def _readable(read: Callable[[], Any]) -> Any:
    """A stored value; what is wrong with it if a foreign program has garbled it."""
    try:
        return read()
    except ValueError as error:
        return f"(unreadable: {error})"


def _time(ms: int | None) -> str | None:
    return None if ms is None else f"{as_datetime(ms):%Y-%m-%d %H:%M:%S}"


def _oldest(since: str | None) -> float:
    if since is None:
        return 0
    try:
        return datetime.now(UTC).timestamp() * 1000 - milliseconds(since)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error


jobs.add_command(ls, "list")
for action in job_actions.ACTIONS:
    jobs.add_command(action)
