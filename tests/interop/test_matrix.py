"""Each library works off what each one added, and both tell the same story about it.

Every library is a process of its own. All pairs do all of it; what one of them does differently is
said in docs/beside-bullmq.md, and where it shows here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import redis

from tests.interop.conftest import Library
from tests.interop.duo import Duo, eventually
from tests.support.driver import DriverError
from tests.support.node import Node
from tests.support.server import Server

LIBRARIES = ["toril", "node", "node5", "python"]
PAIRS = [
    *((producer, worker) for producer in LIBRARIES for worker in LIBRARIES),
    ("toril", "node5452"),
    ("node5452", "toril"),
]


@pytest.fixture(params=PAIRS, ids="-".join)
async def duo(
    request: pytest.FixtureRequest, library: Library, redis_url: str
) -> AsyncIterator[Duo]:
    producer, worker = (library(name) for name in request.param)
    yield Duo(producer, worker)
    for driver in {producer, worker}:
        await driver.reset()


async def test_plain(duo: Duo) -> None:
    await duo.worker.worker("q")
    for opts in ({}, {"jobId": "mine"}):
        said = {"do": [["return", {"n": [1]}]]}
        added = await duo.producer.add("q", "job", said, opts)
        job = await duo.settled("q", added, "completed")
        assert job["id"] == opts.get("jobId", added)
        assert (job["name"], job["data"], job["result"]) == ("job", said, {"n": [1]})
        assert job["attempts_made"] == 1
    jobs = [{"name": f"j{n}", "data": {"do": [["return", n]]}, "opts": {}} for n in range(20)]
    ids = await duo.producer.add_bulk("q", jobs)
    results = [(await duo.settled("q", each, "completed"))["result"] for each in ids]
    assert results == list(range(20))
    counts = await duo.producer.counts("q")
    assert counts["completed"] == 22
    assert sum(counts.values()) == 22
    assert sorted(await duo.producer.ids("q", "completed")) == sorted(
        await duo.worker.ids("q", "completed")
    )


async def test_delayed(duo: Duo, raw: redis.Redis) -> None:
    await duo.worker.worker("q")
    early = await duo.producer.add("q", "early", {"do": []}, {"delay": 200})
    late = await duo.producer.add("q", "late", {"do": []}, {"delay": 60_000})
    await duo.settled("q", early, "completed")
    times = raw.hmget(f"bull:q:{early}", "timestamp", "processedOn")
    begun, run = (int(cast("str", each)) for each in cast("list[str | None]", times))
    assert run >= begun + 200
    assert (await duo.worker.job("q", late) or {})["state"] == "delayed"
    await duo.producer.act("promote", "q", id=late)
    await duo.settled("q", late, "completed")


async def test_prioritised(duo: Duo) -> None:
    added = {"third": 2, "fourth": 2, "second": 1, "first": 0, "last": 2_097_151}
    for name, priority in added.items():
        opts = {"jobId": name, "priority": priority} if priority else {"jobId": name}
        await duo.producer.add("q", name, {"do": []}, opts)
    assert await finished(duo, "last") == ["first", "second", "third", "fourth", "last"]


async def test_last_in_first_out(duo: Duo) -> None:
    for name, lifo in (("second", False), ("last", False), ("first", True)):
        await duo.producer.add("q", name, {"do": []}, {"jobId": name, "lifo": lifo})
    assert await finished(duo, "last") == ["first", "second", "last"]


async def finished(duo: Duo, last: str) -> list[str]:
    """The ids in the order in which a worker with one job at a time ends them."""
    reader = await duo.producer.events_open("q")
    await duo.worker.worker("q", concurrency=1)
    await duo.settled("q", last, "completed")
    seen: list[str] = []

    async def told() -> bool:
        events = await duo.producer.events_take(reader)
        seen.extend(event["jobId"] for event in events if event["event"] == "completed")
        return last in seen

    await eventually("all ends are told of", told)
    return seen


async def test_retries_with_backoff(duo: Duo) -> None:
    await duo.worker.worker("q")
    once = {"do": [["fail-times", 1, "not yet"], ["return", "at last"]]}
    saved = await duo.producer.add("q", "saved", once, {"attempts": 3})
    lost = await duo.producer.add(
        "q", "lost", {"do": [["fail", "boom ü"]]}, {"attempts": 2, "backoff": 200}
    )
    never = await duo.producer.add(
        "q", "never", {"do": [["unrecoverable", "hopeless"]]}, {"attempts": 5}
    )
    job = await duo.settled("q", saved, "completed")
    assert (job["attempts_made"], job["result"], job["reason"]) == (2, "at last", "not yet")
    job = await duo.settled("q", lost, "failed")
    assert (job["attempts_made"], job["reason"]) == (2, "boom ü")
    job = await duo.settled("q", never, "failed")
    assert (job["attempts_made"], job["reason"]) == (1, "hopeless")


async def test_failed_job_is_retried_by_the_other_side(duo: Duo) -> None:
    await duo.worker.worker("q")
    job = await duo.producer.add("q", "job", {"do": [["fail-times", 1, "first"], ["return", 7]]})
    await duo.settled("q", job, "failed")
    await duo.producer.act("retry", "q", id=job, state="failed")
    assert (await duo.settled("q", job, "completed"))["result"] == 7


@pytest.mark.parametrize(
    ("policy", "ends"),
    [
        ("failParentOnFailure", "failed"),
        ("ignoreDependencyOnFailure", "completed"),
        ("removeDependencyOnFailure", "completed"),
        ("continueParentOnFailure", "completed"),
    ],
)
async def test_flow(duo: Duo, policy: str, ends: str) -> None:
    if policy == "continueParentOnFailure" and duo.has("bullmq5452"):
        ends = "waiting-children"  # that version does not know the policy yet
    good = {"queue": "steps", "name": "good", "data": {"do": [["return", 1]]}}
    fails = {"do": [["fail", "boom"]]}
    bad = {"queue": "steps", "name": "bad", "data": fails, "opts": {policy: True}}
    tree = await duo.producer.add_flow(
        {
            "queue": "orders",
            "name": "order",
            "data": {"do": [["children-values"]]},
            "opts": {"removeOnComplete": {"count": 10}},
            "children": [good, bad],
        }
    )
    await duo.worker.worker("steps")
    await duo.settled("steps", tree["children"][0]["id"], "completed")
    await duo.settled("steps", tree["children"][1]["id"], "failed")
    await duo.worker.worker("orders")
    job = await duo.settled("orders", tree["id"], ends)
    if ends == "completed":
        assert job["result"] == [1]
    elif ends == "failed":
        assert job["reason"] == f"child bull:steps:{tree['children'][1]['id']} failed"


async def test_schedule(duo: Duo) -> None:
    await duo.worker.worker("q")
    repeat = {"every": 200, "limit": 3}
    template = {"name": "tick", "data": {"do": [["return", 1]]}, "opts": {}}
    await duo.producer.act("schedule", "q", id="s", repeat=repeat, template=template)

    async def three() -> bool:
        return (await duo.worker.counts("q"))["completed"] == 3

    await eventually("three runs", three)
    await asyncio.sleep(0.3)
    assert (await duo.producer.counts("q"))["completed"] == 3
    times = sorted(int(id.rsplit(":")[-1]) for id in await duo.producer.ids("q", "completed"))
    assert len(set(times)) == 3
    if duo.worker.label != "bullmq5452":  # which counts an interval from the epoch
        # A worker that comes late leaves slots out; none is between two slots.
        assert [(each - times[0]) % 200 for each in times] == [0, 0, 0]


async def test_deduplication(duo: Duo) -> None:
    once: dict[str, Any] = {"deduplication": {"id": "once"}}
    first = await duo.producer.add("q", "first", {"do": []}, once)
    assert await duo.producer.add("q", "second", {"do": [["fail", "ran"]]}, once) == first
    hour = {"deduplication": {"id": "hour", "ttl": 3_600_000}}
    throttled = await duo.producer.add("q", "throttled", {"do": []}, hour)
    await duo.worker.worker("q")
    await duo.settled("q", first, "completed")
    await duo.settled("q", throttled, "completed")
    again = await duo.producer.add("q", "again", {"do": []}, once)
    assert again != first, "the window ended with its owner"
    await duo.settled("q", again, "completed")
    assert await duo.producer.add("q", "more", {"do": []}, hour) == throttled
    counts = await duo.producer.counts("q")
    assert (counts["completed"], counts["failed"]) == (3, 0)


async def test_rate_limited(duo: Duo, raw: redis.Redis) -> None:
    jobs = [{"name": f"j{n}", "data": {"do": []}, "opts": {}} for n in range(5)]
    ids = await duo.producer.add_bulk("q", jobs)
    await duo.worker.worker("q", concurrency=5, limiter={"max": 2, "duration": 300})
    for each in ids:
        await duo.settled("q", each, "completed")
    starts = sorted(int(cast("str", raw.hget(f"bull:q:{each}", "processedOn"))) for each in ids)
    # The server counts the time of a window from its first job.
    assert starts[2] - starts[0] >= 290
    assert starts[4] - starts[2] >= 290


async def test_removed(duo: Duo) -> None:
    gone = await duo.producer.add("q", "gone", {"do": [["fail", "ran"]]})
    stays = await duo.producer.add("q", "stays", {"do": [["return", 1]]})
    await duo.producer.act("remove", "q", id=gone)
    await duo.worker.worker("q")
    await duo.settled("q", stays, "completed")
    assert await duo.worker.job("q", gone) is None
    assert await duo.producer.job("q", gone) is None
    assert (await duo.worker.counts("q"))["failed"] == 0


async def test_finished_jobs_go_as_their_options_say(duo: Duo) -> None:
    await duo.worker.worker("q")
    brief = await duo.producer.add("q", "brief", {"do": []}, {"removeOnComplete": True})
    kept = await duo.producer.add("q", "kept", {"do": []})
    await duo.settled("q", kept, "completed")

    async def gone() -> bool:
        return await duo.producer.job("q", brief) is None

    await eventually("the job is gone", gone)
    assert (await duo.producer.counts("q"))["completed"] == 1


async def test_paused_and_resumed(duo: Duo) -> None:
    await duo.worker.worker("q")
    await duo.producer.act("pause", "q")
    job = await duo.producer.add("q", "job", {"do": [["return", 1]]})
    await asyncio.sleep(0.3)
    assert (await duo.worker.job("q", job) or {})["state"] in {"waiting", "paused"}
    await duo.producer.act("resume", "q")
    await duo.settled("q", job, "completed")


async def test_progress_and_logs(duo: Duo) -> None:
    steps = [
        ["log", "one"],
        ["log", "two"],
        ["progress", {"percent": 50}],
        ["gate"],
        ["log", "end"],
    ]
    added = await duo.producer.add("q", "job", {"do": steps}, {"keepLogs": 2})
    await duo.worker.worker("q")
    await duo.worker.gated("job")
    running = await duo.producer.job("q", added)
    assert running is not None
    assert (running["state"], running["progress"]) == ("active", {"percent": 50})
    assert await duo.producer.logs("q", added) == ["one", "two"]
    await duo.producer.act("log", "q", id=added, text="from outside", keep=2)
    await duo.worker.open_gate("job")
    await duo.settled("q", added, "completed")
    for side in (duo.producer, duo.worker):
        assert await side.logs("q", added) == ["from outside", "end"]


async def test_events_read_the_same_on_both_sides(duo: Duo) -> None:
    readers = [await driver.events_open("q") for driver in (duo.producer, duo.worker)]
    await duo.worker.worker("q")
    good = await duo.producer.add("q", "good", {"do": [["progress", 1], ["return", {"a": 1}]]})
    await duo.settled("q", good, "completed")
    bad = await duo.producer.add("q", "bad", {"do": [["fail", "boom"]]})
    await duo.settled("q", bad, "failed")
    await duo.producer.act("remove", "q", id=good)
    seen: list[list[tuple[str, str | None]]] = [[], []]

    async def both() -> bool:
        for reader, driver, told in zip(readers, (duo.producer, duo.worker), seen, strict=True):
            events = await driver.events_take(reader)
            told += [(event["event"], event.get("jobId")) for event in events]
        return all(("removed", good) in told for told in seen)

    await eventually("both have seen the removal", both)
    assert seen[0] == seen[1]
    for expected in ("added", "waiting", "active", "progress", "completed"):
        assert (expected, good) in seen[0]
    assert ("failed", bad) in seen[0]


async def test_producer_waits_for_the_result(duo: Duo) -> None:
    await duo.worker.worker("q")
    good = await duo.producer.add("q", "good", {"do": [["sleep", 50], ["return", [1, "ü"]]]})
    bad = await duo.producer.add("q", "bad", {"do": [["sleep", 50], ["fail", "boom"]]})
    try:
        assert await duo.producer.wait_until_finished("q", good) == [1, "ü"]
    except DriverError as error:
        if error.name != "Unsupported":
            raise
        await duo.settled("q", good, "completed")  # this producer has to look itself
    else:
        with pytest.raises(DriverError, match="boom"):
            await duo.producer.wait_until_finished("q", bad)


@pytest.mark.parametrize(("dies", "rescues"), PAIRS, ids=str)
async def test_stalled_worker_killed(
    node: Node, server: Server, library: Library, raw: redis.Redis, *, dies: str, rescues: str
) -> None:
    victim, rescuer = library(dies), library(rescues)
    if victim is rescuer:
        rescuer = node.driver(server.url)
    try:
        said = {"do": [["gate"], ["return", "rescued"]]}
        job = await rescuer.add("q", "job", said, {"attempts": 1})
        await victim.worker("q", lockDuration=600, stalledInterval=400)
        await victim.gated("job")
        victim.kill()
        await rescuer.open_gate("job")
        await rescuer.worker("q", lockDuration=600, stalledInterval=400)
        found = await Duo(rescuer, rescuer).settled("q", job, "completed")
        assert found["result"] == "rescued"
        stalled = raw.hmget(f"bull:q:{job}", "stc", "stalledCounter")  # the latter in old versions
        assert "1" in stalled
        assert not raw.exists(f"bull:q:{job}:lock")
    finally:
        await rescuer.reset()
        if dies == rescues:
            rescuer.stop()
