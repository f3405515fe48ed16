"""`toril workers`: who works on which queue."""

from __future__ import annotations

from typing import Any

import click

from toril.app import App
from toril.cli.output import Output, connection_options, output_option
from toril.cli.queues import existing
from toril.inspection import WorkerSeen


@click.group()
def workers() -> None:
    """Show the workers of queues, of any library."""


@workers.command("ls")
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@connection_options
@output_option
def ls(url: str | None, prefix: str, output: Output, queues: tuple[str, ...]) -> None:
    """List the workers of QUEUE, or of all queues."""
    with App(url, prefix=prefix).sync as app:
        found = [existing(app, name) for name in queues or app.queues()]
        now = app.runtime.clock.now_ms()
        rows = [_row(queue.name, seen, now) for queue in found for seen in queue.workers()]
    columns = ("queue", "name", "library", "address", "age", "idle", "beat", "running")
    output.rows("workers", rows, columns, id="name")


def _row(queue: str, seen: WorkerSeen, now: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "queue": queue,
        "name": seen.name,
        "library": seen.library,
        "address": seen.address,
        "age": seen.age,
        "idle": seen.idle,
        "beat": None,
        "running": None,
    }
    if (beat := seen.beat) is not None:
        row |= {
            "beat": max(now - beat.at, 0) // 1000,
            "running": list(beat.running),
            "concurrency": beat.concurrency,
            "host": beat.host,
            "pid": beat.pid,
            "started": beat.started,
        }
    return row
