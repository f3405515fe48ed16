"""Schedules: jobs that are added again and again, at intervals or by the calendar.

They are BullMQ's job schedulers: stored alike, with the same ids and times, so that workers of all
libraries carry on one another's series.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, TypedDict, cast

from toril.clock import as_datetime
from toril.cron import CronPattern
from toril.duration import milliseconds
from toril.errors import InvalidJob
from toril.protocol.scheduling import StoredSchedule
from toril.types import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Every:
    """At an interval.

    Args:
        interval: Time between two runs (`"5m"`), at least a millisecond.
        offset: Where in the interval the runs are, counted from midnight 1970 UTC; by default the
            first is at once, and sets the pace.
        start: Not before then.
        end: No run is added after then; the last one may be up to an interval later.
        limit: At most so many runs, counted from when it was last said.

    Raises:
        ValueError: A value out of range, or a moment without a time zone.
        TypeError: A value of the wrong type, such as a number where a duration is wanted.
    """

    interval: timedelta | str
    offset: timedelta | str | None = None
    start: datetime | None = None
    end: datetime | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if milliseconds(self.interval, "Every: interval") < 1:
            raise ValueError(f"Every({self.interval!r}): an interval is at least 1ms")
        if self.offset is not None:
            offset = milliseconds(self.offset, "Every: offset")
            if offset >= milliseconds(self.interval):
                raise ValueError(
                    f"Every(offset={self.offset!r}): an offset is less than the interval"
                )
        _check(self)

    def repetition(self) -> JsonObject:
        """BullMQ's repeat options that say this."""
        options: JsonObject = {"every": milliseconds(self.interval), **_limits(self)}
        if self.offset is not None:
            options["offset"] = milliseconds(self.offset)
        return options

    def following(self, ms: int) -> int:
        """The time that comes after `ms` if that was one; in milliseconds since the epoch."""
        return ms + milliseconds(self.interval)


@dataclass(frozen=True, slots=True)
class Cron:
    """By the calendar.

    Args:
        pattern: Five fields (`"0 3 * * *"`), six with seconds first, or a name such as `@daily`.
        tz: The IANA time zone whose clocks count; None: that of the worker's machine, as BullMQ
            does when it is given none.
        start: Not before then.
        end: No run is added after then.
        limit: At most so many runs, counted from when it was last said.
        immediately: The first run is at once.

    Raises:
        ValueError: It is no such pattern, or no such zone; BullMQ for Node would take other times;
            a moment without a time zone.
        TypeError: A value of the wrong type.
    """

    pattern: str
    tz: str | None = "UTC"
    start: datetime | None = None
    end: datetime | None = None
    limit: int | None = None
    immediately: bool = False

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.pattern), str):
            raise TypeError(f"a cron pattern is a text, not {self.pattern!r}")
        CronPattern.parse(self.pattern, self.tz).check()
        _check(self)
        if self.immediately and self.start is not None:
            raise ValueError("Cron(immediately=True, start=…): say one of them")

    def repetition(self) -> JsonObject:
        """BullMQ's repeat options that say this."""
        options: JsonObject = {"pattern": self.pattern, **_limits(self)}
        if self.tz is not None:
            options["tz"] = self.tz
        return options

    def following(self, ms: int) -> int:
        """The time that comes after `ms`; in milliseconds since the epoch. Raises `ValueError`."""
        return CronPattern.parse(self.pattern, self.tz).after(ms)


Pace: TypeAlias = Every | Cron
"""When the runs of a schedule are."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it was when it was read.

    `next_run` is when its current run is or was due, None while it is paused; `runs` counts the
    runs that have been added since it was first made. `pace` is None if another library stored one
    that cannot be read here.
    """

    queue: str
    id: str
    name: str
    data: Json
    pace: Pace | None
    next_run: datetime | None
    runs: int
    paused: bool
    stored: StoredSchedule

    def times(self, count: int, *, after: datetime | None = None) -> list[datetime]:
        """The next `count` times from its next run on, or after a moment; fewer at its end.

        With a `limit` they are never more than that; those of its runs that have been are not
        taken off. Raises `ValueError` if its pace cannot be read.
        """
        if self.pace is None:
            raise ValueError(f"schedule {self.id!r}: its pace cannot be read: {self.stored.fields}")
        found: list[datetime] = []
        at, left = self.stored.due or 0, self.pace.limit
        while len(found) < count and left != 0:
            when = as_datetime(at)
            if self.pace.end is not None and when > self.pace.end:
                break
            if after is None or when > after:
                found.append(when)
            at = self.pace.following(at)
            left = None if left is None else left - 1
        return found


def due_after(repetition: JsonObject, job_time: int | None, now: int) -> int | None:
    """When the next run of a pattern is due, in ms; None if that is behind its end.

    Args:
        repetition: BullMQ's repeat options.
        job_time: When the run before was due, in ms; None: there was none.
        now: Milliseconds since the epoch.

    Raises:
        ValueError: The pattern or its zone is not known here.
    """
    start, tz = repetition.get("startDate"), repetition.get("tz")
    latest = max(now, job_time or 0, start if isinstance(start, int) else 0)
    zone = tz if isinstance(tz, str) and tz else None
    due = CronPattern.parse(str(repetition.get("pattern")), zone).after(latest)
    end = repetition.get("endDate")
    return None if isinstance(end, int | float) and due > end else due


def is_over(repetition: JsonObject, now: int) -> bool:
    """Whether no run follows one with these repeat options."""
    count, limit, end = (repetition.get(name) for name in ("count", "limit", "endDate"))
    if isinstance(limit, int) and isinstance(count, int) and count + 1 > limit:
        return True
    return isinstance(end, int | float) and now > end


def pace_of(stored: StoredSchedule) -> Pace | None:
    """When the runs of a stored schedule are; None if that cannot be read."""
    every, pattern = stored.number("every"), stored.get("pattern")
    start, end = stored.number("startDate"), stored.number("endDate")
    limit = stored.number("limit")
    limits = _Limits(
        start=None if start is None else as_datetime(start),
        end=None if end is None else as_datetime(end),
        limit=limit,
    )
    try:
        if every is not None:
            offset = (stored.number("offset") or 0) % every
            interval, phase = timedelta(milliseconds=every), timedelta(milliseconds=offset)
            return Every(interval, phase, **limits)
        if pattern is not None:
            return Cron(pattern, stored.get("tz"), **limits)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        return None
    return None


class _Limits(TypedDict):
    start: datetime | None
    end: datetime | None
    limit: int | None


def _check(pace: Pace) -> None:
    for name in ("start", "end"):
        moment: object = getattr(pace, name)
        if moment is None:
            continue
        if not isinstance(moment, datetime):
            raise TypeError(f"{name} is a datetime, not {moment!r}")
        if moment.tzinfo is None:
            raise ValueError(f"{name}={moment!r} must know its time zone")
    limit: object = pace.limit
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise TypeError(f"limit is a whole number, not {limit!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r}: a schedule has at least one run")


def _limits(pace: Pace) -> JsonObject:
    options: JsonObject = {}
    if pace.start is not None:
        options["startDate"] = round(pace.start.timestamp() * 1000)
    if pace.end is not None:
        options["endDate"] = round(pace.end.timestamp() * 1000)
    if pace.limit is not None:
        options["limit"] = pace.limit
    return options


def schedule_id(given: str) -> str:
    """The id of a schedule, checked. Raises `InvalidJob`."""
    if not isinstance(cast(object, given), str) or not given or ":" in given:
        raise InvalidJob(f"a schedule's id is a text without a colon, not {given!r}")
    return given
