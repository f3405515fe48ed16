"""Services: work on one queue that one process at a time does, by lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from toril.connection.call import Procedure, only
from toril.errors import GiveWay
from toril.hooks.context import ServiceContext
from toril.hooks.plugin_set import RegisteredService
from toril.protocol.leases import release_lease, take_lease
from toril.worker import rescue as rescuing

if TYPE_CHECKING:
    from toril.runtime import Runtime

log = logging.getLogger("toril.worker")

T = TypeVar("T")

LEASE: Final = 30.0
"""Seconds for which a lease is taken; it is renewed three times as often."""
_PERIOD: Final = 60.0
"""Seconds until a service that names no time is run again."""
_TO_RELEASE: Final = 1.0
"""Seconds in which a lease is given back; else it runs out by itself."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 300.0


class Perform(Protocol):
    """Carries out a procedure on the server."""

    async def __call__(self, procedure: Procedure[T], /) -> T: ...


Work: TypeAlias = "Callable[[str], Awaitable[float | None]]"
"""Does what is due, given the token of the lease; returns what `Service.run_once` returns."""


def services_of(runtime: Runtime, queue: str) -> list[LeasedService]:
    """Toril's own services and those of all plugins in use, for one queue.

    The plugins have been started.
    """

    def leased(name: str, owner: str, work: Work, after: float = 0.0) -> LeasedService:
        return LeasedService(
            after=after,
            name=name,
            owner=owner,
            work=work,
            queue=queue,
            queue_key=runtime.context.key(queue),
            perform=runtime.drive,
        )

    def of_plugin(each: RegisteredService) -> LeasedService:
        service = each.factory()
        plugin = runtime.lifecycle.context(each.plugin)

        def work(token: str) -> Awaitable[float | None]:
            return service.run_once(ServiceContext(plugin, each.name, queue, token))

        return leased(each.name, f"plugin {each.plugin!r}", work)

    rescue = rescuing.Rescue(runtime, queue)
    return [
        # What it looks for has time: a worker that has just come begins with its jobs.
        leased("rescue", "Toril", lambda _: rescue.run_once(), after=rescuing.PERIOD),
        *map(of_plugin, runtime.plugins.services),
    ]


class LeasedService:
    """One service on one queue, run here while this process holds its lease.

    Args:
        name: The service's name.
        owner: Whose it is, for the log.
        work: What does the work.
        queue: The queue's name.
        queue_key: What the queue's keys begin with.
        perform: See `Perform`.
        now: A monotonic clock, in seconds.
        lease: Seconds for which the lease is taken.
        after: Seconds until it is first run; by hand it is run at once.
    """

    def __init__(
        self,
        *,
        name: str,
        owner: str,
        work: Work,
        queue: str,
        queue_key: str,
        perform: Perform,
        now: Callable[[], float] = time.monotonic,
        lease: float = LEASE,
        after: float = 0.0,
    ) -> None:
        self.name = name
        self._owner = owner
        self._work = work
        self._queue = queue
        self._token = str(uuid.uuid4())
        self._queue_key = queue_key
        self._perform = perform
        self._now = now
        self._lease = lease
        self._due = now() + after
        self._pause = _FIRST_PAUSE
        self._away = now()
        self._serving = False

    async def run(self) -> None:
        """Serve until cancelled; the lease is given back then."""
        try:
            while True:  # noqa: ASYNC110 - there is no event to wait for, only the time
                await asyncio.sleep(await self.run_once())
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TO_RELEASE):
                    await self._release()

    async def run_once(self) -> float:
        """Take or renew the lease, and do what is due. Returns the seconds until the next look."""
        if self._now() < self._away:
            return self._away - self._now()
        try:
            if not await self._take():
                return self._lease / 2
            if self._now() >= self._due:
                self._due = self._now() + await self._serve()
                self._pause = _FIRST_PAUSE
        except GiveWay as way:
            self._away = self._now() + way.seconds
            await self._release()
            log.debug("service %r gives way on queue %r: %s", self.name, self._queue, way)
            return way.seconds
        # A guard: a service that fails is tried again, and harms no job.
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise  # this task was cancelled, not something of the service's own
            self._due = self._now() + self._pause
            log.exception(
                "service %r of %s failed on queue %r; next try in %.0f s",
                self.name, self._owner, self._queue, self._pause,
            )  # fmt: skip
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return max(0.0, min(self._due - self._now(), self._lease / 3))

    async def serve_now(self) -> bool:
        """Do all that is due, and give the lease back; False if somebody else holds it.

        Raises whatever the service raises.
        """
        if self._serving:
            return False
        self._serving = True
        try:
            try:
                while await self._take():
                    if await self._serve() > 0:
                        return True
                return False
            finally:
                await self._release()
        finally:
            self._serving = False

    async def _serve(self) -> float:
        """One `run_once`, with the lease kept meanwhile. Returns the seconds until the next."""
        keeping = asyncio.create_task(self._keep())
        try:
            after = await self._work(self._token)
        finally:
            keeping.cancel()
        if _cancelled():
            raise asyncio.CancelledError  # the service took no notice
        return _PERIOD if after is None else max(0.0, after)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                if not await self._take():
                    return
            except Exception as error:  # noqa: BLE001 - the next renewal may succeed
                log.warning("the lease of service %r could not be renewed: %s", self.name, error)

    async def _take(self) -> bool:
        milliseconds = round(self._lease * 1000)
        call = take_lease(self._queue_key, self.name, self._token, milliseconds)
        taken: bool = await self._perform(only(call))
        return taken

    async def _release(self) -> None:
        try:
            await self._perform(only(release_lease(self._queue_key, self.name, self._token)))
        except Exception as error:  # noqa: BLE001 - it runs out by itself
            log.debug("the lease of service %r was not given back: %s", self.name, error)


def _cancelled() -> bool:
    """Whether somebody wants this task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
