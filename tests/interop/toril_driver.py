"""Toril behind the protocol of `tests.support.driver`, by its public API alone.

Usage: python -m tests.interop.toril_driver URL PREFIX
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from tests.support.serving import Script, Service, Unsupported, serve
from toril import (
    ActiveJob,
    App,
    Backoff,
    Cron,
    Deduplication,
    Every,
    Flow,
    Job,
    NewJob,
    Queue,
    RateLimit,
    RateLimited,
    RetryIn,
    Setting,
    Unrecoverable,
    WaitAgain,
    WaitForChildren,
    Worker,
)
from toril.clock import Clock, SystemClock
from toril.flow import FlowTree
from toril.plugins import JobRef
from toril.worker.by_hand import Fetcher, HeldJob
from toril_plugins import Keep, Retention


def _ms(ms: int) -> timedelta:
    return timedelta(milliseconds=ms)


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _rate(told: Mapping[str, int]) -> RateLimit:
    return RateLimit(told["max"], _ms(told["duration"]))


def _parent(told: Mapping[str, str]) -> JobRef:
    return JobRef(told["queue"].split(":")[1], told["id"])


def _window(told: dict[str, Any]) -> Deduplication:
    options = {name: told[name] for name in ("extend", "replace", "reschedule") if name in told}
    ttl = None if "ttl" not in told else _ms(told["ttl"])
    keep = told.get("keepLastIfActive", False)
    return Deduplication(told["id"], ttl, keep_last=keep, **options)


def _backoff(told: Any) -> Backoff:
    if isinstance(told, int):
        return Backoff.fixed(_ms(told))
    make = {"fixed": Backoff.fixed, "exponential": Backoff.exponential}[told["type"]]
    return make(_ms(told["delay"]), jitter=told.get("jitter", 0.0))


def _pace(told: dict[str, Any]) -> Every | Cron:
    limits: dict[str, Any] = {"limit": told.get("limit")}
    for name, option in (("startDate", "start"), ("endDate", "end")):
        limits[option] = None if name not in told else _at(told[name])
    if "every" in told:
        offset = None if "offset" not in told else _ms(told["offset"])
        return Every(_ms(told["every"]), offset, **limits)
    return Cron(
        told["pattern"], told.get("tz"), immediately=told.get("immediately", False), **limits
    )


POLICIES = {
    "failParentOnFailure": "fail",
    "ignoreDependencyOnFailure": "ignore",
    "continueParentOnFailure": "continue",
    "removeDependencyOnFailure": "remove",
}

#: BullMQ's options of a job that have an option of Toril, and how the value is put.
OPTIONS: Mapping[str, tuple[str, Any]] = {
    "jobId": ("id", str),
    "delay": ("delay", _ms),
    "priority": ("priority", int),
    "lifo": ("lifo", bool),
    "attempts": ("attempts", int),
    "backoff": ("backoff", _backoff),
    "keepLogs": ("keep_logs", int),
    "stackTraceLimit": ("stack_trace_limit", int),
    "sizeLimit": ("size_limit", int),
    "timestamp": ("timestamp", _at),
    "parent": ("parent", _parent),
    "deduplication": ("deduplication", _window),
}


def _minutes(told: Mapping[str, int]) -> timedelta:
    return timedelta(minutes=told["maxDataPoints"])


WORKER_OPTIONS: Mapping[str, tuple[str, Any]] = {
    "concurrency": ("concurrency", int),
    "lockDuration": ("lock", _ms),
    "stalledInterval": ("stalled_interval", _ms),
    "maxStalledCount": ("max_stalled", int),
    "limiter": ("limiter", _rate),
    "name": ("name", str),
    "metrics": ("metrics", _minutes),
}


def _keep(told: Any) -> Keep | None:
    if told is None or isinstance(told, bool):
        return None if told is None else (Keep.nothing() if told else Keep.forever())
    if isinstance(told, int):
        return Keep(last=told)
    age = told.get("age")
    return Keep(last=told.get("count"), age=None if age is None else timedelta(seconds=age))


def translated(opts: dict[str, Any]) -> tuple[tuple[Setting, ...], dict[str, Any]]:
    """BullMQ's options as Toril's settings and options."""
    settings: list[Setting] = []
    options: dict[str, Any] = {}
    completed, failed = _keep(opts.get("removeOnComplete")), _keep(opts.get("removeOnFail"))
    if completed is not None or failed is not None:
        settings.append(Retention(completed=completed, failed=failed))
    for name, value in opts.items():
        if name in POLICIES:
            options["on_failure"] = POLICIES[name]
        elif name in OPTIONS:
            option, put = OPTIONS[name]
            options[option] = put(value)
        elif name not in {"removeOnComplete", "removeOnFail"}:
            raise Unsupported(name)
    return tuple(settings), options


class Handler(Script):
    """One run of the scripted handler."""

    def __init__(self, service: Toril, job: ActiveJob) -> None:
        super().__init__(service, job.queue, job.id, job.name)
        self.job = job

    async def do_log(self, text: str) -> None:
        await self.job.log(text)

    async def do_progress(self, value: Any) -> None:
        await self.job.progress(value)

    async def do_update_data(self, value: Any) -> None:
        await self.job.update(value)

    async def do_fail_times(self, times: int, text: str) -> None:
        if self.job.attempt <= times:
            raise RuntimeError(text)

    async def do_unrecoverable(self, text: str) -> None:
        raise Unrecoverable(text)

    async def do_delay(self, ms: int) -> None:
        if self.first_time():
            raise RetryIn(_ms(ms))

    async def do_rate_limit(self, ms: int) -> None:
        if self.first_time():
            raise RateLimited(_ms(ms))

    async def do_wait(self) -> None:
        if self.first_time():
            raise WaitAgain

    async def do_child(self, queue: str, name: str, data: Any, opts: dict[str, Any]) -> None:
        if self.first_time():
            settings, options = translated(opts)
            await self.job.add_children([Flow(queue, name, data, *settings, **options)])

    async def do_wait_children(self) -> None:
        if (await self.job.children()).unprocessed:
            raise WaitForChildren

    async def do_children_values(self) -> None:
        values: list[Any] = list((await self.job.children()).processed.values())
        self.result = sorted(values)


class Toril(Service):
    """The driven library."""

    def __init__(self, url: str, prefix: str, clock: Clock | None = None) -> None:
        super().__init__()
        self.url = url
        self.prefix = prefix
        self.clock: Clock = clock or SystemClock()
        self.app = App(url, prefix=prefix, clock=self.clock)
        self.workers: dict[str, tuple[Worker, asyncio.Task[Any]]] = {}
        self.readers: dict[str, tuple[asyncio.Task[None], list[dict[str, Any]]]] = {}
        self.hands: dict[str, Fetcher] = {}
        self.taken: dict[tuple[str, str], HeldJob] = {}

    def queue(self, name: str) -> Queue:
        return self.app.queue(name)

    async def found(self, queue: str, id: str) -> Job:
        job = await self.queue(queue).get(id)
        if job is None:
            raise LookupError(f"no job {id} in {queue}")
        return job

    async def reset(self) -> None:
        self.forget()
        tasks = [task for task, _ in self.readers.values()]
        for worker, task in self.workers.values():
            await worker.stop(grace="0s")
            tasks.append(task)
        for task, _ in self.readers.values():
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for fetcher in self.hands.values():
            await fetcher.stop(grace="0s")
        self.hands, self.taken = {}, {}
        await self.app.aclose()
        self.workers, self.readers = {}, {}
        self.app = App(self.url, prefix=self.prefix, clock=self.clock)

    # -- producing ---------------------------------------------------------------------------------

    async def add(
        self, queue: str, name: str, data: Any = None, opts: dict[str, Any] | None = None
    ) -> str:
        settings, options = translated(opts or {})
        return (await self.queue(queue).add(name, data, *settings, **options)).id

    async def add_bulk(self, queue: str, jobs: list[dict[str, Any]]) -> list[str]:
        new: list[NewJob] = []
        for job in jobs:
            settings, options = translated(job.get("opts", {}))
            new.append(NewJob(job["name"], job.get("data"), *settings, **options))
        return [job.id for job in await self.queue(queue).add_many(new)]

    async def add_flow(self, flow: dict[str, Any]) -> dict[str, Any]:
        root = await self.app.add_flow(self._flow(flow))
        return await self._added(flow, root)

    def _flow(self, told: dict[str, Any]) -> Flow:
        settings, options = translated(told.get("opts", {}))
        children = [self._flow(child) for child in told.get("children", [])]
        return Flow(
            told["queue"], told["name"], told.get("data"), *settings, children=children, **options
        )

    async def _added(self, told: dict[str, Any], job: Job) -> dict[str, Any]:
        """The ids of the flow's jobs; the names of the children of one node differ."""
        below: dict[str, Job] = {}
        for key in (await job.children()).unprocessed:
            _, queue, found = key.split(":")
            child = await self.found(queue, found)
            below[child.name] = child
        children = [
            await self._added(child, below[child["name"]])
            for child in told.get("children", [])
            if child["name"] in below
        ]
        return {"queue": job.queue, "name": job.name, "id": job.id, "children": children}

    # -- reading -----------------------------------------------------------------------------------

    async def job(self, queue: str, id: str) -> dict[str, Any] | None:
        job = await self.queue(queue).get(id)
        if job is None:
            return None
        seen = job.snapshot
        return {
            "id": job.id,
            "name": job.name,
            "data": job.data,
            "state": await job.state(),
            "progress": 0 if seen.progress is None else seen.progress,
            "result": seen.result,
            "reason": job.reason,
            "attempts_made": job.attempts_made,
            "delay": seen.delay,
            "priority": seen.priority,
        }

    async def counts(self, queue: str) -> dict[str, int]:
        return {str(state): count for state, count in (await self.queue(queue).counts()).items()}

    async def ids(self, queue: str, state: str, ascending: bool | None = None) -> list[str]:
        if ascending is (state in {"completed", "failed"}):
            raise Unsupported("jobs that have ended, oldest first; others, newest first")
        return [job.id async for job in self.queue(queue).jobs(cast("Any", state))]

    async def logs(self, queue: str, id: str) -> list[str]:
        return list(await (await self.found(queue, id)).logs())

    async def children(self, queue: str, id: str) -> dict[str, Any]:
        found = await (await self.found(queue, id)).children()
        return {"processed": dict(found.processed), "unprocessed": sorted(found.unprocessed)}

    async def flow(self, queue: str, id: str) -> dict[str, Any]:
        return _view(await self.app.flow_tree(await self.found(queue, id)))

    async def wait_until_finished(self, queue: str, id: str, ms: int) -> Any:
        return await (await self.found(queue, id)).result(timeout=_ms(ms))

    async def events_open(self, queue: str) -> str:
        seen: list[dict[str, Any]] = []

        async def read() -> None:
            async for event in self.app.events(queue, after="0-0"):
                told: dict[str, Any] = {**event.fields, "event": event.kind}
                if event.job_id is not None:
                    told["jobId"] = event.job_id
                seen.append(told)

        handle = self.handle_name("events")
        self.readers[handle] = (asyncio.create_task(read()), seen)
        return handle

    async def events_take(self, handle: str) -> list[dict[str, Any]]:
        task, seen = self.readers[handle]
        if task.done():
            task.result()  # reading goes on until `reset`: it has failed
        taken = list(seen)
        seen.clear()
        return taken

    # -- working -----------------------------------------------------------------------------------

    async def worker(self, queue: str, opts: dict[str, Any]) -> str:
        async def handler(job: ActiveJob) -> Any:
            return await Handler(self, job).run(job.data)

        settings, options = self._worker_options(opts)
        worker = self.app.worker(queue, handler, *settings, **options)
        handle = self.handle_name("worker")
        self.workers[handle] = (worker, asyncio.create_task(worker.run()))
        return handle

    def _worker_options(self, opts: dict[str, Any]) -> tuple[tuple[Setting, ...], dict[str, Any]]:
        kept = {name: opts[name] for name in opts if name.startswith("removeOn")}
        settings, _ = translated(kept)
        options: dict[str, Any] = {}
        for name, value in opts.items():
            if name not in kept:
                if name not in WORKER_OPTIONS:
                    raise Unsupported(name)
                option, put = WORKER_OPTIONS[name]
                options[option] = put(value)
        return settings, options

    async def worker_close(self, handle: str, force: bool = False) -> None:
        worker, task = self.workers.pop(handle)
        await worker.stop(grace="0s" if force else None)
        await task

    async def worker_errors(self, handle: str) -> list[str]:
        task = self.workers[handle][1]
        return [repr(task.exception())] if task.done() and not task.cancelled() else []

    # -- working by hand ---------------------------------------------------------------------------

    async def take(self, queue: str) -> dict[str, Any] | None:
        if queue not in self.hands:
            self.hands[queue] = self.app.fetcher(queue)
            await self.hands[queue].__aenter__()
        job = await self.hands[queue].next_job(wait="0s")
        if job is None:
            return None
        self.taken[queue, job.id] = job
        attempts = job.snapshot.attempts_made
        return {"id": job.id, "name": job.name, "data": job.data, "attempts_made": attempts}

    async def complete(self, queue: str, id: str, value: Any = None) -> None:
        await self.taken[queue, id].complete(value)

    async def fail(self, queue: str, id: str, text: str, kind: str = "plain") -> None:
        await self.taken[queue, id].fail(text, retry=kind != "unrecoverable")

    async def put_off(self, queue: str, id: str, ms: int) -> None:
        await self.taken[queue, id].delay(_ms(ms))

    async def give_back(self, queue: str, id: str) -> None:
        await self.taken[queue, id].fail(WaitAgain())

    async def await_children(self, queue: str, id: str) -> bool:
        job = self.taken[queue, id]
        if not (await job.children()).unprocessed:
            return False
        await job.wait_for_children()
        return True

    # -- operating ---------------------------------------------------------------------------------

    async def pause(self, queue: str) -> None:
        await self.queue(queue).pause()

    async def resume(self, queue: str) -> None:
        await self.queue(queue).resume()

    async def drain(self, queue: str, delayed: bool = False) -> None:
        await self.queue(queue).drain(delayed=delayed)

    async def clean(self, queue: str, state: str, grace: int = 0, limit: int = 0) -> list[str]:
        state = {"wait": "waiting"}.get(state, state)
        return await self.queue(queue).clean(
            cast("Any", state), older_than=_ms(grace), limit=limit or None
        )

    async def obliterate(self, queue: str, force: bool = False) -> None:
        await self.queue(queue).obliterate(force=force)

    async def retry_all(self, queue: str, state: str) -> None:
        await self.queue(queue).retry_all(cast("Any", state))

    async def promote_all(self, queue: str) -> None:
        await self.queue(queue).promote_all()

    async def concurrency(self, queue: str, value: int | None = None) -> None:
        await self.queue(queue).set_limits(concurrency=value or "none")

    async def rate_limit(
        self, queue: str, max: int | None = None, duration: int | None = None
    ) -> None:
        rate = RateLimit(max, _ms(duration or 0)) if max else None
        await self.queue(queue).set_limits(rate=rate or "none")

    async def hold_back(self, queue: str, ms: int) -> None:
        await self.queue(queue).rate_limit(_ms(ms))

    async def go_on(self, queue: str) -> None:
        await self.queue(queue).remove_rate_limit()

    async def window_owner(self, queue: str, window: str) -> str | None:
        return await self.queue(queue).deduplication_owner(window)

    async def close_window(self, queue: str, window: str) -> bool:
        return await self.queue(queue).remove_deduplication(window)

    async def schedule(
        self, queue: str, id: str, repeat: dict[str, Any], template: dict[str, Any]
    ) -> str:
        settings, options = translated(template.get("opts", {}))
        await self.queue(queue).schedule(
            id, _pace(repeat), template["name"], template.get("data", {}), *settings, **options
        )
        return id

    async def unschedule(self, queue: str, id: str) -> bool:
        return await self.queue(queue).remove_schedule(id)

    async def retry(self, queue: str, id: str, state: str, reset: bool = False) -> None:
        await (await self.found(queue, id)).retry(reset_attempts=reset)

    async def remove(self, queue: str, id: str, children: bool = True) -> None:
        await (await self.found(queue, id)).remove(children=children)

    async def promote(self, queue: str, id: str) -> None:
        await (await self.found(queue, id)).promote()

    async def update_data(self, queue: str, id: str, data: Any) -> None:
        await (await self.found(queue, id)).update(data)

    async def progress(self, queue: str, id: str, value: Any) -> None:
        await (await self.found(queue, id)).progress(value)

    async def log(self, queue: str, id: str, text: str, keep: int | None = None) -> int:
        return await self.queue(queue).log(id, text, keep=keep)

    async def clear_logs(self, queue: str, id: str, keep: int = 0) -> None:
        await (await self.found(queue, id)).clear_logs(keep=keep)

    async def change_delay(self, queue: str, id: str, delay: int) -> None:
        await (await self.found(queue, id)).change_delay(_ms(delay))

    async def change_priority(self, queue: str, id: str, priority: int, lifo: bool = False) -> None:
        await (await self.found(queue, id)).change_priority(priority, lifo=lifo)

    async def unlink(self, queue: str, id: str) -> bool:
        return await (await self.found(queue, id)).unlink()

    async def remove_unprocessed(self, queue: str, id: str) -> None:
        await (await self.found(queue, id)).remove_unprocessed_children()


def _view(tree: FlowTree[Job]) -> dict[str, Any]:
    job = tree.job
    children = [_view(child) for child in tree.children]
    return {
        "queue": job.queue,
        "name": job.name,
        "id": job.id,
        "state": tree.state,
        "children": children,
    }


if __name__ == "__main__":
    asyncio.run(serve(Toril(sys.argv[1], sys.argv[2])))
