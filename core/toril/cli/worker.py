"""`toril worker`: run workers until told to stop."""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import click

import toril as package
from toril.app import App
from toril.cli.exits import CommandError, Exit
from toril.cli.output import talk
from toril.cli.supervised import Line
from toril.cli.supervisor import Supervisor
from toril.duration import milliseconds
from toril.errors import ConfigurationError, TorilError
from toril.queue import Queue
from toril.worker import Fetcher, Worker

log = logging.getLogger("toril.worker")

_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_NOT_THE_USERS: Final = (str(Path(package.__file__).parent), importlib.__file__, "<frozen ")
"""How the names of files begin that are no help in finding a mistake in a program."""


@click.command()
@click.argument("targets", metavar="MODULE:OBJECT…", nargs=-1, required=True)
@click.option("-q", "--queue", "queues", multiple=True, metavar="NAME", help="Only this queue.")
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Jobs at once, per queue.")
@click.option("--burst", is_flag=True, help="Stop when there is nothing left to run.")
@click.option("--grace", metavar="DURATION", help="How long running jobs may go on at a stop.")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Run so many processes.")
@click.option("--reload", "watch", is_flag=True, help="Begin anew when Python files change.")
@click.option("-v", "--verbose", is_flag=True, help="Log every job.")
def worker(  # noqa: PLR0917 - click passes them by name
    targets: Sequence[str],
    queues: Sequence[str],
    concurrency: int | None,
    burst: bool,  # noqa: FBT001 - click passes options by name
    grace: str | None,
    processes: int | None,
    watch: bool,  # noqa: FBT001
    verbose: bool,  # noqa: FBT001
) -> None:
    r"""Run workers.

    OBJECT is an App, whose workers are run, and its tasks; a Queue, whose tasks are run; a Worker;
    or a function that returns one of these. Modules of the working directory can be named.

    \b
    Signals:
      TERM, INT  stop fetching and let running jobs finish for the grace time;
                 a second one puts them back at once, a third one kills
      USR1       stop fetching, go on with the jobs that run
      USR2       write the stacks of all tasks and threads to stderr
      HUP        with --processes: replace them one by one, a new one before the old one goes

    \b
    With --processes N each process has Apps of its own; one that ends by itself is started again.

    \b
    Exit codes: 0 done, 1 unexpected error, or the third signal,
      2 usage or import failed, 3 server not reachable,
      7 stopped with jobs not finished in time; they were put back
    """
    line = Line.found()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format=(f"[{line.number}] " if line else "") + _FORMAT,
    )
    if grace is not None:
        try:
            milliseconds(grace)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--grace") from error
    if processes is not None or watch:
        command = _command(targets, queues, concurrency, grace, burst=burst, verbose=verbose)
        watched = Path.cwd() if watch else None
        supervisor = Supervisor(command, processes or 1, burst=burst, watched=watched)
        sys.exit(asyncio.run(supervisor.run()))
    workers = _choose(_workers(targets), queues)
    for one in workers:
        one.configure(concurrency=concurrency, grace=grace)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        given_back = runner.run(_Run(workers, line).run(burst=burst))
    unfinished = f"{given_back} jobs were not finished in time and were put back"
    if any(not thread.daemon for thread in threading.enumerate()[1:]):
        # Handlers are still running in threads. Nothing can stop those, and Python would wait.
        if given_back:
            talk(unfinished)
        logging.shutdown()
        os._exit(Exit.UNFINISHED if given_back else Exit.DONE)
    if given_back:
        raise CommandError(unfinished, Exit.UNFINISHED)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes the event loop: uvloop's if that is installed; None: asyncio's own."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _command(
    targets: Sequence[str],
    queues: Sequence[str],
    concurrency: int | None,
    grace: str | None,
    *,
    burst: bool,
    verbose: bool,
) -> list[str]:
    """The command of one of several processes."""
    command = ["worker", *targets]
    for queue in queues:
        command += ["--queue", queue]
    if concurrency is not None:
        command += ["--concurrency", str(concurrency)]
    if grace is not None:
        command += ["--grace", grace]
    return command + ["--burst"] * burst + ["--verbose"] * verbose


def _workers(targets: Iterable[str]) -> list[Worker]:
    """The workers that the targets name, each once."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: dict[Worker, None] = {}
    for target in targets:
        for one in _of(target, _load(target)):
            found[one] = None
    return list(found)


def _load(target: str) -> object:
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise click.UsageError(
            f"{target!r} is not of the form MODULE:OBJECT; `app` in app.py is app:app"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        hint = " (leave off the .py)" if module_name.endswith(".py") else ""
        raise _not_usable(f"cannot import {target!r}{hint}", error) from error
    try:
        for name in path.split("."):
            found = getattr(found, name)
    except AttributeError as error:
        raise click.UsageError(f"cannot find {target!r}: {error}") from error
    return found


def _not_usable(what: str, error: BaseException) -> click.UsageError:
    """The error for code of the user's that raised, with the place."""
    if os.environ.get("TORIL_DEBUG"):
        traceback.print_exception(error)
    message = f"{what}: {type(error).__name__}: {error}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    # A SyntaxError names the place itself.
    if frames and not isinstance(error, SyntaxError):
        message += f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return click.UsageError(message)


def _of(target: str, found: object) -> list[Worker]:
    if isinstance(found, Fetcher):
        raise click.UsageError(f"{target!r} is a fetcher, which hands its jobs to a program")
    if isinstance(found, Worker):
        return [found]
    if isinstance(found, App):
        if not found.serve_tasks():
            raise click.UsageError(
                f"{target!r} is an App without workers and tasks; see app.worker(…)"
            )
        return list(found.workers)
    if isinstance(found, Queue):
        return _of_queue(target, found)
    if callable(found):
        try:
            made = cast("Callable[[], object]", found)()
        except (Exception, SystemExit) as error:
            raise _not_usable(
                f"{target!r} is called, to get an App or a Worker; it raised", error
            ) from error
        if isinstance(made, App | Queue | Worker):
            return _of(target, made)
        found = made
    raise click.UsageError(f"{target!r} is {found!r}, which is no App, no Queue and no Worker")


def _of_queue(target: str, queue: Queue) -> list[Worker]:
    """The workers of a queue that the program made, else one that runs its tasks."""
    if made := [worker for worker in queue.app.workers if worker.queue == queue.name]:
        return made
    try:
        return [queue.app.worker(queue)]
    except ConfigurationError as error:
        raise click.UsageError(f"{target!r}: {error}") from error


def _choose(workers: Sequence[Worker], queues: Sequence[str]) -> list[Worker]:
    known = {worker.queue for worker in workers}
    for name in queues:
        if name not in known:
            raise click.UsageError(
                f"no worker for the queue {name!r}; there are {', '.join(sorted(known))}"
            )
    return [worker for worker in workers if not queues or worker.queue in queues]


class _Run:
    """Some workers, run until they have stopped, and steered by signals."""

    def __init__(self, workers: Sequence[Worker], line: Line | None) -> None:
        self._workers = workers
        self._line = line
        self._stops = 0
        self._stopping: set[asyncio.Task[object]] = set()

    async def run(self, *, burst: bool) -> int:
        """Returns how many jobs were given back."""
        self._loop = asyncio.get_running_loop()
        before = {number: signal.signal(number, handle) for number, handle in self._signals()}
        apps = dict.fromkeys(worker.app for worker in self._workers)
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    group.create_task(worker.run(burst=burst))
                if self._line is not None:
                    self._line.watch(self._left_alone)
                    group.create_task(self._tell_ready(self._line))
        except* TorilError as errors:
            raise errors.exceptions[0] from None
        finally:
            for app in apps:
                await app.aclose()
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._line is not None:
                self._line.close()
        return sum(worker.given_back for worker in self._workers)

    async def _tell_ready(self, line: Line) -> None:
        await asyncio.sleep(0)  # the workers have begun then
        for worker in self._workers:
            await worker.ready()
        line.tell_ready()

    def _left_alone(self) -> None:
        log.warning("the supervisor has gone")
        if not self._stops:
            self._stops = 1
            self._stop(now=False)

    def _signals(self) -> list[tuple[int, Callable[[int, FrameType | None], None]]]:
        # Plain handlers instead of the loop's: they also run while a job blocks the loop.
        stop, quiet, dump = self._on_stop, self._on_quiet, self._on_dump
        return [
            (signal.SIGTERM, stop), (signal.SIGINT, stop),
            (signal.SIGUSR1, quiet), (signal.SIGUSR2, dump),
        ]  # fmt: skip

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1
        if self._stops > 2:
            os._exit(1)
        self._loop.call_soon_threadsafe(self._stop, self._stops > 1)

    def _stop(self, now: bool) -> None:  # noqa: FBT001 - through call_soon
        if now:
            log.warning("giving running jobs back now; once more kills the process")
        else:
            log.info("stopping: running jobs may finish; once more gives them back now")
        for worker in self._workers:
            task = self._loop.create_task(worker.stop(grace="0s" if now else None))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def _on_quiet(self, _number: int, _frame: FrameType | None) -> None:
        for worker in self._workers:
            self._loop.call_soon_threadsafe(worker.quiet)

    def _on_dump(self, _number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for task in asyncio.all_tasks(self._loop):
            talk(f"\n{task.get_name()}:\n{_stack(task)}")
        for worker in self._workers:
            held = ", ".join(worker.running) or "nothing"
            talk(f"queue {worker.queue}: running {held}")


def _stack(task: asyncio.Task[Any]) -> str:
    """Where a task waits: the frames of its coroutines, outermost first."""
    frames: list[traceback.FrameSummary] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            frames += traceback.extract_stack(frame, 1)
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return "".join(traceback.format_list(frames))
