"""The dump itself: it forgives what two runs cannot share, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import redis

from tests.support.dump import dump

Change = Callable[[redis.Redis, str], object]


def store(client: redis.Redis, id: str, now: int) -> None:
    """A queue with one job of each kind, as a library with ids of its own would write it."""
    for suffix, name in (("", "child"), ("2", "later"), ("3", "urgent")):
        client.xadd("bull:q:events", {"event": "added", "jobId": id + suffix, "name": name})
        client.hset(
            f"bull:q:{id}{suffix}",
            mapping={
                "name": name,
                "data": '{"a":1,"b":[2]}',
                "opts": json.dumps({"attempts": 0, "parent": {"id": f"p{id}", "queue": "bull:p"}}),
                "parentKey": f"bull:p:p{id}",
                "timestamp": now,
                "delay": 0,
                "priority": 0,
            },
        )
    client.hset(f"bull:p:p{id}", mapping={"name": "parent", "timestamp": now, "data": "{}"})
    client.sadd(f"bull:p:p{id}:dependencies", f"bull:q:{id}")
    client.hset(f"bull:q:{id}", mapping={"failedReason": f"child bull:q:{id}2 failed", "ats": 1})
    client.hset(f"bull:q:{id}2", "delay", 600)
    client.zadd("bull:q:delayed", {f"{id}2": (now + 600) * 4096})
    client.zadd("bull:q:prioritized", {f"{id}3": 3 * 2**32 + 1})
    client.zadd("bull:q:marker", {"0": 0, "1": now + 600})
    client.lpush("bull:q:wait", id, f"{id}x")
    client.set(f"bull:q:{id}:lock", f"token of {id}", px=60_000)
    client.xadd("bull:q:events", {"event": "delayed", "jobId": f"{id}2", "delay": str(now + 600)})


def now() -> int:
    return int(time.time() * 1000)


def dumped(client: redis.Redis, id: str, change: Change | None = None) -> list[str]:
    client.flushall()
    since = now()
    store(client, id, since)
    if change is not None:
        change(client, id)
    return [line.replace(id + "x", "unknown") for line in dump(client, since)]


def test_ids_times_and_tokens_do_not_matter(raw: redis.Redis) -> None:
    first = dumped(raw, "1")
    time.sleep(0.003)
    assert dumped(raw, "f0e1d2c3") == first


def test_own_data_does_not_matter(raw: redis.Redis) -> None:
    def ours(client: redis.Redis, id: str) -> None:
        client.set("bull:q:toril:call:x:1", "1")
        client.hset("bull:q:meta", "toril.retention", "{}")
        client.hset(f"bull:q:{id}", "toril", "{}")
        client.xadd("bull:q:events", {"event": "toril:evicted", "count": 3})

    assert dumped(raw, "1", ours) == dumped(raw, "1")


CHANGES: dict[str, Change] = {
    "a field more": lambda client, job: client.hset(f"bull:q:{job}", "atm", 1),
    "a field less": lambda client, job: client.hdel(f"bull:q:{job}", "ats"),
    "other data": lambda client, job: client.hset(f"bull:q:{job}", "data", '{"a":1,"b":[3]}'),
    "data that is no JSON": lambda client, job: client.hset(f"bull:q:{job}", "data", "{"),
    "another parent": lambda client, job: client.hset(f"bull:q:{job}", "parentKey", "bull:p:other"),
    "a parent without prefix": lambda client, job: client.hset(
        f"bull:q:{job}", "parentKey", f"p:p{job}"
    ),
    "another order": lambda client, job: client.rpoplpush("bull:q:wait", "bull:q:wait"),
    "another due time": lambda client, job: client.zincrby("bull:q:delayed", 4096, f"{job}2"),
    "another place in a millisecond": lambda client, job: client.zincrby(
        "bull:q:delayed", 1, f"{job}2"
    ),
    "another priority": lambda client, job: client.zincrby("bull:q:prioritized", 2**32, f"{job}3"),
    "another counter": lambda client, job: client.zincrby("bull:q:prioritized", 1, f"{job}3"),
    "no marker": lambda client, job: client.zrem("bull:q:marker", "0"),
    "a marker too early": lambda client, job: client.zincrby("bull:q:marker", -1, "1"),
    "an event more": lambda client, job: client.xadd("bull:q:events", {"event": "drained"}),
    "an event without its field": lambda client, job: client.xadd(
        "bull:q:events", {"event": "waiting", "jobId": job}
    ),
    "a lock that stays": lambda client, job: client.persist(f"bull:q:{job}:lock"),
    "no lock": lambda client, job: client.delete(f"bull:q:{job}:lock"),
    "another dependency": lambda client, job: client.sadd(
        f"bull:p:p{job}:dependencies", "bull:q:9"
    ),
    "a time in seconds": lambda client, job: client.hset(
        f"bull:q:{job}", "timestamp", now() // 1000
    ),
    "a time with a fraction": lambda client, job: client.hset(
        f"bull:q:{job}", "timestamp", f"{now()}.5"
    ),
    "a key of its own": lambda client, job: client.set("bull:q:mine", 1),
    "an unknown setting": lambda client, job: client.hset("bull:q:meta", "other", 1),
    "a job that expires": lambda client, job: client.expire(f"bull:q:{job}", 60),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_everything_else_matters(raw: redis.Redis, change: Change) -> None:
    assert dumped(raw, "1", change) != dumped(raw, "1")
