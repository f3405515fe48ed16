"""Idle workers of several libraries beside each other: what comes is shared, and runs once."""

from __future__ import annotations

from functools import partial
from typing import cast

import pytest
import redis

from tests.interop.conftest import Library
from tests.support.driver import TorilDriver
from tests.worker.conftest import until

JOBS = 30


@pytest.mark.parametrize("producer", ["node", "toril"])
async def test_idle_workers_of_two_libraries_take_turns(
    library: Library, redis_url: str, raw: redis.Redis, producer: str
) -> None:
    """Toril's has its fetch with the server, Node's asks when it is woken."""

    def both_wait() -> bool:
        return int(raw.info("clients")["blocked_clients"]) == 2

    def done(count: int) -> bool:
        return raw.zcard("bull:q:completed") == count

    own = TorilDriver(redis_url)
    node = library("node")
    try:
        handles = [await each.worker("q", name=name) for each, name in ((own, "t"), (node, "n"))]
        for number in range(JOBS):
            await until(both_wait)
            await (node if producer == "node" else own).add("q", f"j{number}", {"do": []})
            await until(partial(done, number + 1))
        for each, handle in zip((own, node), handles, strict=True):
            await each.worker_close(handle)
    finally:
        await node.reset()
        own.kill()
    ids = cast("list[str]", raw.zrange("bull:q:completed", 0, -1))
    assert len(ids) == JOBS
    assert {raw.hget(f"bull:q:{id}", "ats") for id in ids} == {"1"}
    assert {raw.hget(f"bull:q:{id}", "pb") for id in ids} == {"t", "n"}
    assert not raw.exists("bull:q:wait", "bull:q:active", "bull:q:failed")
