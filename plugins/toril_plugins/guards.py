"""`toril retention ceiling`, `require`, `foreign` and `journal`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, get_args

import click

from toril import App
from toril.commands import CommandError, Exit, Output, connection_options, output_option, talk
from toril.plugins import as_datetime, by_this_user, did_you_mean
from toril_plugins.keep_text import KEEP
from toril_plugins.retention import journal as journals
from toril_plugins.retention.carrying_out import carrying_out
from toril_plugins.retention.foreign import Foreign, Mode
from toril_plugins.retention.planning import merge
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.values import Ceiling, Keep
from toril_plugins.running import existing, named, with_app


def _which(*given: bool, what: str) -> None:
    """End the command unless exactly one of these was said."""
    if sum(given) != 1:
        raise CommandError(f"say either {what}", Exit.USAGE)


@click.command()
@click.argument("queue")
@click.option("--completed", type=KEEP, help="The most that is kept of jobs that ended well.")
@click.option("--failed", type=KEEP, help="The most that is kept of failed jobs.")
@click.option("--unset", is_flag=True, help="Take the ceiling back.")
@connection_options
def ceiling(
    *,
    url: str | None,
    prefix: str,
    queue: str,
    completed: Keep | None,
    failed: Keep | None,
    unset: bool,
) -> None:
    """Say what QUEUE keeps at the most, whoever says more: an age, a number of jobs, or both.

    Counts at once, also for jobs that are kept already; only holds beat it. An outcome that is not
    named stays as it was said before.
    """
    _which(bool(completed or failed), unset, what="--completed, --failed or both; or --unset")
    try:
        wanted = None if unset else Ceiling(completed=completed, failed=failed)
    except ValueError as error:  # more than an age and a number
        raise CommandError(str(error), Exit.USAGE) from error

    def changed(before: Ceiling | None) -> Ceiling | None:
        return None if wanted is None else merge(wanted, before)

    async def write(app: App) -> None:
        target = await (existing if unset else named)(app, queue)
        await target.change(Ceiling, changed, source=by_this_user("toril retention ceiling"))

    with_app(url, prefix, write)


@click.command()
@click.argument("queue")
@click.argument("plugins", nargs=-1, metavar="[PLUGIN]…")
@click.option("--unset", is_flag=True, help="Require nothing any more.")
@connection_options
def require(
    *, url: str | None, prefix: str, queue: str, plugins: Sequence[str], unset: bool
) -> None:
    """Let nobody remove a finished job of QUEUE without these plugins.

    What was required before is replaced. Jobs that are added from then on tell workers of other
    libraries to keep them.
    """
    _which(bool(plugins), unset, what="the names of plugins or --unset")
    try:
        wanted = None if unset else Requires(*plugins)
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error

    async def write(app: App) -> None:
        target = await (existing if unset else named)(app, queue)
        source = by_this_user("toril retention require")
        if wanted is None:
            await target.unset(Requires, source=source)
            return
        await target.set(wanted, source=source)
        missing = (await carrying_out(target)).missing
        for name in filter(None, missing.split(", ")):
            talk(f"nothing is removed here: plugin {name!r} is not in use{_meant(name)}")

    with_app(url, prefix, write)


def _meant(plugin: str) -> str:
    known = {each.name for each in entry_points(group="toril.plugins")}
    return "" if plugin in known else did_you_mean(plugin, known)


@click.command()
@click.argument("queue")
@click.argument("mode", type=click.Choice(get_args(Mode)))
@connection_options
def foreign(url: str | None, prefix: str, queue: str, mode: Mode) -> None:
    """Say what jobs of QUEUE tell workers of other libraries.

    native: what was said, in BullMQ's terms; isolate: to keep them, so that a sweeper of Toril does
    the exact thing. It counts for jobs that are added from then on.
    """

    async def write(app: App) -> None:
        target = await named(app, queue)
        await target.set(Foreign(mode), source=by_this_user("toril retention foreign"))

    with_app(url, prefix, write)


@click.command()
@click.argument("queue")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@connection_options
@output_option
def journal(url: str | None, prefix: str, output: Output, queue: str, limit: int) -> None:
    """Show what was said and done about retention in QUEUE, newest first: who, what, when.

    What was set, declared and unset and what it was before, holds and releases, erasures, plans
    that were applied, repairs.
    """

    async def read(app: App) -> Sequence[journals.Entry]:
        return await journals.entries(await existing(app, queue), limit)

    rows: list[dict[str, Any]] = [
        {
            "at": f"{as_datetime(entry.at):%Y-%m-%d %H:%M:%S}",
            "what": entry.what,
            "who": entry.who,
            "details": dict(entry.details),
        }
        for entry in with_app(url, prefix, read)
    ]
    if output.format == "table":
        for row in rows:
            row["details"] = ", ".join(
                f"{name} {text}" for name, text in sorted(row["details"].items())
            )
    output.rows("entries", rows, ("at", "what", "who", "details"), id="at")
