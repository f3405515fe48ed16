"""What a user writes; both checkers accept every line of it in strict mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta

from toril import (
    ActiveJob,
    App,
    Backoff,
    Cron,
    Flow,
    Job,
    JobFailed,
    NewJob,
    Queue,
    RetryIn,
    Schedule,
    SyncApp,
    Task,
    Unrecoverable,
    Worker,
)
from toril.plugins import FinishedJob, JobSnapshot, Json
from toril.testing import (
    DrivenApp,
    EnqueuedCheck,
    HookRecorder,
    LeakCheck,
    PluginContract,
    Removed,
    ServerClock,
    WorkerFactory,
    finished_job,
)
from toril_plugins import Due, Keep, Postpone, Retention, Verdicts
from toril_plugins.testing import ArchiveContract, Copy, ReviewContract, StrategyContract

app = App("redis://localhost", Retention(completed="1h"), prefix="mine")
emails: Queue = app.queue("emails", Retention(failed=1000), attempts=3)


async def send(job: ActiveJob) -> str:
    if job.data is None:
        raise Unrecoverable("nothing to send")
    if job.attempt > 2:
        raise RetryIn("5m")
    await job.log("sending")
    return f"sent to {job.data}"


def in_a_thread(job: ActiveJob) -> Json:
    return {"name": job.name}


worker: Worker = app.worker("emails", send, concurrency=20, lock="30s")
other: Worker = app.worker(emails, in_a_thread)


async def produce() -> None:
    async with app:
        job: Job = await emails.add(
            "welcome",
            {"to": "ada", "tags": ["a", 1, None, 2.5, True]},
            Retention(failed="30d"),
            id="welcome-ada",
            delay="5s",
            priority=3,
            attempts=5,
            backoff=Backoff.exponential("1s", jitter=0.5),
        )
        await emails.add("later", delay=timedelta(minutes=5))
        await emails.add("then", delay=datetime(2030, 1, 1, tzinfo=UTC))
        await emails.add("child", parent=job, on_failure="ignore")
        jobs: list[Job] = await emails.add_many([NewJob("a", 1), NewJob("b", delay="1m")])
        try:
            result: Json = await jobs[0].result(timeout="10s")
        except JobFailed as error:
            result = error.reason
        print(result)
        async for found in emails.jobs("failed", "delayed", limit=10):
            await found.retry(reset_attempts=True)
        counts: int = (await emails.counts())["waiting"]
        said = await emails.said(Retention)
        if said is not None:
            print(said.value.failed, counts)
        report = Flow(
            "reports",
            "daily",
            {"day": "2026-11-23"},
            Retention(completed="90d"),
            on_child_failure="fail",
            children=[Flow("pages", "fetch", {"url": url}) for url in ("a", "b")],
        )
        root = await app.add_flow(report, Retention(failed="30d"))
        for node in await app.flow_tree(root):
            print(node.job.name, node.state)
        async with app.events("emails") as events:
            async for event in events:
                print(event.kind, event.job_id)


@emails.task(Retention(failed="10y"), attempts=5)
async def welcome(address: str, *, lang: str = "en") -> int:
    return len(address + lang)


@emails.task
async def remind(job: ActiveJob, when: datetime, to: list[str]) -> dict[str, int]:
    return dict.fromkeys(to, job.attempt + when.year)


@emails.task(name="shrink")
def resize(job: ActiveJob, width: int = 100) -> bytes:
    return bytes(width)


@emails.task
def count(text: str) -> int:
    return len(text)


async def tasks() -> None:
    job: Job[int] = await welcome.add("ada@example.org", lang="es")
    n: int = await job.result(timeout="10s")
    times: dict[str, int] = await (await remind.add(datetime.now(UTC), to=["ada"])).result()
    small: bytes = await (await resize.options(delay="5m", id="one").add(width=n)).result()
    later = welcome.options(Retention(completed="1h"), priority=1)
    many: list[Job[int]] = await later.add_many(welcome.new(to) for to in ("a", "b"))
    mixed: list[Job] = await emails.add_many([welcome.new("a"), resize.new()])
    nightly: Schedule = await count.schedule("n", Cron("0 3 * * *"), "text")
    flow: Flow = count.flow("a").after(welcome.flow("b"), resize.flow())
    root: Job[int] = count.of(await app.add_flow(flow))
    results: list[int] = welcome.results(await root.children())
    found: Job[int] | None = await count.get("one")
    here: int = await welcome("ada") + count("text")
    made: bytes = resize.function(await active(), 5)
    again: int = welcome.sync.add("ada").result(timeout="5s")
    any_task: Task[..., object, Callable[..., object]] = app.tasks("emails")["shrink"]
    serving: Worker = app.worker(emails, concurrency=3)
    print(times, small, many, mixed, nightly, results, found, here, made, again, any_task, serving)


async def active() -> ActiveJob:
    raise NotImplementedError


def synchronously() -> Json:
    face: SyncApp = app.sync
    job = face.queue("emails").add("welcome", {"to": "ada"}, delay="5m")
    for found in face.queue("emails").jobs("waiting"):
        print(found.id)
    return job.result(timeout="10s")


async def payloads_need_no_annotation() -> None:
    texts = {"to": "ada@example.org"}
    await app.queue("emails").add("a", texts)
    await app.queue("emails").add("a", [texts])


def strategy(job: FinishedJob) -> Keep | None:
    return Keep(age="365d") if job.get("customer.tier", str) == "gold" else None


def reviewer(due: Sequence[Due]) -> Verdicts:
    return {each.job.id: Postpone("1d", "not today") for each in due}


class TestStrategy(StrategyContract):
    plugin = "tiers"
    examples = ((finished_job("bills", "bill", {"customer": 1}), None),)


class TestReview(ReviewContract):
    plugin = object()
    samples = ({"a": 1}, None)


class TestArchive(ArchiveContract):
    plugin = "copies"

    def copies(self) -> Iterable[Copy]:
        return [Copy("q", "1", 1, {}, None)]

    def broken(self) -> AbstractContextManager[object]:
        return nullcontext()


class TestPlugin(PluginContract):
    plugin = "mine"


async def test_with_the_kit(
    toril_app: DrivenApp,
    toril_worker: WorkerFactory,
    clock: ServerClock,
    removed: Removed,
    record_hooks: HookRecorder,
    assert_enqueued: EnqueuedCheck,
    assert_no_leaks: LeakCheck,
) -> None:
    toril_app.worker("emails", send)
    running: Worker = await toril_worker("others", in_a_thread, concurrency=2)
    await toril_app.drain()
    clock.advance(timedelta(days=1))
    await toril_app.sweep("emails", toril_app.queue("others"))
    gone: list[JobSnapshot] = removed.by("failed", "30d", plugin="cleanup", cause="rule")
    found = assert_enqueued("emails", "welcome", data={"to": "ada"}, delay=5, times=2)
    assert_no_leaks()
    print(gone, found, record_hooks.failed[0].final, running.is_running, len(removed))
