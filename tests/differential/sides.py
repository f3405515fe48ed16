"""The two sides: a library each, on a database of its own, with the same clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Protocol

import redis

from tests.interop.toril_driver import Toril
from tests.support.driver import Driver, DriverError
from tests.support.serving import Unsupported
from toril.errors import TorilError

#: What an error means, by a part of what BullMQ for Node says and by the name of Toril's error.
MEANINGS: Final = (
    ("gone", r"no job |Missing key for job|^JobNotFound"),
    ("other state", r"is not in the|not found in|^JobStateError|not in a finished state"),
    ("locked", r"locked|^JobLocked|with active jobs|active state"),
    ("lost lock", r"Missing lock|Lock mismatch|^LockLost"),
    ("no parent", r"Missing key for parent|^ParentError"),
    ("pending children", r"pending (dependencies|children)|has failed children"),
)


@dataclass(frozen=True)
class Refusal:
    """That a library refused, and what it meant."""

    meaning: str
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refusal) and self.meaning == other.meaning

    def __hash__(self) -> int:
        return hash(self.meaning)


def refusal(kind: str, text: str) -> Refusal:
    """The refusal of an error: what it means, or else the error itself."""
    told = f"{kind}: {text}"
    for meaning, pattern in MEANINGS:
        if re.search(pattern, told):
            return Refusal(meaning, told)
    return Refusal(told, told)


class Side(Protocol):
    """One library and its database."""

    label: str
    client: redis.Redis

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """What the library answers, a `Refusal` included."""
        ...

    async def set_time(self, ms: int) -> None: ...

    async def reset(self) -> None: ...


class SetClock:
    """A clock that stands where it was set."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms


class NodeSide:
    """BullMQ for Node, in its process."""

    label = "node"

    def __init__(self, driver: Driver, client: redis.Redis) -> None:
        self.driver = driver
        self.client = client

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        try:
            return await self.driver.call(method, **params)
        except DriverError as error:
            if error.name in {"Gone", "Unsupported", "TypeError", "ReferenceError"}:
                raise
            return refusal(error.name, error.message)

    async def set_time(self, ms: int) -> None:
        await self.driver.call("clock", ms=ms)

    async def reset(self) -> None:
        await self.driver.reset()


class TorilSide:
    """Toril, in this process."""

    label = "toril"

    def __init__(self, url: str, client: redis.Redis) -> None:
        self.clock = SetClock()
        self.service = Toril(url, "bull", self.clock)
        self.client = client

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        given = {name: value for name, value in params.items() if value is not None}
        try:
            answer = await getattr(self.service, method)(**given)
        except (TorilError, LookupError) as error:
            return refusal(type(error).__name__, str(error))
        except Unsupported as error:
            raise AssertionError(f"Toril cannot {method}: {error}") from error
        return answer

    async def set_time(self, ms: int) -> None:
        self.clock.ms = ms

    async def reset(self) -> None:
        await self.service.reset()
