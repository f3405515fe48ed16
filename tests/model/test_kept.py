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
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

import pytest
import redis
from tests.model.corners import CORNERS
from tests.model.programs import Program, random_program
from tests.model.trial import Strategy, Trial
from tests.model.world import World, world
from tests.support.invariants import check

PROGRAMS: Final = {"quick": 25, "long": 1000}
Try: TypeAlias = Callable[[Program], AssertionError | None]
Kind: TypeAlias = Literal["alone", "listening", "asking"]
"""Whether nobody wants to hear of removals, which then take another path; whether there is a
strategy, so that a sweep asks first."""


@contextmanager
def tried(url: str, client: redis.Redis, kind: Kind) -> Generator[Try]:
    """What tries a program, and returns what is not as the model says, if anything is."""
    strategy = Strategy() if kind == "asking" else None
    plugins = [] if strategy is None else [strategy]
    # The model does not know where a slice ends: one does it all.
    config = {"cleanup": {"slice": 100}}
    with world(url, client, config, listening=kind != "alone", plugins=plugins) as place:
        yield partial(failure, place, strategy)


def failure(place: World, strategy: Strategy | None, program: Program) -> AssertionError | None:
    try:
        Trial(place, strategy).run(program)
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


kinds = pytest.mark.parametrize("kind", get_args(Kind))


@pytest.mark.timeout(6 * 3600)
@kinds
def test_what_is_kept_is_what_the_model_says(redis_url: str, raw: redis.Redis, kind: Kind) -> None:
    with tried(redis_url, raw, kind) as failing:
        for _ in range(PROGRAMS[os.environ.get("TORIL_MODEL", "quick")]):
            program = random_program(random.Random(random.getrandbits(64)))
            if failing(program):
                found = smallest(program, failing)
                pytest.fail(f"{found}\n{failing(found)}")


@kinds
def test_what_is_kept_is_what_the_model_says_in_corners(
    redis_url: str, raw: redis.Redis, kind: Kind
) -> None:
    with tried(redis_url, raw, kind) as failing:
        found = {name: failing(program) for name, program in CORNERS.items()}
    assert not any(found.values()), found
