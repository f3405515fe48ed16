"""bull-board shows the queues of Toril and acts on them: by clicks, looked at through Toril."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
import redis

from tests.dashboard.board import Board
from toril import ActiveJob, App, Cron, Every, Flow, NewJob, SyncApp
from toril.plugins import ManualClock
from toril.protocol.inspecting import MINUTE_MS
from toril.types import Json

# The first one may have to install the browser.
pytestmark = pytest.mark.timeout(900)

Q = "bull:mail"


async def handle(job: ActiveJob) -> Json:
    await job.log(f"looking at {job.id}")
    await job.progress(50)
    if job.name == "bad":
        raise ValueError("no address")
    await job.log("sent")
    return {"sent": job.id}


def run_all(url: str, at: int | None = None) -> None:
    """Run what waits, now or `at` a time in ms, with a named worker that counts per minute."""

    async def run() -> None:
        clock = None if at is None else ManualClock(at)
        async with App(url, plugins=[], clock=clock) as app:
            await app.worker("mail", handle, name="post-1", metrics="1h").run(burst=True)

    asyncio.run(run())


@contextmanager
def idle_worker(url: str) -> Generator[None]:
    """A worker that waits meanwhile."""
    app = App(url, plugins=[])
    sync = app.sync
    with sync:
        worker = app.worker("mail", handle, name="post-1")
        sync.runtime.run(worker.__aenter__())
        try:
            yield
        finally:
            sync.runtime.run(worker.__aexit__(None, None, None))


def state_of(app: SyncApp, id: str, queue: str = "mail") -> str:
    return app.queue(queue).state(id)


class TestShown:
    def test_overview(self, board: Board, app: SyncApp, redis_url: str) -> None:
        mail = app.queue("mail")
        mail.add_many([NewJob("good"), NewJob("good"), NewJob("bad")])
        run_all(redis_url)
        mail.add("later", delay="1h")
        app.queue("steps").add("waits")
        with idle_worker(redis_url):
            board.open("/")
            board.reads("mail", "steps", "4 jobs", "1 job", "no workers")
            board.until(
                "one queue has workers", lambda: board.text("main").count("No workers") == 1
            )
            board.picture("overview")
        for state, number in (("completed", 2), ("failed", 1), ("delayed", 1), ("waiting", 1)):
            tab = f"main a[href='/?status={state}']"
            board.until(f"{number} {state}", lambda: str(number) in board.text(tab))  # noqa: B023

    def test_queue_and_its_jobs(self, board: Board, app: SyncApp, redis_url: str) -> None:
        mail = app.queue("mail")
        mail.add("good", {"to": "ada@example.org"}, id="alpha")
        mail.add("bad", id="beta")
        run_all(redis_url)
        mail.add("good", priority=3, id="gamma")
        board.open("/queue/mail")
        board.reads("alpha", "beta", "gamma", "ada@example.org", "by post-1")
        board.picture("queue")
        for state, id in (("COMPLETED", "alpha"), ("FAILED", "beta"), ("PRIORITIZED", "gamma")):
            board.click_on(f"main a[href='/queue/mail?status={state.lower()}']")
            board.until(f"only {id}", lambda: board.count(f"main a[href*='/queue/mail/{id}']") == 1)  # noqa: B023
            others = {"alpha", "beta", "gamma"} - {id}
            board.until("no other", lambda: not any(each in board.text("main") for each in others))  # noqa: B023

    def test_job(self, board: Board, app: SyncApp, redis_url: str) -> None:
        app.queue("mail").add("good", {"to": "ada@example.org"}, id="first", attempts=3)
        run_all(redis_url)
        board.open("/queue/mail/first")
        board.reads("ada@example.org", "by post-1", "finished at", "sent:", "first")
        board.picture("job")
        board.click("Options", "main")
        board.reads("attempts:3")
        board.click("Logs", "main")
        board.reads("looking at first", "sent", css="[role=tabpanel]")
        board.picture("logs")

    def test_failure(self, board: Board, app: SyncApp, redis_url: str) -> None:
        app.queue("mail").add("bad", id="second")
        run_all(redis_url)
        board.open("/queue/mail/second")
        board.click("Error", "main")
        board.reads("Traceback", "ValueError", "no address", "failed at")
        board.picture("failure")

    def test_flow_tree(self, board: Board, app: SyncApp, redis_url: str) -> None:
        deep = Flow("steps", "middle", id="middle", children=[Flow("steps", "leaf", id="leaf")])
        children = [Flow("mail", "good", id="done"), deep]
        app.add_flow(Flow("mail", "parent", id="root", children=children))
        run_all(redis_url)
        board.open("/queue/mail/root")
        board.reads("job flow", "1 done", "1 unfinished", "waiting-children", "middle", "leaf")
        board.until("four jobs are drawn", lambda: board.count(".react-flow__node") == 4)
        tree = board.text(".react-flow")
        assert [name in tree for name in ("parent", "good", "middle", "leaf")] == [True] * 4
        assert "COMPLETED" in tree.upper()
        board.picture("flow")

    def test_schedulers(self, board: Board, app: SyncApp) -> None:
        mail = app.queue("mail")
        mail.schedule("nightly", Cron("0 3 * * *", tz="Europe/Madrid"), "report")
        mail.schedule("poll", Every("5m"), "poll")
        board.open("/job-schedulers")
        board.reads("nightly", "0 3 * * *", "Europe/Madrid", "poll", "every 5m")
        board.picture("schedulers")

    def test_metrics(self, board: Board, app: SyncApp, redis_url: str) -> None:
        minute = (time.time_ns() // 1_000_000 // MINUTE_MS - 3) * MINUTE_MS
        for number in (3, 5, 1):
            app.queue("mail").add_many(NewJob("good") for _ in range(number))
            minute += MINUTE_MS
            run_all(redis_url, at=minute)
        app.queue("mail").add("bad")
        run_all(redis_url, at=minute)
        assert app.queue("mail").metrics().points == (5, 3)
        board.open("/queue/mail")
        board.reads("throughput", "completed / min", "peak / min", css="main")
        board.until("the peak", lambda: "5" in _after(board.text("main"), "peak / min"))
        board.picture("metrics")

    def test_workers(self, board: Board, app: SyncApp, redis_url: str) -> None:
        app.queue("mail").add("later", delay="1h")
        with idle_worker(redis_url):
            (seen,) = app.queue("mail").workers()
            board.open("/queue/mail")
            board.click_on("button[aria-label='Queue info']")
            board.reads("queue info", "workers", css="[role=dialog]")
            board.click("Connected workers", "[role=dialog]")
            assert seen.address is not None
            board.reads("post-1", seen.address.partition(":")[0], css="[role=dialog]")
            board.picture("workers")


def _after(text: str, title: str) -> str:
    """What stands right beside a title."""
    lines = text.lower().splitlines()
    place = lines.index(title)
    return " ".join(lines[max(place - 1, 0) : place + 2])


class TestDone:
    @pytest.fixture
    def failed(self, app: SyncApp, redis_url: str) -> SyncApp:
        app.queue("mail").add_many([NewJob("bad", id="a"), NewJob("bad", id="b")])
        run_all(redis_url)
        return app

    def test_retry(self, board: Board, failed: SyncApp, redis_url: str) -> None:
        board.open("/queue/mail?status=failed")
        board.press("Retry", "a")
        board.confirm()
        board.until("it waits", lambda: state_of(failed, "a") == "waiting")
        assert state_of(failed, "b") == "failed"
        board.picture("retried")
        run_all(redis_url)
        job = failed.queue("mail").get("a")
        assert job is not None
        assert (job.state(), job.attempts_made) == ("failed", 2)

    def test_retry_all(self, board: Board, failed: SyncApp) -> None:
        board.open("/queue/mail?status=failed")
        board.click("Retry all", "main")
        board.confirm()
        board.until("both wait", lambda: failed.queue("mail").counts()["waiting"] == 2)

    def test_promote(self, board: Board, app: SyncApp) -> None:
        mail = app.queue("mail")
        mail.add("later", delay="1h", id="a")
        mail.add("later", delay="1h", id="b", priority=4)
        board.open("/queue/mail?status=delayed")
        board.picture("delayed")
        board.press("Promote", "a")
        board.confirm()
        board.until("it waits", lambda: state_of(app, "a") == "waiting")
        assert state_of(app, "b") == "delayed"

    def test_clean_one(self, board: Board, failed: SyncApp) -> None:
        board.open("/queue/mail?status=failed")
        board.press("Clean", "b")
        board.confirm()
        board.until("it is gone", lambda: failed.queue("mail").get("b") is None)
        assert state_of(failed, "a") == "failed"

    def test_clean_all(self, board: Board, failed: SyncApp, raw: redis.Redis) -> None:
        raw.zadd(f"{Q}:failed", {"a": 1, "b": 2})  # it leaves what is younger than 5 seconds
        board.open("/queue/mail?status=failed")
        board.click("Clean all", "main")
        board.confirm()
        board.until("both are gone", lambda: failed.queue("mail").counts()["failed"] == 0)
        assert failed.queue("mail").get("a") is None

    def test_pause_and_resume(self, board: Board, app: SyncApp, redis_url: str) -> None:
        mail = app.queue("mail")
        mail.add("good", id="a")
        board.open("/queue/mail")
        board.choose("Pause")
        board.confirm()
        board.until("it is paused", mail.is_paused)
        board.reads("paused")
        board.picture("paused")
        run_all(redis_url)
        assert state_of(app, "a") == "waiting"
        board.choose("Resume")
        board.confirm()
        board.until("it goes on", _not(mail.is_paused))
        run_all(redis_url)
        assert state_of(app, "a") == "completed"

    def test_empty(self, board: Board, app: SyncApp, redis_url: str) -> None:
        mail = app.queue("mail")
        mail.add("bad", id="kept")
        run_all(redis_url)
        mail.add_many([NewJob("good", id="a"), NewJob("good", id="b", priority=2)])
        board.open("/queue/mail")
        board.choose("Empty")
        board.confirm()
        board.until("none waits", lambda: mail.get("a") is None and mail.get("b") is None)
        assert state_of(app, "kept") == "failed"
        board.picture("emptied")


def _not(holds: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: not holds()
