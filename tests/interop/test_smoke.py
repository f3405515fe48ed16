"""Each library works off what another one added, and both tell the same story about it.

Every library is a process of its own. `node-node` shows that the expectations are Node's own.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis

from tests.interop.conftest import Library
from tests.support.driver import Driver, DriverError
from tests.support.dump import dump
from tests.support.node import Node
from tests.support.server import Server

FOREIGN = ["node", "node5", "node5452", "python"]
PAIRS = [
    ("node", "node"),
    *(("toril", foreign) for foreign in FOREIGN),
    *((foreign, "toril") for foreign in FOREIGN),
]

DEADLINE = 10.0  # seconds


class Duo:
    """A producer and a worker on an emptied server."""

    def __init__(self, producer: Driver, worker: Driver) -> None:
        self.producer = producer
        self.worker = worker

    def has(self, label: str) -> bool:
        return label in {self.producer.label, self.worker.label}

    async def settled(self, queue: str, id: str, *states: str) -> dict[str, Any]:
        """The job as both read it, when the worker's side finds it in one of the states."""

        async def there() -> bool:
            job = await self.worker.job(queue, id)
            return job is not None and job["state"] in states

        await eventually(f"{id} is {' or '.join(states)}", there)
        by_worker = await self.worker.job(queue, id)
        by_producer = await self.producer.job(queue, id)
        assert by_producer == by_worker
        assert by_worker is not None
        return by_worker


async def eventually(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.01)


@pytest.fixture(params=PAIRS, ids="-".join)
async def duo(
    request: pytest.FixtureRequest, library: Library, redis_url: str
) -> AsyncIterator[Duo]:
    producer, worker = (library(name) for name in request.param)
    yield Duo(producer, worker)
    for driver in {producer, worker}:
        await driver.reset()


async def test_plain_delayed_prioritised_and_bulk(duo: Duo) -> None:
    await duo.worker.worker("q")
    for opts in ({}, {"delay": 200}, {"priority": 3}, {"jobId": "mine"}):
        said = {"do": [["log", "one"], ["log", "two"], ["progress", 50], ["return", {"n": [1]}]]}
        added = await duo.producer.add("q", "job", said, opts)
        job = await duo.settled("q", added, "completed")
        assert job["id"] == added
        assert job["name"] == "job"
        assert job["data"] == said
        assert job["result"] == {"n": [1]}
        assert job["progress"] == 50
        assert job["attempts_made"] == 1
        for side in (duo.producer, duo.worker):
            assert await side.logs("q", added) == ["one", "two"]
    jobs = [{"name": f"j{n}", "data": {"do": [["return", n]]}, "opts": {}} for n in range(20)]
    ids = await duo.producer.add_bulk("q", jobs)
    results = [(await duo.settled("q", each, "completed"))["result"] for each in ids]
    assert results == list(range(20))
    counts = await duo.producer.counts("q")
    assert counts["completed"] == 24
    assert sum(counts.values()) == 24
    assert sorted(await duo.producer.ids("q", "completed")) == sorted(
        await duo.worker.ids("q", "completed")
    )


async def test_order_is_the_same_for_both(duo: Duo) -> None:
    for name, opts in (
        ("third", {"priority": 2}),
        ("fourth", {"priority": 2}),
        ("second", {}),
        ("first", {"lifo": True}),
        ("last", {"priority": 9}),
    ):
        await duo.producer.add("q", name, {"do": [["return", name]]}, {**opts, "jobId": name})
    reader = await duo.producer.events_open("q")
    await duo.worker.worker("q", concurrency=1)
    await duo.settled("q", "last", "completed")
    await asyncio.sleep(0.1)
    seen = await duo.producer.events_take(reader)
    finished = [event["jobId"] for event in seen if event["event"] == "completed"]
    assert finished == ["first", "second", "third", "fourth", "last"]


async def test_failure_with_retries(duo: Duo) -> None:
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


async def test_flow_that_would_never_run_is_refused(library: Library, raw: redis.Redis) -> None:
    """Node adds such a flow, and its second parent waits for ever (wire format 6.3)."""
    node, toril = library("node"), library("toril")
    shared = {"queue": "steps", "name": "shared", "data": {}, "opts": {"jobId": "shared"}}
    try:
        await node.add_flow({"queue": "orders", "name": "first", "data": {}, "children": [shared]})
        since = int(time.time() * 1000)
        before = dump(raw, since)
        with pytest.raises(DriverError, match="another living parent"):
            await toril.add_flow(
                {"queue": "orders", "name": "second", "data": {}, "children": [shared]}
            )
        assert dump(raw, since) == before
    finally:
        for driver in (node, toril):
            await driver.reset()


async def test_removed_job_does_not_run(duo: Duo) -> None:
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


async def test_pause_holds_the_other_side(duo: Duo) -> None:
    await duo.worker.worker("q")
    await duo.producer.act("pause", "q")
    job = await duo.producer.add("q", "job", {"do": [["return", 1]]})
    await asyncio.sleep(0.3)
    assert (await duo.worker.job("q", job) or {})["state"] in {"waiting", "paused"}
    await duo.producer.act("resume", "q")
    await duo.settled("q", job, "completed")


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


# -- bull-board ------------------------------------------------------------------------------------


async def ask(url: str, method: str = "GET") -> Any:
    def send() -> Any:
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            text = reply.read().decode()
            return json.loads(text) if text else None

    return await asyncio.to_thread(send)


@pytest.mark.parametrize("name", ["node", "toril"])
async def test_dashboard_shows_and_acts(library: Library, redis_url: str, name: str) -> None:
    """bull-board on top of Node reads and steers a queue that `name` produces and works."""
    ours, node = library(name), library("node")
    once = {"do": [["fail-times", 1, "first"], ["log", "hello"], ["return", 7]]}
    job = await ours.add("mail", "send", once)
    later = await ours.add("mail", "later", {"do": []}, {"delay": 60_000})
    await ours.worker("mail")
    await Duo(ours, node).settled("mail", job, "failed")
    board = await node.call("board", queues=["mail"])

    async def shown(state: str) -> dict[str, Any]:
        listed = await ask(
            f"{board}/api/queues?activeQueue=mail&status={state}&page=1&jobsPerPage=10"
        )
        (queue,) = (each for each in listed["queues"] if each["name"] == "mail")
        assert isinstance(queue, dict)
        return queue

    queue = await shown("failed")
    assert (queue["counts"]["failed"], queue["counts"]["delayed"]) == (1, 1)
    (failed,) = queue["jobs"]
    assert (failed["id"], failed["name"], failed["failedReason"]) == (job, "send", "first")
    assert failed["isFailed"]
    assert len(await node.call("workers", queue="mail")) == 1
    await ask(f"{board}/api/queues/mail/{job}/retry", "PUT")
    assert (await Duo(ours, node).settled("mail", job, "completed"))["result"] == 7
    assert await ask(f"{board}/api/queues/mail/{job}/logs") == ["hello"]
    await ask(f"{board}/api/queues/mail/{later}/promote", "PUT")
    await Duo(ours, node).settled("mail", later, "completed")
    await ask(f"{board}/api/queues/mail/pause", "PUT")
    assert (await shown("completed"))["isPaused"]
    await ask(f"{board}/api/queues/mail/resume", "PUT")
    await ask(f"{board}/api/queues/mail/{later}/clean", "PUT")
    assert await ours.job("mail", later) is None
    for driver in {ours, node}:
        await driver.reset()


# -- a worker that dies ----------------------------------------------------------------------------


@pytest.mark.parametrize(("dies", "rescues"), PAIRS, ids=str)
async def test_job_of_a_killed_worker_is_taken_over(
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
