"""Carrying out one request: the server is asked, then the plugins are told.

Whoever is cancelled between the two would leave plugins without events that nobody can make again,
so what was sent is finished first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, TypeGuard, TypeVar, cast

from toril.connection.call import Procedure, Read, Request, Series
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
_TURNS_UNTIL_SENT: Final = 2  # a task for the procedure, and one for its request


def has_effects(result: object) -> TypeGuard[Effects[Any]]:
    """Whether a call did something that plugins may want to know."""
    return isinstance(result, Effects)


def conversation(
    executor: Executor, dispatcher: Dispatcher, procedure: Procedure[T], untold: list[JobEvent]
) -> Steps[T]:
    """A procedure as one conversation with the server. `untold`: takes what plugins shall hear."""
    try:
        request = next(procedure)
        while True:
            try:
                result = yield from executor.converse(cast(Request, request))
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


async def carry_out(
    executor: Executor,
    dispatcher: Dispatcher,
    request: Request,
    line: Line | None = None,
) -> Any:
    """The result of `request`, once the plugins have been told of its effects.

    A cancellation counts at once while nothing has been sent; later when all is done, but after
    6 seconds at the latest. Raises what `Executor.run` raises. `line`: the row that it joins.
    """
    step = _Step(executor, dispatcher, request, line)
    if isinstance(request, Read):
        return await step.run()
    task = asyncio.create_task(step.run())
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        await step.finish(task)
        raise
    return task.result()


class _Step:
    def __init__(
        self,
        executor: Executor,
        dispatcher: Dispatcher,
        request: Request,
        line: Line | None,
    ) -> None:
        self._executor = executor
        self._dispatcher = dispatcher
        self._request: Any = request
        self._line = line
        self._sent = False
        self._answered = False

    async def run(self) -> Any:
        result = await self._executor.run(self._request, sending=self._sending, line=self._line)
        self._answered = True
        if not has_effects(result):
            return result
        self._dispatcher.note(result)
        await self._dispatcher.publish(result.events)
        return result.value

    def _sending(self) -> None:
        self._sent = True

    async def finish(self, task: asyncio.Task[Any]) -> None:
        """The caller was cancelled: end `task`, which runs this, when it may be ended."""
        if self._sent:
            await _wait(task, TO_ANSWER)
        if self._answered:
            await _wait(task, TO_TELL)
        while not task.done():
            task.cancel()
            await _wait(task, TO_ANSWER)
        if not task.cancelled():
            task.exception()  # nobody is there to whom it could be told


class Drive(Protocol):
    """Carries out a procedure."""

    def __call__(self, procedure: Procedure[Any], line: Line, /) -> Coroutine[Any, Any, Any]: ...


async def in_series(series: Series[Any], drive: Drive) -> list[Any]:
    """The results of the procedures of a series; two are under way at once.

    A cancellation counts as in `carry_out`, for those that are under way.
    """
    line = Line()
    results: list[Any] = []
    under_way: deque[asyncio.Task[Any]] = deque()
    try:
        for procedure in series.procedures:
            under_way.append(asyncio.create_task(drive(procedure, line)))
            for _ in range(_TURNS_UNTIL_SENT):
                await asyncio.sleep(0)
            if len(under_way) == _UNDER_WAY:
                results.append(await under_way[0])
                under_way.popleft()
        results += [await task for task in under_way]
    except asyncio.CancelledError:
        for task in under_way:
            task.cancel()
        raise
    finally:
        while pending := [task for task in under_way if not task.done()]:
            with suppress(asyncio.CancelledError):  # being cancelled again does not count
                await asyncio.wait(pending)
        for task in under_way:
            if not task.cancelled():
                task.exception()  # what counts is raised already
    return results


async def _wait(task: asyncio.Task[Any], seconds: float) -> None:
    """Wait for `task`; being cancelled again does not count."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not task.done() and (left := until - loop.time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait((task,), timeout=left)
