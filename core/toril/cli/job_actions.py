"""What `toril jobs` does to jobs: retry, promote, change, remove, erase."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, cast

import click

from toril.app import App
from toril.cli.exits import CommandError, Exit, exit_code, not_found
from toril.cli.output import Output, connection_options, output_option, talk
from toril.duration import milliseconds
from toril.errors import TorilError
from toril.sync import SyncQueue
from toril.sync_job import SyncJob
from toril.types import Json

IDS = click.argument("ids", nargs=-1, metavar="ID…")


@click.command("retry")
@click.argument("queue")
@IDS
@click.option("--all", "every", is_flag=True, help="All failed jobs, instead of some ids.")
@click.option("--limit", type=click.IntRange(1), help="With --all: at most so many.")
@click.option("--older-than", metavar="TIME", help="With --all: those that failed so long ago.")
@click.option("--reset-attempts", is_flag=True, help="Count the attempts anew.")
@connection_options
def retry(
    url: str | None,
    prefix: str,
    queue: str,
    ids: Sequence[str],
    *,
    every: bool,
    limit: int | None,
    older_than: str | None,
    reset_attempts: bool,
) -> None:
    """Let finished jobs run again. `-` instead of ids reads them from stdin."""
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)
        if _all(ids, every=every, limit=limit, older_than=older_than):
            back = found.retry_all(
                limit=limit,
                older_than=_duration(older_than, "--older-than"),
                reset_attempts=reset_attempts,
            )
            talk(f"{back} jobs put back")
            return
        each_of(ids, lambda each: job_of(found, each).retry(reset_attempts=reset_attempts))


@click.command("promote")
@click.argument("queue")
@IDS
@click.option("--all", "every", is_flag=True, help="All delayed jobs, instead of some ids.")
@click.option("--limit", type=click.IntRange(1), help="With --all: at most so many.")
@connection_options
def promote(
    url: str | None,
    prefix: str,
    queue: str,
    ids: Sequence[str],
    *,
    every: bool,
    limit: int | None,
) -> None:
    """Let delayed jobs run now. `-` instead of ids reads them from stdin."""
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)
        if _all(ids, every=every, limit=limit):
            talk(f"{found.promote_all(limit=limit)} jobs promoted")
            return
        each_of(ids, lambda each: job_of(found, each).promote())


@click.command("change")
@click.argument("queue")
@IDS
@click.option("--delay", metavar="TIME", help="Delayed jobs: run that long from now (5m).")
@click.option("--priority", type=int, help="1 is the most urgent; 0: none.")
@click.option("--lifo", is_flag=True, help="With --priority: before the others of that priority.")
@click.option("--data", metavar="JSON", help="Another payload.")
@connection_options
def change(
    url: str | None,
    prefix: str,
    queue: str,
    ids: Sequence[str],
    *,
    delay: str | None,
    priority: int | None,
    lifo: bool,
    data: str | None,
) -> None:
    """Give jobs another delay, priority or payload. `-` instead of ids reads them from stdin."""
    if delay is None and priority is None and data is None:
        raise click.UsageError("say what to change: --delay, --priority or --data")
    if lifo and priority is None:
        raise click.UsageError("--lifo says where --priority puts a job")
    wait, payload = _duration(delay, "--delay"), _json(data)

    def act(job: SyncJob) -> None:
        if wait is not None:
            job.change_delay(wait)
        if priority is not None:
            job.change_priority(priority, lifo=lifo)
        if data is not None:
            job.update(payload)

    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)
        each_of(ids, lambda each: act(job_of(found, each)))


@click.command("clear-logs")
@click.argument("queue")
@IDS
@click.option("--keep", type=click.IntRange(0), default=0, help="But for the newest so many lines.")
@connection_options
def clear_logs(url: str | None, prefix: str, queue: str, ids: Sequence[str], *, keep: int) -> None:
    """Remove the log lines of jobs. `-` instead of ids reads them from stdin."""
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)
        each_of(ids, lambda each: job_of(found, each).clear_logs(keep=keep))


@click.command("remove")
@click.argument("queue")
@IDS
@click.option("--keep-children", is_flag=True, help="Leave the jobs below them.")
@connection_options
def remove(
    url: str | None, prefix: str, queue: str, ids: Sequence[str], *, keep_children: bool
) -> None:
    """Remove jobs, with all jobs below them. `-` instead of ids reads them from stdin."""
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)

        def take(id: str) -> None:
            if not found.remove(id, children=not keep_children):
                not_found(f"there is no job {id!r} in queue {queue!r}")

        each_of(ids, take)


@click.command("erase")
@click.argument("queue")
@IDS
@connection_options
@output_option
def erase(url: str | None, prefix: str, output: Output, queue: str, ids: Sequence[str]) -> None:
    """Erase jobs: what is stored of them, what names them, and what plugins keep of them.

    Also of jobs that are gone. `-` instead of ids reads them from stdin.
    """
    rows: list[dict[str, Any]] = []
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)

        def take(id: str) -> None:
            erased = found.erase(id)
            kept = [f"{plugin}: {what}" for plugin, what in erased.plugins.items()]
            rows.append(
                {
                    "id": id,
                    "job": erased.job,
                    "in_parent": erased.in_parent,
                    "events": erased.events,
                    "plugins": kept,
                }
            )

        try:
            each_of(ids, take)
        finally:
            output.rows("erased", rows, ("id", "job", "in_parent", "events", "plugins"))


def _all(ids: Sequence[str], *, every: bool, **of_all: object) -> bool:
    """Whether all are meant. `of_all`: options that say which of all."""
    if every == bool(ids):
        raise click.UsageError("say either ids or --all")
    for name, value in of_all.items():
        if value is not None and not every:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --all")
    return every


def _duration(text: str | None, option: str) -> timedelta | None:
    try:
        return None if text is None else timedelta(milliseconds=milliseconds(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _json(text: str | None) -> Json:
    try:
        return None if text is None else cast(Json, json.loads(text))
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--data") from error


def each_of(ids: Sequence[str], act: Callable[[str], None]) -> None:
    """Act on every job; go on after a failure, and end with the first one's exit code."""
    if not ids:
        raise click.UsageError("say which jobs; `-` reads their ids from stdin")
    code: Exit | None = None
    done = failed = 0
    for each in _given(ids):
        try:
            act(each)
            done += 1
        except (TorilError, CommandError) as error:
            talk(str(error))
            this = error.code if isinstance(error, CommandError) else exit_code(error)
            code = code or this
            failed += 1
    if code is not None:
        raise CommandError(f"{failed} of {done + failed} jobs were refused", code)


def _given(ids: Sequence[str]) -> Iterator[str]:
    for each in ids:
        if each == "-":
            yield from filter(None, map(str.strip, sys.stdin))
        else:
            yield each


def job_of(queue: SyncQueue, id: str) -> SyncJob:
    """The job, or the end of the command."""
    job = queue.get(id)
    if job is None:
        not_found(f"there is no job {id!r} in queue {queue.name!r}")
    return job


ACTIONS: Final = (retry, promote, change, clear_logs, remove, erase)
