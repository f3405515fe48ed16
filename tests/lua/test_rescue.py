"""The scripts of the rescue: which parents they find, and how they fail one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import contents
from tests.lua.making import LOCK_MS, Numbers, end, event_names, fetch, finish
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import IndeterminateError, JobError
from toril.job_events import JobAttemptFailed
from toril.protocol import rescuing
from toril.protocol.changing import retry_job
from toril.protocol.finishing import tick
from toril.protocol.record import CallRecord
from toril.protocol.rescuing import DONE, GARBLED, NOT_ACTIVE, NOT_FOUND, Deferred, Place
from toril.protocol.trees import remove_job
from toril.snapshots import JobSnapshot
from toril_lua import Chunk, compose

REASON = f"child {Q}:c failed"
LATER = NOW + 60_000
PARENT = f"{OTHER}:p"
WANTS = frozenset({"toril_jobs_failed", "toril_jobs_removed"})


Change = Callable[[redis.Redis], Any]
"""What happens to the database before."""


NOT_TO_BE_NOTED: list[Change] = [
    lambda raw: raw.hdel(PARENT, "defa"),
    lambda raw: raw.zadd(f"{OTHER}:failed", {"p": NOW}),
    lambda raw: raw.delete(PARENT),
    lambda raw: raw.hset(f"{Q}:c", "parent", '{"id":"p","idof":true,"x":"fpof"}'),
    lambda raw: raw.hset(f"{Q}:c", "parent", "fpof"),
    lambda raw: raw.hdel(f"{Q}:c", "parentKey"),
    lambda raw: (raw.delete(f"{Q}:c"), raw.set(f"{Q}:c", "no job")),
    lambda raw: (raw.delete(PARENT), raw.set(PARENT, "no job")),
]

HINDRANCES: list[Change] = [
    lambda raw: raw.hset(f"{OTHER}:meta", "paused", 1),
    lambda raw: raw.set(f"{PARENT}:lock", "t", px=LOCK_MS),
    lambda raw: raw.hset(PARENT, "defa", "another reason"),
    lambda raw: (raw.delete(f"{OTHER}:wait"), raw.lpush(f"{OTHER}:active", "p")),
    lambda raw: (
        raw.delete(f"{OTHER}:wait"),
        raw.zadd(f"{OTHER}:delayed", {"p": (LATER + 1) * 4096}),
    ),
]

NOTHING_LEFT: list[Change] = [
    lambda raw: raw.delete(PARENT, f"{OTHER}:wait"),
    lambda raw: raw.hdel(PARENT, "defa"),
    lambda raw: raw.zadd(f"{OTHER}:failed", {"p": NOW}),
]

SCORES: list[Callable[[int], int]] = [lambda n: NOW, lambda n: NOW + n, lambda n: NOW + n // 7]


@pytest.fixture
def parent(raw: redis.Redis, seed: Seed) -> str:
    """A parent that waits in the queue `other` to fail, noted in both queues."""
    seed.job("p", "wait", queue=OTHER, defa=REASON, ats=0)
    raw.zadd(f"{Q}:toril:deferred", {PARENT: NOW})
    raw.zadd(f"{OTHER}:toril:deferred", {PARENT: NOW})
    return PARENT


def look(run: Runner, place: Place | None = None, before: int = NOW, queue: str = Q) -> Deferred:
    found: Deferred = run(
        rescuing.deferred(queue, now=LATER, before=before, place=place or Place())
    )
    return found


def rescue(run: Runner, id: str = "p", reason: str = REASON, **more: Any) -> int:
    job = JobSnapshot("other", id, {b"defa": reason.encode(), b"ats": b"1"})
    ended = finish(job, "rescue:1", "failed", value=reason, from_head=True, cause="child")
    code: int = run(rescuing.rescue(OTHER, ended, finder=Q, now=LATER, wants=WANTS, **more))
    return code


class TestFinding:
    def test_what_was_noted(self, run: Runner, raw: redis.Redis, parent: str) -> None:
        raw.zadd(f"{Q}:toril:deferred", {f"{OTHER}:later": NOW + 1})
        found = look(run)
        assert list(found.parents) == [parent]
        assert found.parents[parent][b"defa"] == REASON.encode()
        assert (found.place, found.more) == (Place(), False)

    def test_what_is_no_longer_true_is_dropped(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("fine", "wait", queue=OTHER)
        raw.set(f"{OTHER}:text", "no job")
        for id in ("gone", "fine", "text"):
            raw.zadd(f"{Q}:toril:deferred", {f"{OTHER}:{id}": NOW})
        assert look(run).parents == {}
        assert not raw.exists(f"{Q}:toril:deferred")

    def test_a_look_that_finds_nothing_writes_nothing(self, run: Runner, raw: redis.Redis) -> None:
        look(run, queue="bull:mistyped")
        assert raw.dbsize() == 0

    def test_at_most_100_and_about_a_megabyte(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        for n in range(110):
            key = seed.job(f"p{n:03}", "wait", queue=OTHER, defa=REASON)
            raw.zadd(f"{Q}:toril:deferred", {key: NOW - 200 + n})
        assert list(look(run).parents) == [f"{OTHER}:p{n:03}" for n in range(100)]
        for n in range(4):
            raw.hset(f"{OTHER}:p{n:03}", "data", "x" * 600_000)
        assert len(look(run).parents) == 2

    @pytest.mark.parametrize("state", ["wait", "waiting-children", "active", "delayed"])
    def test_parents_of_children_that_others_failed(
        self, run: Runner, raw: redis.Redis, seed: Seed, state: str
    ) -> None:
        parent = seed.job("p", state, queue=OTHER, defa=REASON)
        seed.job("c", "failed", parent=parent, policy="fpof", score=NOW - 7)
        look(run)
        assert raw.zscore(f"{Q}:toril:deferred", parent) == NOW - 7, "since then it waits"
        raw.zadd(f"{Q}:toril:deferred", {parent: NOW})
        look(run)
        assert raw.zscore(f"{Q}:toril:deferred", parent) == NOW

    @pytest.mark.parametrize(
        "change",
        NOT_TO_BE_NOTED,
    )
    def test_others_are_not_noted(
        self, run: Runner, raw: redis.Redis, seed: Seed, change: Change
    ) -> None:
        parent = seed.job("p", "wait", queue=OTHER, defa=REASON)
        seed.job("c", "failed", parent=parent, policy="fpof")
        change(raw)
        look(run)
        assert not raw.exists(f"{Q}:toril:deferred")

    @pytest.mark.parametrize("scores", SCORES)
    def test_all_failed_children_are_looked_at_page_by_page(
        self, run: Runner, raw: redis.Redis, seed: Seed, scores: Callable[[int], int]
    ) -> None:
        """However many of them failed in the same millisecond, and while more come."""
        for n in range(1_203):
            if n % 100 == 0:
                parent = seed.job(f"p{n}", "wait", queue=OTHER, defa=REASON)
                seed.job(f"c{n}", "failed", parent=parent, policy="fpof", score=scores(n))
            else:
                seed.put(f"c{n}", "failed", score=scores(n))
        place, looks = Place(), 0
        while True:
            found = look(run, place, before=0)
            place, looks = found.place, looks + 1
            if not found.more:
                break
        assert looks == 3
        assert raw.zcard(f"{Q}:toril:deferred") == 13
        parent = seed.job("new", "wait", queue=OTHER, defa=REASON)
        seed.job("d", "failed", parent=parent, policy="fpof", score=scores(1_204))
        look(run, place, before=0)
        assert raw.zscore(f"{Q}:toril:deferred", parent) == scores(1_204)

    def test_not_beyond_a_time(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        for n, score in enumerate((NOW, NOW + 1, 9_000_000_000_000_000)):
            parent = seed.job(f"p{n}", "wait", queue=OTHER, defa=REASON)
            seed.job(f"c{n}", "failed", parent=parent, policy="fpof", score=score)
        found: Deferred = run(
            rescuing.deferred(Q, now=LATER, before=0, place=Place(), till=NOW + 1)
        )
        assert found.place == Place(str(NOW + 1), 1)
        assert raw.zrange(f"{Q}:toril:deferred", 0, -1) == [f"{OTHER}:p0", f"{OTHER}:p1"]


class TestFailing:
    def test_everything_is_as_a_worker_leaves_it(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        """The same job, failed by a worker in one queue and rescued in the other."""
        seed.job("p", "wait", defa=REASON, ats=0)
        jobs = run(tick(Q, now=LATER, fetch=fetch(token="rescue:1"))).jobs
        by_worker = finish(jobs[0], "rescue:1", "failed", value=REASON, from_head=True)
        end(run, by_worker, now=LATER)
        assert rescue(run) == DONE
        found = contents(raw)
        assert found[parent] == found[f"{Q}:p"]
        assert found[f"{OTHER}:failed"] == found[f"{Q}:failed"]
        assert found[f"{OTHER}:events"] == found[f"{Q}:events"]
        assert event_names(found[f"{OTHER}:events"]) == [
            "active", "failed", "retries-exhausted", "drained",
        ]  # fmt: skip
        assert not [key for key in found if key.startswith(OTHER) and key.endswith("deferred")]
        (event,) = [event for event in run.events if isinstance(event, JobAttemptFailed)]
        assert (event.job.id, event.final, event.cause) == ("p", True, "child")

    def test_its_own_parent_is_noted_where_it_was_found(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        top = seed.job("t", "waiting-children", queue="bull:top")
        seed.job("p", "wait", queue=OTHER, defa=REASON, parent=top, policy="fpof")
        raw.zadd(f"{Q}:toril:deferred", {PARENT: NOW})
        assert rescue(run) == DONE
        for queue in (Q, OTHER, "bull:top"):
            assert raw.zrange(f"{queue}:toril:deferred", 0, -1, withscores=True) == [(top, LATER)]
        assert raw.hget(top, "defa") == f"child {PARENT} failed"

    @pytest.mark.parametrize(
        "hinder",
        HINDRANCES,
    )
    def test_not_now(self, run: Runner, raw: redis.Redis, parent: str, hinder: Change) -> None:
        hinder(raw)
        before = contents(raw)
        assert rescue(run) == NOT_ACTIVE
        after = contents(raw)
        assert raw.zscore(f"{Q}:toril:deferred", parent) == LATER, "so that others come before"
        for found in (before, after):
            del found[f"{Q}:toril:deferred"]
            found.pop(f"{OTHER}:meta", None)
        assert after == before

    @pytest.mark.parametrize(
        "done",
        NOTHING_LEFT,
    )
    def test_nothing_to_do(self, run: Runner, raw: redis.Redis, parent: str, done: Change) -> None:
        done(raw)
        assert rescue(run) == NOT_FOUND
        assert not raw.exists(f"{Q}:toril:deferred", f"{OTHER}:toril:deferred")

    def test_a_due_delayed_one_is_promoted_first(
        self, run: Runner, raw: redis.Redis, parent: str
    ) -> None:
        raw.delete(f"{OTHER}:wait")
        raw.zadd(f"{OTHER}:delayed", {"p": LATER * 4096 + 5})
        raw.hset(parent, "delay", 7)
        assert rescue(run) == DONE
        assert event_names(contents(raw)[f"{OTHER}:events"])[:2] == ["waiting", "active"]
        assert raw.hget(parent, "delay") == "0"

    def test_others_stay_in_their_places(self, run: Runner, raw: redis.Redis, parent: str) -> None:
        raw.rpush(f"{OTHER}:wait", "next")
        raw.lpush(f"{OTHER}:wait", "last")
        raw.lpush(f"{OTHER}:active", "running")
        raw.zadd(f"{OTHER}:prioritized", {"urgent": 1})
        assert rescue(run) == DONE
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["last", "next"]
        assert raw.lrange(f"{OTHER}:active", 0, -1) == ["running"]
        assert "drained" not in event_names(contents(raw)[f"{OTHER}:events"])

    def test_concurrency_and_rate_limit_do_not_count(
        self, run: Runner, raw: redis.Redis, parent: str
    ) -> None:
        raw.hset(f"{OTHER}:meta", mapping={"concurrency": 1, "max": 1, "duration": 1000})
        raw.lpush(f"{OTHER}:active", "running")
        raw.set(f"{OTHER}:limiter", 5, px=1000)
        assert rescue(run) == DONE
        assert raw.get(f"{OTHER}:limiter") == "5"

    def test_garbled(self, run: Runner, raw: redis.Redis, parent: str) -> None:
        """It does not stand in the way of others for ever."""
        raw.set(f"{OTHER}:failed", "no set")
        before = raw.hgetall(parent)
        assert rescue(run) == GARBLED
        assert raw.hgetall(parent) == before
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
        assert not raw.exists(f"{Q}:toril:deferred")

    def test_what_breaks_in_the_middle_is_put_back(
        self, run: Runner, raw: redis.Redis, parent: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing that can be stored makes the finish break there; a changed script does."""

        def broken(name: str, chunks: Any) -> Any:
            script = compose(name, chunks)
            text = script.text.replace(
                "redis.call('ZADD', Q .. ':' .. kind, now, id)", "error('x')"
            )
            return type(script)(script.name, text, script.sha1)

        monkeypatch.setattr("tests.lua.running.compose", broken)
        assert rescue(run) == GARBLED
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
        assert not raw.exists(f"{OTHER}:active", f"{parent}:lock", f"{Q}:toril:deferred")
        assert raw.hget(parent, "defa") == REASON

    def test_chunks_get_it(self, raw: redis.Redis, parent: str) -> None:
        told = (
            "ctx.report({id = ctx.id, outcome = ctx.outcome, plan = ctx.plan, cause = ctx.cause})"
        )
        batch = """for _, job in ipairs(ctx.jobs) do
            ctx.report(ctx.remove(job.id, job.outcome, 'rule', job.finished_on))
        end"""
        run = Runner(raw, (Chunk("p", "finished", told), Chunk("p", "finished_batch", batch)))
        job = JobSnapshot("other", "p", {b"defa": REASON.encode()})
        ended = finish(job, "rescue:1", "failed", value=REASON, cause="child", plans={"p": [1]})
        assert run(rescuing.rescue(OTHER, ended, finder=Q, now=LATER, wants=WANTS)) == DONE
        assert [report.value for report in run.reports] == [
            {"id": "p", "outcome": "failed", "plan": [1], "cause": "child"}, True,
        ]  # fmt: skip
        assert not raw.exists(parent)

    def test_sent_again_it_is_done_once(self, run: Runner, raw: redis.Redis, parent: str) -> None:
        with Numbers().call() as record:
            assert rescue(run, record=record) == DONE
            events = raw.xlen(f"{OTHER}:events")
            assert rescue(run, record=record) == DONE
        assert raw.xlen(f"{OTHER}:events") == events
        with pytest.raises(IndeterminateError):
            rescue(run, record=CallRecord(record.who, record.lane, record.n - 1))


class TestRace:
    """A worker of the parent's queue picks it up and ends it; a rescue comes at any point."""

    @pytest.mark.parametrize("rescue_at", range(3))
    def test_with_a_worker(
        self, run: Runner, raw: redis.Redis, parent: str, rescue_at: int
    ) -> None:
        steps: list[Callable[[], Any]] = [
            lambda: run(tick(OTHER, now=LATER, fetch=fetch(token="w:1"))),
            lambda: run(
                tick(OTHER, now=LATER, finishes=[finish("p", "w:1", "failed", value=REASON)])
            ),
        ]
        steps.insert(rescue_at, lambda: rescue(run))
        results = [step() for step in steps]
        assert results[rescue_at] == (DONE, NOT_ACTIVE, NOT_FOUND)[rescue_at]
        assert raw.hget(parent, "atm") == raw.hget(parent, "ats") == "1"
        assert raw.zcard(f"{OTHER}:failed") == 1
        assert not raw.exists(f"{OTHER}:active", f"{parent}:lock")
        names = event_names(contents(raw)[f"{OTHER}:events"])
        assert names.count("failed") == names.count("active") == 1

    @pytest.mark.parametrize("order", list(itertools.permutations(["remove", "retry", "rescue"])))
    def test_with_an_operator(
        self, run: Runner, raw: redis.Redis, parent: str, order: tuple[str, ...]
    ) -> None:
        """Removed or retried around it: it is never in two states, and never half there."""
        acts: dict[str, Callable[[], Any]] = {
            "remove": lambda: run(remove_job(OTHER, "p", with_children=False, now=LATER)),
            "retry": lambda: run(retry_job(OTHER, "p", "failed", reset_attempts=False)),
            "rescue": lambda: rescue(run),
        }
        for name in order:
            if name == "retry":
                with contextlib.suppress(JobError):  # it is not in that state
                    acts[name]()
            else:
                acts[name]()
        left = raw.exists(parent)
        places = raw.zcard(f"{OTHER}:failed") + raw.llen(f"{OTHER}:wait")
        assert places == left
        assert not raw.exists(f"{OTHER}:active", f"{parent}:lock")


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed, run = Seed(own_server), Runner(own_server)
    parent = seed.job("p", "wait", queue=OTHER, defa=REASON)
    seed.job("c", "failed", parent=parent, policy="fpof", score=NOW - 1)
    fill(own_server)
    assert list(look(run).parents) == [parent]
    assert rescue(run) == DONE
    assert own_server.zcard(f"{OTHER}:failed") == 1
