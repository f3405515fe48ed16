"""Calling the hooks: batches, isolation, deadlines, the breaker, plans, the synchronous face."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.hooks.conftest import Load

from toril.errors import PluginError, Reject
from toril.hooks import function as guard
from toril.hooks.dispatch import BATCH, Dispatcher
from toril.hooks.function import Breaker, HookFunction
from toril.plugins import (
    Fact,
    FinishedJob,
    JobCompleted,
    JobEvent,
    JobRef,
    JobRetried,
    JobSaved,
    JobSnapshot,
    Registry,
    WorkerInfo,
    hookimpl,
    only_for,
)
from toril.protocol.effects import ChunkError, Effects, Report


def saved(number: int) -> JobSaved:
    return JobSaved(JobSnapshot("mail", f"j{number}", {b"name": b"send"}))


def completed(number: int = 1) -> JobCompleted:
    return JobCompleted(finished(number))


def finished(number: int = 1) -> FinishedJob:
    return FinishedJob("mail", f"j{number}", {}, "completed")


class Recorder:
    """Notes what it is told."""

    def __init__(self, name: str = "recorder") -> None:
        self.toril_name = name
        self.told: list[tuple[str, list[str]]] = []

    def note(self, hook: str, events: Sequence[JobEvent]) -> None:
        self.told.append((hook, [event.job.id for event in events]))

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        self.note("saved", events)

    @hookimpl
    async def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        await asyncio.sleep(0)
        self.note("completed", events)


def hostile(name: str, act: Callable[[], object]) -> object:
    """A plugin that does this whenever it is told of saved jobs."""

    class Hostile:
        toril_name = name

        @hookimpl
        def toril_jobs_saved(self) -> object:
            return act()

    return Hostile()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "DEADLINE", 0.02)


async def test_events_are_told_in_commit_order_grouped_by_kind(load: Load) -> None:
    recorder = Recorder()
    dispatcher = Dispatcher(load([recorder]))
    await dispatcher.publish([saved(1), saved(2), completed(3), completed(4), saved(5)])
    assert recorder.told == [
        ("saved", ["j1", "j2"]),
        ("completed", ["j3", "j4"]),
        ("saved", ["j5"]),
    ]


async def test_no_call_gets_more_than_a_thousand(load: Load) -> None:
    recorder = Recorder()
    await Dispatcher(load([recorder])).publish([saved(n) for n in range(2 * BATCH + 1)])
    assert [len(ids) for _, ids in recorder.told] == [1000, 1000, 1]
    assert [each for _, ids in recorder.told for each in ids] == [f"j{n}" for n in range(2001)]


async def test_only_what_somebody_implements_is_wanted(load: Load) -> None:
    assert Dispatcher(load([])).wants == frozenset()
    dispatcher = Dispatcher(load([Recorder()]))
    assert dispatcher.wants == {"toril_jobs_saved", "toril_jobs_completed"}
    # An event that nobody wants is no error.
    await dispatcher.publish([JobRetried(JobRef("mail", "j1"), "failed")])


async def _raise_later() -> None:
    await asyncio.sleep(0)
    raise RuntimeError("later")


async def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def _hang() -> None:
    await asyncio.Event().wait()


async def _hang_and_ignore_cancellation() -> None:
    # Ends at last, so that the loop of the test can be closed.
    for _ in range(3):
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


def _raise() -> None:
    raise RuntimeError("no\nnewline")


def _raise_cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (_raise, "RuntimeError: no"),
        (_raise_cancelled, "CancelledError"),
        (_raise_later, "RuntimeError: later"),
        (_cancel_itself, "CancelledError"),
        (_hang, "TimeoutError: no answer within 0.02 s"),
        (_hang_and_ignore_cancellation, "TimeoutError: no answer within 0.02 s"),
    ],
)
@pytest.mark.usefixtures("short")
async def test_a_plugin_that_fails_is_logged_counted_and_harms_nobody(
    act: Callable[[], object], error: str, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = Recorder("before"), Recorder("later")
    plugins = load([before, hostile("bad", act), after])
    await Dispatcher(plugins).publish([saved(n) for n in range(5)])
    assert before.told == after.told == [("saved", ["j0", "j1", "j2", "j3", "j4"])]
    counts = plugins.counts()["bad", "toril_jobs_saved"]
    assert (counts.calls, counts.errors) == (1, 1)
    assert counts.timeouts == (1 if "Timeout" in error else 0)
    assert plugins.counts()["later", "toril_jobs_saved"].errors == 0
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    message = record.getMessage()
    assert error in message
    assert "'bad'" in message
    assert "toril_jobs_saved for mail/j0, mail/j1, mail/j2 and 2 more" in message


async def test_our_own_cancellation_passes_and_reaches_the_plugin(load: Load) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def wait() -> None:
        seen.append("waiting")
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    plugins = load([hostile("slow", wait)])
    task = asyncio.create_task(Dispatcher(plugins).publish([saved(1)]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert seen == ["waiting", "cancelled"]
    assert plugins.counts()["slow", "toril_jobs_saved"].errors == 0


def test_the_breaker_opens_tries_again_and_closes() -> None:
    now = 0.0

    def clock() -> float:
        return now

    breaker = Breaker(now=clock)
    assert [breaker.failed() for _ in range(Breaker.LIMIT)] == [False] * 4 + [True]
    assert breaker.open()
    now = breaker.FIRST_PAUSE
    assert not breaker.open()
    assert breaker.failed()
    assert breaker.pause == 2 * breaker.FIRST_PAUSE
    for _ in range(20):
        breaker.failed()
    assert breaker.pause == breaker.LONGEST_PAUSE
    now = breaker.until
    assert not breaker.open()
    assert breaker.succeeded()
    assert not breaker.failed()
    assert not breaker.open()


async def test_a_plugin_that_keeps_failing_is_left_alone_and_tried_again(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True
    calls = 0

    def act() -> None:
        nonlocal calls
        calls += 1
        if broken:
            raise RuntimeError("down")

    good = Recorder("good")
    plugins = load([hostile("bad", act), good])
    (bad, _) = plugins.functions("toril_jobs_saved")
    now = 0.0
    bad.breaker.now = lambda: now
    dispatcher = Dispatcher(plugins)
    for _ in range(8):
        await dispatcher.publish([saved(1)])
    assert calls == Breaker.LIMIT
    assert len(good.told) == 8
    counts = plugins.counts()["bad", "toril_jobs_saved"]
    assert (counts.errors, counts.left_alone) == (5, 3)
    assert "failed 5 times in a row; quiet for 30 s" in caplog.records[-1].getMessage()

    broken, now = False, 31.0
    await dispatcher.publish([saved(1)])
    assert calls == Breaker.LIMIT + 1
    assert "works again" in caplog.records[-1].getMessage()
    await dispatcher.publish([saved(1)])
    assert calls == Breaker.LIMIT + 2


async def test_a_plain_function_that_takes_long_is_reported_once(
    load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: Iterator[float] = iter(float(n) for n in range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    dispatcher = Dispatcher(load([hostile("slow", lambda: None)]))
    for _ in range(3):
        await dispatcher.publish([saved(1)])
    (record,) = caplog.records
    assert "'slow'" in record.getMessage()
    assert "use `async def`" in record.getMessage()


async def test_a_plain_function_may_return_an_awaitable(load: Load) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    class Indirect:
        @hookimpl
        def toril_jobs_saved(self) -> Awaitable[None]:
            return work()

    await Dispatcher(load([Indirect])).publish([saved(1)])
    assert done == [1]


def planner(name: str, plan: Callable[[FinishedJob], object]) -> object:
    class Planner:
        toril_name = name

        @hookimpl
        def toril_plan_finish(self, job: FinishedJob) -> object:
            return plan(job)

    return Planner()


def test_plans_of_a_finish_come_back_per_plugin(load: Load) -> None:
    dispatcher = Dispatcher(
        load(
            [
                planner("a", lambda job: {"id": job.id}),
                planner("b", lambda _: None),
                planner("c", lambda _: ("x", datetime(2026, 1, 2, tzinfo=UTC))),
            ]
        )
    )
    plan = dispatcher.plan_finish(finished(7))
    assert plan.plans == {"a": {"id": "j7"}, "c": ("x", "2026-01-02T00:00:00Z")}
    assert not plan.undecided


async def _coroutine() -> None:
    pass


def _cyclic() -> object:
    made: list[object] = []
    made.append(made)
    return made


def _reject() -> None:
    raise Reject("never")


def test_a_planner_is_asked_only_for_the_jobs_it_names(load: Load) -> None:
    class Choosy:
        toril_name = "choosy"
        asked: list[str]

        def _is_odd(self, job: JobSnapshot) -> bool:
            return int(job.id[1:]) % 2 == 1

        @hookimpl
        @only_for(_is_odd)
        def toril_plan_finish(self, job: FinishedJob) -> object:
            return job.id

    alone = Dispatcher(load([Choosy()]))
    assert [alone.may_plan_finish(finished(n)) for n in (1, 2)] == [True, False]
    both = Dispatcher(load([Choosy(), planner("other", lambda _: 0)]))
    assert both.may_plan_finish(finished(2))
    assert both.plan_finish(finished(1)).plans == {"choosy": "j1", "other": 0}
    assert both.plan_finish(finished(2)).plans == {"other": 0}


def test_a_planner_whose_condition_breaks_is_asked(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: JobSnapshot) -> bool:
        raise ValueError

    class Module:
        toril_name = "module"

        @staticmethod
        @hookimpl
        @only_for(broken)
        def toril_plan_finish(job: FinishedJob) -> object:
            return job.id

    plugins = load([Module()])
    dispatcher = Dispatcher(plugins)
    assert dispatcher.may_plan_finish(finished(1))
    assert dispatcher.plan_finish(finished(1)).plans == {"module": "j1"}
    assert plugins.counts()["module", "toril_plan_finish"].errors == 2
    assert "mail/j1" in caplog.text


@pytest.mark.parametrize(
    "act",
    [_raise, _reject, _coroutine, object, _cyclic, lambda: 2**70, _raise_cancelled],
    ids=["error", "reject", "coroutine", "no json", "cyclic", "too large", "cancelled"],
)
def test_a_finish_is_never_refused(
    act: Callable[[], object], load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = load([planner("bad", lambda _: act()), planner("good", lambda _: 1)])
    plan = Dispatcher(plugins).plan_finish(finished())
    assert plan.undecided
    assert plan.plans == {"good": 1}
    assert plugins.counts()["bad", "toril_plan_finish"].errors == 1
    assert "mail/j1" in caplog.text


def test_a_planner_that_keeps_failing_is_asked_on_but_its_log_is_not_flooded(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = load([planner("bad", lambda _: 1 / 0)])
    dispatcher = Dispatcher(plugins)
    assert all(dispatcher.plan_finish(finished(n)).undecided for n in range(100))
    assert plugins.counts()["bad", "toril_plan_finish"].errors == 100
    assert len(caplog.records) == Breaker.LIMIT + 1


def test_the_failure_of_a_plugin_that_another_one_asked_is_blamed_on_the_first(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    inner = HookFunction("strategy", "acme 1.0", "toril_x", lambda: 1 / 0, ())
    plugins = load([planner("outer", lambda _: inner.ask())])
    dispatcher = Dispatcher(plugins)
    for _ in range(Breaker.LIMIT + 2):
        assert dispatcher.plan_finish(finished()).undecided
    assert plugins.counts()["outer", "toril_plan_finish"].errors == 0
    assert inner.counts.errors == Breaker.LIMIT + 2
    assert "'outer'" not in caplog.text


def test_reject_passes_through_ask_and_is_no_failure() -> None:
    function = HookFunction("strict", "acme 1.0", "toril_plan_save", _reject, ())
    with pytest.raises(Reject, match="never"):
        function.ask()
    assert function.counts.errors == 0
    function = HookFunction("odd", "acme 1.0", "toril_plan_save", _raise, ())
    with pytest.raises(PluginError, match=r"plugin 'odd' \(acme 1.0\) failed in toril_plan_save"):
        function.ask()


async def test_explain_collects_facts_and_shows_failures_as_facts(load: Load) -> None:
    class Tells:
        toril_name = "tells"

        @hookimpl
        async def toril_explain_job(self, job: JobRef) -> Sequence[Fact]:
            return [Fact("removal", f"{job.id} goes", at=5, level="queue")]

    class Breaks:
        toril_name = "breaks"

        @hookimpl
        def toril_explain_job(self) -> Sequence[Fact]:
            raise RuntimeError("no idea")

    facts = await Dispatcher(load([Breaks, Tells])).explain(JobRef("mail", "j1"))
    assert [plugin for plugin, _ in facts] == ["breaks", "tells"]
    assert facts[0][1].subject == "error"
    assert "no idea" in facts[0][1].text
    assert facts[1][1] == Fact("removal", "j1 goes", 5, "queue")


async def test_workers_are_announced(load: Load) -> None:
    told: list[WorkerInfo] = []

    class Watches:
        @hookimpl
        def toril_worker_ready(self, worker: WorkerInfo) -> None:
            told.append(worker)
            raise RuntimeError("ignored")

        @hookimpl
        async def toril_worker_stopped(self, worker: WorkerInfo) -> None:
            told.append(worker)

    dispatcher = Dispatcher(load([Watches]))
    ready = WorkerInfo("mail", "w1", 10)
    stopped = WorkerInfo("mail", "w1", 10, given_back=2)
    await dispatcher.worker_ready(ready)
    await dispatcher.worker_stopped(stopped)
    assert told == [ready, stopped]


class Elsewhere:
    """A loop in another thread, as the synchronous face has one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.runs = 0
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        self.runs += 1
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    made.close()


def test_without_a_loop_plain_functions_run_here_and_others_there(
    load: Load, elsewhere: Elsewhere
) -> None:
    threads: list[tuple[str, int]] = []

    class Both:
        @hookimpl
        def toril_jobs_saved(self) -> None:
            threads.append(("plain", threading.get_ident()))

        @hookimpl
        async def toril_jobs_completed(self) -> None:
            await asyncio.sleep(0)
            threads.append(("async", threading.get_ident()))

    dispatcher = Dispatcher(load([Both]))
    dispatcher.publish_sync([saved(1)], elsewhere.run)
    assert elsewhere.runs == 0
    dispatcher.publish_sync([saved(1), completed()], elsewhere.run)
    assert elsewhere.runs == 1
    here, there = threading.get_ident(), elsewhere.thread.ident
    assert threads == [("plain", here), ("plain", here), ("async", there)]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("act", [_raise, _raise_later, _hang, _cancel_itself])
def test_without_a_loop_failures_are_kept_apart_too(
    act: Callable[[], object], load: Load, elsewhere: Elsewhere
) -> None:
    good = Recorder("good")
    plugins = load([hostile("bad", act), good])
    Dispatcher(plugins).publish_sync([saved(1)], elsewhere.run)
    assert plugins.counts()["bad", "toril_jobs_saved"].errors == 1
    assert good.told == [("saved", ["j1"])]


def test_what_lua_reports_reaches_its_own_plugin_alone(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[object] = []

    class Takes:
        toril_name = "takes"

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            registry.reports(taken.append)

    class Breaks:
        toril_name = "breaks"

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            registry.reports(self.take)

        def take(self, value: object) -> None:
            raise RuntimeError(f"cannot take {value}")

    plugins = load([Takes, Breaks])
    Dispatcher(plugins).note(
        Effects(
            None,
            reports=(Report("breaks", 1), Report("takes", {"a": 2}), Report("unknown", 3)),
            chunk_errors=(ChunkError("takes", "finished", "boom"),),
        )
    )
    assert taken == [{"a": 2}]
    assert "cannot take 1" in caplog.text
    assert plugins.counts()["breaks", "what takes its reports"].errors == 1
    assert plugins.counts()["takes", "its Lua at 'finished'"].errors == 1
    assert "plugin 'takes' (given in code" in caplog.text
    assert "failed in its Lua at 'finished': LuaError: boom" in caplog.text
