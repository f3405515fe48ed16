"""Attempts that end in one call: what is done for all at once leaves nothing else behind."""

from __future__ import annotations

import random
from typing import cast

import pytest
import redis
from tests.lua.making import active, codes, finish
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.protocol import finishing

KINDS = ("completed", "failed", "retry", "delay", "wait")
PLACES = {"completed": "completed", "failed": "failed", "delay": "delayed"}


@pytest.mark.parametrize("example", range(12))
def test_any_of_the_active_ones_in_any_order(
    run: Runner, raw: redis.Redis, seed: Seed, example: int
) -> None:
    chance = random.Random(example)
    names = [f"j{n}" for n in range(12)]
    for name in names:
        active(raw, seed, name)
    before = cast("list[str]", raw.lrange(f"{Q}:active", 0, -1))
    # Above all the oldest, as they stand at the tail.
    ended = list(reversed(before))[: chance.randint(2, 11)]
    if example % 2:
        chance.shuffle(ended)
        ended = ended[: chance.randint(1, len(ended))]
    kinds = {name: chance.choice(KINDS) for name in ended}
    told = [finish(n, kind=kinds[n], delay_ms=9, from_head=chance.random() < 0.5) for n in ended]
    assert codes(run, *told) == (0,) * len(ended)
    assert raw.lrange(f"{Q}:active", 0, -1) == [name for name in before if name not in kinds]
    for name in names:
        assert raw.exists(f"{Q}:{name}:lock") == (name not in kinds)
        if name in kinds and kinds[name] in PLACES:
            assert raw.zscore(f"{Q}:{PLACES[kinds[name]]}", name) is not None
    waiting = [name for name in ended if kinds[name] in {"retry", "wait"}]
    assert sorted(raw.lrange(f"{Q}:wait", 0, -1)) == sorted(waiting)
    assert {raw.zscore(f"{Q}:completed", name) for name in ended} <= {NOW + 5, None}


@pytest.mark.parametrize("order", [("a", "b", "c"), ("b", "a", "c"), ("a", "c", "b")])
def test_one_that_breaks_in_the_middle_is_active_and_locked_again(
    run: Runner, raw: redis.Redis, seed: Seed, order: tuple[str, ...]
) -> None:
    for name in ("a", "b", "c"):
        active(raw, seed, name)
    raw.sadd(f"{Q}:stalled", "a", "b", "c")
    raw.set(f"{Q}:delayed", "a text")
    told = [finish(n, kind="delay" if n == "b" else "completed", delay_ms=9) for n in order]
    expected = tuple(finishing.GARBLED if name == "b" else 0 for name in order)
    assert codes(run, *told) == expected
    assert raw.lrange(f"{Q}:active", 0, -1) == ["b"]
    assert raw.get(f"{Q}:b:lock") == "t:1"
    assert not raw.exists(f"{Q}:a:lock", f"{Q}:c:lock")
    assert raw.smembers(f"{Q}:stalled") == {"b"}
    assert raw.zrange(f"{Q}:completed", 0, -1) == ["a", "c"]


def test_what_ends_after_its_parent_finds_it_where_it_is(
    run: Runner, raw: redis.Redis, seed: Seed
) -> None:
    active(raw, seed, "first")
    parent = active(raw, seed, "p")
    active(raw, seed, "c", parent=parent, policy="fpof")
    told = [finish(name, kind="failed", value="x") for name in ("first", "p", "c")]
    assert codes(run, *told) == (0, 0, 0)
    assert raw.zscore(f"{Q}:failed", "p") is not None
    assert raw.hget(parent, "defa") is None  # it has failed already
    assert raw.zrange(f"{parent}:unsuccessful", 0, -1) == [f"{Q}:c"]
