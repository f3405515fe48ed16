from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis

from toril import App, Backoff, ConfigurationError, Flow, NewJob
from toril.clock import ManualClock
from toril.errors import InvalidJob
from toril.plugins import JobRef

NOW = 1_790_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


async def added(url: str, clock: ManualClock, **options: Any) -> str:
    async with App(url, plugins=[], clock=clock) as app:
        return (await app.queue("mail").add("send", {"to": "ada"}, **options)).id


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({}, {"attempts": 1}),
        ({"attempts": 5}, {"attempts": 5}),
        ({"delay": "5m"}, {"attempts": 1, "delay": 300_000}),
        ({"delay": timedelta(seconds=2)}, {"attempts": 1, "delay": 2000}),
        ({"priority": 7}, {"attempts": 1, "priority": 7}),
        ({"priority": 0}, {"attempts": 1, "priority": 0}),
        ({"lifo": True}, {"attempts": 1, "lifo": True}),
        ({"lifo": False}, {"attempts": 1}),
        (
            {"backoff": Backoff.fixed("5s")},
            {"attempts": 1, "backoff": {"type": "fixed", "delay": 5000}},
        ),
        ({"size_limit": 100}, {"attempts": 1, "sizeLimit": 100}),
        ({"keep_logs": 3}, {"attempts": 1, "kl": 3}),
        ({"stack_trace_limit": 0}, {"attempts": 1, "stackTraceLimit": 0}),
        ({"id": "one"}, {"attempts": 1, "jobId": "one"}),
        ({"id": None, "delay": None, "attempts": None}, {"attempts": 1}),
    ],
)
async def test_options_are_stored_as_bullmq_does(
    redis_url: str,
    raw: redis.Redis,
    clock: ManualClock,
    options: dict[str, Any],
    stored: dict[str, Any],
) -> None:
    job_id = await added(redis_url, clock, **options)
    fields = raw.hgetall(f"bull:mail:{job_id}")
    assert json.loads(fields["opts"]) == stored
    assert json.loads(fields["data"]) == {"to": "ada"}
    assert fields["name"] == "send"
    assert fields["timestamp"] == str(NOW)
    assert fields["delay"] == str(stored.get("delay", 0))
    assert fields["priority"] == str(stored.get("priority", 0))


async def test_a_moment_becomes_the_delay_until_then(
    redis_url: str, raw: redis.Redis, clock: ManualClock
) -> None:
    due = datetime.fromtimestamp(NOW / 1000 + 60, UTC)
    job_id = await added(redis_url, clock, delay=due)
    assert raw.zscore("bull:mail:delayed", job_id) == (NOW + 60_000) * 4096
    past = await added(redis_url, clock, delay=due - timedelta(days=1))
    assert raw.lrange("bull:mail:wait", 0, -1) == [past]


async def test_a_moment_stays_exact_with_another_creation_time(
    redis_url: str, raw: redis.Redis, clock: ManualClock
) -> None:
    created = datetime.fromtimestamp(NOW / 1000 - 3600, UTC)
    due = datetime.fromtimestamp(NOW / 1000 + 60, UTC)
    job_id = await added(redis_url, clock, delay=due, timestamp=created)
    assert raw.hget(f"bull:mail:{job_id}", "timestamp") == str(NOW - 3_600_000)
    assert raw.zscore("bull:mail:delayed", job_id) == (NOW + 60_000) * 4096


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dealy": "5s"}, TypeError, "did you mean 'delay'"),
        ({"zzz": 1}, TypeError, "there are id, delay"),
        ({"delay": 5}, TypeError, "delay: .* unit"),
        ({"timeout": 5}, TypeError, "timeout: .* unit"),
        ({"delay": "soon"}, ValueError, "not a duration"),
        ({"delay": "-5s"}, ValueError, "not a duration"),
        ({"delay": timedelta(seconds=-1)}, ValueError, "negative"),
        ({"delay": datetime(2030, 1, 1)}, InvalidJob, "time zone"),  # noqa: DTZ001
        ({"timestamp": 5}, TypeError, "datetime"),
        ({"priority": -1}, InvalidJob, "between 0 and 2097151"),
        ({"priority": 2**21}, InvalidJob, "between 0 and 2097151"),
        ({"priority": 1.5}, TypeError, "whole number"),
        ({"priority": True}, TypeError, "whole number"),
        ({"attempts": 0}, InvalidJob, "at least 1"),
        ({"backoff": "5s"}, TypeError, "Backoff.fixed"),
        ({"keep_logs": -1}, InvalidJob, "at least 0"),
        ({"parent": "x"}, TypeError, "Job or a JobRef"),
        ({"on_failure": "fail"}, InvalidJob, "this job has none"),
        ({"on_failure": "explode", "parent": JobRef("q", "x")}, InvalidJob, "one of 'wait'"),
        ({"id": ""}, InvalidJob, "empty"),
        ({"id": "a:b"}, InvalidJob, "colon"),
        ({"id": "17"}, InvalidJob, "integer"),
        ({"id": "-17"}, InvalidJob, "integer"),
        ({"id": "meta"}, InvalidJob, "every queue has"),
        ({"id": "waiting-children"}, InvalidJob, "every queue has"),
        ({"id": 17}, TypeError, "text"),
        ({"id": "\ud800"}, InvalidJob, "Unicode"),
        ({"size_limit": 5}, InvalidJob, "at most 5"),
    ],
)
async def test_wrong_options_are_refused_before_anything_is_sent(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    app = App("redis://localhost:1", plugins=[])  # nobody listens there
    with pytest.raises(error, match=message):
        await app.queue("mail").add("send", {"to": "ada"}, **options)


@pytest.mark.parametrize("id", ["05", "1.5", "1e3", "a", "x" * 300, "ünï", "-"])
async def test_ids_that_pass(app: App, id: str, raw: redis.Redis) -> None:
    assert (await app.queue("mail").add("send", id=id)).id == id
    assert raw.hget(f"bull:mail:{id}", "name") == "send"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (2**60, "2\\^53"),
        (float("nan"), "not a number"),
        ({"a": [1, {"b": "\udfff"}]}, "data of job 'send'.a\\[1\\].b"),
        ({1: 2}, "keys"),
        ({"when": datetime.now(UTC)}, "datetime cannot be stored"),
        ({"raw": b"x"}, "bytes cannot be stored"),
        ({1, 2}, "set cannot be stored"),
    ],
)
async def test_data_that_other_languages_would_not_read_is_refused(data: Any, place: str) -> None:
    app = App("redis://localhost:1", plugins=[])
    with pytest.raises(InvalidJob, match=place):
        await app.queue("mail").add("send", data)


async def test_no_data_is_null(app: App, raw: redis.Redis) -> None:
    job = await app.queue("mail").add("send")
    assert raw.hget(f"bull:mail:{job.id}", "data") == "null"
    assert job.data is None


async def test_a_queues_defaults_give_way_to_the_jobs_own(app: App) -> None:
    queue = app.queue("mail", attempts=4, backoff=Backoff.fixed("1s"))
    plain = await queue.add("send")
    assert plain.snapshot.opts == {"attempts": 4, "backoff": {"type": "fixed", "delay": 1000}}
    own = await queue.add("send", attempts=2, backoff=Backoff.exponential("2s"))
    assert own.snapshot.opts == {"attempts": 2, "backoff": {"type": "exponential", "delay": 2000}}


@pytest.mark.parametrize("make", [NewJob, partial(Flow, "q")])
def test_descriptions_of_jobs_know_their_options(make: Any) -> None:
    assert make("a", 1, delay="5s").options == {"delay": "5s"}
    with pytest.raises(TypeError, match="did you mean 'attempts'"):
        make("a", 1, atempts=3)


@pytest.mark.parametrize("name", ["", "a:b", "\ud800"])
def test_wrong_queue_names(name: str) -> None:
    with pytest.raises(ConfigurationError):
        App("redis://localhost", plugins=[]).queue(name)
