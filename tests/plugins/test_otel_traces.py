"""Traces, where they do not depend on another library's side."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from toril import ActiveJob, App, NewJob, Reject, RetryIn, hookimpl
from toril.plugins import Draft, SavePlan
from toril_plugins import otel_traces
from toril_plugins.otel_traces import OtelTraces

Q = "bull:mail"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    yield made
    made.shutdown()


async def nothing(job: ActiveJob) -> None:
    del job


async def test_what_a_failure_and_a_signal_leave(
    redis_url: str, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def handle(job: ActiveJob) -> None:
        if job.name == "later":
            raise RetryIn("1h")
        raise ValueError("no address")

    async with App(redis_url, plugins=[OtelTraces(provider)]) as app:
        await app.queue("mail").add_many([NewJob("bad", id="bad"), NewJob("later", id="later")])
        await app.worker("mail", handle).run(burst=True)
    spans = {
        (span.name, (span.attributes or {})["bullmq.job.id"]): span
        for span in exporter.get_finished_spans()
    }
    failed, later = spans["process mail", "bad"], spans["process mail", "later"]
    assert failed.status.status_code is StatusCode.ERROR
    assert [event.name for event in failed.events] == ["job failed", "exception"]
    assert later.status.status_code is StatusCode.UNSET
    assert [event.name for event in later.events] == ["job put off"]
    finish = spans["fail mail", "bad"]
    assert finish.parent is not None
    assert failed.end_time is not None
    context = failed.get_span_context()
    assert context is not None
    assert finish.parent.span_id == context.span_id
    assert finish.end_time is not None
    assert finish.end_time >= failed.end_time


@pytest.mark.parametrize("tm", ["garbled", "[1]", '{"traceparent":"x"}', '{"traceparent":7}'])
async def test_a_garbled_context_is_none(
    redis_url: str,
    raw: redis.Redis,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    tm: str,
) -> None:
    plugin = OtelTraces(provider)
    async with App(redis_url, plugins=[plugin]) as app:
        job = await app.queue("mail").add("x")
        opts = raw.hget(f"{Q}:{job.id}", "opts")
        assert "traceparent" in str(opts)
        raw.hset(f"{Q}:{job.id}", mapping={"tm": tm, "opts": json.dumps({"tm": tm})})
        await app.worker("mail", nothing).run(burst=True)
        counts = app.runtime.plugins.counts()["otel_traces", "toril_around_job"]
    (run,) = [span for span in exporter.get_finished_spans() if span.name == "process mail"]
    assert (run.parent, run.links, counts.errors) == (None, (), 0)


async def test_a_job_that_node_retried_links_to_where_it_did(
    redis_url: str, raw: redis.Redis, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with App(redis_url, plugins=[OtelTraces(provider)]) as app:
        job = await app.queue("mail").add("x")
        left = json.dumps({"traceparent": f"00-{trace}-{span}-01"})
        raw.hset(f"{Q}:{job.id}", "tm", left)
        await app.worker("mail", nothing).run(burst=True)
    (run,) = [each for each in exporter.get_finished_spans() if each.name == "process mail"]
    (link,) = run.links
    assert f"{link.context.span_id:016x}" == span


async def test_without_a_provider_nothing_is_stored(redis_url: str, raw: redis.Redis) -> None:
    plugin = OtelTraces()
    plugin.toril_off_until_configured = False
    async with App(redis_url, plugins=[plugin]) as app:
        job = await app.queue("mail").add("x")
        await app.worker("mail", nothing).run(burst=True)
        assert "tm" not in job.snapshot.opts


async def test_one_s_own_context_stays(
    redis_url: str, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    class Own:
        toril_name = "own"

        @hookimpl
        def toril_plan_save(self, draft: Draft) -> object:
            if draft.name == "refused":
                raise Reject("no")
            return SavePlan(opts={"omc": True} if draft.name == "apart" else {"tm": "mine"})

    async with App(redis_url, plugins=[OtelTraces(provider), Own()]) as app:
        queue = app.queue("mail")
        assert (await queue.add("x")).snapshot.opts["tm"] == "mine"
        assert "tm" not in (await queue.add("apart")).snapshot.opts
        with pytest.raises(Reject):
            await queue.add("refused")
    assert exporter.get_finished_spans() == ()


async def test_runs_whose_end_is_never_heard_of_are_forgotten(
    redis_url: str, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel_traces, "_MOST_OPEN", 3)

    async def later(job: ActiveJob) -> None:
        raise RetryIn("1h")

    plugin = OtelTraces(provider)
    async with App(redis_url, plugins=[plugin]) as app:
        await app.queue("mail").add_many(NewJob("x") for _ in range(9))
        await app.worker("mail", later).run(burst=True)
    assert len(plugin._runs) == 3
