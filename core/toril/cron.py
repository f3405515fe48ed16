"""Cron patterns, with the times that BullMQ for Node gives them.

Workers of several languages share a schedule and must agree on every time, so this follows what
Node's cron-parser does: five fields or six (seconds first), names, `L`, `#`, `?`, `@daily` and its
like; where day of month and day of week are both given, either will do. A time that the clocks skip
in spring comes as much later as they skip; one that they repeat in autumn comes once, or twice if
the pattern runs in every hour. What cannot be made equal is refused.

The calendar is croniter's, which works without a time zone here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, Self
from zoneinfo import ZoneInfo

_NAMED: Final = {
    "@secondly": "* * * * * *",
    "@minutely": "0 * * * * *",
    "@hourly": "0 0 * * * *",
    "@daily": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 0",
    "@monthly": "0 0 0 1 * *",
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@weekdays": "0 0 0 * * 1-5",
    "@weekends": "0 0 0 * * 0,6",
}
_DEFAULTS: Final = ("0", "*", "*", "*", "*", "*")
_ALL: Final = frozenset({"*", "?", "*/1"})
_NAMES: Final = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
_VALUE: Final = rf"(?:\d+|{_NAMES})"
_ITEM: Final = re.compile(rf"(?:[*?]|{_VALUE}(?:-{_VALUE})?)(?:/\d+)?|\d*l|{_VALUE}(?:l|#[1-5])")
_RANGE: Final = re.compile(r"(\d+)-(\d+)")
_LAST_WEEKDAY: Final = re.compile(rf"({_VALUE})l")
_HORIZON: Final = timedelta(days=366 * 8)
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(seconds=1)
_NONE: Final = timedelta()


@dataclass(frozen=True, slots=True)
class CronPattern:
    """A pattern in a time zone.

    Args:
        text: The pattern as it was given.
        zone: The zone by whose clocks it runs.
        parts: What croniter is asked; the earliest answer counts.
        every_hour: Whether it runs in every hour of the days it runs on.
    """

    text: str
    zone: tzinfo
    parts: tuple[str, ...]
    every_hour: bool

    @classmethod
    def parse(cls, text: str, tz: str | None = None) -> Self:
        """Read a pattern.

        Args:
            text: Five or six fields, or a name such as `@daily`.
            tz: An IANA time zone; None: the one of this machine, as BullMQ does.

        Raises:
            ValueError: It is no pattern, or there is no such zone.
        """
        zone = _zone(tz)
        fields = _fields(text)
        parts = tuple(_parts(fields))
        try:
            hours = [_hours(part) for part in parts]  # looks at all of each, also where wrong
        except (ValueError, KeyError) as error:
            raise ValueError(f"{text!r} is not a cron pattern: {error}") from error
        return cls(text, zone, parts, hours[0] == 24)

    def check(self) -> None:
        """Raise `ValueError` for a zone about whose clocks BullMQ for Node has other ideas.

        These are clocks that change by other than an hour, and those that show midnight twice.
        """
        start = datetime.now(UTC)
        for span, following in pairwise(islice(_spans(self.zone, start), 5)):
            changed = following.offset - span.offset
            if abs(changed) not in (_NONE, _HOUR) or span.repeats_midnight:
                raise ValueError(
                    f"the cron pattern {self.text!r} in {self.zone}: the clocks there "
                    f"{'show midnight twice' if span.repeats_midnight else 'change oddly'} on "
                    f"{span.end:%Y-%m-%d}, and BullMQ takes other times then; use another zone"
                )

    def after(self, ms: int) -> int:
        """The first time after `ms`; both in milliseconds since the epoch.

        Raises:
            ValueError: There is none in the years to come.
        """
        start = datetime.fromtimestamp(ms / 1000, UTC)
        for span in _spans(self.zone, start):
            found = self._within(span)
            if found is not None:
                return round(found.timestamp()) * 1000
        raise ValueError(f"the cron pattern {self.text!r} names no time in the years to come")

    def _within(self, span: _Span) -> datetime | None:
        """The first time in a span of constant offset, in UTC."""
        local = span.start + span.offset
        if not self.every_hour:
            local += span.repeated
        after = local - _TICK if span.inclusive else local
        times = [when for part in self.parts if (when := self._next(part, after)) is not None]
        if not times:
            return None
        found = min(times)
        when = found - span.offset
        if when >= span.end + span.skips:
            return None
        if when >= span.end - span.repeats_midnight and not self.every_hour:
            # Node, coming from the day before, takes the later of two midnights.
            when += span.repeats_midnight if found.date() > local.date() else timedelta()
        return when.replace(tzinfo=UTC)

    def _next(self, part: str, after: datetime) -> datetime | None:
        """The next time of one part by the calendar; None if there is no such day."""
        from croniter import CroniterBadDateError, croniter  # here, as it takes long to import

        times = croniter(part, after, ret_type=datetime, second_at_beginning=True)
        try:
            following: datetime = times.get_next()
        except CroniterBadDateError:
            return None
        return following


@dataclass(frozen=True, slots=True)
class _Span:
    """A time in which the offset of a zone does not change; naive, in UTC.

    `inclusive`: its first moment belongs to it. `repeated`: how much of what came before its clocks
    show again. `skips`: how much they skip at its end. `repeats_midnight`: how much they show again
    after its end, if that begins at midnight.
    """

    start: datetime
    end: datetime
    offset: timedelta
    inclusive: bool
    repeated: timedelta
    skips: timedelta
    repeats_midnight: timedelta


def _spans(zone: tzinfo, start: datetime) -> Iterator[_Span]:
    """The spans from `start` on, for some years."""
    horizon = start + _HORIZON
    offset, inclusive, repeated = _offset(zone, start), False, _NONE
    while start < horizon:
        end = _next_change(zone, start, horizon)
        following = _offset(zone, end)
        ahead, back = max(following - offset, _NONE), max(offset - following, _NONE)
        yield _Span(
            start.replace(tzinfo=None),
            end.replace(tzinfo=None),
            offset,
            inclusive,
            repeated,
            # To Node, a day that begins after midnight has no such hour.
            _NONE if (end + offset).hour == 0 else ahead,
            back if (end + following).hour == 0 else _NONE,
        )
        start, offset, inclusive, repeated = end, following, True, back


def _offset(zone: tzinfo, when: datetime) -> timedelta:
    return when.astimezone(zone).utcoffset() or timedelta()


def _next_change(zone: tzinfo, start: datetime, horizon: datetime) -> datetime:
    """When the clocks change next, to the second; at `horizon` if not before."""
    offset, day = _offset(zone, start), start
    while _offset(zone, day + _DAY) == offset:
        day += _DAY
        if day >= horizon:
            return horizon
    low, high = 0, int(_DAY.total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, day + timedelta(seconds=middle)) == offset:
            low = middle
        else:
            high = middle
    return (day + timedelta(seconds=high)).replace(microsecond=0)


def _fields(text: str) -> list[str]:
    """Six fields, seconds first, in croniter's spelling."""
    given = _NAMED.get(text.strip().lower(), text).lower().split()
    if not 0 < len(given) <= len(_DEFAULTS) or given[0].startswith("@"):
        raise ValueError(
            f"{text!r} is not a cron pattern: give five fields, or six with seconds first, "
            f"or one of {', '.join(sorted(_NAMED))}"
        )
    for field in given:
        for item in field.split(","):
            bounds = _RANGE.match(item)
            falling = bounds is not None and int(bounds[1]) > int(bounds[2])
            if not _ITEM.fullmatch(item) or falling or (item in _ALL and item != field):
                hint = "; H is a random time in Node" if item.startswith("h") else ""
                raise ValueError(
                    f"{text!r} is not a cron pattern: {field!r} cannot be understood{hint}"
                )
    fields = [*_DEFAULTS[: len(_DEFAULTS) - len(given)], *given]
    fields[3] = re.sub(r"\d*l", "l", fields[3])
    fields[5] = ",".join(_weekdays(item) for item in fields[5].split(","))
    return fields


def _weekdays(item: str) -> str:
    """Sunday as 0, and the last such day of a month as croniter writes it."""
    if item.startswith("7"):
        item = f"0{item[1:]}"
    elif (bounds := _RANGE.fullmatch(item)) and bounds[2] == "7":
        item = f"{bounds[1]}-6,0"
    return _LAST_WEEKDAY.sub(r"l\1", item)


def _parts(fields: list[str]) -> Iterator[str]:
    """What croniter is asked, in its own spelling."""
    time, (day, month, weekday) = fields[:3], fields[3:]
    if day not in _ALL and weekday not in _ALL:
        yield " ".join([*time, day, month, "*"])
        yield " ".join([*time, "*", month, weekday])
    else:
        yield " ".join([*time, day, month, weekday])


def _hours(part: str) -> int:
    """In how many hours of a day a pattern runs."""
    from croniter import croniter

    hours = croniter.expand(part, second_at_beginning=True)[0][1]
    return 24 if hours == ["*"] else len(hours)


def _zone(name: str | None) -> tzinfo:
    if name is None:
        name = os.environ.get("TZ", "").removeprefix(":")
        if not name:
            return _machine_zone()
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


@cache
def _machine_zone() -> tzinfo:
    try:
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC
