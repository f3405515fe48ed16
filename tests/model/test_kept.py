"""What is kept is what the model says, after every end and every sweep: which jobs, which parts of
them, and which tombstones and taken ids, for how long; whoever said what at which level, whoever
finished the jobs, whatever was retried or removed in between.

Where a sweep was cut off, what is left after the next one is what the model says for a cut after
one of its steps: nobody can say after which. Tombstones and taken ids end by the server's clock,
which no test moves: their lives are checked to within the time that the test itself took.

`TORIL_MODEL=long pytest tests/model` tries more. What fails is made smaller by leaving things out.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pytest
import redis
from tests.model.corners import CORNERS
from tests.model.programs import Program, random_program
from tests.model.trial import Trial
from tests.model.world import World, world
from tests.support.invariants import check

PROGRAMS: Final = {"quick": 40, "long": 2500}
SLICES: Final = {"cleanup": {"slice": 100}}
"""The model does not know where a slice ends: one does it all."""


def failure(place: World, program: Program) -> AssertionError | None:
    """What is not as the model says, if anything is."""
    try:
        Trial(place).run(program)
        assert check(place.client) == []
    except AssertionError as error:
        return error
    return None


def smaller(program: Program) -> Iterator[Program]:
    """The program with one thing left out."""
    rounds = program.rounds
    for n, each in enumerate(rounds):
        yield replace(program, rounds=[*rounds[:n], *rounds[n + 1 :]])
        endings = each.endings
        variants = [replace(each, change=None), replace(each, cut=None, fresh=False)]
        for k, ending in enumerate(endings):
            variants.append(replace(each, endings=[*endings[:k], *endings[k + 1 :]]))
            plain = replace(ending, own={})
            variants.append(replace(each, endings=[*endings[:k], plain, *endings[k + 1 :]]))
        for variant in variants:
            if variant != each:
                yield replace(program, rounds=[*rounds[:n], variant, *rounds[n + 1 :]])


def smallest(program: Program, fails: Callable[[Program], object]) -> Program:
    """What is left if everything is left out that need not be there to fail."""
    for other in smaller(program):
        if fails(other):
            return smallest(other, fails)
    return program


listening = pytest.mark.parametrize("listening", [False, True], ids=["alone", "listening"])
"""Where nobody wants to hear of removals they take another path."""


@pytest.mark.timeout(6 * 3600)
@listening
def test_what_is_kept_is_what_the_model_says(
    redis_url: str, raw: redis.Redis, *, listening: bool
) -> None:
    with world(redis_url, raw, SLICES, listening=listening) as place:
        for _ in range(PROGRAMS[os.environ.get("TORIL_MODEL", "quick")]):
            program = random_program(random.Random(random.getrandbits(64)))
            if failure(place, program):
                found = smallest(program, lambda other: failure(place, other))
                pytest.fail(f"{found}\n{failure(place, found)}")


@listening
def test_what_is_kept_is_what_the_model_says_in_corners(
    redis_url: str, raw: redis.Redis, *, listening: bool
) -> None:
    with world(redis_url, raw, SLICES, listening=listening) as place:
        found = {name: failure(place, program) for name, program in CORNERS.items()}
    assert not any(found.values()), found
