"""The Python end of the driver protocol (see `driver`): a loop over JSON lines, gates, scripts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast


class Unsupported(Exception):
    """The library cannot do this."""


class Gate:
    """A place where a handler waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()


class Service:
    """Answers the driver's requests: a public coroutine method per method of the protocol."""

    def __init__(self) -> None:
        self.gates: defaultdict[str, Gate] = defaultdict(Gate)
        self._happened: set[tuple[str, str, int]] = set()
        self._serial = 0

    def handle_name(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}-{self._serial}"

    def first_time(self, queue: str, id: str, step: int) -> bool:
        """Whether this step of this job is met for the first time since the last reset."""
        key = (queue, id, step)
        fresh = key not in self._happened
        self._happened.add(key)
        return fresh

    async def pass_gate(self, name: str) -> None:
        self.gates[name].reached.set()
        await self.gates[name].opened.wait()

    async def gated(self, name: str) -> None:
        await self.gates[name].reached.wait()

    async def open_gate(self, name: str) -> None:
        self.gates[name].opened.set()

    def forget(self) -> None:
        """Open every gate and forget what happened; part of `reset`."""
        for gate in self.gates.values():
            gate.opened.set()
        self.gates.clear()
        self._happened.clear()


class Script:
    """One run of the handler that does what the job's data says; a method `do_…` per verb."""

    def __init__(self, service: Service, queue: str, id: str, name: str) -> None:
        self.service = service
        self.queue = queue
        self.id = id
        self.name = name
        self.step = 0
        self.result: Any = None

    def first_time(self) -> bool:
        return self.service.first_time(self.queue, self.id, self.step)

    async def run(self, data: Any) -> Any:
        """Do the steps; the result of the job."""
        script: list[list[Any]] = []
        if isinstance(data, dict):
            script = cast("dict[str, Any]", data).get("do", [])
        for self.step, (verb, *arguments) in enumerate(script):
            method = getattr(self, "do_" + verb.replace("-", "_"), None)
            if method is None:
                raise Unsupported(verb)
            await cast("Callable[..., Awaitable[None]]", method)(*arguments)
        return self.result

    async def do_sleep(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)

    async def do_gate(self) -> None:
        await self.service.pass_gate(self.name)

    async def do_fail(self, text: str) -> None:
        raise RuntimeError(text)

    async def do_return(self, value: Any) -> None:
        self.result = value


async def _answer(service: Service, request: dict[str, Any], write: Callable[[Any], None]) -> None:
    try:
        method = getattr(service, request["method"], _unsupported)
        call = cast("Callable[..., Awaitable[Any]]", method)
        write({"id": request["id"], "value": await call(**request["params"])})
    except Exception as error:  # noqa: BLE001 - the test decides what an error means
        traceback.print_exc()
        told = {"name": type(error).__name__, "message": str(error)}
        write({"id": request["id"], "error": told})


async def _unsupported(**_: Any) -> None:
    raise Unsupported


async def serve(service: Service) -> None:
    """Answer requests until standard input ends."""
    loop = asyncio.get_running_loop()
    # Standard output belongs to the protocol, whatever the library prints.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)

    def write(answer: Any) -> None:
        out.write(json.dumps(answer) + "\n")

    threading.Thread(target=read, daemon=True).start()
    answering: set[asyncio.Task[None]] = set()
    while (line := await lines.get()) is not None:
        task = asyncio.ensure_future(_answer(service, json.loads(line), write))
        answering.add(task)
        task.add_done_callback(answering.discard)
    os._exit(0)  # a library's unfinished tasks must not keep the process
