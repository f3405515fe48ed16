"""`toril retention` and `toril sweep`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from toril import App, ConfigurationError, Queue
from toril.commands import CommandError, Exit, Output, connection_options, output_option, talk
from toril.plugins import (
    LIVE_LEVELS,
    Level,
    Said,
    as_datetime,
    by_this_user,
    milliseconds,
)
from toril_plugins.guards import ceiling, foreign, journal, require
from toril_plugins.keep_text import KEEP
from toril_plugins.planning import apply_, plan
from toril_plugins.retention.carrying_out import carrying_out
from toril_plugins.retention.planning import merge
from toril_plugins.retention.values import OUTCOMES, Ceiling, Keep, Retention
from toril_plugins.running import existing, named, with_app


@click.group()
def retention() -> None:
    """Say how long a queue's finished jobs are kept, and see what is said."""


@retention.command("show")
@click.argument("queue")
@connection_options
@output_option
def show(url: str | None, prefix: str, output: Output, queue: str) -> None:
    """Show what is said for all jobs of QUEUE, and what comes of it."""

    async def read(app: App) -> tuple[list[dict[str, Any]], str | None]:
        target = await existing(app, queue)
        said = await target.said_by_level(Retention)
        ceilings = await target.said_by_level(Ceiling)
        obstacle = await _obstacle(target)
        return [*_rows(said, obstacle), *_rows(ceilings, obstacle)], obstacle

    rows, obstacle = with_app(url, prefix, read)
    if rows or output.format != "table":
        columns = ("setting", "outcome", "keep", "level", "source", "since", "state")
        output.rows("retention", rows, columns, id="keep")
    else:
        talk(f"nothing is said for queue {queue!r}: its finished jobs are kept for ever")
    if rows and obstacle:
        talk(f"nothing is removed: {obstacle}")


async def _obstacle(queue: Queue) -> str | None:
    """Why what is said does not happen, or None."""
    try:
        return (await carrying_out(queue)).obstacle
    except ConfigurationError:
        return (
            "the plugin 'cleanup', which would, is not in use here (`toril plugins ls` says why); "
            "where it is, it does"
        )


def _rows(
    said: Sequence[Said[Retention]] | Sequence[Said[Ceiling]], obstacle: str | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for outcome in OUTCOMES:
        speaking = [each for each in said if each.value.of(outcome) is not None]
        rows += [
            {
                "setting": each.value.name,
                "outcome": outcome,
                "keep": str(each.value.of(outcome)),
                "level": each.level,
                "source": each.source,
                "since": f"{as_datetime(each.since):%Y-%m-%d %H:%M:%S}",
                "state": _state(place, speaking[0].level, obstacle),
                "holds": place == 0 and obstacle is None,
            }
            for place, each in enumerate(speaking)
        ]
    return rows


def _state(place: int, winner: Level, obstacle: str | None) -> str:
    if place:
        return f"overridden by the {winner}"
    return "applies" if obstacle is None else "nobody applies it"


@retention.command("set")
@click.argument("queue")
@click.option("--completed", type=KEEP, help="How long jobs that ended well are kept.")
@click.option("--failed", type=KEEP, help="How long failed jobs are kept.")
@connection_options
def set_(
    url: str | None, prefix: str, queue: str, completed: Keep | None, failed: Keep | None
) -> None:
    """Say how long QUEUE's finished jobs are kept: 7d, 1000, 'last 5 per name', forever, nothing.

    Counts at once, also for jobs that are kept already. An outcome that is not named stays as it
    was said before.
    """
    if not (completed or failed):
        raise CommandError("say --completed, --failed or both", Exit.USAGE)

    async def write(app: App) -> None:
        target = await named(app, queue)
        wanted = Retention(completed=completed, failed=failed)
        source = by_this_user("toril retention set")
        await target.change(Retention, lambda before: merge(wanted, before), source=source)

    with_app(url, prefix, write)


@retention.command("unset")
@click.argument("queue")
@click.option(
    "--level",
    type=click.Choice(LIVE_LEVELS),
    default="queue",
    show_default=True,
    help="Whose word is taken back. What a worker or an application says in its code comes back "
    "when it starts again.",
)
@connection_options
def unset(url: str | None, prefix: str, queue: str, level: Level) -> None:
    """Take back what was said for all jobs of QUEUE."""

    async def write(app: App) -> None:
        target = await existing(app, queue)
        await target.unset(Retention, level=level, source=by_this_user("toril retention unset"))

    with_app(url, prefix, write)


def _seconds(option: str, value: str) -> float:
    try:
        ms = milliseconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
    if ms < 100:
        raise click.BadParameter(
            f"{value!r} is less than 100ms: sweeping would never pause", param_hint=option
        )
    return ms / 1000


@click.command()
@click.argument("queues", nargs=-1, required=True, metavar="QUEUE…")
@click.option("--every", metavar="TIME", help="Go on sweeping, that long apart, until Ctrl-C.")
@connection_options
def sweep(url: str | None, prefix: str, queues: Sequence[str], every: str | None) -> None:
    """Do what retention asks for now on QUEUES, without a worker.

    For queues whose workers are not Toril's. One process at a time sweeps a queue: another one that
    does it already is left to it.
    """
    pause = None if every is None else _seconds("--every", every)

    async def run(app: App) -> None:
        while True:
            for queue in queues:
                if not any((await app.queue(queue).counts()).values()):
                    # A mistyped name must not become a queue.
                    talk(f"queue {queue!r} has no jobs")
                elif not await app.run_services(queue):
                    talk(f"queue {queue!r} is swept by another process")
            if pause is None:
                return
            await asyncio.sleep(pause)

    with suppress(KeyboardInterrupt):
        with_app(url, prefix, run)


for command in (plan, apply_, ceiling, require, foreign, journal):
    retention.add_command(command)
