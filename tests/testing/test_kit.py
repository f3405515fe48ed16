"""The fixtures, used as a third party uses them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from toril import ActiveJob, RetryIn, Unrecoverable
from toril.plugins import Json
from toril.testing import (
    DrivenApp,
    EmbeddedServer,
    EnqueuedCheck,
    HookRecorder,
    LeakCheck,
    Removed,
    ServerClock,
    WorkerFactory,
)
from toril_plugins import Keep, Requires, Retention


async def fail(job: ActiveJob) -> None:
    raise Unrecoverable(f"no {job.name} today")


async def echo(job: ActiveJob) -> Json:
    return job.data


async def test_thirty_days_pass_at_once(
    toril_app: DrivenApp, clock: ServerClock, removed: Removed, assert_no_leaks: LeakCheck
) -> None:
    emails = toril_app.queue("emails", Retention(failed="30d"))
    toril_app.worker("emails", fail)
    job = await emails.add("bad")
    await toril_app.drain()
    clock.advance("29d")
    await toril_app.sweep()
    assert not removed
    clock.advance("31d")
    await toril_app.sweep()
    assert [gone.id for gone in removed.by("failed", "30d")] == [job.id]
    assert job in removed
    assert removed.by("failed", "queue: 30d", plugin="cleanup", cause="rule")
    assert removed.by("completed") == removed.by("failed", "29d") == []
    assert "failed emails/" in repr(removed)
    assert_no_leaks()


@pytest.mark.toril(Retention(completed=1))
async def test_the_mark_says_what_the_app_is_made_with(
    toril_app: DrivenApp, removed: Removed
) -> None:
    toril_app.worker("jobs", echo)
    for number in range(3):
        await toril_app.queue("jobs").add("echo", number)
    await toril_app.drain()
    assert len(removed.by("completed", "last 1")) == 2


async def test_what_is_due_later_stays_until_the_clock_says_so(
    toril_app: DrivenApp,
    toril_worker: WorkerFactory,
    clock: ServerClock,
    record_hooks: HookRecorder,
    assert_enqueued: EnqueuedCheck,
) -> None:
    queue = toril_app.queue("jobs")
    await toril_worker("jobs", echo)
    await queue.add("later", {"x": 1}, delay="1h")
    await toril_app.drain()
    assert_enqueued("jobs", "later", data={"x": 1}, delay=3_600_000)
    clock.advance("1h")
    await toril_app.drain()
    assert_enqueued(queue, "later", times=0)
    assert [event.job.result for event in record_hooks.completed] == [{"x": 1}]
    with pytest.raises(AssertionError, match="0, not 1, of later"):
        assert_enqueued("jobs", "later")


async def test_drain_follows_jobs_from_queue_to_queue(
    toril_app: DrivenApp, clock: ServerClock, record_hooks: HookRecorder
) -> None:
    tried: list[str] = []

    async def first(job: ActiveJob) -> None:
        tried.append(job.id)
        if len(tried) == 1:
            raise RetryIn("5m")
        await toril_app.queue("second").add("next")

    toril_app.worker("first", first)
    toril_app.worker("second", echo)
    await toril_app.queue("first").add("begin")
    await toril_app.drain()
    assert record_hooks.completed == []
    clock.advance("5m")
    await toril_app.drain()
    assert [event.job.name for event in record_hooks.completed] == ["begin", "next"]


async def test_jobs_that_nobody_would_run_are_an_error(toril_app: DrivenApp) -> None:
    await toril_app.queue("orphans").add("job")
    with pytest.raises(LookupError, match=r"'orphans'.*no worker"):
        await toril_app.drain()
    await toril_app.queue("orphans").pause()
    await toril_app.drain()


async def test_sweep_takes_the_lead_from_a_worker(
    toril_app: DrivenApp, toril_worker: WorkerFactory, clock: ServerClock, removed: Removed
) -> None:
    queue = toril_app.queue("jobs", Retention(completed="1d"))
    await toril_worker(queue, echo)
    await queue.add("echo")
    await toril_app.drain()
    clock.advance("2d")
    await toril_app.sweep(queue)
    assert removed.by("completed", "1d")


async def test_what_requires_a_plugin_that_is_missing_stays_and_raises_nothing(
    toril_app: DrivenApp, clock: ServerClock, removed: Removed
) -> None:
    queue = toril_app.queue("jobs", Retention(completed="1d"))
    await queue.set(Requires("acme"))
    toril_app.worker(queue, echo)
    await queue.add("echo")
    await toril_app.drain()
    clock.advance("2d")
    await toril_app.sweep()
    assert not removed
    await queue.unset(Requires)
    await toril_app.sweep()
    assert removed.by("completed", "1d")


def test_a_plain_test_adds_and_looks(
    toril_app: DrivenApp, assert_enqueued: EnqueuedCheck, record_hooks: HookRecorder
) -> None:
    toril_app.sync.queue("emails").add("welcome", {"to": "ada"})
    (job,) = assert_enqueued("emails", "welcome", data={"to": "ada"})
    assert [event.job.id for event in record_hooks.saved] == [job.id]
    toril_app.sync.close()


def test_each_test_begins_with_an_empty_server(
    toril_url: str, toril_server: EmbeddedServer
) -> None:
    assert toril_url == toril_server.url
    assert toril_server.client.dbsize() == 0


def test_the_clock_takes_the_servers_keys_along(
    toril_url: str, toril_server: EmbeddedServer, clock: ServerClock
) -> None:
    client = toril_server.client
    client.set("bull:q:toril:own:kept", "x")
    for name, ms in {"de:id": 60_000, "toril:own:tomb:@1": 120_000}.items():
        client.set(f"bull:q:{name}", "x", px=ms)
    for beat in ("1:lock", "toril:lease:sweep", "toril:call:me:0"):
        client.set(f"bull:q:{beat}", "x", px=30_000)
    clock.advance("90s")
    names = {key.removeprefix("bull:q:") for key in client.scan_iter()}
    beats = {"1:lock", "toril:lease:sweep", "toril:call:me:0"}
    assert names == {"toril:own:kept", "toril:own:tomb:@1", *beats}
    assert 0 < client.pttl("bull:q:toril:own:tomb:@1") <= 30_000
    clock.advance("90s")
    assert not client.exists("bull:q:toril:own:tomb:@1")


async def test_a_tombstone_lasts_by_the_clock_of_the_test(
    toril_app: DrivenApp,
    toril_server: EmbeddedServer,
    clock: ServerClock,
    removed: Removed,
    assert_no_leaks: LeakCheck,
) -> None:
    queue = toril_app.queue("jobs", Retention(completed=Keep(age="1d", tombstone="30d")))
    toril_app.worker("jobs", echo)
    job = await queue.add("echo", 17)
    await toril_app.drain()
    clock.advance("1d")
    await toril_app.sweep()
    assert job in removed
    clock.advance("28d")
    assert await queue.recall(job.id) is not None
    clock.advance("1d")
    assert await queue.recall(job.id) is None
    assert not list(toril_server.client.scan_iter(f"*{job.id}*"))
    assert_no_leaks()


def test_the_clock_goes_to_a_moment_but_never_back(clock: ServerClock) -> None:
    monday = clock.now() + timedelta(days=7 - clock.now().weekday())
    clock.advance_to(monday)
    assert clock.now() == monday
    with pytest.raises(ValueError, match="has passed"):
        clock.advance_to(datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="no time zone"):
        clock.advance_to(datetime(2120, 1, 1))  # noqa: DTZ001 - that is what is refused


async def test_what_disagrees_with_itself_is_found(
    toril_app: DrivenApp, toril_server: EmbeddedServer, assert_no_leaks: LeakCheck
) -> None:
    job = await toril_app.queue("jobs").add("job")
    assert_no_leaks()
    toril_server.client.lrem("bull:jobs:wait", 0, job.id)
    with pytest.raises(AssertionError, match=f"audit of queue 'jobs' finds:(.|\n)*{job.id}"):
        assert_no_leaks()


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("hset", "bull:q:toril:own:rule", ("gone17", "x")),
        ("zadd", "bull:q:completed", ({"gone17": 1},)),
        ("rpush", "bull:q:wait", ("gone17",)),
        ("sadd", "bull:q:1:dependencies", ("bull:q:gone17",)),
        ("set", "bull:q:gone17:logs", ("x",)),
        ("set", "bull:q:de:window", ("gone17",)),
    ],
)
def test_whatever_is_left_of_a_removed_job_is_found(
    toril_url: str,
    toril_server: EmbeddedServer,
    assert_no_leaks: LeakCheck,
    kind: str,
    key: str,
    value: tuple[object, ...],
) -> None:
    client = toril_server.client
    client.xadd("bull:q:events", {"jobId": "gone17"})
    client.hset("bull:q:1:processed", "bull:q:gone17", "1")
    client.set("bull:q:toril:own:tomb:@gone17", "x", px=1000)
    client.set("bull:q:toril:own:gone170", "gone170")
    assert_no_leaks("gone17")
    getattr(client, kind)(key, *value)
    with pytest.raises(AssertionError, match=f"there is left:(.|\n)*{key}"):
        assert_no_leaks("gone17")
