"""`toril schedules`: look at schedules, pause, run and remove them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from toril.app import App
from toril.cli.exits import CommandError, Exit, not_found
from toril.cli.output import Output, connection_options, output_option, talk
from toril.cli.queues import existing
from toril.schedule import Cron, Schedule
from toril.sync import SyncApp


@click.group()
def schedules() -> None:
    """Show, pause, run and remove schedules."""


@schedules.command("ls")
@click.argument("queue")
@connection_options
@output_option
def ls(url: str | None, prefix: str, output: Output, queue: str) -> None:
    """List the schedules of QUEUE by the time of their next run."""
    with App(url, prefix=prefix).sync as app:
        rows = [_row(each) for each in existing(app, queue).schedules()]
    output.rows("schedules", rows, ("id", "name", "pace", "next_run", "runs", "paused"))


@schedules.command("show")
@click.argument("queue")
@click.argument("id")
@click.option("--next", "count", type=click.IntRange(0, 1000), default=5, show_default=True)
@connection_options
@output_option
def show(url: str | None, prefix: str, output: Output, queue: str, id: str, *, count: int) -> None:
    """Show one schedule, with its next times."""
    with App(url, prefix=prefix).sync as app:
        found = _found(app, queue, id)
    times = [] if found.pace is None or found.paused else found.times(count)
    record = _row(found) | {"data": found.data, "next": [_moment(when) for when in times]}
    output.record("schedule", record)


@schedules.command("pause")
@click.argument("queue")
@click.argument("id")
@connection_options
def pause(url: str | None, prefix: str, queue: str, id: str) -> None:
    """Take the next run of a schedule away, and add no more."""
    with App(url, prefix=prefix).sync as app:
        _found(app, queue, id)
        app.queue(queue).pause_schedule(id)


@schedules.command("resume")
@click.argument("queue")
@click.argument("id")
@connection_options
def resume(url: str | None, prefix: str, queue: str, id: str) -> None:
    """Let a paused schedule go on at the next of its times."""
    with App(url, prefix=prefix).sync as app:
        if _found(app, queue, id).pace is None:
            raise CommandError(f"schedule {id!r} cannot be read: say it again", Exit.REFUSED)
        resumed = app.queue(queue).resume_schedule(id)
    talk(f"next run: {_moment(resumed.next_run)}")


@schedules.command("run")
@click.argument("queue")
@click.argument("id")
@connection_options
def run(url: str | None, prefix: str, queue: str, id: str) -> None:
    """Add one job like the runs of a schedule now, beside them."""
    with App(url, prefix=prefix).sync as app:
        _found(app, queue, id)
        job = app.queue(queue).run_schedule(id)
    click.echo(job.id)


@schedules.command("rm")
@click.argument("queue")
@click.argument("id")
@connection_options
def rm(url: str | None, prefix: str, queue: str, id: str) -> None:
    """Remove a schedule with its next run."""
    with App(url, prefix=prefix).sync as app:
        _found(app, queue, id)
        app.queue(queue).remove_schedule(id)


def _found(app: SyncApp, queue: str, id: str) -> Schedule:
    found = existing(app, queue).get_schedule(id)
    if found is None:
        not_found(
            f"queue {queue!r} has no schedule {id!r}; `toril schedules ls {queue}` shows its own"
        )
    return found


def _row(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": schedule.id,
        "name": schedule.name,
        "pace": _pace(schedule),
        "next_run": _moment(schedule.next_run),
        "runs": schedule.runs,
        "paused": schedule.paused,
    }


def _pace(schedule: Schedule) -> str:
    if schedule.pace is None:
        return schedule.stored.get("pattern") or "cannot be read"
    if isinstance(schedule.pace, Cron):
        return f"{schedule.pace.pattern} {schedule.pace.tz or 'local time'}"
    return f"every {schedule.pace.interval}"


def _moment(when: datetime | None) -> str | None:
    return None if when is None else f"{when:%Y-%m-%d %H:%M:%S}"


schedules.add_command(ls, "list")
