"""`toril archive`: what was archived, and getting it back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import click

from toril import App
from toril.commands import CommandError, Exit, Output, connection_options, output_option, talk
from toril.plugins import Outcome, TorilError, as_datetime, milliseconds
from toril_plugins.archive.plugin import Archive
from toril_plugins.archive.record import ArchivedJob
from toril_plugins.archive.store import Wanted

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Work: TypeAlias = Callable[[App, Archive], Awaitable[T]]

PAGE = 500
NO_SERVER = "redis://localhost"
"""Where nobody connects to: what is only read from the archive asks no server."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which archive is meant: one named on the command line, else the one that is configured."""

    sqlite: str | None
    jsonl: str | None
    store: str | None

    def run(self, work: Work[T], url: str | None = NO_SERVER, prefix: str = "bull") -> T:
        """Do something with the archive and its App."""
        named = {"sqlite": self.sqlite, "jsonl": self.jsonl}
        table = {name: path for name, path in named.items() if path}

        async def run() -> T:
            config = {"archive": table} if table else None
            async with App(url, prefix=prefix, config=config) as app:
                return await work(app, Archive.of(app))

        return asyncio.run(run())


def place_options(command: Callable[Concatenate[Place, P], R]) -> Callable[P, R]:
    """`--sqlite`, `--jsonl` and `--store`; the command gets a `Place` first."""

    @wraps(command)
    def wrapped(*args: P.args, **named: P.kwargs) -> R:
        given = cast("dict[str, Any]", named)
        place = Place(*(given.pop(name) for name in ("sqlite", "jsonl", "store")))
        return command(place, *args, **named)

    for option, metavar, text in (
        ("--store", "NAME", "Which store, if several are configured."),
        ("--jsonl", "FOLDER", "These JSON Lines files, not the configured archive."),
        ("--sqlite", "FILE", "This database, not the configured archive."),
    ):
        wrapped = click.option(option, metavar=metavar, help=text)(wrapped)
    return wrapped


@click.group()
def archive() -> None:
    """List archived jobs, show them, put them back, or add them anew."""


@archive.command("ls")
@click.argument("queue", required=False)
@click.option("--outcome", type=click.Choice(["completed", "failed"]))
@click.option("--name", help="Only jobs of this name.")
@click.option("--since", metavar="TIME", help="Only jobs that ended so long ago or later: 1h, 7d.")
@click.option("--until", metavar="TIME", help="Only jobs that ended before: 1h, 7d ago.")
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="0: all.")
@click.option("--after", metavar="PLACE", help="Go on behind this place, as told at the end.")
@output_option
@place_options
def ls(
    place: Place,
    output: Output,
    *,
    queue: str | None,
    outcome: Outcome | None,
    name: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    after: str | None,
) -> None:
    """List archived jobs, of QUEUE or of all, last archived first. Asks no server."""
    now = time.time_ns() // 1_000_000
    wanted = Wanted(
        queue=queue,
        outcome=outcome,
        name=name,
        since=_ago("--since", since, now),
        until=_ago("--until", until, now),
    )

    async def read(_: App, archive: Archive) -> tuple[list[ArchivedJob], str | None]:
        found: list[ArchivedJob] = []
        following = after
        while True:
            left = limit - len(found) if limit else PAGE
            page = await archive.find(
                wanted, after=following, limit=min(left, PAGE), store=place.store
            )
            found += page.jobs
            following = page.after
            if following is None or len(found) == limit:
                return found, following

    try:
        found, following = place.run(read)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--after") from error
    output.rows(
        "jobs",
        [_row(job) for job in found],
        ("id", "queue", "name", "outcome", "finished", "archived", "rule"),
    )
    if following is not None:
        talk(f"there are more: --after {following}")


@archive.command("show")
@click.argument("queue")
@click.argument("id")
@click.option("--finished-on", type=int, metavar="MS", help="As it finished then, not last.")
@click.option("--record", is_flag=True, help="The record as it is kept, one line of JSON.")
@output_option
@place_options
def show(
    place: Place, output: Output, queue: str, id: str, finished_on: int | None, *, record: bool
) -> None:
    """Show everything that was archived of one job. Asks no server."""

    async def read(_: App, archive: Archive) -> ArchivedJob:
        return await _found(archive, place, queue, id, finished_on)

    archived = place.run(read)
    if record:
        click.echo(archived.encode().decode())
        return
    job = archived.job
    output.record(
        "job",
        {
            **_row(archived),
            "created": _time(job.created),
            "attempts_made": job.attempts_made,
            "result": job.result,
            "stacktrace": list(job.stacktrace),
            "opts": _readable(lambda: job.opts),
            "parent": None if job.parent is None else f"{job.parent.queue}/{job.parent.id}",
            "children": {kind: len(left) for kind, left in archived.children.items()},
            "logs": [line.decode("utf-8", "replace") for line in archived.logs],
        },
    )


@archive.command("restore")
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="ID…", required=True)
@click.option("--finished-on", type=int, metavar="MS", help="As it finished then, not last.")
@click.option("--stay", metavar="TIME", help="How long its rule does not count [default: 7d].")
@connection_options
@place_options
def restore(
    place: Place,
    *,
    url: str | None,
    prefix: str,
    queue: str,
    ids: Sequence[str],
    finished_on: int | None,
    stay: str | None,
) -> None:
    """Put archived jobs back among the finished ones, as they were. `-` reads ids from stdin.

    A job that exists is left as it is. What was put back stays for a week, whatever its rule says.
    """
    if stay is not None:
        _ago("--stay", stay, 0)

    async def act(_: App, archive: Archive, id: str) -> str:
        await archive.restore(await _found(archive, place, queue, id, finished_on), stay=stay)
        return id

    _each(partial(place.run, url=url, prefix=prefix), ids, act, "put back")


@archive.command("requeue")
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="ID…", required=True)
@click.option("--finished-on", type=int, metavar="MS", help="As it finished then, not last.")
@click.option("--same-id", is_flag=True, help="Under its own id instead of a new one.")
@connection_options
@output_option
@place_options
def requeue(
    place: Place,
    *,
    url: str | None,
    prefix: str,
    output: Output,
    queue: str,
    ids: Sequence[str],
    finished_on: int | None,
    same_id: bool,
) -> None:
    """Add archived jobs anew: same name, data and options. `-` reads ids from stdin."""
    rows: list[Mapping[str, str]] = []

    async def act(app: App, archive: Archive, id: str) -> str:
        archived = await _found(archive, place, queue, id, finished_on)
        job = await archive.requeue(app, archived, id=id if same_id else None)
        rows.append({"id": job.id, "from": id})
        return job.id

    try:
        _each(partial(place.run, url=url, prefix=prefix), ids, act, "added")
    finally:
        output.rows("jobs", rows, ("id", "from"))


def _each(
    run: Callable[[Work[list[Exception]]], list[Exception]],
    ids: Sequence[str],
    act: Callable[[App, Archive, str], Awaitable[str]],
    done: str,
) -> None:
    """Act on every job; go on after a failure, and end with an exit code that tells of it."""

    async def all_of_them(app: App, archive: Archive) -> list[Exception]:
        failures: list[Exception] = []
        async for id in _given(ids):
            try:
                await act(app, archive, id)
            except (TorilError, CommandError, ValueError) as error:
                talk(f"{id}: {error}")
                failures.append(error)
        return failures

    failures = run(all_of_them)
    if failures:
        first = failures[0]
        code = first.code if isinstance(first, CommandError) else Exit.REFUSED
        raise CommandError(f"{len(failures)} jobs were not {done}", code)


async def _given(ids: Sequence[str]) -> AsyncIterator[str]:
    for each in ids:
        if each == "-":
            for line in await asyncio.to_thread(sys.stdin.readlines):
                if line.strip():
                    yield line.strip()
        else:
            yield each


async def _found(
    archive: Archive, place: Place, queue: str, id: str, finished_on: int | None
) -> ArchivedJob:
    job = await archive.get(queue, id, finished_on, store=place.store)
    if job is None:
        raise CommandError(f"no job {id!r} of queue {queue!r} is in the archive", Exit.NOT_FOUND)
    return job


def _row(archived: ArchivedJob) -> dict[str, Any]:
    job = archived.job
    return {
        "id": archived.id,
        "queue": archived.queue,
        "name": archived.name,
        "outcome": archived.outcome,
        "finished": _time(archived.finished_on),
        "finished_on": archived.finished_on,
        "archived": _time(archived.archived_on),
        "rule": archived.rule,
        "reason": job.reason,
        "data": _readable(lambda: job.data),
    }


def _readable(read: Callable[[], Any]) -> Any:
    """A stored value; what is wrong with it if somebody has garbled it."""
    try:
        return read()
    except ValueError as error:
        return f"(unreadable: {error})"


def _time(ms: int) -> str:
    return f"{as_datetime(ms):%Y-%m-%d %H:%M:%S}"


def _ago(option: str, text: str | None, now: int) -> int | None:
    try:
        return None if text is None else now - milliseconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


archive.add_command(ls, "list")
