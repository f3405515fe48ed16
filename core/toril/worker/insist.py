"""Sending a call until the server has answered. Only for calls that may be sent again."""

from __future__ import annotations

import logging
import time
from typing import Final, TypeVar

from toril.connection.call import Call, Read
from toril.connection.conversation import Patience, pause_before
from toril.connection.execute import Executor
from toril.connection.steps import Pause, Steps
from toril.errors import ServerError

log = logging.getLogger("toril.worker")

T = TypeVar("T")

_PATIENCE: Final = Patience(total=2.0)
"""For one try."""


async def insist(executor: Executor, call: Call[T] | Read[T]) -> T:
    """The result of `call`, however long that takes; an outage is logged once.

    Raises `ConfigurationError`, and what the call's `parse` raises other than `ServerError`.
    """
    return await executor.drive(insisting(executor, call))


def insisting(executor: Executor, call: Call[T] | Read[T]) -> Steps[T]:
    """The same as a conversation."""
    failures, since = 0, time.monotonic()
    while True:
        try:
            result: T = yield from executor.converse(call, _PATIENCE)
        except ServerError as error:
            failures += 1
            level = logging.WARNING if failures == 1 else logging.DEBUG
            log.log(level, "the server does not answer; trying again: %s", error)
            yield Pause(pause_before(failures))
        else:
            if failures:
                away = time.monotonic() - since
                log.warning("the server answers again, after %.1f s", away)
            return result
