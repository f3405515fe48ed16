"""How many jobs of a queue run at once, and how many begin within a time.

The limits of a queue hold for all of its workers together, in every language. The methods that
`Queue` and `SyncQueue` have for them are here; each operation is written once, as a procedure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

from toril.arguments import whole_number
from toril.connection.call import Procedure, only
from toril.duration import duration_text, milliseconds
from toril.protocol import changing, reading

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `max` jobs begin within each window of `per`; a window begins with a job.

    Args:
        max: Jobs.
        per: The length of a window (`"1s"`).

    Raises:
        ValueError: `max` is below 1, or `per` below a millisecond.
        TypeError: `max` is no whole number; `per` is a bare number.
    """

    max: int
    per: timedelta | str

    def __post_init__(self) -> None:
        whole_number(self.max, "RateLimit: max", least=1)
        per_ms = milliseconds(self.per, "RateLimit: per")
        per = timedelta(milliseconds=whole_number(per_ms, "RateLimit: per, in ms", least=1))
        object.__setattr__(self, "per", per)

    @property
    def per_ms(self) -> int:
        """The length of a window in milliseconds."""
        return milliseconds(self.per)

    def __str__(self) -> str:
        return f"{self.max} per {duration_text(self.per_ms)}"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of a queue that hold for all of its workers together; None: there is none.

    `concurrency`: jobs that run at once. `rate`: jobs that begin within a time.
    """

    concurrency: int | None = None
    rate: RateLimit | None = None


def limits_of(stored: reading.QueueMeta) -> QueueLimits:
    """The limits that are stored with a queue."""
    rate = None
    if stored.max and stored.duration:
        rate = RateLimit(stored.max, timedelta(milliseconds=stored.duration))
    return QueueLimits(stored.concurrency, rate)


def limits(key: str) -> Procedure[QueueLimits]:
    """The limits for all workers together."""
    stored: reading.QueueMeta = yield reading.meta(key)
    return limits_of(stored)


def set_limits(
    key: str,
    concurrency: int | Literal["none"] | None,
    rate: RateLimit | Literal["none"] | None,
) -> Procedure[None]:
    """Set the limits for all workers together."""
    said: dict[str, int] = {}
    unsaid: list[str] = []
    if concurrency == "none":
        unsaid.append("concurrency")
    elif concurrency is not None:
        said["concurrency"] = whole_number(concurrency, "concurrency", least=1)
    if isinstance(rate, RateLimit):
        said |= {"max": rate.max, "duration": rate.per_ms}
    elif rate == "none":
        unsaid += ["max", "duration"]
    elif rate is not None:
        raise TypeError(f"rate is a RateLimit(…), 'none', or None to leave it, not {rate!r}")
    return only(changing.set_limits(key, set=said, unset=unsaid))


def is_maxed(key: str) -> Procedure[bool]:
    """Whether as many jobs run as the queue's concurrency allows."""
    stored: reading.QueueMeta = yield reading.meta(key)
    if stored.concurrency is None:
        return False
    counts: dict[str, int] = yield reading.counts(key, ("active",))
    return counts["active"] >= stored.concurrency


def rate_limit(key: str, duration: timedelta | str) -> Procedure[None]:
    """Let no worker begin a job for a while."""
    hold_ms = whole_number(milliseconds(duration), "the time in ms", least=1)
    return only(changing.hold_back(key, hold_ms))


def remove_rate_limit(key: str) -> Procedure[bool]:
    """Let workers begin jobs again."""
    return only(changing.end_hold(key))


def rate_limit_ttl(key: str, max: int | None) -> Procedure[timedelta | None]:
    """For how long the rate limit lets no job begin."""
    if max is None:
        stored: reading.QueueMeta = yield reading.meta(key)
        max = stored.max
    window: reading.RateWindow = yield reading.rate_window(key)
    if window.left_ms is None or window.count < (1 if max is None else max):
        return None
    return timedelta(milliseconds=window.left_ms)


class Limits(ABC):
    """The limits of a queue; a part of `Queue`."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the names of its keys in the server begin with."""

    @abstractmethod
    async def _perform(self, procedure: Procedure[T]) -> T: ...

    async def limits(self) -> QueueLimits:
        """The limits that hold for all workers of the queue together."""
        return await self._perform(limits(self.key))

    async def set_limits(
        self,
        *,
        concurrency: int | Literal["none"] | None = None,
        rate: RateLimit | Literal["none"] | None = None,
    ) -> None:
        """Limit all workers of the queue together, in every language; what is not named stays.

        Args:
            concurrency: So many jobs run at once; `"none"`: no such limit.
            rate: So many jobs begin within a time; `"none"`: no such limit. It goes before the
                workers' own `limiter`.

        Raises `ValueError` for a concurrency below 1.
        """
        await self._perform(set_limits(self.key, concurrency, rate))

    async def is_maxed(self) -> bool:
        """Whether as many jobs run as the concurrency of the queue allows."""
        return await self._perform(is_maxed(self.key))

    async def rate_limit(self, duration: timedelta | str) -> None:
        """Let no worker begin another job for a while, where a rate is limited.

        Workers heed it if a rate is said for the queue (`set_limits`), or for themselves. Raises
        `ValueError` for less than a millisecond.
        """
        await self._perform(rate_limit(self.key, duration))

    async def remove_rate_limit(self) -> bool:
        """Let the window end in which jobs are counted, or held back; a new one begins.

        False if there is none. A worker that waits already goes on at the end of its time.
        """
        return await self._perform(remove_rate_limit(self.key))

    async def rate_limit_ttl(self, max: int | None = None) -> timedelta | None:
        """For how long no job may begin; None: one may.

        Args:
            max: How many jobs may begin in a window, where only the workers say so (`limiter`); if
                nobody does, every window counts as full.
        """
        return await self._perform(rate_limit_ttl(self.key, max))


class SyncLimits(ABC):
    """The limits of a queue; a part of `SyncQueue`. Every method is that of `Queue`."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the names of its keys in the server begin with."""

    @abstractmethod
    def _perform(self, procedure: Procedure[T]) -> T: ...

    def limits(self) -> QueueLimits:
        """The limits that hold for all workers of the queue together."""
        return self._perform(limits(self.key))

    def set_limits(
        self,
        *,
        concurrency: int | Literal["none"] | None = None,
        rate: RateLimit | Literal["none"] | None = None,
    ) -> None:
        """Limit all workers of the queue together; see `Queue.set_limits`."""
        self._perform(set_limits(self.key, concurrency, rate))

    def is_maxed(self) -> bool:
        """Whether as many jobs run as the concurrency of the queue allows."""
        return self._perform(is_maxed(self.key))

    def rate_limit(self, duration: timedelta | str) -> None:
        """Let no worker begin another job for a while; see `Queue.rate_limit`."""
        self._perform(rate_limit(self.key, duration))

    def remove_rate_limit(self) -> bool:
        """Let the window of the rate limit end; see `Queue.remove_rate_limit`."""
        return self._perform(remove_rate_limit(self.key))

    def rate_limit_ttl(self, max: int | None = None) -> timedelta | None:
        """For how long no job may begin; see `Queue.rate_limit_ttl`."""
        return self._perform(rate_limit_ttl(self.key, max))
