"""`toril demo`: flows over real files, and what becomes of their jobs afterwards.

One flow per sub-directory: its parent, in the queue `directories`, adds up what its children, in
the queue `files`, found out about one file each. A file that cannot be processed fails its job, and
with it the job of its directory. Everything here uses the public API only.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import logging
import os
import secrets
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import click

from toril import ActiveJob, App, Flow, Unrecoverable, hookimpl
from toril.plugins import JobAttemptFailed, JobCompleted, JobRemoved, Json
from toril_plugins.retention.values import Retention

SKIPPED = {"__pycache__", "site-packages", "dist-packages"}


# What the jobs do


def measure(job: ActiveJob) -> Json:
    """Hash and measure one file; a Python file must parse as well. Runs in a thread."""
    path = path_of(job.get("file", str) or "")
    try:
        content = path.read_bytes()
        if path.suffix == ".py":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(content, filename=path.name)
    except (OSError, SyntaxError, ValueError) as error:
        # No second try will help, whatever attempts are left.
        where = printable(f"{path.parent.name}/{path.name}")
        raise Unrecoverable(f"{type(error).__name__} in {where}") from error
    return {
        "bytes": len(content),
        "lines": content.count(b"\n"),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def path_of(uri: str) -> Path:
    """The path that `Path.as_uri` wrote. A name on a disk is bytes, which JSON cannot hold."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def printable(name: str) -> str:
    """A name on a disk for people and for JSON: what is no UTF-8 in it becomes question marks."""
    return os.fsencode(name).decode("utf-8", "replace")


async def add_up(job: ActiveJob) -> Json:
    """Aggregate what the children of one directory found out."""
    children = await job.children()
    measured = [cast("dict[str, int]", value) for value in children.processed.values()]
    return {
        "files": len(measured),
        "bytes": sum(each["bytes"] for each in measured),
        "lines": sum(each["lines"] for each in measured),
    }


# Which flows there are


def directory_flows(root: Path) -> Iterator[Flow]:
    """One flow per sub-directory of `root`; a child per file directly in it."""
    for directory in sorted(root.iterdir()):
        if not directory.is_dir() or directory.name in SKIPPED or directory.name.startswith("."):
            continue
        paths = [path for path in sorted(directory.iterdir()) if path.is_file()]
        if paths:
            yield flow(printable(directory.name), paths)


def flow(name: str, paths: Sequence[Path]) -> Flow:
    """The flow of one directory. A failed file fails it. What its own job says goes before all."""
    return Flow(
        "directories",
        "add-up",
        {"directory": name},
        Retention(completed="90d"),
        on_child_failure="fail",
        children=[Flow("files", "measure", {"file": path.absolute().as_uri()}) for path in paths],
    )


# What is watched meanwhile: a plugin like any other, handed to the App


@dataclass
class Tally:
    """Counts what happened, through the hooks."""

    finished: Counter[str] = field(default_factory=Counter[str])
    failures: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    removed: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        self.finished.update(event.job.queue for event in events)

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[JobAttemptFailed]) -> None:
        for event in events:
            if event.final:
                self.finished[event.job.queue] += 1
                self.failures.append((event.job.queue, event.reason))

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        for event in events:
            self.removed[event.job.queue, event.state, event.rule or event.cause] += 1


async def run(app: App, flows: Sequence[Flow], tally: Tally) -> None:
    """Add the flows, and work until they are done."""
    # Three levels say something: a worker, both queues, and each directory's own job.
    files = app.worker("files", measure, Retention(completed=100), concurrency=8)
    directories = app.worker("directories", add_up, concurrency=8)
    app.queue("files", Retention(failed="30d"))
    app.queue("directories", Retention(failed="30d"))
    wanted = tally.finished.total() + sum(1 + len(each.children) for each in flows)
    with progress(flows, tally) as show:
        async with files, directories:
            for each in flows:
                await app.add_flow(each)
            while tally.finished.total() < wanted:
                show()
                await asyncio.sleep(0.05)
            show()


@contextmanager
def progress(flows: Sequence[Flow], tally: Tally) -> Generator[Any]:
    """A live display of both queues if `rich` is there and this is a terminal, else nothing."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:
        yield lambda: None
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        totals = {"files": sum(len(each.children) for each in flows), "directories": len(flows)}
        tasks = {name: bars.add_task(name, total=total) for name, total in totals.items()}

        def show() -> None:
            for name, task in tasks.items():
                bars.update(task, completed=tally.finished[name])

        yield show


# What is said at the end


async def report(app: App, flows: Sequence[Flow], tally: Tally, seconds: float) -> None:
    """One screen: what ran, what failed and why, what was kept and removed by which rule."""
    click.echo(f"  {len(flows)} flows · {tally.finished.total()} jobs · {seconds:.1f} s")
    reasons = Counter(reason for queue, reason in tally.failures if queue == "files")
    parents = len(tally.failures) - reasons.total()
    click.echo(f"  failed   {reasons.total()} of files, and with them {parents} of directories:")
    for reason, _ in reasons.most_common(5):
        click.echo(f"             {reason}")
    if len(reasons) > 5:
        click.echo(f"             and {len(reasons) - 5} more")
    for (queue, state, rule), count in sorted(tally.removed.items()):
        level, _, keep = rule.partition(": ")
        click.echo(f"  removed  {count} {state} of {queue}: {keep}, said by the {level}")
    for name in ("files", "directories"):
        async for line in kept(app, name):
            click.echo(f"  kept     {line}")


async def kept(app: App, name: str) -> AsyncIterator[str]:
    """One line per outcome of which a queue has jobs left, with the rule that keeps them."""
    queue = app.queue(name)
    counts = await queue.counts()
    for state in ("completed", "failed"):
        async for job in queue.jobs(state, limit=1):
            facts = {fact.subject: fact for fact in await job.explain()}
            rule, removal = facts["rule"], facts["removal"]
            who = f"said by the {rule.level}" if rule.level else "as nobody said otherwise"
            yield f"{counts[state]} {state} of {name}: {rule.text}, {who}; goes {removal.text}"


# The command


@asynccontextmanager
async def server(url: str | None) -> AsyncGenerator[str]:
    """The URL to use: the one given, or a server of our own in a directory that goes afterwards."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="toril-demo-") as directory:
        yield f"embedded:{directory}"


async def main(root: Path, url: str | None) -> None:
    """The whole demo."""
    # A prefix of its own: what it removes at the end is nobody else's, on a given server too.
    prefix = f"toril-demo-{secrets.token_hex(4)}"
    tally = Tally()
    async with server(url) as address, App(address, prefix=prefix, plugins=[tally, "*"]) as app:
        try:
            await show(app, root, tally)
        finally:
            for name in ("files", "directories"):
                await app.queue(name).obliterate(force=True)


async def show(app: App, root: Path, tally: Tally) -> None:
    """Run the flows of `root` and report what became of their jobs."""
    flows = list(directory_flows(root))
    started = time.perf_counter()
    click.echo(f"Every file below {root}, one job each; one flow per directory.", err=True)
    await run(app, flows, tally)
    if not tally.failures:
        click.echo("Nothing failed here, so one flow with a missing file is added.", err=True)
        missing = flow("missing", [root / "missing" / "no-such-file.py"])
        flows.append(missing)
        await run(app, [missing], tally)
    await report(app, flows, tally, time.perf_counter() - started)


@click.command()
@click.argument(
    "directory",
    required=False,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option("--redis", "url", metavar="URL", help="Use this server instead of one of its own.")
def demo(directory: Path | None, url: str | None) -> None:
    """Run flows over the files of DIRECTORY and show what becomes of their jobs.

    Default: Python's standard library. Starts a server of its own and leaves nothing behind.
    """
    # Failed jobs are part of the show and are reported at its end, not as warnings on the way.
    logging.getLogger("toril").setLevel(logging.ERROR)
    asyncio.run(main(directory or Path(sysconfig.get_path("stdlib")), url))
