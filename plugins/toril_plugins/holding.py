"""`toril holds`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import click

from toril import App, Queue
from toril.commands import CommandError, Exit, Output, connection_options, output_option, talk
from toril.plugins import by_this_user, did_you_mean, milliseconds
from toril_plugins.retention.carrying_out import carrying_out
from toril_plugins.retention.holds import Hold, Holds, Scalar, hold, release
from toril_plugins.running import existing, named, with_app

P = ParamSpec("P")
R = TypeVar("R")

COLUMNS = ("queue", "handle", "hold", "why", "who", "since", "until")


def conditions(command: Callable[Concatenate[dict[str, Any], P], R]) -> Callable[P, R]:
    """`--id`, `--name` and `--data`; the command gets what they say of a `Hold` first."""

    @wraps(command)
    def wrapped(*args: P.args, **given: P.kwargs) -> R:
        options = cast("dict[str, Any]", given)
        said = {"id": options.pop("id"), "name": options.pop("name")}
        data = _data(options.pop("data"))
        return command({**said, "data": data or None}, *args, **given)

    for option, metavar, text in (
        ("--name", "NAME", "Jobs of that name."),
        ("--id", "ID", "The job of that id."),
    ):
        wrapped = click.option(option, metavar=metavar, help=text)(wrapped)
    return click.option(
        "--data",
        multiple=True,
        metavar="PATH=VALUE",
        help="Jobs with that in their data: customer.id=7, customer.id='\"7\"' for the text. "
        "Can be repeated; then all have to be so.",
    )(wrapped)


def _data(texts: Sequence[str]) -> dict[str, Scalar]:
    """What people type of the data. A value that is not JSON is a text."""
    found: dict[str, Scalar] = {}
    for text in texts:
        path, sign, written = text.partition("=")
        if not sign:
            raise CommandError(f"--data {text}: say PATH=VALUE, such as customer.id=7", Exit.USAGE)
        try:
            value: Any = json.loads(written)
        except ValueError:
            value = written
        found[path.strip().removeprefix("data.")] = value
    return found


@click.group()
def holds() -> None:
    """Keep jobs from being removed by anybody, whatever else is said, and let them go again."""


@holds.command("ls")
@click.argument("queues", nargs=-1, metavar="[QUEUE]…")
@connection_options
@output_option
def ls(url: str | None, prefix: str, output: Output, queues: Sequence[str]) -> None:
    """List the holds of QUEUE…, or of all queues."""

    async def read(app: App) -> list[dict[str, Any]]:
        found = [await existing(app, name) for name in queues]
        found = found or [app.queue(name) for name in await app.queues()]
        return [_row(queue, one) for queue in found for one in await _holds(queue)]

    output.rows("holds", with_app(url, prefix, read), COLUMNS, id="handle")


@holds.command("add")
@click.argument("queue")
@click.option("--why", required=True, help="The reason, for people.")
@click.option("--who", help="Who wants it, if not the user who runs the command.")
@click.option(
    "--until",
    metavar="TIME",
    help="It ends by itself: that long from now (30d), or then, in UTC (2027-01-31).",
)
@connection_options
@output_option
@conditions
def add(
    said: dict[str, Any],
    *,
    url: str | None,
    prefix: str,
    output: Output,
    queue: str,
    why: str,
    who: str | None,
    until: str | None,
) -> None:
    """Hold the jobs of QUEUE of an id, of a name, or with something in their data.

    All that is given has to apply. Jobs that have finished already are held when the command ends,
    others when they finish. A hold of the same conditions is replaced.
    """
    ends = None if until is None else _moment(until)
    wanted = _hold(
        said | {"why": why, "who": who or by_this_user("toril holds add"), "until": ends}
    )

    async def write(app: App) -> tuple[dict[str, Any], int]:
        target = await named(app, queue)
        made = await hold(target, wanted)
        return _row(target, made), sum((await carrying_out(target)).held.values())

    row, held = with_app(url, prefix, write)
    output.rows("holds", [row], COLUMNS, id="handle")
    talk(f"finished jobs of queue {queue!r} that are held: {held}")


@holds.command("release")
@click.argument("queue")
@click.argument("handles", nargs=-1, metavar="[HANDLE]…")
@click.option("--who", help="Who releases them, if not the user who runs the command.")
@connection_options
@conditions
def release_(
    said: dict[str, Any],
    *,
    url: str | None,
    prefix: str,
    queue: str,
    handles: Sequence[str],
    who: str | None,
) -> None:
    """Take back holds of QUEUE: of these handles, or the one of exactly these conditions.

    Jobs that nothing else holds are subject to the rules again: they go with the next sweep, if a
    rule says so. `-` instead of handles reads them from stdin.
    """
    by_conditions = any(value is not None for value in said.values())
    if by_conditions == bool(handles):
        raise CommandError("say either handles or conditions (--id, --name, --data)", Exit.USAGE)
    wanted = [_hold(said).handle] if by_conditions else list(_given(handles))

    async def write(app: App) -> int:
        target = await existing(app, queue)
        unknown = 0
        for handle in wanted:
            found = await release(target, handle, who=who or by_this_user("toril holds release"))
            if found is None:
                known = [one.handle for one in await _holds(target)]
                hint = did_you_mean(handle, known)
                talk(f"queue {queue!r} has no such hold: {handle}{hint}")
                unknown += 1
            else:
                talk(f"released: {found}")
        return unknown

    if unknown := with_app(url, prefix, write):
        raise CommandError(
            f"{unknown} holds were not released; `toril holds ls {queue}` shows which there are",
            Exit.NOT_FOUND,
        )


def _given(handles: Sequence[str]) -> Iterator[str]:
    for each in handles:
        if each == "-":
            yield from filter(None, map(str.strip, sys.stdin))
        else:
            yield each


def _hold(said: Mapping[str, Any]) -> Hold:
    """The hold; ends the command with exit code 2 if there cannot be such a one."""
    if not (said["id"] or said["name"] or said["data"]):
        raise CommandError("which jobs? say --id, --name, --data or several of them", Exit.USAGE)
    try:
        return Hold(**said)
    except (ValueError, TypeError) as error:
        raise CommandError(str(error), Exit.USAGE) from error


def _moment(text: str) -> datetime:
    """A time to come, as people type it."""
    now = datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now + timedelta(milliseconds=milliseconds(text))
        except (ValueError, OverflowError) as error:
            raise CommandError(
                f"--until {text!r}: say how long from now, such as 30d, or when, in UTC, such as "
                "2027-01-31 or 2027-01-31T18:00",
                Exit.USAGE,
            ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise CommandError(f"--until {text}: that has passed already", Exit.USAGE)
    return moment


async def _holds(queue: Queue) -> Sequence[Hold]:
    said = await queue.said(Holds)
    return said.value.holds if said else ()


def _row(queue: Queue, one: Hold) -> dict[str, Any]:
    return {
        "queue": queue.name,
        "handle": one.handle,
        "hold": str(one),
        "id": one.id,
        "name": one.name,
        "data": None if one.data is None else dict(one.data),
        "why": one.why,
        "who": one.who,
        "since": _shown(one.since),
        "until": _shown(one.until),
    }


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
