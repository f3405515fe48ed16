"""Carrying out one request: the server is asked, then the plugins are told.

Whoever is cancelled between the two would leave plugins without events that nobody can make again,
so what was sent is finished first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Final, Generic, TypeGuard, TypeVar

from toril.connection.begun import Begun
from toril.connection.call import Procedure, Read, Request, Series, only
from toril.connection.execute import Executor
from toril.connection.line import Line
from toril.connection.steps import Steps
from toril.hooks.dispatch import Dispatcher
from toril.job_events import JobEvent
from toril.protocol.effects import Effects

T = TypeVar("T")

TO_ANSWER: Final = 1.0
"""Seconds that the server gets for its reply once the caller was cancelled."""
TO_TELL: Final = 5.0
"""Seconds that the plugins get then for what the reply tells."""
_UNDER_WAY: Final = 2


def has_effects(result: object) -> TypeGuard[Effects[Any]]:
    """Whether a call did something that plugins may want to know."""
    return isinstance(result, Effects)


def conversation(
    executor: Executor, dispatcher: Dispatcher, procedure: Procedure[T], untold: list[JobEvent]
) -> Steps[T]:
    """A procedure as one conversation with the server. `untold`: takes what plugins shall hear."""
    try:
        request: Any = next(procedure)
        while True:
            try:
                result = yield from executor.converse(request)
            except Exception as error:  # noqa: BLE001 - the procedure decides what it means
                request = procedure.throw(error)
                continue
            if has_effects(result):
                dispatcher.note(result)
                untold += result.events
                result = result.value
            request = procedure.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        procedure.close()


async def carry_out(executor: Executor, dispatcher: Dispatcher, request: Request) -> Any:
    """The result of `request`, once the plugins have been told of its effects.

    A cancellation counts at once while nothing has been sent; later when all is done, but after
    6 seconds at the latest. Raises what `Executor.run` raises.
    """
    if isinstance(request, Read):
        return await executor.run(request)
    return await _Asked(executor, dispatcher, only(request)).outcome()


async def in_series(executor: Executor, dispatcher: Dispatcher, series: Series[T]) -> list[T]:
    """The results of the procedures of a series; two are under way at once.

    A cancellation counts as in `carry_out`, for those that are under way.
    """
    line = Line()
    results: list[T] = []
    under_way: deque[_Asked[T]] = deque()
    try:
        for procedure in series.procedures:
            under_way.append(_Asked(executor, dispatcher, procedure, line))
            if len(under_way) == _UNDER_WAY:
                results.append(await under_way[0].outcome())
                under_way.popleft()
        while under_way:
            results.append(await under_way[0].outcome())
            under_way.popleft()
    except asyncio.CancelledError:
        finishing = [asyncio.create_task(each.finish()) for each in under_way]
        while pending := [task for task in finishing if not task.done()]:
            with suppress(asyncio.CancelledError):  # being cancelled again does not count
                await asyncio.wait(pending)
        raise
    except BaseException:
        for each in under_way:
            with suppress(Exception):  # what counts is raised already
                await each.outcome()
        raise
    return results


class _Asked(Generic[T]):
    """What the server was asked in the caller's own step, and what is to be done with its reply."""

    def __init__(
        self,
        executor: Executor,
        dispatcher: Dispatcher,
        procedure: Procedure[T],
        line: Line | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._untold: list[JobEvent] = []
        self._telling: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        steps = conversation(executor, dispatcher, procedure, self._untold)
        self._begun = Begun(executor, steps, self._ended, line)

    def _ended(self, _begun: Begun[T]) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def outcome(self) -> T:
        """The result, once the plugins have been told. Raises what the procedure raises."""
        try:
            await self._over
            if self._untold:
                await asyncio.wait((self._tell(),))
        except asyncio.CancelledError:
            await self.finish()
            raise
        return self._begun.result()

    def _tell(self) -> asyncio.Task[None]:
        if self._telling is None:
            telling = self._dispatcher.publish(self._untold)
            self._telling = asyncio.create_task(telling)
        return self._telling

    async def finish(self) -> None:
        """The caller was cancelled: end it when it may be ended."""
        if not self._begun.ended:
            self._over = asyncio.get_running_loop().create_future()  # the other one is cancelled
            if self._begun.sent:
                await _wait(self._over, TO_ANSWER)
            while not self._begun.ended:
                self._begun.cancel()
                await _wait(self._over, TO_ANSWER)
        if self._untold:
            await _wait(self._tell(), TO_TELL)
            while not self._tell().done():
                self._tell().cancel()
                await _wait(self._tell(), TO_ANSWER)


async def _wait(future: asyncio.Future[None], seconds: float) -> None:
    """Wait for `future`; being cancelled again does not count."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not future.done() and (left := until - loop.time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait((future,), timeout=left)
