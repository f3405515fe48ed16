"""The worker's wait for a marker, and the call that is carried out the moment the wait ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from toril.clock import SystemClock
from toril.connection.blocking import MARGIN, Blocking
from toril.connection.call import Call
from toril.connection.execute import Executor
from toril.connection.steps import Command
from toril.connection.wire import Wire

SHORTEST_BLOCK: Final = 0.002
"""Seconds. Older servers take less than a millisecond for 'no limit'."""
_COMPARED_EVERY: Final = 1.0
"""Seconds for which a comparison of two clocks counts; one of them may be set."""


@dataclass(frozen=True, slots=True)
class Waited:
    """What came of a wait for a marker.

    `sent`: the call that was to be carried out behind it has been sent; `result` is what came of
    it. None: the reply got lost, or the server refused.
    """

    sent: bool = False
    result: Any = None


class MarkerWait(Blocking):
    """Waits until a queue has work, as BullMQ's workers do: by taking its marker.

    A call can be sent behind the wait: the server carries it out the moment the wait ends, and
    answers both in one go. That saves the way there and back, and the caller is woken once. It has
    to be safe to send again, as its reply may be lost, and gets no time, as that would be over.

    Args:
        executor: Finds the server and wakes the wait.
        queue: The queue's key prefix (`bull:mail`).
        client_name: The connection's name; see `worker_client_name`.
        clock: The clock by which the calls are carried out; None: none can be sent ahead.
    """

    def __init__(
        self,
        executor: Executor,
        queue: str,
        *,
        client_name: str | None = None,
        clock: SystemClock | None = None,
    ) -> None:
        super().__init__(executor, f"{queue}:marker", client_name)
        self._clock = clock
        self._offset: float | None = None
        self._compared = 0.0
        self._compared_on: Wire | None = None

    async def wait(
        self,
        timeout: float,
        behind: Callable[[float], Call[Any]] | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> Waited:
        """Wait for the marker: until it was taken, for `timeout` seconds, until `wake` or trouble.

        Whatever ended the wait, there may be work, also without a marker: if no call was sent, the
        caller is to fetch; if one was and there is no result, to send the same again.

        Args:
            timeout: Seconds.
            behind: Makes the call that is carried out when the wait ends, if it was begun. It is
                given by how many milliseconds the clock is ahead of the server's.
            tell: Called with the result of that call, in the step of the loop that reads it.

        Raises:
            ConfigurationError, ServerError: the server refuses, and will go on refusing.
            Exception: what the `parse` of the call raises, or `tell`.
        """
        block = max(timeout, SHORTEST_BLOCK)
        sent: Call[Any] | None = None
        result: Any = None

        def commands() -> tuple[Command, ...]:
            nonlocal sent
            pop = ("BZPOPMIN", self._key, f"{block:.3f}")
            if behind is None or self._offset is None:
                return (pop,)
            sent = behind(self._offset)
            return (pop, self._executor.command(sent))

        def answered(replies: list[Any]) -> None:
            nonlocal result
            if sent is not None and not isinstance(replies[1], RedisError):
                result = sent.parse(replies[1])
                if tell is not None:
                    tell(result)

        await self.ask(commands, block, answered)
        return Waited(sent is not None, result)

    async def before(self, connection: Wire) -> None:
        """Compare the clocks, if that was not done just now.

        The result is not too great, however long the answer took: what is not due yet must not seem
        so. Of several that agree the greatest is the best.
        """
        fresh = time.monotonic() - self._compared < _COMPARED_EVERY
        if self._clock is None or (fresh and connection is self._compared_on):
            return
        asked = self._clock.now_us()
        (reply,) = await connection.exchange((("TIME",),), MARGIN)
        answered = self._clock.now_us()
        if isinstance(reply, RedisError):
            self._offset = None
        else:
            seconds, micros = map(int, reply)
            server = seconds * 1_000_000 + micros
            least, most = (asked - server) / 1000, (answered - server) / 1000
            if self._offset is None or not least <= self._offset <= most:
                self._offset = least
        self._compared, self._compared_on = time.monotonic(), connection
