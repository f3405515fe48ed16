"""`toril retention plan` and `toril retention apply`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

import click

from toril import App
from toril.commands import CommandError, Exit, Output, connection_options, output_option, talk
from toril.plugins import by_this_user
from toril_plugins.retention import planning
from toril_plugins.retention.planning import Plan
from toril_plugins.running import with_app

COLUMNS = ("outcome", "rule", "now", "within_day", "bytes", "exact")


@click.command("plan")
@click.argument("queue")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="WHAT=KEEP",
    help="Plan for this being said: completed=7d, failed=1000, ceiling.completed=30d.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="So many jobs of each outcome are looked at one by one.",
)
@connection_options
@output_option
def plan(
    *, url: str | None, prefix: str, output: Output, queue: str, sets: Sequence[str], most: int
) -> None:
    """Show what retention would remove from QUEUE now and within a day, and change nothing.

    With -o json it is a plan that `toril retention apply` takes.
    """
    try:
        settings = planning.settings_from(sets)
    except (ValueError, TypeError) as error:
        raise CommandError(f"--set: {error}", Exit.USAGE) from error

    async def make(app: App) -> Plan:
        return await planning.plan(app.queue(queue), *settings, most=most)

    _show(with_app(url, prefix, make), output)


@click.command("apply")
@click.argument("file", type=click.File("r", encoding="utf-8"), metavar="PLAN")
@connection_options
@output_option
def apply_(url: str | None, prefix: str, output: Output, file: TextIO) -> None:
    """Say for a queue what PLAN sets; PLAN is a file of `toril retention plan -o json`, or -.

    Refused, with exit code 5, if the world has moved since the plan was made.
    """
    try:
        document: Any = json.load(file)
        planned = Plan.decode(document["plan"])
    except (ValueError, TypeError, KeyError) as error:
        raise CommandError(f"{file.name}: not a plan: {error}", Exit.USAGE) from error

    async def carry_out(app: App) -> Plan:
        who = by_this_user("toril retention apply")
        return await planning.apply(app.queue(planned.queue), planned, who=who)

    _show(with_app(url, prefix, carry_out), output)


def _show(made: Plan, output: Output) -> None:
    if output.format == "json":
        output.record("plan", made.encode())
        return
    output.rows("going", made.encode()["going"], COLUMNS, id="rule")
    for part in made.stripping:
        counts = f"{part.now} {part.outcome} jobs now, {part.within_day} within a day"
        talk(f"{counts} lose their {part.tier}, by {part.rule}")
    for each in made.staying:
        talk(f"{each.count} {each.outcome} jobs stay, though a rule would let them go: {each.why}")
    if made.only_reported:
        talk(f"nothing goes as long as this is so: {made.only_reported}")
    if made.missing:
        talk(f"nothing goes here: the queue requires {made.missing}, which is not in use")
    elif made.requires:
        talk(f"only where these plugins run, as the queue requires them: {made.requires}")
