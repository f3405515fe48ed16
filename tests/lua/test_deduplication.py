"""`add` and `close_window`: deduplication of jobs that are added, and what ends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError
from tests.lua.conftest import fill
from tests.lua.database import changes, contents, events
from tests.lua.making import codes, event_names, finish, node, stored_fields, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import InvalidJob
from toril.job_events import JobRemoved, JobSaved
from toril.protocol.adding import Added, NewNode, add_flow, add_jobs
from toril.protocol.changing import close_window
from toril.protocol.record import CallRecord
from toril_lua import Chunk

LATER = NOW + 5
WANTS = frozenset({"toril_jobs_saved", "toril_jobs_removed"})


def dedup(id: str, delay: int = 0, **window: Any) -> NewNode:
    """A job with a deduplication in the window `d`."""
    opts: Any = {"deduplication": {"id": "d", **window}}
    return node(id, opts=opts | ({"delay": delay} if delay else {}))


def add(run: Runner, *nodes: NewNode, **more: Any) -> list[tuple[str, bool]]:
    """Add them; what became of each."""
    added: tuple[Added, ...] = run(add_jobs(nodes, now=NOW, **more))
    return [(one.id, one.duplicate) for one in added]


class TestSimple:
    def test_the_second_is_not_added(self, run: Runner, raw: redis.Redis) -> None:
        assert add(run, dedup("a")) == [("a", False)]
        before = contents(raw)
        assert add(run, dedup("b"), dedup("c")) == [("a", True), ("a", True)]
        assert changes(before, contents(raw)) == {
            f"{Q}:events": [
                *before[f"{Q}:events"],
                *(
                    {
                        "event": "deduplicated",
                        "jobId": "a",
                        "deduplicationId": "d",
                        "deduplicatedJobId": id,
                    }
                    for id in ("b", "c")
                ),
            ]
        }
        assert raw.hget(f"{Q}:a", "deid") == "d"
        assert json.loads(raw.hget(f"{Q}:a", "opts") or "") == {"attempts": 0, "de": {"id": "d"}}
        assert (raw.get(f"{Q}:de:d"), raw.ttl(f"{Q}:de:d")) == ("a", -1)

    def test_in_one_call(self, run: Runner) -> None:
        assert add(run, dedup("a"), dedup("b"), node("c")) == [
            ("a", False),
            ("a", True),
            ("c", False),
        ]

    def test_until_the_owner_has_ended(self, run: Runner) -> None:
        add(run, dedup("a"))
        (job,) = take(run).jobs
        assert add(run, dedup("b")) == [("a", True)]
        codes(run, finish(job))
        assert add(run, dedup("c")) == [("c", False)]

    def test_an_owner_that_is_gone_owns_nothing(self, run: Runner, raw: redis.Redis) -> None:
        raw.set(f"{Q}:de:d", "gone")
        raw.hset(f"{Q}:dn:d", "jid", "old")
        assert add(run, dedup("a")) == [("a", False)]
        assert raw.get(f"{Q}:de:d") == "a"
        assert not raw.exists(f"{Q}:dn:d")

    def test_a_number_is_used_up(self, run: Runner, raw: redis.Redis) -> None:
        opts: Any = {"deduplication": {"id": "d"}}
        counted = [node("", counter=True, opts=opts) for _ in range(3)]
        assert add(run, *counted) == [("1", False), ("1", True), ("1", True)]
        assert raw.get(f"{Q}:id") == "3"

    def test_only_what_was_added_is_told_as_saved(self, run: Runner) -> None:
        add(run, dedup("a"), dedup("b"), wants=WANTS)
        (event,) = run.events
        assert isinstance(event, JobSaved)
        assert (event.job.id, event.job.deduplication_id) == ("a", "d")

    def test_a_call_that_is_sent_again_says_the_same(self, run: Runner, raw: redis.Redis) -> None:
        record = CallRecord("p", 0, 1)
        nodes = [dedup("a"), dedup("b")]
        first = add(run, *nodes, record=record)
        before = contents(raw)
        assert add(run, *nodes, record=record) == first == [("a", False), ("a", True)]
        assert contents(raw) == before

    def test_what_cannot_be_written_owns_nothing(self, run: Runner, raw: redis.Redis) -> None:
        raw.set(f"{Q}:wait", "not a list")
        (added,) = run(add_jobs([dedup("a")], now=NOW))
        assert "garbled" in str(added.error)
        assert not raw.exists(f"{Q}:de:d", f"{Q}:a")

    def test_a_garbled_window_refuses_its_job_alone(self, run: Runner, raw: redis.Redis) -> None:
        raw.lpush(f"{Q}:de:d", "not a text")
        added = run(add_jobs([dedup("a"), node("b")], now=NOW))
        assert [one.error is None for one in added] == [False, True]


class TestForATime:
    def test_the_window_outlives_its_owner(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", ttl=60_000))
        codes(run, finish(take(run).jobs[0]))
        assert 59_000 < raw.pttl(f"{Q}:de:d") <= 60_000
        assert add(run, dedup("b", ttl=60_000)) == [("a", True)]
        raw.delete(f"{Q}:de:d")  # as when its time is over
        assert add(run, dedup("c", ttl=60_000)) == [("c", False)]

    def test_each_one_that_comes_extends_it(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", ttl=1000, extend=True))
        add(run, dedup("b", ttl=1000))
        assert raw.pttl(f"{Q}:de:d") <= 1000
        assert add(run, dedup("c", ttl=60_000, extend=True)) == [("a", True)]
        assert raw.get(f"{Q}:de:d") == "a"
        assert raw.pttl(f"{Q}:de:d") > 59_000


class TestReplacing:
    def test_a_delayed_owner_goes(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", 1000, replace=True, ttl=60_000))
        raw.pexpire(f"{Q}:de:d", 30_000)
        raw.rpush(f"{Q}:a:logs", "line")
        raw.hset(f"{Q}:dn:d", "jid", "old")
        told = events(raw, Q)
        assert add(run, dedup("b", 2000, replace=True, ttl=60_000), wants=WANTS) == [("b", False)]
        assert not raw.exists(f"{Q}:a", f"{Q}:a:logs", f"{Q}:dn:d")
        assert raw.zrange(f"{Q}:delayed", 0, -1) == ["b"]
        assert raw.get(f"{Q}:de:d") == "b"
        assert raw.pttl(f"{Q}:de:d") <= 30_000
        assert events(raw, Q)[len(told) :] == [
            {"event": "removed", "jobId": "a", "prev": "delayed"},
            {
                "event": "deduplicated",
                "jobId": "b",
                "deduplicationId": "d",
                "deduplicatedJobId": "a",
            },
            {"event": "added", "jobId": "b", "name": "send"},
            {"event": "delayed", "jobId": "b", "delay": str(NOW + 2000)},
        ]
        saved, removed = run.events
        assert isinstance(saved, JobSaved)
        assert isinstance(removed, JobRemoved)
        assert (removed.job.id, removed.cause, removed.state) == ("a", "replaced", "delayed")
        assert removed.job.delay == 1000

    def test_with_extend_the_time_begins_anew(self, run: Runner, raw: redis.Redis) -> None:
        for id in ("a", "b"):
            add(run, dedup(id, 1000, replace=True, extend=True, ttl=60_000))
            assert raw.get(f"{Q}:de:d") == id
            assert raw.pttl(f"{Q}:de:d") > 59_000
            raw.pexpire(f"{Q}:de:d", 30_000)

    def test_an_owner_that_is_not_delayed_stays(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", replace=True))
        before = contents(raw)
        assert add(run, dedup("b", replace=True)) == [("a", True)]
        assert contents(raw) == before

    def test_one_that_a_plugin_keeps_stays(self, raw: redis.Redis) -> None:
        source = "ctx.report(ctx.cause) ctx.keep('held')"
        run = Runner(raw, (Chunk("p", "removing", source),))
        add(run, dedup("a", 1000, replace=True))
        assert add(run, dedup("b", 1000, replace=True)) == [("a", True)]
        assert raw.zrange(f"{Q}:delayed", 0, -1) == ["a"]
        assert [report.value for report in run.reports] == ["replaced"]

    def test_chunks_are_told(self, raw: redis.Redis) -> None:
        source = "ctx.report({ctx.id, ctx.state, ctx.cause, ctx.now})"
        run = Runner(raw, (Chunk("p", "removed", source),))
        add(run, dedup("a", 1000, replace=True))
        add(run, dedup("b", 1000, replace=True))
        assert [report.value for report in run.reports] == [["a", "delayed", "replaced", NOW]]

    def test_the_parent_of_what_goes_does_not_wait_for_it(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        """BullMQ for Python lets a child be deduplicated."""
        parent = seed.job("p", "waiting-children", queue=OTHER)
        seed.job("a", "delayed", parent=parent, deid="d")
        raw.set(f"{Q}:de:d", "a")
        assert add(run, dedup("b", 1000, replace=True)) == [("b", False)]
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]


class TestKeepingTheLast:
    def test_it_is_added_when_the_owner_has_ended(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", keepLastIfActive=True))
        (job,) = take(run).jobs
        for id in ("b", "c"):
            kept = node(
                id,
                data=f'"{id}"',
                opts={"deduplication": {"id": "d", "keepLastIfActive": True}},
                own={"plugins": {"p": 1}},
            )
            assert add(run, kept) == [("a", True)]
        assert raw.hget(f"{Q}:dn:d", "jid") == "c"
        codes(run, finish(job), wants=WANTS)
        assert not raw.exists(f"{Q}:b", f"{Q}:dn:d")
        stored = stored_fields(raw, f"{Q}:c")
        assert (stored[b"data"], stored[b"timestamp"]) == (b'"c"', b"%d" % LATER)
        assert json.loads(stored[b"toril"]) == {"plugins": {"p": 1}}
        (event,) = run.events
        assert isinstance(event, JobSaved)
        assert (event.job.id, event.job.data) == ("c", "c")
        assert add(run, dedup("e", keepLastIfActive=True)) == [("c", True)]

    def test_while_the_owner_waits_nothing_is_kept(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", keepLastIfActive=True))
        assert add(run, dedup("b", keepLastIfActive=True)) == [("a", True)]
        assert not raw.exists(f"{Q}:dn:d")

    def test_chunks_are_told_of_it(self, raw: redis.Redis) -> None:
        source = "ctx.report({ctx.id, ctx.name, ctx.now})"
        run = Runner(raw, (Chunk("p", "saved", source),))
        add(run, dedup("a", keepLastIfActive=True))
        (job,) = take(run).jobs
        add(run, dedup("b", keepLastIfActive=True))
        codes(run, finish(job))
        told = [report.value for report in run.reports]
        assert told == [["a", "send", NOW], ["b", "send", LATER]]


class TestRescheduling:
    def test_a_delayed_owner_gets_the_delay(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a", 1000))
        assert add(run, dedup("b", 9000, reschedule=True)) == [("a", True)]
        assert raw.zscore(f"{Q}:delayed", "a") == (NOW + 9000) * 4096
        assert raw.zscore(f"{Q}:marker", "1") == NOW + 9000
        assert raw.hget(f"{Q}:a", "delay") == "9000"
        assert event_names(events(raw, Q))[-2:] == ["deduplicated", "delayed"]

    def test_another_is_left(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a"))
        add(run, dedup("b", 9000, reschedule=True))
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["a"]
        assert raw.hget(f"{Q}:a", "delay") == "0"


class TestFlows:
    def test_a_child_or_a_parent_is_refused(self) -> None:
        opts: Any = {"deduplication": {"id": "d"}}
        either: list[dict[str, Any]] = [{"parent": f"{OTHER}:p"}, {"is_parent": True}]
        for more in either:
            with pytest.raises(InvalidJob, match="parent or children"):
                node("a", opts=opts, **more)

    def test_a_root_without_children_may(self, run: Runner) -> None:
        for id, duplicate in (("a", False), ("b", True)):
            assert run(add_flow([dedup(id)], now=NOW)) == (Added("a", duplicate),)


@pytest.mark.parametrize("window", ["d", {}, {"id": ""}, {"ttl": 1}, ["d"]])
def test_what_a_plugin_garbles_is_refused(window: Any) -> None:
    with pytest.raises(InvalidJob, match="not a deduplication"):
        node("a", opts={"deduplication": window})


class TestClosing:
    def test_by_its_id(self, run: Runner, raw: redis.Redis) -> None:
        assert not run(close_window(Q, "d"))
        add(run, dedup("a", ttl=60_000))
        assert run(close_window(Q, "d"))
        assert add(run, dedup("b")) == [("b", False)]

    def test_by_its_owner_only(self, run: Runner, raw: redis.Redis) -> None:
        add(run, dedup("a"))
        assert not run(close_window(Q, "d", owner="b"))
        assert raw.get(f"{Q}:de:d") == "a"
        assert run(close_window(Q, "d", owner="a"))
        assert not raw.exists(f"{Q}:de:d")

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        run = Runner(own_server)
        add(run, dedup("a"))
        fill(own_server)
        assert run(close_window(Q, "d"))


def test_a_full_server_refuses_the_add_whole(own_server: redis.Redis) -> None:
    run = Runner(own_server)
    add(run, dedup("a", 1000))
    fill(own_server)
    before = contents(own_server)
    for window in ({}, {"replace": True}, {"ttl": 5, "extend": True}, {"reschedule": True}):
        with pytest.raises(OutOfMemoryError):
            add(run, dedup("b", 5, **window), record=CallRecord("p", 0, 1))
    assert contents(own_server) == before


def test_the_kept_job_is_added_on_a_full_server(own_server: redis.Redis) -> None:
    run = Runner(own_server)
    add(run, dedup("a", keepLastIfActive=True))
    (job,) = take(run).jobs
    add(run, dedup("b", keepLastIfActive=True))
    fill(own_server)
    assert codes(run, finish(job)) == (0,)
    assert own_server.lrange(f"{Q}:wait", 0, -1) == ["b"]
