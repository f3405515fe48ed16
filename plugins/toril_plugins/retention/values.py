"""The settings of retention: what is said about a job or a queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from toril import Setting
from toril.plugins import (
    Json,
    JsonObject,
    Level,
    Outcome,
    Said,
    duration_text,
    milliseconds,
)
from toril_plugins.retention.keep import LARGEST, Keep, KeepLike, as_keep
from toril_plugins.retention.spelling import check_names

__all__ = ["LARGEST", "OUTCOMES", "Ceiling", "IdWindow", "Keep", "KeepLike", "Retention", "as_keep"]

OUTCOMES: tuple[Outcome, ...] = ("completed", "failed")

S = TypeVar("S", bound="_PerOutcome")


@dataclass(frozen=True, slots=True, init=False)
class _PerOutcome(Setting):
    """A setting that says something about each outcome, or about one of them."""

    completed: Keep | None
    failed: Keep | None

    if not TYPE_CHECKING:  # the signature is that of __init__

        def __new__(cls, *args: object, **given: object) -> Self:
            if args:
                raise TypeError(
                    f"{cls.__name__}({args[0]!r}): for which outcome? "
                    "Say completed=…, failed=… or both"
                )
            check_names(cls.__name__, given, OUTCOMES)
            return object.__new__(cls)

    def __init__(
        self, *, completed: KeepLike | None = None, failed: KeepLike | None = None
    ) -> None:
        if completed is None and failed is None:
            raise ValueError(
                f"{type(self).__name__}() says nothing: give completed=…, failed=… or both"
            )
        object.__setattr__(self, "completed", None if completed is None else as_keep(completed))
        object.__setattr__(self, "failed", None if failed is None else as_keep(failed))

    def __repr__(self) -> str:
        said = [f"{o}={keep!r}" for o in OUTCOMES if (keep := self.of(o)) is not None]
        return f"{type(self).__name__}({', '.join(said)})"

    def __str__(self) -> str:
        return "; ".join(f"{o} {keep}" for o in OUTCOMES if (keep := self.of(o)) is not None)

    def of(self, outcome: Outcome) -> Keep | None:
        """What is said about this outcome; None: nothing."""
        return self.completed if outcome == "completed" else self.failed

    def encode(self) -> Json:
        """One stored `Keep` per outcome that is spoken of."""
        return {
            outcome: keep.encode() for outcome in OUTCOMES if (keep := self.of(outcome)) is not None
        }

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if not isinstance(value, dict) or not value or not value.keys() <= set(OUTCOMES):
            raise ValueError(f"not a stored {cls.__name__}: {value!r}")
        return cls(**{outcome: Keep.decode(keep) for outcome, keep in value.items()})


def _winners(live: Sequence[Said[S]]) -> Iterator[tuple[Outcome, Keep, Said[S]]]:
    """Per outcome, the first value that speaks of it."""
    for outcome in OUTCOMES:
        for said in live:
            keep = said.value.of(outcome)
            if keep is not None:
                yield outcome, keep, said
                break


def _limits(keep: Keep, level: Level, since: int) -> str:
    """`<count or -1>:<age ms or -1>:<level>:<since ms>:<text>`, without colons in the text."""
    # "0s" is as good as no job at all: it goes at the finish, as any count does.
    count = 0 if keep.is_nothing else _number(keep.last)
    return f"{count}:{_number(keep.age_ms)}:{level}:{since}:{str(keep).replace(':', ';')}"


def _number(value: int | None) -> int:
    return -1 if value is None else value


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Retention(_PerOutcome):
    """How long finished jobs are kept, per outcome.

    Each of `completed` and `failed` is an age (`"7d"`, a `timedelta`), a number of jobs, or a
    `Keep`. An outcome that is not given says nothing: a less specific level decides.

    ```python
    Retention(completed="1h", failed=1000)
    Retention(failed=Keep(last=5, key="data.customer"))
    ```

    Raises:
        ValueError: nothing is said.
        TypeError: for anything else than these, and for an outcome that there is not.
    """

    name: ClassVar[str] = "retention"

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """One rule per outcome, as the scripts read it: the most specific value that speaks.

        Format: `2:<count>:<age>:<level>:<since>:<text>:<key>:<first>:<logs>:<data>:<tombstone>`,
        times in milliseconds, -1 where nothing is said and '' for no key. Only a key may hold
        colons. Version 1, of which a server may still hold some, ended with the key. A group has no
        place here: jobs that follow one rule for all are in the same one.

        Raises:
            ValueError: for a flow kept whole, as that is said for a flow and not for a queue.
        """
        fields: dict[str, str] = {}
        for outcome, keep, said in _winners(live):
            if keep.flow:
                raise ValueError(
                    f"{said.source}: Keep(flow=True) is said for a flow, with "
                    "app.add_flow(flow, Retention(…)), and not for all jobs of a queue"
                )
            more = [_number(keep.ms(tier)) for tier in ("logs", "data", "tombstone")]
            rule = f"2:{_limits(keep, said.level, said.since)}:{keep.key or ''}"
            fields[outcome] = ":".join((rule, str(_number(keep.first)), *map(str, more)))
        return fields


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Ceiling(_PerOutcome):
    """Nobody keeps a finished job of the queue longer, or more of them; beats every level.

    Each of `completed` and `failed` is an age, a number of jobs, or a `Keep` with these two.

    ```python
    Ceiling(completed="7d", failed=Keep(age="90d", last=10_000))
    ```

    Raises:
        ValueError: nothing is said, or an outcome is limited by something else than age and count.
        TypeError: for anything else than these, and for an outcome that there is not.
    """

    name: ClassVar[str] = "ceiling"

    def __init__(
        self, *, completed: KeepLike | None = None, failed: KeepLike | None = None
    ) -> None:
        super(Ceiling, self).__init__(completed=completed, failed=failed)
        for outcome in OUTCOMES:
            keep = self.of(outcome)
            if keep is not None and (keep.is_forever or keep != Keep(age=keep.age, last=keep.last)):
                raise ValueError(
                    f"Ceiling({outcome}={keep!r}): a ceiling is an age, a number of jobs or both"
                )

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """One ceiling per outcome: `1:<count>:<age>:<level>:<since>:<text>`, as in `Retention`."""
        return {
            outcome: f"1:{_limits(keep, said.level, said.since)}"
            for outcome, keep, said in _winners(live)
        }


@dataclass(frozen=True, slots=True, init=False)
class IdWindow(Setting):
    """How long a job's id stays taken after retention removed the job.

    Adding a job with such an id is a duplicate, as it is while the job is there.

    Args:
        window: a `timedelta` or a text such as `"1h"`, from a second to a year.

    Raises:
        ValueError: the window is outside of that.
        TypeError: for a bare number.
    """

    name: ClassVar[str] = "idwindow"
    window: timedelta

    def __init__(self, window: timedelta | str) -> None:
        ms = milliseconds(window)
        if not 1_000 <= ms <= 366 * 86_400_000:
            raise ValueError(f"IdWindow({window!r}): say from one second to a year; unset for none")
        object.__setattr__(self, "window", timedelta(milliseconds=ms))

    @property
    def ms(self) -> int:
        """The window in milliseconds."""
        return milliseconds(self.window)

    def __repr__(self) -> str:
        return f"IdWindow({duration_text(self.ms)!r})"

    def __str__(self) -> str:
        return duration_text(self.ms)

    def encode(self) -> Json:
        """The window in milliseconds."""
        stored: JsonObject = {"ms": self.ms}
        return stored

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if isinstance(value, dict):
            ms = value.get("ms")
            if isinstance(ms, int) and not isinstance(ms, bool) and 0 <= ms <= LARGEST:
                return cls(timedelta(milliseconds=ms))
        raise ValueError(f"not a stored IdWindow: {value!r}")

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """The most specific window as `ms`."""
        return {"ms": str(live[0].value.ms)} if live else {}
