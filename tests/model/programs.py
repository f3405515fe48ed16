"""Random programs of what happens to the finished jobs of a queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from tests.model.ended import LIVE_LEVELS, OUTCOMES, Answers, LiveLevel, OwnLevel

from toril.plugins import Outcome
from toril_plugins import Ceiling, IdWindow, Keep, Retention

KEEPS: Final = (
    Keep.nothing(),
    Keep.forever(),
    Keep(last=1),
    Keep(last=3),
    Keep(age="10s"),
    Keep(age="1m", last=2),
    Keep(last=1, key="name"),
    Keep(last=2, key="data.customer"),
    Keep(first=1, last=1),
    Keep(first=2, key="name"),
    Keep(age="1m", data="5s", tombstone="1h"),
    Keep(age="1m", logs="9s", data="50s"),
    Keep(last=3, logs="1s", tombstone="1h"),
    Keep(age="10s", tombstone="1m"),
)

CEILINGS: Final = (
    Ceiling(completed=2, failed="30s"),
    Ceiling(completed=Keep(age="10s", last=3)),
    Ceiling(failed=1),
)

ANSWERS: Final[Sequence[Answers]] = (
    {},
    {
        ("failed", "x"): Keep(age="10s", tombstone="1m"),
        ("completed", "y"): Keep(last=2, key="name"),
    },
    {("completed", "x"): Keep.nothing(), ("completed", "y"): Keep.forever()},
    {("completed", "x"): Keep(last=1), ("failed", "y"): Keep(age="1m", data="5s")},
)
NAMES: Final[Sequence[frozenset[str]]] = (frozenset(), frozenset("x"), frozenset("xy"))
SAYING: Final[Sequence[Sequence[OwnLevel]]] = (
    *[()] * 5,
    ("job",),
    ("flow",),
    ("job", "flow"),
    ("template",),
)
"""Most jobs have nothing of their own."""


@dataclass(frozen=True)
class Ending:
    """A job that is going to end: who ends it, how, and what is said for it: as a job, for its
    flow, or, if it is the run of a schedule, in the template."""

    outcome: Outcome
    name: str
    customer: str
    by_toril: bool
    own: Mapping[OwnLevel, Retention]


@dataclass(frozen=True)
class Say:
    level: LiveLevel
    value: Retention | None


@dataclass(frozen=True)
class Limit:
    """A ceiling is said, or taken back."""

    value: Ceiling | None


@dataclass(frozen=True)
class HoldNames:
    """Jobs with these names are held, and no others."""

    names: frozenset[str]


@dataclass(frozen=True)
class Require:
    """A plugin is required that nobody has, or is not any more."""

    required: bool


@dataclass(frozen=True)
class TakeIds:
    """The ids of jobs that go stay taken, or do not any more."""

    window: IdWindow | None


@dataclass(frozen=True)
class Answer:
    """The strategy, if there is one, says something else from now on."""

    answers: Answers


@dataclass(frozen=True)
class Retry:
    """Some finished job is run again, and ends again."""

    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Remove:
    number: int


@dataclass(frozen=True)
class Wait:
    seconds: int


@dataclass(frozen=True)
class WaitForOne:
    """Until something is due of some job: then, and a millisecond before."""

    number: int
    early: bool


Change: TypeAlias = (
    Say | Limit | HoldNames | Require | TakeIds | Answer | Retry | Remove | Wait | WaitForOne
)


@dataclass(frozen=True)
class Round:
    """Something happens; then a sweep; then jobs end; then a sweep, which may be cut off before
    its `cut`-th exchange with the server, or after it."""

    change: Change | None
    endings: list[Ending]
    cut: int | None
    lost: bool
    fresh: bool


@dataclass(frozen=True)
class Program:
    """What is said at first, and what happens then."""

    beginning: Say
    rounds: Sequence[Round]


def random_program(rng: Random) -> Program:
    """Some rounds with some jobs each."""
    beginning = Say(rng.choice(LIVE_LEVELS), _retention(rng))
    return Program(beginning, [_round(rng) for _ in range(rng.randint(2, 8))])


def _round(rng: Random) -> Round:
    return Round(
        _change(rng),
        [_ending(rng) for _ in range(rng.randint(0, 5))],
        rng.choice((None, rng.randint(1, 12))),
        lost=rng.random() < 0.5,
        fresh=rng.random() < 0.3,
    )


def _change(rng: Random) -> Change | None:
    number = rng.randint(0, 50)
    changes: Sequence[Change | None] = (
        None,
        Say(rng.choice(LIVE_LEVELS), rng.choice((None, _retention(rng)))),
        Say(rng.choice(LIVE_LEVELS), _retention(rng)),
        Retry(number, rng.choice(OUTCOMES)),
        Remove(number),
        Wait(rng.choice((1, 9, 10, 50, 60))),
        WaitForOne(number, early=False),
        WaitForOne(number, early=True),
        Limit(rng.choice((None, *CEILINGS))),
        HoldNames(rng.choice(NAMES)),
        HoldNames(rng.choice(NAMES)),
        Require(rng.random() < 0.3),
        TakeIds(rng.choice((None, IdWindow("1h"), IdWindow("2h")))),
        Answer(rng.choice(ANSWERS)),
    )
    return rng.choice(changes)


def _ending(rng: Random) -> Ending:
    return Ending(
        rng.choice(("completed", "completed", "failed")),
        rng.choice("xy"),
        rng.choice("ab"),
        by_toril=rng.random() < 0.6,
        own={level: _retention(rng) for level in rng.choice(SAYING)},
    )


def _retention(rng: Random) -> Retention:
    """What is said about one outcome, or about both."""
    first, other = rng.choice(KEEPS), rng.choice((None, *KEEPS))
    if rng.random() < 0.5:
        return Retention(completed=first, failed=other)
    return Retention(completed=other, failed=first)
