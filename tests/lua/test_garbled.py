"""What others have garbled harms no neighbour in a batch, and no job gets stuck by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from redis.exceptions import ResponseError
from tests.lua.database import contents
from tests.lua.making import LOCK_MS, end, fetch, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import JobError
from toril.protocol import finishing
from toril.protocol.adding import add_jobs
from toril.protocol.record import CallRecord

Garble = Callable[[redis.Redis], Any]


@pytest.fixture
def three(run: Runner, raw: redis.Redis) -> tuple[str, ...]:
    """Three running jobs; the middle one is garbled by the test."""
    run(add_jobs([node(name) for name in ("a", "b", "c")], now=NOW))
    take(run, 3)
    return ("a", "b", "c")


def on_hash(**fields: Any) -> Garble:
    return lambda raw: raw.hset(f"{Q}:b", mapping=cast(Any, fields))


PARENT = f"{OTHER}:p"


@pytest.mark.parametrize(
    "garble",
    [
        on_hash(parentKey=PARENT, parent="{not json"),
        on_hash(parentKey=PARENT, parent="[" * 5000),
        on_hash(parentKey=PARENT, parent="null"),
        on_hash(parentKey=PARENT, parent='{"id":1,"queueKey":2,"fpof":"yes"}'),
        on_hash(parentKey=PARENT, parent='{"id":"p","queueKey":"elsewhere"}'),
        on_hash(parentKey="", parent=""),
        on_hash(parentKey=":::"),
        on_hash(parentKey="x"),
        on_hash(atm="many", ats="1e999", stc="-"),
        on_hash(opts="{", data="{", progress="{", stacktrace="{"),
        on_hash(deid="d"),
    ],
    ids=range(11),
)
@pytest.mark.parametrize("kind", ["completed", "failed", "retry", "delay", "wait"])
def test_fields(
    run: Runner, raw: redis.Redis, three: tuple[str, ...], garble: Garble, kind: Any
) -> None:
    garble(raw)
    reply = end(run, *(finish(name, kind=kind, value="1", delay_ms=9) for name in three))
    assert reply.codes == (0, 0, 0)
    assert not raw.exists(f"{Q}:active", f"{Q}:b:lock")


@pytest.mark.parametrize("suffix", ["dependencies", "processed", "unsuccessful", "failed"])
@pytest.mark.parametrize("how", [("completed", None), ("failed", "fpof"), ("failed", "cpof")])
def test_a_parent_of_wrong_types_does_not_keep_its_child(
    run: Runner, raw: redis.Redis, seed: Seed, three: tuple[str, ...], suffix: str, how: Any
) -> None:
    kind, policy = how
    seed.job("p", "waiting-children", queue=OTHER)
    seed.job("b", None, parent=PARENT, policy=policy)
    raw.delete(f"{PARENT}:{suffix}")
    raw.set(f"{PARENT}:{suffix}", "a text")
    reply = end(run, *(finish(name, kind=kind, value="1") for name in three))
    assert reply.codes[0] == reply.codes[2] == 0
    assert reply.codes[1] in {finishing.DONE, finishing.RELATED_GARBLED}
    assert raw.zcard(f"{Q}:{kind}") == 3
    assert raw.get(f"{PARENT}:{suffix}") == "a text"


@pytest.mark.parametrize("key", ["p", "wait", "waiting-children", "marker", "events", "meta"])
def test_a_parent_s_queue_of_wrong_types(
    run: Runner, raw: redis.Redis, seed: Seed, three: tuple[str, ...], key: str
) -> None:
    seed.job("p", "waiting-children", queue=OTHER)
    seed.job("b", None, parent=PARENT)
    raw.set(f"{OTHER}:{key}", "a text")
    reply = end(run, *map(finish, three))
    assert reply.codes in {(0, 0, 0), (0, finishing.RELATED_GARBLED, 0)}
    assert raw.zcard(f"{Q}:completed") == 3


def test_a_job_that_became_a_text_is_given_up(
    run: Runner, raw: redis.Redis, three: tuple[str, ...]
) -> None:
    raw.delete(f"{Q}:b")
    raw.set(f"{Q}:b", "a text")
    assert end(run, *map(finish, three)).codes == (0, finishing.NOT_FOUND, 0)
    assert not raw.exists(f"{Q}:active", f"{Q}:b:lock")
    assert raw.get(f"{Q}:b") == "a text"


def test_a_lock_that_became_a_list_is_no_lock(
    run: Runner, raw: redis.Redis, three: tuple[str, ...]
) -> None:
    raw.delete(f"{Q}:b:lock")
    raw.rpush(f"{Q}:b:lock", "t:1")
    assert end(run, *map(finish, three)).codes == (0, finishing.NO_LOCK, 0)
    assert raw.lrange(f"{Q}:active", 0, -1) == ["b"]


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("completed", "completed"),
        ("failed", "failed"),
        ("delay", "delayed"),
        ("retry", "wait"),
        ("wait", "wait"),
    ],
)
def test_a_job_whose_place_is_garbled_stays_active_and_locked(
    run: Runner, raw: redis.Redis, kind: Any, key: str
) -> None:
    run(add_jobs([node("j")], now=NOW))
    take(run)
    before = raw.hgetall(f"{Q}:j")
    raw.set(f"{Q}:{key}", "a text")
    reply = end(run, finish("j", kind=kind, value="1", delay_ms=5))
    assert reply.codes == (finishing.GARBLED,)
    assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]
    assert raw.get(f"{Q}:j:lock") == "t:1"
    assert 0 < raw.pttl(f"{Q}:j:lock") <= LOCK_MS
    assert raw.hget(f"{Q}:j", "finishedOn") is None
    assert before.keys() <= raw.hgetall(f"{Q}:j").keys()


def test_a_deduplication_window_of_wrong_types(
    run: Runner, raw: redis.Redis, three: tuple[str, ...]
) -> None:
    raw.hset(f"{Q}:b", "deid", "d")
    raw.rpush(f"{Q}:de:d", "b")
    raw.set(f"{Q}:dn:d", "a text")
    codes = end(run, *map(finish, three)).codes
    assert codes == (0, finishing.RELATED_GARBLED, 0)


@pytest.mark.parametrize("kept", [{"jid": "k", "opts": "{"}, {"opts": "{}"}, {"jid": "a"}])
def test_a_garbled_job_for_later_is_dropped(
    run: Runner, raw: redis.Redis, three: tuple[str, ...], kept: dict[Any, Any]
) -> None:
    raw.hset(f"{Q}:b", "deid", "d")
    raw.hset(f"{Q}:dn:d", mapping=kept)
    before = raw.hgetall(f"{Q}:a")
    assert end(run, finish("b")).codes == (0,)
    assert not raw.exists(f"{Q}:dn:d", f"{Q}:k")
    assert raw.hgetall(f"{Q}:a") == before


@pytest.mark.parametrize("value", ["a text", b"\x93\x01", b"\x92\xa1x\x01"])
def test_a_garbled_call_record_counts_as_none(
    run: Runner, raw: redis.Redis, three: tuple[str, ...], value: Any
) -> None:
    raw.set(f"{Q}:toril:call:w:0", value)
    assert end(run, finish("a"), record=CallRecord("w", 0, 5)).codes == (0,)


@pytest.mark.parametrize("value", ["", "a text", "-5", "1e999"])
def test_a_garbled_stream_length_counts_as_the_default(
    run: Runner, raw: redis.Redis, three: tuple[str, ...], value: str
) -> None:
    raw.hset(f"{Q}:meta", "opts.maxLenEvents", value)
    assert end(run, *(finish(name, kind="retry", value="x") for name in three)).codes == (0, 0, 0)
    assert raw.hget(f"{Q}:meta", "opts.maxLenEvents") == value


def test_an_existing_key_that_is_no_job_refuses_only_its_own_add(
    run: Runner, raw: redis.Redis, seed: Seed
) -> None:
    parent = seed.job("p", "waiting-children", queue=OTHER)
    raw.set(f"{Q}:b", "a text")
    added = run(add_jobs([node(name, parent=parent) for name in ("a", "b", "c")], now=NOW))
    assert [one.error is None for one in added] == [True, False, True]
    assert isinstance(added[1].error, JobError)
    assert raw.lrange(f"{Q}:wait", 0, -1) == ["c", "a"]


def test_an_add_into_a_garbled_list_leaves_no_orphans(run: Runner, raw: redis.Redis) -> None:
    raw.set(f"{Q}:wait", "a text")
    added = run(add_jobs([node("a"), node("p", opts={"priority": 1})], now=NOW))
    assert [one.error is None for one in added] == [False, True]
    assert not raw.exists(f"{Q}:a")
    assert f"{Q}:p" in contents(raw)


@pytest.mark.parametrize("key", ["wait", "active", "prioritized", "delayed", "marker", "limiter"])
def test_a_garbled_queue_hides_no_code_and_loses_no_job(
    run: Runner, raw: redis.Redis, three: tuple[str, ...], key: str
) -> None:
    run(add_jobs([node("next")], now=NOW))
    if raw.exists(f"{Q}:{key}"):
        raw.rename(f"{Q}:{key}", "aside")
    raw.hset(f"{Q}:{key}", "a", "hash")
    wish = fetch(5, "t:2", rate_max=9, rate_duration_ms=9)
    reply = end(run, *map(finish, three), fetch=wish)
    assert len(reply.codes) == 3
    if key != "active":
        assert reply.codes == (0, 0, 0)
    if key not in {"wait", "marker", "delayed"}:
        waiting = raw.lrange(f"{Q}:wait", 0, -1)
        assert ("next" in waiting) != ("next" in [job.id for job in reply.jobs])
    if key in {"wait", "active"}:
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            end(run, fetch=wish)
