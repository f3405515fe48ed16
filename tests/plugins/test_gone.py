"""Jobs that a rule removed: what is still told of them, their taken ids, and erasing both."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from toril import ActiveJob, App, Flow, Job, JobFailed, JobRemoved, Reject, Unrecoverable
from toril.cli import main
from toril.clock import ManualClock
from toril_plugins.retention.holds import Hold, hold, release
from toril_plugins.retention.journal import entries
from toril_plugins.retention.values import IdWindow, Keep, Retention

SECRET = "ada@example.org"
KEPT = Retention(completed=Keep(age="1h", tombstone="1d"), failed=Keep(age="1h", tombstone="1d"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(redis_url: str, clock: ManualClock) -> AsyncIterator[App]:
    async with App(redis_url, plugins=["persistence", "cleanup"], clock=clock) as made:
        yield made


async def send(job: ActiveJob) -> Any:
    if job.name == "bad":
        raise Unrecoverable(f"no such mailbox: {SECRET}")
    return job.data


async def swept(
    app: App,
    raw: redis.Redis,
    clock: ManualClock,
    name: str = "send",
    data: Any = None,
    **more: Any,
) -> Job:
    """A job that was run, and that a rule has removed since."""
    queue = app.queue("mail")
    job = await queue.add(name, data, **more)
    await app.worker("mail", send).run(burst=True)
    clock.advance("2h")
    assert await app.run_services("mail")
    assert not raw.exists(f"bull:mail:{job.id}")
    raw.delete("bull:mail:events")  # nobody but the tombstone can tell
    return job


class TestTombstones:
    @pytest.fixture(autouse=True)
    async def said(self, app: App) -> None:
        await app.queue("mail").set(KEPT)

    async def test_a_result(self, app: App, raw: redis.Redis, clock: ManualClock) -> None:
        finished = clock.now_ms()
        job = await swept(app, raw, clock, data={"to": SECRET})
        assert await job.result() == {"to": SECRET}
        told = await app.queue("mail").recall(job.id)
        assert told is not None
        assert (told.outcome, told.finished, told.name) == ("completed", finished, "send")
        assert told.told_by == "cleanup"
        facts = await job.explain()
        assert (facts[0].text, facts[0].at) == ("gone; it completed, as 'cleanup' tells", finished)
        assert [fact.subject for fact in facts[1:]] == ["rule", "removal", "said"]
        assert (facts[3].text, facts[3].level) == (f"{KEPT.completed}, by Queue.set", "queue")
        raw.delete(f"bull:mail:toril:cleanup:tomb:@{job.id}")
        with pytest.raises(JobRemoved):
            await job.result()

    async def test_a_reason(self, app: App, raw: redis.Redis, clock: ManualClock) -> None:
        job = await swept(app, raw, clock, "bad")
        with pytest.raises(JobFailed, match=f"no such mailbox: {SECRET}"):
            await job.result()

    async def test_a_result_that_was_too_large(
        self, app: App, raw: redis.Redis, clock: ManualClock
    ) -> None:
        job = await swept(app, raw, clock, data="x" * 5000)
        with pytest.raises(JobRemoved, match="its result was not kept"):
            await job.result()

    async def test_none(self, app: App, raw: redis.Redis, clock: ManualClock) -> None:
        job = await swept(app, raw, clock)
        assert await job.result() is None

    async def test_in_the_view_of_a_flow(
        self, app: App, redis_url: str, raw: redis.Redis, clock: ManualClock
    ) -> None:
        children = [
            Flow("mail", "send", id="sent"),
            Flow("mail", "bad", id="lost", on_failure="ignore"),
            Flow("mail", "send", id="nobody-knows"),
        ]
        root = await app.add_flow(Flow("reports", "sum", children=children))
        await app.worker("mail", send).run(burst=True)
        clock.advance("2h")
        assert await app.run_services("mail")
        raw.delete("bull:mail:toril:cleanup:tomb:@nobody-knows")
        gone = {ref.id: told for ref, told in (await app.flow_tree(root)).gone.items()}
        assert {id: told and (told.name, told.outcome) for id, told in gone.items()} == {
            "sent": ("send", "completed"),
            "lost": ("bad", "failed"),
            "nobody-knows": None,
        }
        shown = CliRunner().invoke(main, ["flows", "show", "reports", root.id, "--url", redis_url])
        assert shown.exit_code == 0
        assert sorted(line.split() for line in shown.stdout.splitlines()[2:]) == [
            ["bad", "mail", "lost", "gone", "failed", *f"no such mailbox: {SECRET}".split()],
            ["mail", "nobody-knows", "gone"],
            ["send", "mail", "sent", "gone", "completed"],
        ]

    async def test_an_unknown_queue_does_not_come_to_be(self, app: App, raw: redis.Redis) -> None:
        before = set(raw.keys("*"))
        assert await app.queue("mial").recall("x") is None
        await app.queue("mial").erase("x")
        assert set(raw.keys("*")) == before


class TestIdWindow:
    async def test_an_id_stays_taken(
        self, app: App, raw: redis.Redis, clock: ManualClock, redis_url: str
    ) -> None:
        queue = app.queue("mail")
        await queue.set(Retention(completed=Keep(age="1h")))
        await queue.set(IdWindow("1d"))
        await swept(app, raw, clock, id="order-1")
        ttl = raw.pttl("bull:mail:toril:cleanup:taken:@order-1")
        assert 23 * 3_600_000 < int(ttl) <= 24 * 3_600_000
        again = await queue.add("send", {"again": True}, id="order-1")
        assert again.id == "order-1"
        state, taken = await again.explain()
        assert state.text == "gone: a rule removed it, and only its id is left"
        assert taken.at is not None
        assert 0 <= clock.now_ms() + 86_400_000 - taken.at < 60_000
        assert taken.text.startswith("taken until ")
        shown = CliRunner().invoke(main, ["jobs", "explain", "mail", "order-1", "--url", redis_url])
        assert "only its id is left" in shown.stdout
        assert await queue.state("order-1") == "unknown"
        assert not raw.exists("bull:mail:order-1")
        stream: Any = raw.xrange("bull:mail:events")
        assert [entry[1]["event"] for entry in stream] == ["duplicated"]
        with pytest.raises(JobRemoved):
            await again.result()
        raw.delete("bull:mail:toril:cleanup:taken:@order-1")  # its time has run out
        await queue.add("send", id="order-1")
        assert await queue.state("order-1") == "waiting"

    async def test_a_duplicate_has_the_result_of_the_first(
        self, app: App, raw: redis.Redis, clock: ManualClock
    ) -> None:
        queue = app.queue("mail")
        await queue.set(KEPT)
        await queue.set(IdWindow("1d"))
        await swept(app, raw, clock, data={"n": 1}, id="order-1")
        root = await app.add_flow(
            Flow("reports", "sum", children=[Flow("mail", "send", {"n": 2}, id="order-1")])
        )
        assert await root.state() == "waiting", "nobody waits for the child"
        recalled = await queue.recall("order-1")
        assert recalled is not None
        assert recalled.result == {"n": 1}

    async def test_taken_back(self, app: App, raw: redis.Redis, clock: ManualClock) -> None:
        queue = app.queue("mail")
        await queue.set(Retention(completed=Keep(age="1h")))
        await queue.set(IdWindow("1d"))
        await swept(app, raw, clock, id="order-1")
        await queue.unset(IdWindow)
        await queue.add("send", id="order-1")
        assert await queue.state("order-1") == "waiting"


class TestErase:
    async def test_what_is_left_of_a_job(
        self, app: App, raw: redis.Redis, clock: ManualClock
    ) -> None:
        queue = app.queue("mail")
        await queue.set(KEPT)
        await queue.set(IdWindow("1d"))
        job = await swept(app, raw, clock, data={"to": SECRET}, id="order-1")
        erased = await queue.erase("order-1")
        assert erased.plugins == {"cleanup": "a tombstone, its taken id"}
        assert await queue.recall("order-1") is None
        assert raw.keys("*order-1*") == []
        (entry, *said) = await entries(queue)
        assert {each.what for each in said} == {"set retention", "set idwindow"}
        assert entry.what == "erase"
        assert entry.details == {"job": hashlib.sha1(b"order-1").hexdigest()[:16]}
        assert entry.at == clock.now_ms()
        assert job.id not in str(raw.xrange("bull:mail:toril:cleanup:journal"))
        await queue.add("send", id="order-1")
        assert await queue.state("order-1") == "waiting"

    async def test_a_decision_of_its_own(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        job = await queue.add("send", {"to": SECRET}, Retention(completed="7d"))
        await app.worker("mail", send).run(burst=True)
        assert raw.zscore("bull:mail:toril:cleanup:own:completed", job.id)
        await job.erase()
        assert not raw.exists("bull:mail:toril:cleanup:own:completed")
        assert not raw.exists("bull:mail:toril:cleanup:at:completed")

    async def test_values_in_a_parent_are_found_by_the_tombstone(
        self, app: App, raw: redis.Redis, clock: ManualClock
    ) -> None:
        await app.queue("mail").set(KEPT)
        root = await app.add_flow(
            Flow("reports", "sum", children=[Flow("mail", "send", {"to": SECRET}, id="c")])
        )
        await app.worker("mail", send).run(burst=True)
        await app.worker("reports", send).run(burst=True)
        clock.advance("2h")
        await app.run_services("mail")
        assert raw.hgetall(f"bull:reports:{root.id}:processed")
        erased = await app.queue("mail").erase("c")
        assert (erased.job, erased.in_parent) == (False, 1)
        assert not raw.exists(f"bull:reports:{root.id}:processed")

    async def test_a_held_job_is_refused(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        job = await queue.add("send", {"to": SECRET})
        await app.worker("mail", send).run(burst=True)
        await hold(queue, Hold(id=job.id, why="a lawsuit"))
        with pytest.raises(Reject, match="a lawsuit"):
            await job.erase()
        assert await job.result() == {"to": SECRET}
        await release(queue, Hold(id=job.id))
        assert (await job.erase()).job
