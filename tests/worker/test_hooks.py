"""What plugins are told and asked by a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest
import redis
from tests.worker.conftest import Listener, until

from toril.app import App
from toril.backoff import Backoff
from toril.errors import ConfigurationError, RetryIn
from toril.flow import Flow
from toril.hooks.context import ServiceContext, WorkerInfo
from toril.hooks.markers import hookimpl
from toril.hooks.registry import Registry
from toril.job_events import JobAttemptFailed, JobCompleted, JobEvent, JobSaved, JobStalled
from toril.new_job import NewJob
from toril.setting import Setting
from toril.snapshots import FinishedJob
from toril.types import Json
from toril.worker import ActiveJob
from toril.worker.services import LeasedService


async def test_every_end_of_an_attempt_is_told(heard: App, listener: Listener) -> None:
    async def handler(job: ActiveJob) -> str:
        if job.name == "bad":
            raise ValueError(f"no {job.attempt}")
        if job.name == "later" and job.snapshot.attempts_started == 1:
            raise RetryIn("1ms")
        return "done"

    queue = heard.queue("q")
    good = await queue.add("good", {"n": 1})
    bad = await queue.add("bad", attempts=3, backoff=Backoff.fixed("1ms"))
    later = await queue.add("later")
    async with heard.worker("q", handler):
        await until(lambda: len(listener.events) == 8)
    done = {event.job.id: event for event in listener.of(JobCompleted)}
    assert set(done) == {good.id, later.id}
    job = done[good.id].job
    assert (job.outcome, job.cause, job.result, job.data) == (
        "completed",
        "processor",
        "done",
        {"n": 1},
    )
    assert (job.attempts_made, job.attempts_started) == (1, 1)
    assert job.finished is not None
    failed = listener.of(JobAttemptFailed)
    assert [(e.job.id, e.reason, e.final, e.retry_in, e.cause) for e in failed] == [
        (bad.id, "no 1", False, 1, "processor"),
        (bad.id, "no 2", False, 1, "processor"),
        (bad.id, "no 3", True, None, "processor"),
    ]
    assert isinstance(failed[2].job, FinishedJob)
    assert [len(event.job.stacktrace) for event in failed] == [1, 2, 3]
    assert len(listener.of(JobSaved)) == 3


async def test_a_deferred_failure_is_told_with_its_cause(heard: App, listener: Listener) -> None:
    async def handler(job: ActiveJob) -> None:
        raise ValueError("no")

    child = Flow("q", "child", on_failure="fail")
    await heard.add_flow(Flow("q", "parent", children=[child]))
    await heard.worker("q", handler).run(burst=True)
    failed = listener.of(JobAttemptFailed)
    assert [(e.job.name, e.cause, e.final) for e in failed] == [
        ("child", "processor", True),
        ("parent", "child", True),
    ]


async def test_a_stalled_job_is_told(heard: App, listener: Listener, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None: ...

    job = await heard.queue("q").add("left")
    raw.lrem("bull:q:wait", 1, job.id)
    raw.lpush("bull:q:active", job.id)
    async with heard.worker("q", handler, stalled_interval="100ms"):
        await job.result(timeout="5s")
    (stalled,) = listener.of(JobStalled)
    assert (stalled.job.id, stalled.stalled_count) == (job.id, 1)


async def test_what_is_not_told(heard: App, listener: Listener) -> None:
    """A job given back has not ended."""

    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    await heard.queue("q").add("long")
    async with heard.worker("q", handler, grace="0s") as worker:
        await until(lambda: worker.running)
    assert [type(event) for event in listener.events] == [JobSaved]


class Slow:
    """A plugin that falls behind."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.told = 0
        self.most = 0

    @hookimpl
    async def toril_jobs_completed(self, events: Sequence[JobEvent]) -> None:
        await self.go_on.wait()
        self.told += len(events)


async def test_fetching_pauses_while_the_plugins_are_far_behind(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toril.hooks.buffer.EventBuffer.__init__.__defaults__", (20,))
    slow = Slow()
    runs = 0

    async def handler(job: ActiveJob) -> None:
        nonlocal runs
        runs += 1

    async with App(redis_url, plugins=[slow]) as app:
        await app.queue("q").add_many([NewJob("n", n) for n in range(100)])
        async with app.worker("q", handler, concurrency=5):
            await until(lambda: runs >= 20)
            await asyncio.sleep(0.05)
            assert runs <= 30
            slow.go_on.set()
            await until(lambda: slow.told == 100)
    assert runs == 100


async def test_the_last_events_are_delivered_before_the_worker_ends(redis_url: str) -> None:
    slow = Slow()

    async def handler(job: ActiveJob) -> None: ...

    async with App(redis_url, plugins=[slow]) as app:
        await app.queue("q").add("one")
        asyncio.get_running_loop().call_later(0.05, slow.go_on.set)
        await app.worker("q", handler).run(burst=True)
        assert slow.told == 1


class Planner:
    """Plans finishes, and breaks for one name."""

    SEEN = """
        ctx.emit('toril:seen', {
          id = ctx.id, plan = ctx.plan or '-', undecided = tostring(ctx.undecided),
        })
    """

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.lua("finished", self.SEEN)

    @hookimpl
    def toril_plan_finish(self, job: FinishedJob) -> Json:
        if job.name == "breaks":
            raise RuntimeError("a broken plan")
        return f"{job.outcome} {job.name}"


async def test_plans_reach_the_script_and_a_broken_one_leaves_the_job_undecided(
    redis_url: str, raw: redis.Redis
) -> None:
    async def handler(job: ActiveJob) -> None:
        if job.name == "fails":
            raise ValueError("no")

    async with App(redis_url, plugins=[Planner()]) as app:
        jobs = {n: await app.queue("q").add(n) for n in ("plain", "breaks", "fails")}
        await app.worker("q", handler).run(burst=True)
        assert await jobs["breaks"].state() == "completed"
    entries: Any = raw.xrange("bull:q:events")
    seen = {f["id"]: (f["plan"], f["undecided"]) for _, f in entries if f["event"] == "toril:seen"}
    assert seen == {
        jobs["plain"].id: ("completed plain", "false"),
        jobs["breaks"].id: ("-", "true"),
        jobs["fails"].id: ("failed fails", "false"),
    }


async def test_workers_are_announced(redis_url: str) -> None:
    told: list[tuple[str, WorkerInfo]] = []

    class Watcher:
        @hookimpl
        async def toril_worker_ready(self, worker: WorkerInfo) -> None:
            told.append(("ready", worker))

        @hookimpl
        def toril_worker_stopped(self, worker: WorkerInfo) -> None:
            told.append(("stopped", worker))

    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    async with App(redis_url, plugins=[Watcher()]) as app:
        await app.queue("q").add("long")
        async with app.worker("q", handler, concurrency=3, name="w1", grace="0s") as worker:
            await until(lambda: worker.running)
    assert told == [
        ("ready", WorkerInfo("q", "w1", 3)),
        ("stopped", WorkerInfo("q", "w1", 3, given_back=1)),
    ]


@dataclass(frozen=True, slots=True)
class Colour(Setting):
    name: ClassVar[str] = "colour"
    text: str = ""

    def encode(self) -> Json:
        return self.text

    @classmethod
    def decode(cls, value: Json) -> Self:
        return cls(str(value))


class Painter:
    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Colour)


async def test_settings_of_worker_queue_and_application_are_published(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(job: ActiveJob) -> None: ...

    async with App(redis_url, Colour("grey"), plugins=[Painter()]) as app:
        queue = app.queue("q", Colour("red"))
        await app.worker("q", handler, Colour("blue")).run(burst=True)
        said = await queue.said_by_level(Colour)
        assert [(one.level, one.value.text) for one in said] == [
            ("queue", "red"), ("worker", "blue"), ("application", "grey"),
        ]  # fmt: skip
        assert said[1].source.startswith("app.worker")
        caplog.set_level(logging.WARNING)
        await app.worker("q", handler, Colour("green")).run(burst=True)
        assert "this process says Colour(text='green')" in caplog.text


async def test_a_workers_setting_without_its_plugin_is_an_error(app: App) -> None:
    async def handler(job: ActiveJob) -> None: ...

    with pytest.raises(ConfigurationError, match="no plugin in use declares the setting Colour"):
        await app.worker("q", handler, Colour("red")).run(burst=True)


class Service:
    """Counts its runs, and breaks once."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.error: Exception | None = None
        self.after: float | None = 0.02
        self.duration = 0.0

    async def run_once(self, context: ServiceContext) -> float | None:
        self.runs.append(context.token)
        await asyncio.sleep(self.duration)
        if self.error is not None:
            raise self.error
        return self.after


class Serving:
    def __init__(self) -> None:
        self.service = Service()

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.service("counting", lambda: self.service)


async def test_a_service_runs_with_the_worker_of_its_queue(
    redis_url: str, raw: redis.Redis
) -> None:
    async def handler(job: ActiveJob) -> None: ...

    serving = Serving()
    async with App(redis_url, plugins=[serving]) as app:
        async with app.worker("q", handler):
            await until(lambda: len(serving.service.runs) >= 3)
            assert raw.get("bull:q:toril:lease:counting") == serving.service.runs[0]
        assert raw.exists("bull:q:toril:lease:counting") == 0
        count = len(serving.service.runs)
        await asyncio.sleep(0.05)
        assert len(serving.service.runs) == count


class Leased:
    """Makes services of the queue `q` that share a lease. `now` is their clock."""

    def __init__(self, app: App) -> None:
        self.now = 0.0
        self._app = app

    def __call__(self, service: Service, lease: float = 30.0) -> LeasedService:
        plugin = self._app.runtime.lifecycle.context("p")

        async def work(token: str) -> float | None:
            return await service.run_once(ServiceContext(plugin, "counting", "q", token))

        return LeasedService(
            name="counting",
            owner="plugin 'p'",
            work=work,
            queue="q",
            queue_key="bull:q",
            perform=self._app.runtime.drive,
            now=lambda: self.now,
            lease=lease,
        )


@pytest.fixture
def leased(app: App) -> Leased:
    return Leased(app)


async def test_only_the_holder_of_the_lease_serves(leased: Leased, raw: redis.Redis) -> None:
    one, two = Service(), Service()
    first, second = leased(one), leased(two)
    assert await first.run_once() == pytest.approx(0.02)
    assert await second.run_once() == 15.0  # looks again after half a lease
    assert (len(one.runs), len(two.runs)) == (1, 0)
    raw.delete("bull:q:toril:lease:counting")
    await second.run_once()
    assert (len(one.runs), len(two.runs)) == (1, 1)
    assert await first.run_once() == 15.0


async def test_a_service_that_fails_is_tried_again_after_growing_pauses(
    leased: Leased, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    service.error = RuntimeError("broken")
    holder = leased(service)
    pauses = []
    for _ in range(4):
        pauses.append(await holder.run_once())
        leased.now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert "service 'counting' of plugin 'p' failed on queue 'q'" in caplog.text
    service.error, service.after = None, None
    assert await holder.run_once() == 10.0  # a third of the lease, which has to be renewed
    leased.now += 59
    assert await holder.run_once() == pytest.approx(1.0)
    assert len(service.runs) == 5


async def test_the_lease_is_kept_while_a_service_takes_its_time(
    leased: Leased, raw: redis.Redis
) -> None:
    service = Service()
    service.duration = 0.3
    running = asyncio.create_task(leased(service, lease=0.1).run_once())
    await until(lambda: service.runs)
    token = raw.get("bull:q:toril:lease:counting")
    while not running.done():
        await asyncio.sleep(0.02)
        assert raw.get("bull:q:toril:lease:counting") == token
