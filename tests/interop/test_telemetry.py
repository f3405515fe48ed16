"""Traces lead from Node into handlers of Toril and back, in BullMQ's own field."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.driver import INTEROP
from tests.support.node import Node
from toril import ActiveJob, App, Flow, NewJob
from toril_plugins.otel_traces import OtelTraces, untraced

DEADLINE = 30.0  # seconds


@dataclass(frozen=True)
class Seen:
    """A finished span of either side."""

    name: str
    trace: str
    id: str
    parent: str | None
    attributes: dict[str, Any]


class Tracing:
    """A provider of this test, and what was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("program")

    def spans(self) -> list[Seen]:
        return [seen(span) for span in self.exporter.get_finished_spans()]

    def called(self, name: str, job: str | None = None) -> list[Seen]:
        return called(self.spans(), name, job)


def called(spans: list[Seen], name: str, job: str | None = None) -> list[Seen]:
    return [
        span
        for span in spans
        if span.name == name and job in (None, span.attributes.get("bullmq.job.id"))
    ]


def seen(span: ReadableSpan) -> Seen:
    context: Any = span.get_span_context()
    parent = f"{span.parent.span_id:016x}" if span.parent else None
    trace, id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return Seen(span.name, trace, id, parent, dict(span.attributes or {}))


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    made = Tracing()
    yield made
    made.provider.shutdown()


async def in_node(node: Node, url: str, *arguments: str) -> list[Seen]:
    """What Node's program did, by its spans."""
    process = await asyncio.create_subprocess_exec(
        str(node.program), str(INTEROP / "node" / "telemetry.mjs"), url, *arguments,
        env={**os.environ, "TORIL_NODE_HOME": str(node.home)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE):
            told, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return [Seen(**span) for span in json.loads(told)]


async def test_from_node_into_a_handler(node: Node, redis_url: str, tracing: Tracing) -> None:
    theirs = await in_node(node, redis_url, "produce")
    (root,) = called(theirs, "root")

    async def handle(job: ActiveJob) -> None:
        with tracing.tracer.start_as_current_span(f"inside {job.id}"):
            if job.id == "one" and job.attempt == 1:
                raise RuntimeError("once")

    async with App(redis_url, plugins=[OtelTraces(tracing.provider)]) as app:
        await app.worker("mail", handle).run(burst=True)

    (add,) = called(theirs, "add mail.one")
    (bulk,) = called(theirs, "addBulk mail")
    nodes = {span.attributes["bullmq.job.id"]: span for span in called(theirs, "addNode mail")}
    parents = {"one": add, "two": bulk, "three": bulk, **nodes}
    assert set(parents) == {"one", "two", "three", "parent", "child"}
    for job, parent in parents.items():
        runs = tracing.called("process mail", job)
        assert len(runs) == (2 if job == "one" else 1)
        for run in runs:
            assert (run.trace, run.parent) == (root.trace, parent.id)
        (complete,) = tracing.called("complete mail", job)
        assert (complete.trace, complete.parent) == (root.trace, runs[-1].id)
        within = tracing.called(f"inside {job}")
        assert {span.parent for span in within} == {run.id for run in runs}
    first, second = sorted(
        tracing.called("process mail", "one"),
        key=lambda span: span.attributes["bullmq.job.attempts.made"],
    )
    (retry,) = tracing.called("retry mail", "one")
    assert (retry.parent, retry.trace) == (first.id, second.trace)
    (apart,) = tracing.called("process mail", "apart")
    assert apart.parent is None
    assert apart.trace != root.trace


async def test_from_toril_into_node(node: Node, redis_url: str, tracing: Tracing) -> None:
    async with App(redis_url, plugins=[OtelTraces(tracing.provider)]) as app:
        mail = app.queue("mail")
        with tracing.tracer.start_as_current_span("root"):
            await mail.add("one", id="one")
            await mail.add_many([NewJob("two", id="two"), NewJob("three", id="three")])
            child = Flow("mail", "child", id="child")
            await app.add_flow(Flow("mail", "parent", id="parent", children=[child]))
            with untraced():
                await mail.add("apart", id="apart")
            await asyncio.gather(*(mail.add("fails-once", id=f"f{n}", attempts=2) for n in "12"))
    with (
        App(redis_url, plugins=[OtelTraces(tracing.provider)]).sync as sync,
        tracing.tracer.start_as_current_span("sync root"),
    ):
        await asyncio.to_thread(sync.queue("mail").add, "sync", id="sync")
    theirs = await in_node(node, redis_url, "work", "mail", "9")
    (root,) = tracing.called("root")
    (sync_root,) = tracing.called("sync root")
    for job in ("one", "two", "three", "child", "parent", "f1", "f2", "sync"):
        (add,) = [
            span
            for span in tracing.spans()
            if span.name.startswith("add mail.") and span.attributes["bullmq.job.id"] == job
        ]
        within = sync_root if job == "sync" else root
        assert (add.trace, add.parent) == (within.trace, within.id)
        runs = called(theirs, "process mail", job)
        assert len(runs) == (2 if job in ("f1", "f2") else 1)
        for run in runs:
            assert (run.trace, run.parent) == (add.trace, add.id)
        for inside in called(theirs, f"inside {job}"):
            assert inside.trace == add.trace

    (apart,) = called(theirs, "process mail", "apart")
    assert apart.parent is None
    assert apart.trace not in (root.trace, sync_root.trace)


async def test_there_and_back_again(node: Node, redis_url: str, tracing: Tracing) -> None:
    """Node adds, a handler of Toril adds another job, which Node runs: one trace."""

    async def handle(job: ActiveJob) -> None:
        if job.id == "one":
            await app.queue("back").add("answer", id="answer")

    theirs = await in_node(node, redis_url, "produce")
    async with App(redis_url, plugins=[OtelTraces(tracing.provider)]) as app:
        await app.worker("mail", handle).run(burst=True)
    theirs += await in_node(node, redis_url, "work", "back", "1")
    (root,), (run,) = called(theirs, "root"), called(theirs, "process back")
    (add,) = tracing.called("add back.answer")
    (process,) = tracing.called("process mail", "one")
    assert (run.trace, run.parent) == (root.trace, add.id)
    assert add.parent == process.id
