"""Programs that go where drawn ones seldom come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tests.model.ended import OwnLevel
from tests.model.programs import (
    Answer,
    Change,
    Ending,
    HoldNames,
    Limit,
    Program,
    Require,
    Round,
    Say,
    TakeIds,
    Wait,
)

from toril_plugins import Ceiling, IdWindow, Keep, Retention

FOREVER: Final = Say("queue", Retention(completed=Keep.forever()))


def program(beginning: Say, *rounds: tuple[Change | None, str]) -> Program:
    """Rounds, none of them by a new sweeper: what changes, and the endings of jobs `x` and `y` by
    Toril; `X` is ended by a foreigner. `!` says for the job before it that nothing is kept, `+`
    that it is, for ever."""
    return Program(
        beginning,
        [Round(change, _endings(text), None, lost=False, fresh=False) for change, text in rounds],
    )


def _endings(text: str) -> list[Ending]:
    said: Mapping[str, Mapping[OwnLevel, Retention]] = {
        "": {},
        "!": {"job": Retention(completed=Keep.nothing())},
        "+": {"job": Retention(completed=Keep.forever())},
    }
    return [
        Ending("completed", name.lower(), "a", by_toril=name.islower(), own=said[own])
        for name, own in re.findall("([a-zA-Z])([!+]?)", text)
    ]


KEEP_X: Final = Answer({("completed", "x"): Keep.forever()})
HOLD, RELEASE = HoldNames(frozenset("x")), HoldNames(frozenset())

CORNERS: Final[Mapping[str, Program]] = {
    "a held job that nobody has seen yet is too many": program(
        Say("queue", Retention(completed=1)),
        (HOLD, "Xy"),
    ),
    "a released job does not count under a ceiling before it is asked about": program(
        FOREVER,
        (Limit(Ceiling(completed=2)), ""),
        (HOLD, "x"),
        (None, "yy"),
        (RELEASE, ""),
    ),
    "what was said for a job holds when it is released": program(
        FOREVER,
        (HOLD, "x!y"),
        (RELEASE, ""),
    ),
    "a released job loses what others have lost while it was held": program(
        Say("queue", Retention(completed=Keep(age="1m", data="5s"))),
        (HOLD, "xy"),
        (Wait(9), ""),
        (RELEASE, ""),
    ),
    "a released job goes although those after it stay for ever": program(
        Say("queue", Retention(completed=Keep(age="10s"))),
        (HOLD, "xy+"),
        (Wait(60), ""),
        (RELEASE, ""),
    ),
    "a job that goes by a ceiling leaves the tombstone of its rule": program(
        Say("queue", Retention(completed=Keep(age="1m", tombstone="1h"))),
        (Limit(Ceiling(completed=1)), "xy"),
    ),
    "what was added before a plugin was required stays": program(
        Say("queue", Retention(completed=1)),
        (None, "x"),
        (Require(required=True), "y"),
    ),
    "the id of a job that goes by nothing but a number stays taken": program(
        Say("queue", Retention(completed=1)),
        (TakeIds(IdWindow("1h")), "xy"),
        (TakeIds(None), "y"),
    ),
    "a strategy that says something by now keeps a job whose age has come": program(
        Say("queue", Retention(completed=Keep(age="10s"))),
        (None, "xy"),
        (KEEP_X, ""),
        (Wait(60), ""),
    ),
    "a strategy that says something by now keeps a job beyond a lowered count": program(
        Say("queue", Retention(completed=3)),
        (None, "xxy"),
        (KEEP_X, ""),
        (Say("queue", Retention(completed=Keep.nothing())), ""),
    ),
    "what a strategy keeps is not counted together with the others any more": program(
        Say("queue", Retention(completed=Keep(last=2, key="name"))),
        (None, "x"),
        (KEEP_X, ""),
        (Answer({}), "xx"),
        (None, ""),
    ),
}
"""What is to be seen there -> the program."""
