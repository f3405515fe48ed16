from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.running import Runner
from tests.lua.seeding import Q

from toril.protocol import dependencies


@pytest.mark.parametrize("read", range(4))
def test_a_child_that_ends_while_children_are_read_is_not_missed(
    run: Runner, raw: redis.Redis, read: int
) -> None:
    """It ends behind the read of that number."""
    raw.sadd(f"{Q}:p:dependencies", "s:c")
    reading_children = dependencies.dependencies(Q, "p")
    answer: Any = None
    for number in range(4):
        answer = run(reading_children.send(answer))
        if number == read:
            raw.srem(f"{Q}:p:dependencies", "s:c")
            raw.hset(f"{Q}:p:processed", "s:c", "1")
    with pytest.raises(StopIteration) as done:
        reading_children.send(answer)
    found = done.value.value
    assert found.processed.keys() | found.unprocessed == {"s:c"}
    assert not found.processed.keys() & found.unprocessed
