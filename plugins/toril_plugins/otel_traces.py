"""OpenTelemetry: traces that lead from who adds a job to the handler that runs it.

    [otel_traces]

in the configuration turns it on, with the tracer provider that the program has set for the whole
process; a program can also give its own: `App(plugins=["*", OtelTraces(provider)])`. Needs the
extra `otel`.

The context travels in BullMQ's own place, the option `tm` of the job, as JSON of what the
propagator writes; names of spans and attributes are those of `bullmq-otel`. So a trace goes on
between Node and Python in both directions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

from toril import ConfigurationError, RetryIn, WaitAgain, WaitForChildren, hookimpl
from toril.plugins import (
    Draft,
    JobAttemptFailed,
    JobCompleted,
    JobSnapshot,
    PluginContext,
    Registry,
    SavePlan,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

EXTRA = "needs an extra: pip install 'toril[otel]'"
_MOST_OPEN: Final = 10_000
"""Runs whose finish may not be known yet; a job that was lost is never heard of again."""


_apart: ContextVar[bool] = ContextVar("toril_otel_traces_apart", default=False)


@contextmanager
def untraced() -> Generator[None]:
    """Jobs that are added meanwhile begin traces of their own: BullMQ's `omitContext`."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


@dataclass(frozen=True, slots=True)
class OtelTracesConfig:
    """Options of the plugin `otel_traces`: none."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of a handler that has ended: its span's context, and when it ended (ns)."""

    context: Context
    ended: int


class OtelTraces:
    """Makes spans of adding, running and finishing jobs. Off until it is configured or made.

    Args:
        provider: where the tracer comes from; None: the provider of the whole process.
    """

    toril_name = "otel_traces"
    toril_off_until_configured = True

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._runs: OrderedDict[tuple[str, str, int], _Run] = OrderedDict()
        if provider is not None:
            self.toril_off_until_configured = False

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(OtelTracesConfig)
        try:
            import_module("opentelemetry.trace")
        except ImportError as error:
            raise ConfigurationError(f"plugin 'otel_traces' {EXTRA}") from error

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        from opentelemetry import trace

        del context
        self._tracer: Tracer = trace.get_tracer("toril", tracer_provider=self._provider)

    @hookimpl(trylast=True)
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        """A span for each job that is added; it goes along, unless somebody gave another."""
        from opentelemetry.propagate import inject
        from opentelemetry.trace import SpanKind

        if "tm" in draft.opts or draft.opts.get("omc"):
            return None
        if _apart.get():
            return SavePlan(opts={"omc": True})
        attributes = _attributes("add", draft.queue, draft.name, draft.id)
        name = f"add {draft.queue}.{draft.name}"
        carrier: dict[str, str] = {}
        with self._tracer.start_as_current_span(
            name, kind=SpanKind.PRODUCER, attributes=attributes
        ):
            inject(carrier)
        return SavePlan(opts={"tm": json.dumps(carrier)}) if carrier else None

    @hookimpl
    def toril_around_job(self, job: JobSnapshot) -> AbstractContextManager[object]:
        return self._running(job)

    @contextmanager
    def _running(self, job: JobSnapshot) -> Generator[None]:
        from opentelemetry.trace import SpanKind, set_span_in_context

        attributes = _attributes("process", job.queue, job.name, job.id) | {
            "bullmq.job.attempts.made": job.attempts_made + 1,
            "bullmq.job.processed.timestamp": job.processed or 0,
        }
        span = self._tracer.start_span(
            f"process {job.queue}",
            _added_in(job),
            SpanKind.CONSUMER,
            attributes,
            links=_last_attempt(job),
        )
        try:
            with _current(span):
                yield
        finally:
            self._note(job, set_span_in_context(span), time.time_ns())

    def _note(self, job: JobSnapshot, context: Context, ended: int) -> None:
        self._runs[_key(job)] = _Run(context, ended)
        while len(self._runs) > _MOST_OPEN:
            self._runs.popitem(last=False)

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        for event in events:
            self._finished("complete", event.job, attempts=event.job.attempts_made)

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[JobAttemptFailed]) -> None:
        for event in events:
            operation = "fail" if event.final else "delay" if event.retry_in else "retry"
            self._finished(operation, event.job, attempts=event.job.attempts_made)

    def _finished(self, operation: str, job: JobSnapshot, attempts: int) -> None:
        """A span from the end of the handler to where the finish is known."""
        run = self._runs.pop((job.queue, job.id, attempts), None)
        if run is not None:
            self._tracer.start_span(
                f"{operation} {job.queue}",
                run.context,
                attributes=_attributes(operation, job.queue, job.name, job.id),
                start_time=run.ended,
            ).end()


def _key(job: JobSnapshot) -> tuple[str, str, int]:
    """The run of the job, as it will be numbered once it has been counted."""
    return job.queue, job.id, job.attempts_made + 1


@contextmanager
def _current(span: Span) -> Generator[None]:
    """Let the span be the current one, tell it what becomes of the job, and end it."""
    from opentelemetry.trace import Status, StatusCode, use_span

    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except (RetryIn, WaitAgain, WaitForChildren, asyncio.CancelledError) as signal:
            span.add_event("job put off", {"bullmq.job.put.off": type(signal).__name__})
            raise
        except BaseException as error:
            span.add_event("job failed", {"bullmq.job.failed.reason": str(error)})
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        span.add_event("job completed")


def _attributes(operation: str, queue: str, name: str, id: str) -> dict[str, str | int]:
    return {
        "bullmq.queue.name": queue,
        "bullmq.queue.operation": operation,
        "bullmq.job.name": name,
        "bullmq.job.id": id,
    }


def _added_in(job: JobSnapshot) -> Context | None:
    """The context of who added the job; None: it brought none, and a new trace begins."""
    from opentelemetry.context import Context
    from opentelemetry.propagate import extract

    carrier = _carrier(job.opts.get("tm"))
    # An empty context, or the span would belong to whatever happens to run in this task.
    return Context() if job.opts.get("omc") else extract(carrier, Context())


def _last_attempt(job: JobSnapshot) -> list[Link]:
    """A link to the span in which Node put the job back to run again, as it left it there."""
    from opentelemetry.context import Context
    from opentelemetry.propagate import extract
    from opentelemetry.trace import Link, get_current_span

    carrier = _carrier(job.fields.get(b"tm"))
    found = get_current_span(extract(carrier, Context())).get_span_context()
    return [Link(found)] if found.is_valid else []


def _carrier(text: Any) -> Mapping[str, str]:
    """What the propagator wrote; empty if it is not that: the field is anybody's."""
    try:
        return msgspec.json.decode(text or b"{}", type=dict[str, str])
    except (TypeError, ValueError):
        return {}
