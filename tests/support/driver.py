"""A job library in a process of its own, driven by JSON lines.

One request is one line on the driver's standard input, `{"id": 7, "method": "add", "params": {…}}`,
one answer is one line on its standard output, in any order: `{"id": 7, "value": …}` or
`{"id": 7, "error": {"name": "…", "message": "…"}}`. When its input ends, the driver ends. What it
prints on standard error is kept in a file and shown when something goes wrong.

All drivers (BullMQ for Node, BullMQ for Python, Toril) understand the methods of `Driver`; what one
library cannot do answers with the error `Unsupported`. Options of jobs and workers are named as in
BullMQ's own documentation, because that is the language that the four sides have in common.

A handler does what the job's data says: `{"do": [["log", "hello"], ["return", 1]]}`. The verbs:

    log TEXT · progress VALUE · sleep MS · update-data VALUE
    gate                wait for the test to open the gate (`gated`, `open_gate`) of the job's name
    fail TEXT           raise; `fail-times N TEXT` only while fewer than N attempts were made
    unrecoverable TEXT  raise the error that forbids further attempts
    delay MS            the first time: move to delayed
    wait                the first time: move back to waiting
    rate-limit MS       the first time: raise the rate-limit signal
    child QUEUE NAME DATA OPTS   the first time: add a child to this job
    wait-children       wait for the children, if any is open
    children-values     the result becomes the sorted list of the children's values
    return VALUE        the result
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CALL_DEADLINE = 20.0  # seconds; every answer of a driver is quick or the test is wrong
ROOT = Path(__file__).resolve().parents[2]
INTEROP = ROOT / "tests" / "interop"


class DriverError(Exception):
    """The driven library refused or failed a call. `name` is the class of its error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class Driver:
    """One running driver process. Its methods may be awaited from any event loop."""

    def __init__(
        self, label: str, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self.label = label
        self._numbers = itertools.count(1)
        self._open: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        with tempfile.NamedTemporaryFile(prefix="toril-driver-", delete=False) as errors:
            self._errors = Path(errors.name)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
        self._reader = threading.Thread(target=self._read, name=f"driver {label}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} pid {self.process.pid}>"

    # -- the protocol ------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer: dict[str, Any] = json.loads(line)
            with self._lock:
                waiting = self._open.pop(answer["id"], None)
            if waiting is None or waiting.cancelled():
                continue
            if "error" in answer:
                error = answer["error"]
                waiting.set_exception(DriverError(error["name"], error["message"]))
            else:
                waiting.set_result(answer["value"])
        with self._lock:
            orphans, self._open = list(self._open.values()), {}
        for waiting in orphans:
            if not waiting.cancelled():
                waiting.set_exception(DriverError("Gone", f"{self.label} ended\n{self.errors}"))

    async def call(self, method: str, /, deadline: float = CALL_DEADLINE, **params: Any) -> Any:
        """Ask the driver and wait for its answer.

        Args:
            method: One of the driver's methods.
            deadline: Seconds to wait.
            params: The parameters; those that are None are left out.

        Raises:
            DriverError: The library raised, or the driver has ended.
            TimeoutError: No answer in time.
        """
        number = next(self._numbers)
        answer: Future[Any] = Future()
        with self._lock:
            self._open[number] = answer
        given = {name: value for name, value in params.items() if value is not None}
        line = json.dumps({"id": number, "method": method, "params": given})
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
        except (BrokenPipeError, ValueError):
            raise DriverError("Gone", f"{self.label} has ended\n{self.errors}") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), deadline)
        except TimeoutError:
            raise TimeoutError(f"{self.label}: no answer to {method}\n{self.errors}") from None

    @property
    def errors(self) -> str:
        """The end of what the process wrote to its standard error."""
        return self._errors.read_text(errors="replace")[-4000:] if self._errors.exists() else ""

    # -- the process -------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the driver: first by closing its input, then by its process id."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._collect()

    def kill(self) -> None:
        """End it as a crash would: at once, nothing is given back."""
        os.kill(self.process.pid, signal.SIGKILL)
        self._collect()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; `thaw` lets it go on."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def _collect(self) -> None:
        self.process.wait()
        self._reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._errors.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what every driver can do ------------------------------------------------------------------

    async def reset(self) -> None:
        """Close every queue, worker and event reader, and forget the gates."""
        await self.call("reset")

    async def add(
        self, queue: str, name: str, data: Any = None, opts: dict[str, Any] | None = None
    ) -> str:
        """Add one job; its id."""
        return str(await self.call("add", queue=queue, name=name, data=data, opts=opts))

    async def add_bulk(self, queue: str, jobs: list[dict[str, Any]]) -> list[str]:
        """Add several jobs `{"name":…, "data":…, "opts":…}` in one call; their ids."""
        return [str(each) for each in await self.call("add_bulk", queue=queue, jobs=jobs)]

    async def add_flow(self, flow: dict[str, Any]) -> dict[str, Any]:
        """Add a tree `{"queue":…, "name":…, "data":…, "opts":…, "children":[…]}`.

        Returns the same tree as `{"queue":…, "name":…, "id":…, "children":[…]}`.
        """
        tree: dict[str, Any] = await self.call("add_flow", flow=flow)
        return tree

    async def job(self, queue: str, id: str) -> dict[str, Any] | None:
        """One job as this library reads it, or None.

        Keys: id, name, data, state, progress, result, reason, attempts_made, delay, priority.
        """
        found: dict[str, Any] | None = await self.call("job", queue=queue, id=id)
        return found

    async def counts(self, queue: str) -> dict[str, int]:
        """Number of jobs by state (`waiting`, `active`, …)."""
        found: dict[str, int] = await self.call("counts", queue=queue)
        return found

    async def ids(self, queue: str, state: str) -> list[str]:
        """Ids of the jobs in one state, in the library's own order."""
        found: list[str] = await self.call("ids", queue=queue, state=state)
        return found

    async def logs(self, queue: str, id: str) -> list[str]:
        found: list[str] = await self.call("logs", queue=queue, id=id)
        return found

    async def children(self, queue: str, id: str) -> dict[str, Any]:
        """A parent's children: `{"processed": {key: value}, "unprocessed": [key], …}`."""
        found: dict[str, Any] = await self.call("children", queue=queue, id=id)
        return found

    async def flow(self, queue: str, id: str) -> dict[str, Any]:
        """The tree below a job: `{"queue":…, "name":…, "id":…, "state":…, "children":[…]}`."""
        found: dict[str, Any] = await self.call("flow", queue=queue, id=id)
        return found

    async def wait_until_finished(self, queue: str, id: str, timeout: float = 10) -> Any:
        """The job's result; `DriverError` with the reason if it failed."""
        return await self.call("wait_until_finished", queue=queue, id=id, ms=int(timeout * 1000))

    async def events_open(self, queue: str) -> str:
        """Read the queue's events from the first on; the handle for `events_take`."""
        return str(await self.call("events_open", queue=queue))

    async def events_take(self, handle: str) -> list[dict[str, Any]]:
        """The events read since the last call, each `{"event":…, …}`."""
        found: list[dict[str, Any]] = await self.call("events_take", handle=handle)
        return found

    async def worker(self, queue: str, **opts: Any) -> str:
        """Start a worker with the scripted handler; its handle.

        Args:
            queue: Name of the queue.
            opts: BullMQ's worker options (`concurrency`, `lockDuration`, `stalledInterval`,
                `maxStalledCount`, `removeOnComplete`, `removeOnFail`, `limiter`, …).
        """
        return str(await self.call("worker", queue=queue, opts=opts))

    async def worker_close(self, handle: str, force: bool = False) -> None:
        await self.call("worker_close", handle=handle, force=force)

    async def worker_errors(self, handle: str) -> list[str]:
        """What the worker reported as errors (not: failures of jobs)."""
        found: list[str] = await self.call("worker_errors", handle=handle)
        return found

    async def gated(self, name: str, timeout: float = 10) -> None:
        """Wait until the handler of the job of that name stands at its gate."""
        await self.call("gated", deadline=timeout, name=name)

    async def open_gate(self, name: str) -> None:
        """Let it go on; also a gate that nobody has reached yet."""
        await self.call("open_gate", name=name)

    async def act(self, action: str, queue: str, **params: Any) -> Any:
        """An operator's action on a queue or one of its jobs.

        On a queue: pause, resume, drain(delayed), clean(grace, limit, state), obliterate(force),
        retry_all(state), promote_all, concurrency(value), rate_limit(max, duration),
        schedule(id, repeat, template), unschedule(id).
        On a job (id): retry(state, reset), remove(children), promote, update_data(data),
        change_delay(delay), change_priority(priority, lifo), progress(value), log(text, keep),
        clear_logs(keep), unlink, remove_unprocessed.
        """
        return await self.call(action, queue=queue, **params)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-X", "utf8", "-m", name, *arguments]


class PythonDriver(Driver):
    """BullMQ for Python in a process of its own."""

    def __init__(self, url: str, prefix: str = "bull") -> None:
        super().__init__("python", _module("tests.interop.python_driver", url, prefix))


class TorilDriver(Driver):
    """Toril in a process of its own, to be killed, frozen and compared like the others."""

    def __init__(self, url: str, prefix: str = "bull") -> None:
        super().__init__("toril", _module("tests.interop.toril_driver", url, prefix))
