"""A conversation that was begun, and goes on by itself.

As long as it waits for nothing but replies, on connections that are there, it needs no task: what
it sends first is sent in the step of the loop in which it is begun, and a reply leads it on in the
step that reads it. A task of its own does what has to be waited for otherwise, from there on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar

from toril.connection.line import Line, Place
from toril.connection.pool import WirePool
from toril.connection.steps import Exchange, ReplyLost, Step, Steps
from toril.connection.wire import Wire

T = TypeVar("T")


class Driver(Protocol):
    """What carries out steps that have to be waited for; see `Executor`."""

    def pool(self) -> WirePool:
        """The connections of this process and loop."""
        ...

    async def drive(
        self,
        steps: Steps[T],
        sending: Callable[[], None] | None = None,
        place: Place | None = None,
        doing: Awaitable[Any] | None = None,
    ) -> T:
        """Carry out the steps of a conversation and return its result."""
        ...

    async def do(
        self, step: Step, sending: Callable[[], None] | None = None, place: Place | None = None
    ) -> Any:
        """Carry out one step."""


class Begun(Generic[T]):
    """A conversation under way. It is led on in the context in which it was begun.

    Args:
        driver: Has the connections, and does what is to be waited for.
        steps: The conversation.
        over: Called when it has ended; perhaps before this returns.
        line: The row that it joins.
    """

    __slots__ = (
        "_context",
        "_driver",
        "_error",
        "_line",
        "_over",
        "_place",
        "_pool",
        "_result",
        "_server",
        "_steps",
        "_task",
        "_wire",
        "ended",
        "sent",
    )

    def __init__(
        self,
        driver: Driver,
        steps: Steps[T],
        over: Callable[[Begun[T]], None],
        line: Line | None = None,
    ) -> None:
        self._driver = driver
        self._steps = steps
        self._over = over
        self._line = line
        self._place: Any = None if line is None else line.join()
        self._context = copy_context()
        self._wire: Any = None
        """That on which it waits for replies."""
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self.sent = False
        """Whether something has been sent: from then on it may be done."""
        self.ended = False
        self._advance(None)

    def result(self) -> T:
        """What came of it, once it has ended. Raises what the conversation raised."""
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def _advance(self, answer: Any) -> None:
        result, problem = None, None
        try:
            step = self._steps.send(answer)
        except StopIteration as done:
            result = done.value
        except Exception as error:  # noqa: BLE001 - handed to who has begun it
            problem = error
        else:
            if not isinstance(step, Exchange) or not self._send(step):
                self._task = asyncio.create_task(self._rest(lambda: self._do(step)))
            return
        # Not within `except`: what is raised in what follows has nothing to do with that error.
        self._end(result, problem)

    def _send(self, step: Exchange) -> bool:
        """Send what the step says, if there is a connection for it now."""
        pool, server = self._driver.pool(), step.server
        place = self._place if step.asked else None
        if place is None or place.before is None:
            wire = pool.take_at_once(server)
        else:
            wire = place.wire_before(server)
        if wire is None:
            return False
        self._pool, self._server, self._wire = pool, server, wire
        self.sent = True
        if place is not None:
            place.enter(server, wire)
        try:
            wire.begin(step.commands, server.access.reply_timeout, self)
        except Exception as error:  # noqa: BLE001 - what cannot be packed is sent by nobody
            self._leave()
            self._end(None, error)
        return True

    def done(self) -> bool:
        """Whether no reply is waited for; for the connection."""
        return self._wire is None

    def set_result(self, replies: list[Any]) -> None:
        """The replies have come; for the connection."""
        self._leave()
        self._context.run(self._advance, replies)

    def set_exception(self, error: Exception) -> None:
        """The connection broke, or the time ran out; for the connection."""
        wire = self._leave(usable=False)
        self._task = asyncio.get_running_loop().create_task(
            self._rest(lambda: self._lost(wire, error)), context=self._context
        )

    def _leave(self, *, usable: bool = True) -> Wire:
        wire: Wire = self._wire
        self._wire = None
        if self._place is not None:
            self._place.wire = None
        wire.leave()
        self._pool.give_back(self._server, wire, usable=usable)
        return wire

    async def _lost(self, wire: Wire, error: Exception) -> None:
        await wire.disconnect(nowait=True)
        raise ReplyLost.of(self._server, error) from error

    def cancel(self) -> None:
        """End it as soon as it can be. What has been sent may be done all the same."""
        if self._task is not None:
            self._task.cancel()
        elif not self.ended:
            wire = self._leave(usable=False)
            self._task = asyncio.create_task(self._rest(lambda: self._given_up(wire)))

    async def _given_up(self, wire: Wire) -> None:
        await wire.disconnect(nowait=True)
        raise asyncio.CancelledError

    def _do(self, step: Step) -> Awaitable[Any]:
        return self._driver.do(step, self._sending, self._place)

    def _sending(self) -> None:
        self.sent = True

    async def _rest(self, doing: Callable[[], Awaitable[Any]]) -> None:
        try:
            result = await self._driver.drive(self._steps, self._sending, self._place, doing())
        except BaseException as error:
            self._end(None, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._end(result)

    def _end(self, result: Any, error: BaseException | None = None) -> None:
        if self._line is not None:
            self._line.leave(self._place)
        self._result, self._error, self.ended = result, error, True
        over, self._over = self._over, _nothing  # nothing is left that refers to itself
        over(self)


def _nothing(_begun: Begun[Any]) -> None:
    """Has been told."""
