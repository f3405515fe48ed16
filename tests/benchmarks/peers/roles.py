"""What a process of the comparison can be told to do, written once for all Python libraries.

    python -m tests.benchmarks.peers.arq_peer '{"url": …, "role": "drain", "jobs": 1000, …}'

A library's file says how to add and how to work (`AsyncPeer` or `ThreadPeer`); the roles here do
the measuring. A process prints lines of JSON: `{"at": …}` when it has come to a point at which
somebody may look at it, and at the end its result. A drain is timed from its first job to its last,
so that nobody's start counts. node_peer.mjs speaks the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

PAYLOAD: Final = {"to": "ada@example.org", "text": "x" * 64}
"""What each job brings: about 100 bytes."""
CALLERS: Final = 100
"""So many callers add at the same time and wait each for its own."""
THREADS: Final = 8
WARM_UP: Final = 10
"""The first jobs of a latency run, which do not count."""

Payload = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What one process shall do.

    `options` is what the library's own file understands: the case (`{"hook": true}`).
    """

    url: str
    role: str
    jobs: int
    concurrency: int = 1
    uvloop: bool = False
    marks: int = 0
    """After how many jobs each a `drain` shows itself; 0: never."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])


class Meter:
    """Wall and processor seconds of this process between `start` and `stop`."""

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu

    def result(self) -> dict[str, float]:
        return {"seconds": self.seconds, "cpu": self.cpu}


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class AsyncPeer(ABC):
    """A library on an event loop."""

    def __init__(self, order: Order) -> None:
        self.order = order

    @abstractmethod
    async def open(self) -> None:
        """Connect, as a producer or as a worker."""

    @abstractmethod
    async def add(self, payload: Payload) -> None:
        """Add one job."""

    async def add_many(self, jobs: int) -> None:
        """Add so many jobs with `PAYLOAD`, in the library's own quickest way: `CALLERS` at once."""

        async def caller(count: int) -> None:
            for _ in range(count):
                await self.add(PAYLOAD)

        shares = [jobs // CALLERS + (n < jobs % CALLERS) for n in range(CALLERS)]
        await asyncio.gather(*map(caller, shares))

    @abstractmethod
    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        """Start a worker and return when it has started."""

    async def close(self) -> None:  # noqa: B027 - there need not be anything to close
        """Stop the worker when what it runs has ended, and disconnect."""


async def _add_many(peer: AsyncPeer) -> dict[str, float]:
    meter = Meter()
    meter.start()
    await peer.add_many(peer.order.jobs)
    meter.stop()
    return meter.result()


async def _add_one(peer: AsyncPeer) -> dict[str, float]:
    await peer.add(PAYLOAD)
    meter = Meter()
    meter.start()
    for _ in range(peer.order.jobs - 1):
        await peer.add(PAYLOAD)
    meter.stop()
    return meter.result()


async def _add_callers(peer: AsyncPeer) -> dict[str, float]:
    async def caller(jobs: int) -> None:
        for _ in range(jobs):
            await peer.add(PAYLOAD)

    await caller(1)
    each = peer.order.jobs // CALLERS
    meter = Meter()
    meter.start()
    await asyncio.gather(*(caller(each) for _ in range(CALLERS)))
    meter.stop()
    return {**meter.result(), "jobs": each * CALLERS}


async def _drain(peer: AsyncPeer) -> dict[str, float]:
    done = asyncio.Event()
    order, left, meter = peer.order, peer.order.jobs, Meter()

    async def handle(payload: Payload) -> None:
        nonlocal left
        if left == order.jobs:
            meter.start()
        left -= 1
        if not left:
            meter.stop()
            done.set()
        elif order.marks and left % order.marks == 0:
            say(at=order.jobs - left)

    await peer.work(handle)
    await done.wait()
    return meter.result()


async def _serve(peer: AsyncPeer) -> dict[str, Any]:
    done = asyncio.Event()
    taken: list[int] = []

    async def handle(payload: Payload) -> None:
        taken.append(time.monotonic_ns() - payload["sent"])
        if len(taken) == peer.order.jobs:
            done.set()

    await peer.work(handle)
    await asyncio.sleep(0.3)
    say(at="ready")
    await done.wait()
    return {"ms": [ns / 1e6 for ns in taken[WARM_UP:]]}


async def _send(peer: AsyncPeer) -> dict[str, Any]:
    # Unequal pauses, so that nobody who looks at intervals is met at the same place each time.
    for _ in range(peer.order.jobs):
        await asyncio.sleep(random.uniform(0.005, 0.015))
        await peer.add({**PAYLOAD, "sent": time.monotonic_ns()})
    return {}


async def _hold(peer: AsyncPeer) -> dict[str, Any]:
    started = 0
    release = asyncio.Event()

    async def handle(payload: Payload) -> None:
        nonlocal started
        started += 1
        if started == peer.order.jobs:
            say(at="full")
            await asyncio.sleep(0.5)
            release.set()
        await release.wait()

    await peer.work(handle)
    await release.wait()
    return {}


Role = Callable[[Any], Coroutine[Any, Any, dict[str, Any]]]
ROLES: Final[dict[str, Role]] = {
    "add_many": _add_many,
    "add_one": _add_one,
    "add_callers": _add_callers,
    "drain": _drain,
    "serve": _serve,
    "send": _send,
    "hold": _hold,
}


class ThreadPeer(ABC):
    """A library that blocks; its handlers run in threads, or one after the other."""

    def __init__(self, order: Order) -> None:
        self.order = order

    @abstractmethod
    def open(self) -> None:
        """Connect, as a producer or as a worker."""

    @abstractmethod
    def add(self, payload: Payload) -> None:
        """Add one job; several threads may call it."""

    def add_many(self, jobs: int) -> None:
        """Add so many jobs with `PAYLOAD`, in the library's own quickest way: one by one."""
        for _ in range(jobs):
            self.add(PAYLOAD)

    @abstractmethod
    def work(self, handle: Callable[[Payload], None], ended: Callable[[], bool]) -> None:
        """Run a worker until `ended`."""

    def close(self) -> None:  # noqa: B027 - there need not be anything to close
        """Disconnect."""


def _sync_add_many(peer: ThreadPeer) -> dict[str, float]:
    meter = Meter()
    meter.start()
    peer.add_many(peer.order.jobs)
    meter.stop()
    return meter.result()


def _sync_add_one(peer: ThreadPeer) -> dict[str, float]:
    peer.add(PAYLOAD)
    meter = Meter()
    meter.start()
    for _ in range(peer.order.jobs - 1):
        peer.add(PAYLOAD)
    meter.stop()
    return meter.result()


def add_in_threads(add: Callable[[Payload], object], jobs: int) -> dict[str, float]:
    """`THREADS` threads, as a web server's, add at the same time."""

    def caller(count: int) -> None:
        for _ in range(count):
            add(PAYLOAD)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(caller, [2] * THREADS))  # every thread has connected
        meter = Meter()
        meter.start()
        list(pool.map(caller, [jobs // THREADS] * THREADS))
        meter.stop()
    return {**meter.result(), "jobs": jobs // THREADS * THREADS}


def _sync_add_threads(peer: ThreadPeer) -> dict[str, float]:
    return add_in_threads(peer.add, peer.order.jobs)


def _sync_drain(peer: ThreadPeer) -> dict[str, float]:
    meter = Meter()
    seen: list[None] = []  # appending is atomic: handlers may run in several threads

    def handle(payload: Payload) -> None:
        if not seen:
            meter.start()
        seen.append(None)
        if len(seen) == peer.order.jobs:
            meter.stop()

    peer.work(handle, lambda: len(seen) >= peer.order.jobs)
    return meter.result()


def _sync_serve(peer: ThreadPeer) -> dict[str, Any]:
    taken: list[int] = []

    def handle(payload: Payload) -> None:
        taken.append(time.monotonic_ns() - payload["sent"])

    def ready() -> None:
        time.sleep(0.8)
        say(at="ready")

    with ThreadPoolExecutor(1) as teller:
        teller.submit(ready)
        peer.work(handle, lambda: len(taken) >= peer.order.jobs)
    return {"ms": [ns / 1e6 for ns in taken[WARM_UP:]]}


def _sync_send(peer: ThreadPeer) -> dict[str, Any]:
    for _ in range(peer.order.jobs):
        time.sleep(random.uniform(0.005, 0.015))
        peer.add({**PAYLOAD, "sent": time.monotonic_ns()})
    return {}


SYNC_ROLES: Final[dict[str, Callable[[ThreadPeer], dict[str, Any]]]] = {
    "add_many": _sync_add_many,
    "add_one": _sync_add_one,
    "add_threads": _sync_add_threads,
    "drain": _sync_drain,
    "serve": _sync_serve,
    "send": _sync_send,
}


async def _play(peer: AsyncPeer, role: Role) -> None:
    await peer.open()
    result = await role(peer)
    await peer.close()
    say(**result)
    _leave()  # from within: some tasks do not end when the loop cancels them


def main(
    kind: type[AsyncPeer | ThreadPeer], own: dict[str, Callable[..., Any]] | None = None
) -> None:
    """Play the role that the command line names. `own`: roles that only this library has."""
    order = Order(**json.loads(sys.argv[1]))
    peer = kind(order)
    if isinstance(peer, AsyncPeer):
        _run(_play(peer, {**ROLES, **(own or {})}[order.role]), uvloop=order.uvloop)
    else:
        peer.open()
        result = {**SYNC_ROLES, **(own or {})}[order.role](peer)
        peer.close()
        say(**result)
        _leave()


def _leave() -> NoReturn:
    """End, whatever threads and tasks a library has left."""
    sys.stdout.flush()
    os._exit(0)


def _run(main: Coroutine[Any, Any, None], *, uvloop: bool) -> None:
    factory = None
    if uvloop:
        import uvloop as quick

        factory = quick.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
