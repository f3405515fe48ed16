"""`toril flows`: look at flows, and loosen parents from their children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from toril.app import App
from toril.cli.exits import refused
from toril.cli.job_actions import IDS, each_of, job_of
from toril.cli.output import Output, connection_options, output_option, talk
from toril.flow import FlowTree
from toril.snapshots import JobRef
from toril.sync_job import SyncJob


@click.group()
def flows() -> None:
    """Show flows, and loosen parents from their children."""


@flows.command("show")
@click.argument("queue")
@click.argument("id")
@click.option("--depth", type=click.IntRange(1), default=10, show_default=True, help="Levels.")
@click.option(
    "--width", type=click.IntRange(1), default=50, show_default=True, help="Children of one job."
)
@connection_options
@output_option
def show(
    url: str | None,
    prefix: str,
    output: Output,
    queue: str,
    id: str,
    *,
    depth: int,
    width: int,
) -> None:
    """Show a flow as a tree, from one job downwards.

    Of jobs that are gone it shows how they ended, where a plugin still knows.
    """
    with App(url, prefix=prefix).sync as app:
        tree = app.flow_tree(JobRef(queue, id), depth=depth, width=width)
    rows = list(_rows(tree, 0, None))
    ended = ("outcome",) if any(row["outcome"] for row in rows) else ()
    output.rows("jobs", rows, ("tree", "queue", "id", "state", *ended, "reason"))
    if any(row["cut"] for row in rows):
        talk("there is more: see --depth and --width")


def _rows(node: FlowTree[SyncJob], level: int, parent: str | None) -> Iterator[dict[str, Any]]:
    """The node and all below it."""
    job = node.job
    yield {
        "tree": "  " * level + job.name,
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "state": node.state,
        "outcome": None,
        "reason": job.reason,
        "level": level,
        "parent": parent,
        "cut": node.cut,
    }
    here = f"{job.queue}/{job.id}"
    for child in node.children:
        yield from _rows(child, level + 1, here)
    for gone, told in node.gone.items():
        yield {
            "tree": "  " * (level + 1) + ("" if told is None else told.name),
            "id": gone.id,
            "queue": gone.queue,
            "name": None if told is None else told.name,
            "state": "gone",
            "outcome": None if told is None else told.outcome,
            "reason": None if told is None else told.reason,
            "level": level + 1,
            "parent": here,
            "cut": False,
        }


@flows.command("unlink")
@click.argument("queue")
@IDS
@connection_options
def unlink(url: str | None, prefix: str, queue: str, ids: Sequence[str]) -> None:
    """Take open children off their parents, which wait for them no more.

    `-` instead of ids reads them from stdin.
    """
    with App(url, prefix=prefix).sync as app:
        found = app.queue(queue)

        def act(id: str) -> None:
            if not job_of(found, id).unlink():
                refused(f"the parent of job {id!r} of queue {queue!r} does not wait for it")

        each_of(ids, act)


@flows.command("prune")
@click.argument("queue")
@click.argument("id")
@connection_options
def prune(url: str | None, prefix: str, queue: str, id: str) -> None:
    """Remove the children of one job that have not ended, with all below them."""
    with App(url, prefix=prefix).sync as app:
        gone = job_of(app.queue(queue), id).remove_unprocessed_children()
    for kept in gone.kept:
        talk(f"kept: {kept}")
    talk(f"{len(gone)} children removed")
