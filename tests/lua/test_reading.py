from __future__ import annotations

import pytest
import redis
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.protocol import dependencies, reading
from toril.protocol.reading import FinishedCursor, FinishedResult
from toril.snapshots import JobSnapshot
from toril.types import STATES


def test_job_is_a_snapshot_of_its_hash(run: Runner, seed: Seed) -> None:
    seed.job("j1", data='{"to": "a"}', priority=3, parent=f"{OTHER}:p1")
    found = run(reading.job(Q, "j1"))
    assert isinstance(found, JobSnapshot)
    assert (found.queue, found.id, found.name, found.priority) == ("mail", "j1", "send", 3)
    assert found.data == {"to": "a"}
    assert found.parent is not None
    assert (found.parent.queue, found.parent.id) == ("other", "p1")


def test_job_that_is_not_there(run: Runner) -> None:
    assert run(reading.job(Q, "nobody")) is None


@pytest.mark.parametrize("id", ["wait", "events", "marker", "meta", "toril:said"])
def test_a_key_of_the_queue_is_no_job(run: Runner, raw: redis.Redis, id: str) -> None:
    key = f"{Q}:{id}"
    if id == "meta":
        raw.hset(key, "name", "x")
    elif id == "marker":
        raw.zadd(key, {"0": 0})
    else:
        raw.rpush(key, "j1")
    assert run(reading.job(Q, id)) is None


def test_state_of_jobs_wherever_they_are(run: Runner, seed: Seed) -> None:
    expected = {
        "wait": "waiting",
        "paused": "waiting",
        "active": "active",
        "delayed": "delayed",
        "prioritized": "prioritized",
        "waiting-children": "waiting-children",
        "completed": "completed",
        "failed": "failed",
    }
    for place in expected:
        seed.job(f"in-{place}", place)
    seed.job("nowhere", None)
    assert {place: run(reading.state(Q, f"in-{place}")) for place in expected} == expected
    assert run(reading.state(Q, "nowhere")) == "unknown"
    assert run(reading.state(Q, "nobody")) == "unknown"


def test_result_of_a_job(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("good", "completed", returnvalue='{"n": 1}')
    seed.job("plain", "completed", returnvalue="not json")
    seed.job("bad", "failed", failedReason='"quoted"')
    seed.job("open", "active", returnvalue="1", failedReason="earlier")
    seed.put("ghost", "completed")
    raw.set(f"{Q}:garbled", "a string")
    seed.put("garbled", "failed")
    assert run(reading.finished_result(Q, "good")) == FinishedResult(
        True, "completed", {"n": 1}, has_value=True
    )
    assert run(reading.finished_result(Q, "plain")) == FinishedResult(
        True, "completed", "not json", has_value=True
    )
    assert run(reading.finished_result(Q, "bad")) == FinishedResult(
        True, "failed", None, '"quoted"'
    )
    assert run(reading.finished_result(Q, "open")) == FinishedResult(True)
    assert run(reading.finished_result(Q, "ghost")) == FinishedResult(False, "completed")
    assert run(reading.finished_result(Q, "garbled")) == FinishedResult(True, "failed")
    assert run(reading.finished_result(Q, "nobody")) == FinishedResult(False)


def test_counts(run: Runner, seed: Seed) -> None:
    seed.job("a")
    seed.job("b", "paused")
    seed.job("c", "completed")
    seed.job("d", "active")
    counts = run(reading.counts(Q, STATES))
    assert counts == dict.fromkeys(STATES, 0) | {"waiting": 2, "active": 1, "completed": 1}
    assert run(reading.counts(Q, ("failed",))) == {"failed": 0}


def ids(page: reading.Page) -> list[str]:
    return [listed.job.id for listed in page.jobs]


def test_pages_go_both_ways(run: Runner, seed: Seed) -> None:
    for n in range(5):
        seed.job(f"w{n}")
        seed.job(f"c{n}", "completed", score=NOW + n)
    seed.job("old", "paused")
    page = run(reading.page(Q, ("waiting",), 0, 10, ascending=True))
    assert (ids(page), page.total) == (["w0", "w1", "w2", "w3", "w4", "old"], 6)
    assert {listed.state for listed in page.jobs} == {"waiting"}
    assert ids(run(reading.page(Q, ("waiting",), 0, 1, ascending=False))) == ["w4", "w3"]
    assert ids(run(reading.page(Q, ("completed",), 0, 2, ascending=True))) == ["c0", "c1", "c2"]
    assert ids(run(reading.page(Q, ("completed",), 3, 9, ascending=False))) == ["c1", "c0"]
    assert ids(run(reading.page(Q, ("completed",), 5, 9, ascending=False))) == []


def test_a_page_over_several_states(run: Runner, seed: Seed) -> None:
    for n in range(3):
        seed.job(f"f{n}", "failed", score=NOW + n)
        seed.job(f"c{n}", "completed", score=NOW + n)
    page = run(reading.page(Q, ("failed", "completed"), 1, 4, ascending=True))
    assert [(listed.state, listed.job.id) for listed in page.jobs] == [
        ("failed", "f1"),
        ("failed", "f2"),
        ("completed", "c0"),
        ("completed", "c1"),
    ]
    assert page.total == 6


def test_a_long_page_is_read_in_bounded_steps(run: Runner, seed: Seed) -> None:
    for n in range(250):
        seed.job(f"c{n:03}", "completed", score=NOW + n)
    page = run(reading.page(Q, ("completed",), 10, 239, ascending=True))
    assert ids(page) == [f"c{n:03}" for n in range(10, 240)]
    assert len(run.requests) == 3


def test_large_jobs_are_read_a_megabyte_at_a_time(run: Runner, seed: Seed) -> None:
    for n in range(6):
        seed.job(f"c{n}", "completed", score=NOW + n, data='"' + "x" * 400_000 + '"')
    page = run(reading.page(Q, ("completed",), 0, 99, ascending=True))
    assert ids(page) == [f"c{n}" for n in range(6)]
    assert len(run.requests) == 2


def test_pages_skip_ids_without_a_job(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("here")
    for name in ("ghost", "garbled", "0:0"):
        seed.put(name, "wait")
    raw.set(f"{Q}:garbled", "a string")
    page = run(reading.page(Q, ("waiting",), 0, 9, ascending=True))
    assert (ids(page), page.missing, page.total) == (["here"], ("ghost", "garbled"), 4)


def finished(run: Runner, limit: int, **more: int) -> list[str]:
    found: list[str] = []
    cursor: FinishedCursor | None = None
    while True:
        page = run(reading.finished_page(Q, "completed", cursor, limit, **more))
        found += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return found


def test_finished_jobs_in_the_order_they_ended(run: Runner, seed: Seed) -> None:
    expected = [f"{n:02}-{name}" for n in range(3) for name in ("B", "a", "é")]
    for name in reversed(expected):
        seed.job(name, "completed", score=NOW + int(name[:2]))
    for limit in (1, 2, 4, 100):
        assert finished(run, limit) == expected
    assert finished(run, 2, before=NOW + 1) == expected[:6]


def test_paging_goes_on_behind_a_job_that_is_gone(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    for n in range(300):
        seed.job(f"{n:03}", "completed", score=NOW)
    page = run(reading.finished_page(Q, "completed", None, 100))
    assert page.cursor == FinishedCursor(str(NOW), "099")
    raw.zrem(f"{Q}:completed", "099", "098", "100")
    page = run(reading.finished_page(Q, "completed", page.cursor, 100))
    assert [job.id for job in page.jobs] == [f"{n:03}" for n in range(101, 201)]
    assert page.jobs[0].outcome == "completed"


def test_finished_page_tells_ids_without_a_job(run: Runner, seed: Seed) -> None:
    seed.put("ghost", "failed", score=NOW)
    seed.job("real", "failed", score=NOW + 1)
    page = run(reading.finished_page(Q, "failed", None, 10))
    assert ([job.id for job in page.jobs], page.missing) == (["real"], ("ghost",))


def test_logs(run: Runner, raw: redis.Redis) -> None:
    raw.rpush(f"{Q}:j:logs", "one", "two", "three")
    assert run(reading.logs(Q, "j", 1, -1)) == reading.Logs(("two", "three"), 3)
    assert run(reading.logs(Q, "k", 0, -1)) == reading.Logs((), 0)


def test_queues_of_a_prefix(run: Runner, raw: redis.Redis) -> None:
    for name in ("b[x]:a", "b[x]:c", "b[x]:q:meta-job", "bx:no"):
        raw.hset(f"{name}:meta", "version", "1")
    raw.set("b[x]:text:meta", "not a hash")
    assert run(reading.queues("b[x]")) == ["a", "c"]
    assert run(reading.queues("none")) == []


def test_meta(run: Runner, raw: redis.Redis) -> None:
    stored = {"paused": "1", "concurrency": "5", "max": "many", "version": "bullmq:6"}
    for name, value in stored.items():
        raw.hset(f"{Q}:meta", name, value)
    meta = run(reading.meta(Q))
    assert (meta.paused, meta.concurrency, meta.max, meta.duration) == (True, 5, None, None)
    assert (meta.version, meta.fields) == ("bullmq:6", stored)
    assert run(reading.meta(OTHER)).paused is False


def test_children_by_what_became_of_them(run: Runner, raw: redis.Redis) -> None:
    parent = f"{Q}:p"
    raw.hset(f"{parent}:processed", mapping={f"s:{n}": str(n) for n in range(600)})
    raw.hset(f"{parent}:failed", mapping={"s:i": "12"})
    raw.sadd(f"{parent}:dependencies", *[f"s:u{n}" for n in range(600)])
    raw.zadd(f"{parent}:unsuccessful", {"s:f": NOW})
    found = run(dependencies.dependencies(Q, "p"))
    assert found.processed == {f"s:{n}": n for n in range(600)}
    assert found.ignored == {"s:i": "12"}
    assert found.unprocessed == {f"s:u{n}" for n in range(600)}
    assert found.failed == {"s:f"}
    assert len(run.requests) > 4
    assert run(dependencies.dependency_counts(Q, "p")) == {
        "processed": 600,
        "ignored": 1,
        "unprocessed": 600,
        "failed": 1,
    }


def test_reading_writes_nothing(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("j", "completed")
    dirty = raw.info("persistence")["rdb_changes_since_last_save"]
    run(reading.state(Q, "j"))
    run(reading.finished_result(Q, "j"))
    run(reading.page(Q, STATES, 0, 99, ascending=True))
    run(reading.finished_page(Q, "completed", None, 10))
    run(reading.queues("bull"))
    assert raw.info("persistence")["rdb_changes_since_last_save"] == dirty
