"""`toril queues`: look at queues, pause them, empty them."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import click

from toril.app import App
from toril.cli.exits import not_found, refused
from toril.cli.output import Output, connection_options, output_option, talk
from toril.clock import as_datetime
from toril.connection.call import only
from toril.duration import duration_text, milliseconds
from toril.event_values import EventValues
from toril.exposition import joined
from toril.hooks.configuration import did_you_mean
from toril.limits import RateLimit
from toril.protocol.reading import QueueMeta, meta
from toril.removals import Removals
from toril.setting import Said
from toril.settings import by_this_user
from toril.sync import SyncApp, SyncQueue
from toril.types import CLEANABLE, STATES, State


@click.group()
def queues() -> None:
    """Show, pause, resume and empty queues."""


@queues.command("ls")
@connection_options
@output_option
def ls(url: str | None, prefix: str, output: Output) -> None:
    """List all queues with how many jobs are in each state."""
    with App(url, prefix=prefix).sync as app:
        rows = [_row(app.queue(name)) for name in app.queues()]
    output.rows("queues", rows, ("queue", *STATES, "paused"), id="queue")


@queues.command("show")
@click.argument("queue")
@connection_options
@output_option
def show(url: str | None, prefix: str, output: Output, queue: str) -> None:
    """Show one queue: jobs, limits, and what is said for all of its jobs."""
    with App(url, prefix=prefix).sync as app:
        found = existing(app, queue)
        stored: QueueMeta = app.perform(only(meta(found.key)))
        settings = [
            _setting(said)
            for kind in app.runtime.plugins.settings.values()
            for said in found.said_by_level(kind)
        ]
        record = (
            _row(found)
            | _limits(found)
            | {
                "version": stored.version,
                "settings": settings,
            }
        )
    if output.format == "table":
        line = "{setting}: {value} ({level}, by {source}, {since})"
        record["settings"] = [line.format_map(each) for each in settings]
    output.record("queue", record, id="queue")


@queues.command("pause")
@click.argument("queue")
@connection_options
def pause(url: str | None, prefix: str, queue: str) -> None:
    """Let no worker begin another job of QUEUE. Jobs that run are not touched."""
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)
        if not exists(app, found):
            hint = did_you_mean(queue, app.queues())
            talk(f"queue {queue!r} is new: it has no jobs yet, and begins paused{hint}")
        found.pause()


@queues.command("resume")
@click.argument("queue")
@connection_options
def resume(url: str | None, prefix: str, queue: str) -> None:
    """Let workers take jobs of QUEUE again."""
    with App(url, prefix=prefix).sync as app:
        existing(app, queue).resume()


def _rate(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
    """A rate as it is said, `100/1m`, or `none`."""
    if value is None or value == "none":
        return value
    most, _, per = value.partition("/")
    try:
        return RateLimit(int(most), per)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not a rate such as 100/1m, or none: {error}"
        ) from None


def _concurrency(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
    if value is None or value == "none":
        return value
    if not value.isdecimal() or not int(value):
        raise click.BadParameter(f"{value!r} is not a number of jobs, or none")
    return int(value)


@queues.command("limits")
@click.argument("queue")
@click.option("--concurrency", metavar="N", callback=_concurrency, help="Jobs at once; or none.")
@click.option("--rate", metavar="N/TIME", callback=_rate, help="Jobs per time, 100/1m; or none.")
@click.option("--hold", metavar="TIME", help="Begin no job for so long, where a rate is limited.")
@click.option("--free", is_flag=True, help="End that, or the window that is full.")
@connection_options
@output_option
def limits(
    url: str | None, prefix: str, output: Output, queue: str, *,
    concurrency: Any, rate: Any, hold: str | None, free: bool,
) -> None:  # fmt: skip
    """Show or set the limits that hold for all workers of QUEUE together."""
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)
        if not exists(app, found):
            talk(f"queue {queue!r} is new: it has no jobs yet{did_you_mean(queue, app.queues())}")
        if concurrency is not None or rate is not None:
            found.set_limits(concurrency=concurrency, rate=rate)
        if free:
            found.remove_rate_limit()
        if hold is not None:
            try:
                found.rate_limit(hold)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint="--hold") from None
        record = {"queue": queue} | _limits(found)
    output.record("limits", record, id="queue")


@queues.command("event-values")
@click.argument("queue")
@click.argument("told", type=click.Choice(("on", "off")))
@connection_options
def event_values(url: str | None, prefix: str, queue: str, told: str) -> None:
    """Say whether the event stream of QUEUE tells results, reasons and progress."""
    with App(url, prefix=prefix).sync as app:
        source = by_this_user("toril queues event-values")
        existing(app, queue).set(EventValues(told == "on"), source=source)


@queues.command("prometheus")
@click.argument("names", metavar="[QUEUE]...", nargs=-1)
@connection_options
def prometheus(url: str | None, prefix: str, names: tuple[str, ...]) -> None:
    """Print counts of jobs of QUEUE, or of all queues, for a Prometheus server."""
    with App(url, prefix=prefix).sync as app:
        found = [existing(app, name) for name in names or app.queues()]
        click.echo(joined(queue.prometheus() for queue in found))


@queues.command("drain")
@click.argument("queue")
@click.option("--delayed", is_flag=True, help="The delayed jobs, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def drain(url: str | None, prefix: str, queue: str, *, delayed: bool, yes: bool) -> None:
    """Remove the jobs of QUEUE that wait to run."""
    with App(url, prefix=prefix).sync as app:
        found = existing(app, queue)
        counts = found.counts()
        count = counts["waiting"] + counts["prioritized"] + (counts["delayed"] if delayed else 0)
        _confirm(f"remove {count} jobs of queue {queue!r}", yes=yes)
        _tell(found.drain(delayed=delayed))


@queues.command("clean")
@click.argument("queue")
@click.argument("state", type=click.Choice(CLEANABLE))
@click.option("--older-than", metavar="TIME", required=True, help="That ended so long ago (7d).")
@click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def clean(
    url: str | None, prefix: str, queue: str, state: State, *,
    older_than: str, limit: int | None, yes: bool,
) -> None:  # fmt: skip
    """Remove jobs of QUEUE that are in STATE, oldest first.

    Those that have not ended count from when they were picked up, or else added; what runs stays.
    """
    try:
        age = timedelta(milliseconds=milliseconds(older_than))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--older-than") from None
    with App(url, prefix=prefix).sync as app:
        found = existing(app, queue)
        most = "" if limit is None else f", at most {limit},"
        what = f"remove the {state} jobs of queue {queue!r}{most} that are {older_than} old"
        _confirm(what, yes=yes)
        _tell(found.clean(state, older_than=age, limit=limit))


def _tell(removed: Removals) -> None:
    """How many went, and which stay and why."""
    talk(f"{len(removed)} jobs removed")
    if removed.kept_count:
        talk(f"{removed.kept_count} jobs stay:")
        for kept in removed.kept:
            talk(f"  {kept}")


@queues.command("obliterate")
@click.argument("queue")
@click.option("--force", is_flag=True, help="Even if workers are running jobs of it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def obliterate(url: str | None, prefix: str, queue: str, *, force: bool, yes: bool) -> None:
    """Remove QUEUE with all of its jobs, settings and events."""
    with App(url, prefix=prefix).sync as app:
        found = existing(app, queue)
        _confirm(f"remove queue {queue!r} and its {sum(found.counts().values())} jobs", yes=yes)
        found.obliterate(force=force)


def _row(queue: SyncQueue) -> dict[str, Any]:
    counts = {str(state): count for state, count in queue.counts().items()}
    return {"queue": queue.name, **counts, "paused": queue.is_paused()}


def _setting(said: Said[Any]) -> dict[str, str]:
    """What is said for a queue, each value in its own spelling."""
    return {
        "setting": said.value.name,
        "value": str(said.value),
        "level": said.level,
        "source": said.source,
        "since": f"{as_datetime(said.since):%Y-%m-%d %H:%M:%S}",
    }


def _limits(queue: SyncQueue) -> dict[str, Any]:
    said, held = queue.limits(), queue.rate_limit_ttl()
    left = None if held is None else duration_text(milliseconds(held))
    return {
        "concurrency": said.concurrency,
        "maxed": queue.is_maxed(),
        "rate": None if said.rate is None else str(said.rate),
        "limited_for": left,
    }


def exists(app: SyncApp, queue: SyncQueue) -> bool:
    """Whether anything is stored of the queue."""
    stored: QueueMeta = app.perform(only(meta(queue.key)))
    return bool(stored.fields) or any(queue.counts().values())


def existing(app: SyncApp, name: str) -> SyncQueue:
    """The queue; ends the command if there is none."""
    queue = app.queue(name)
    if not exists(app, queue):
        hint = did_you_mean(name, app.queues())
        which = hint or "; `toril queues ls` shows which there are"
        not_found(f"there is no queue {name!r}{which}")
    return queue


def _confirm(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        refused(f"this would {what}; say --yes to do it")
    if not click.confirm(f"{what}?", err=True):
        refused("nothing was done")


queues.add_command(ls, "list")
