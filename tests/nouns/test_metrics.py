"""Counters and gauges: what Toril counts, what plugins count, and who reads it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence

import pytest

from toril import App, hookimpl
from toril.metrics import MOST_SERIES, OTHER, Metrics, Sample
from toril.plugins import JobSaved, PluginContext, Registry, ServiceContext


def value(samples: Sequence[Sample], name: str, /, **labels: str) -> float | None:
    """The value of the sample with that name and exactly these labels."""
    found = [each.value for each in samples if each.name == name and each.labels == labels]
    assert len(found) <= 1
    return found[0] if found else None


class Counting:
    """Counts the jobs that are saved, and gauges in a service."""

    toril_name = "counting"

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.service("gauge", lambda: self)

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        self.context.count("saved_total", len(events), name=events[0].job.name)

    async def run_once(self, context: ServiceContext) -> float:
        context.count("looks_total")
        context.gauge("answer", 42)
        return 60


class Failing:
    toril_name = "failing"

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        raise ValueError("no")


class TestMetrics:
    def test_a_counter_grows_per_set_of_labels(self) -> None:
        metrics = Metrics()
        metrics.count("a_total")
        metrics.count("a_total", 2)
        metrics.count("a_total", 3, x="1", y="2")
        metrics.count("a_total", 4, y="2", x="1")
        assert value(metrics.samples(), "a_total") == 3
        assert value(metrics.samples(), "a_total", x="1", y="2") == 7

    def test_a_gauge_is_set_and_taken_back(self) -> None:
        metrics = Metrics()
        metrics.gauge("lag", 5, queue="q")
        metrics.gauge("lag", 1.5, queue="q")
        assert metrics.samples() == (Sample("lag", {"queue": "q"}, 1.5, "gauge"),)
        metrics.gauge("lag", None, queue="q")
        metrics.gauge("lag", None, queue="q")
        assert metrics.samples() == ()

    def test_a_gauge_that_comes_and_goes_uses_up_nothing(self) -> None:
        metrics = Metrics()
        for number in range(2 * MOST_SERIES):
            metrics.gauge("lag", 1, queue=str(number))
            metrics.gauge("lag", None, queue=str(number))
        metrics.gauge("lag", 1, queue="q")
        assert value(metrics.samples(), "lag", queue="q") == 1

    @pytest.mark.parametrize("name", ["", "a-b", "1a", "a b", "é"])
    def test_what_is_no_name(self, name: str) -> None:
        metrics = Metrics()
        with pytest.raises(ValueError, match="names no metric"):
            metrics.count(name)
        with pytest.raises(ValueError, match="names no metric"):
            metrics.gauge("fine", 1, **{f"{name}-": "x"})
        metrics.count("fine")
        assert [each.name for each in metrics.samples()] == ["fine"]

    def test_a_counter_is_no_gauge_and_never_goes_down(self) -> None:
        metrics = Metrics()
        metrics.count("a_total")
        with pytest.raises(ValueError, match="is a counter"):
            metrics.gauge("a_total", 1)
        with pytest.raises(ValueError, match="cannot go down"):
            metrics.count("a_total", -1)
        assert value(metrics.samples(), "a_total") == 1

    def test_too_many_labels_are_counted_together(self) -> None:
        metrics = Metrics()
        for number in range(MOST_SERIES + 10):
            metrics.count("a_total", job=str(number))
        samples = metrics.samples()
        assert len(samples) == MOST_SERIES + 1
        assert value(samples, "a_total", job=OTHER) == 10
        assert sum(each.value for each in samples) == MOST_SERIES + 10

    def test_threads_lose_nothing(self) -> None:
        metrics = Metrics()

        def count() -> None:
            for _ in range(2_000):
                metrics.count("a_total", queue="q")

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert value(metrics.samples(), "a_total", queue="q") == 16_000


async def test_a_plugin_counts_and_reads(redis_url: str) -> None:
    counting = Counting()
    async with App(redis_url, plugins=[counting]) as app:
        await app.queue("mail").add("welcome")
        await app.queue("mail").add("welcome")
        assert await counting.context.run_services("mail")
        samples = app.metrics()
        assert value(samples, "saved_total", name="welcome") == 2
        assert value(samples, "looks_total", queue="mail") == 1
        assert value(samples, "answer", queue="mail") == 42
        assert value(samples, "toril_hook_calls_total", plugin="counting",
                     hook="toril_jobs_saved") == 2  # fmt: skip
        assert list(counting.context.metrics()) == list(samples)
        assert app.sync.metrics() == samples


async def test_what_plugins_do_wrong_is_counted(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(redis_url, plugins=[Failing()]) as app:
        for _ in range(6):
            await app.queue("mail").add("welcome")
        labels = {"plugin": "failing", "hook": "toril_jobs_saved"}
        samples = app.metrics()
        assert value(samples, "toril_hook_errors_total", **labels) == 5
        assert value(samples, "toril_hook_left_alone_total", **labels) == 1
        assert value(samples, "toril_hook_quiet", **labels) == 1


async def test_a_worker_counts_how_attempts_end(redis_url: str) -> None:
    async def handle(job: object) -> None:
        name = getattr(job, "name", "")
        if name != "good":
            raise ValueError(name)

    async with App(redis_url, plugins=[]) as app:
        queue = app.queue("mail")
        await queue.add("good")
        await queue.add("good")
        await queue.add("bad", attempts=2)
        await app.worker("mail", handle).run(burst=True)

        def ended(how: str) -> float | None:
            return value(app.metrics(), "toril_attempts_total", queue="mail", ended=how)

        assert (ended("completed"), ended("failed"), ended("retried")) == (2, 1, 1)
        assert ended("given_back") is None


def test_an_app_that_was_not_used_has_none() -> None:
    app = App("redis://localhost", plugins=[])
    assert app.metrics() == ()


async def test_they_outlive_a_restart_of_the_app(redis_url: str) -> None:
    app = App(redis_url, plugins=[Counting()])
    async with app:
        await app.queue("mail").add("x")
    async with app:
        await app.queue("mail").add("x")
        assert value(app.metrics(), "saved_total", name="x") == 2


def test_a_forked_child_begins_anew(redis_url: str) -> None:
    app = App(redis_url, plugins=[Counting()])
    app.sync.queue("mail").add("x")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            app.sync.queue("mail").add("x")
            found: Mapping[str, float] = {each.name: each.value for each in app.metrics()}
            os.write(write, str(found["saved_total"]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(read) as pipe:
        assert float(pipe.read()) == 1
    assert value(app.metrics(), "saved_total", name="x") == 1
    app.sync.close()
