"""Reading what is stored of jobs beside their hashes."""

from __future__ import annotations

from typing import Any

import redis
from tests.lua.running import Runner
from tests.lua.seeding import Q

from toril.protocol.parts import parts
from toril.snapshots import JobParts


def test_every_part_byte_for_byte(run: Runner, raw: redis.Redis) -> None:
    binary = bytes(range(256))
    raw.rpush(f"{Q}:a:logs", "one", binary)
    raw.hset(f"{Q}:a:processed", binary, b"1.10")
    raw.hset(f"{Q}:a:failed", f"{Q}:c", "no")
    raw.zadd(f"{Q}:b:unsuccessful", {f"{Q}:d": 1790000000001})
    assert run(parts(Q, ["a", "nobody", "b"])) == [
        JobParts((b"one", binary), {binary: b"1.10"}, {f"{Q}:c".encode(): b"no"}),
        JobParts(),
        JobParts(unsuccessful={f"{Q}:d".encode(): b"1790000000001"}),
    ]
    assert run(parts(Q, [])) == []


def test_many_are_read_in_pages(run: Runner, raw: redis.Redis) -> None:
    lines = [f"{n} {'x' * 300}" for n in range(2_500)]
    children: Any = {f"child {n}": f"{n}" for n in range(2_500)}
    ids = [f"j{n}" for n in range(30)]
    for name in ids[:3]:
        raw.rpush(f"{Q}:{name}:logs", *lines)
        raw.hset(f"{Q}:{name}:processed", mapping=children)
    found = run(parts(Q, ids))
    expected = {key.encode(): value.encode() for key, value in children.items()}
    for part in found[:3]:
        assert part.logs == tuple(line.encode() for line in lines)
        assert part.processed == expected
    assert found[3:] == [JobParts()] * 27
    assert len(run.requests) >= 6


def test_what_is_garbled_is_left_out(run: Runner, raw: redis.Redis) -> None:
    raw.set(f"{Q}:a:logs", "no list")
    raw.set(f"{Q}:a:processed", "no hash")
    raw.set(f"{Q}:a:unsuccessful", "no set")
    raw.hset(f"{Q}:a:failed", "c", "why")
    assert run(parts(Q, ["a"])) == [JobParts(failed={b"c": b"why"})]
