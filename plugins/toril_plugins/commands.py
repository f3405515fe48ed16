"""`toril retention` and `toril sweep`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from toril import App
from toril.commands import CommandError, Exit, Output, connection_options, output_option, talk
from toril.plugins import (
    LIVE_LEVELS,
    Level,
    Outcome,
    Said,
    as_datetime,
    by_this_user,
    milliseconds,
)
from toril_plugins.planning import apply_, plan
from toril_plugins.retention.resolve import resolve
from toril_plugins.retention.values import OUTCOMES, Keep, Retention
from toril_plugins.running import with_app


class _KeepText(click.ParamType[Keep]):
    """`7d`, `1000`, `last 5 per data.customer, 30d`, `forever`, `nothing`."""

    name = "keep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keep:
        try:
            return Keep.parse(str(value))
        except ValueError as error:
            self.fail(
                f"{error}. Say how long to keep, such as 7d, 1000 (the newest), "
                "'last 5 per name', forever or nothing",
                param,
                ctx,
            )


KEEP = _KeepText()


@click.group()
def retention() -> None:
    """Say how long a queue's finished jobs are kept, and see what is said."""


@retention.command("show")
@click.argument("queue")
@connection_options
@output_option
def show(url: str | None, prefix: str, output: Output, queue: str) -> None:
    """Show what is said for all jobs of QUEUE, and which of it holds."""

    async def read(app: App) -> Sequence[Said[Retention]]:
        return await app.queue(queue).said_by_level(Retention)

    rows = _rows(with_app(url, prefix, read))
    if not rows and output.format == "table":
        talk(f"nothing is said for queue {queue!r}: its finished jobs are kept for ever")
    else:
        output.rows(
            "retention", rows, ("outcome", "keep", "level", "source", "since", "holds"), id="keep"
        )


def _rows(said: Sequence[Said[Retention]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for outcome in OUTCOMES:
        winner = resolve(said, outcome).said
        rows += [
            {
                "outcome": outcome,
                "keep": str(keep),
                "level": each.level,
                "source": each.source,
                "since": f"{as_datetime(each.since):%Y-%m-%d %H:%M:%S}",
                "holds": each is winner,
            }
            for each in said
            if (keep := each.value.of(outcome)) is not None
        ]
    return rows


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
    given: dict[Outcome, Keep | None] = {"completed": completed, "failed": failed}
    if not any(given.values()):
        raise CommandError("say --completed, --failed or both", Exit.USAGE)

    async def write(app: App) -> None:
        target = app.queue(queue)
        before = [s for s in await target.said_by_level(Retention) if s.level == "queue"]
        if before:
            for outcome in OUTCOMES:
                given[outcome] = given[outcome] or before[0].value.of(outcome)
        await target.set(Retention(**given), source=by_this_user("toril retention set"))

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
        await app.queue(queue).unset(
            Retention, level=level, source=by_this_user("toril retention unset")
        )

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


retention.add_command(plan)
retention.add_command(apply_)
