"""ctx.restore: a finished job that is gone comes back as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q

from toril.protocol.effects import Effects
from toril.protocol.plugin_call import lua_bytes, plugin_call
from toril.types import Json
from toril_lua import Chunk, compose_plugin_script

RESTORE = """
return {ctx.restore(args.id, args.outcome, args.finished_on, args.fields, args.logs,
    args.children, args.plans)}
"""
BINARY = bytes(range(256))


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def restore(
    client: redis.Redis,
    id: str,
    fields: Sequence[Json] = ("name", "x"),
    *chunks: Chunk,
    outcome: str = "completed",
    finished_on: float = NOW,
    **more: Json,
) -> Effects[Json]:
    script = compose_plugin_script(RESTORE, chunks, "p", "s")
    args: dict[str, Json] = {
        "id": id,
        "outcome": outcome,
        "finished_on": finished_on,
        "fields": fields,
        **more,
    }
    call = plugin_call(Q, "p", "s", args, now=NOW + 9)
    effects: Effects[Json] = call.parse(Runner(client).raw("EVAL", script.text, 1, Q, *call.args))
    return effects


def test_all_of_it_is_there_byte_for_byte(client: redis.Redis) -> None:
    fields = {b"name": "ж".encode(), b"data": BINARY, BINARY: b"", b"n": b"9007199254740993"}
    flat = [lua_bytes(part) for pair in fields.items() for part in pair]
    children: Json = {
        "processed": [f"{Q}:c1", lua_bytes(BINARY)],
        "failed": [f"{Q}:c2", "no"],
        "unsuccessful": [f"{Q}:c3", "1790000000001"],
    }
    done = restore(client, "a", flat, logs=["one", lua_bytes(BINARY)], children=children)
    assert done.value == [True]
    assert client.hgetall(f"{Q}:a") == fields
    assert client.lrange(f"{Q}:a:logs", 0, -1) == [b"one", BINARY]
    assert client.hgetall(f"{Q}:a:processed") == {f"{Q}:c1".encode(): BINARY}
    assert client.hgetall(f"{Q}:a:failed") == {f"{Q}:c2".encode(): b"no"}
    left = client.zrange(f"{Q}:a:unsuccessful", 0, -1, withscores=True)
    assert left == [(f"{Q}:c3".encode(), 1790000000001)]
    assert client.zrange(f"{Q}:completed", 0, -1, withscores=True) == [(b"a", NOW)]
    events: Any = client.xrange(f"{Q}:events")
    assert [fields for _, fields in events] == [
        {b"event": b"toril:restored", b"jobId": b"a", b"state": b"completed"}
    ]


def test_more_than_a_command_takes(client: redis.Redis) -> None:
    lines = [str(n) for n in range(12_345)]
    fields: list[Json] = [f"f{n}" for n in range(2_002)]
    restore(client, "a", fields, outcome="failed", logs=lines)
    assert client.lrange(f"{Q}:a:logs", 0, -1) == [line.encode() for line in lines]
    assert client.hlen(f"{Q}:a") == 1_001
    assert client.hget(f"{Q}:a", "f2000") == b"f2001"
    assert client.zscore(f"{Q}:failed", "a") == NOW


def test_a_job_that_exists_is_left_alone(client: redis.Redis) -> None:
    client.hset(f"{Q}:a", "name", "other")
    assert restore(client, "a", logs=["x"]).value == [False, "exists"]
    assert not client.exists(f"{Q}:a:logs", f"{Q}:completed", f"{Q}:events")
    assert client.hgetall(f"{Q}:a") == {b"name": b"other"}


def test_what_an_earlier_job_left_behind_is_gone(client: redis.Redis) -> None:
    client.rpush(f"{Q}:a:logs", "old")
    client.hset(f"{Q}:a:processed", "old", "1")
    restore(client, "a")
    assert not client.exists(f"{Q}:a:logs", f"{Q}:a:processed")


@pytest.mark.parametrize(
    ("id", "before", "after"),
    [("7", None, b"7"), ("7", "9", b"9"), ("7", "3", b"7"), ("x7", "3", b"3"), ("07", "3", b"3")],
)
def test_the_counter_of_ids_does_not_come_to_it_again(
    client: redis.Redis, id: str, before: str | None, after: bytes
) -> None:
    if before is not None:
        client.set(f"{Q}:id", before)
    restore(client, id)
    assert client.get(f"{Q}:id") == after


def test_chunks_hear_of_it_with_their_plan(client: redis.Redis) -> None:
    source = "ctx.report({ctx.id, ctx.outcome, ctx.finished_on, ctx.plan or 'none', ctx.key})"
    chunks = [Chunk(name, "restored", source) for name in ("one", "two")]
    done = restore(client, "a", ("name", "x"), *chunks, plans={"two": 5})
    assert [(each.plugin, each.value) for each in done.reports] == [
        ("one", ["a", "completed", NOW, "none", f"{Q}:a"]),
        ("two", ["a", "completed", NOW, 5, f"{Q}:a"]),
    ]


@pytest.mark.parametrize(
    ("fields", "outcome", "error"),
    [((), "completed", "with its fields"), (("a", "b"), "waiting", "only completed and failed")],
)
def test_what_is_no_finished_job_is_refused(
    client: redis.Redis, fields: Sequence[Json], outcome: str, error: str
) -> None:
    done = restore(client, "a", fields, outcome=outcome)
    assert error in done.chunk_errors[0].message
    assert not client.exists(f"{Q}:a")
