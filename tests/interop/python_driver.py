"""BullMQ for Python behind the protocol of `tests.support.driver`.

Usage: python -m tests.interop.python_driver URL PREFIX
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any

from tests.support.serving import Script, Service, serve

bullmq: Any = importlib.import_module("bullmq")  # carries no types worth checking against

EVENTS = (
    *("added", "waiting", "delayed", "waiting-children", "active", "completed", "failed"),
    *("retries-exhausted", "stalled", "progress", "removed", "duplicated", "deduplicated"),
    *("cleaned", "drained", "paused", "resumed"),
)


class Handler(Script):
    """One run of the scripted handler."""

    def __init__(self, service: BullMQ, job: Any, token: str) -> None:
        super().__init__(service, job.queue.name, job.id, job.name)
        self.driver = service
        self.job = job
        self.token = token

    async def do_log(self, text: str) -> None:
        await self.job.log(text)

    async def do_progress(self, value: Any) -> None:
        await self.job.updateProgress(value)

    async def do_update_data(self, value: Any) -> None:
        await self.job.updateData(value)

    async def do_fail_times(self, times: int, text: str) -> None:
        if self.job.attemptsMade < times:
            raise RuntimeError(text)

    async def do_unrecoverable(self, text: str) -> None:
        raise bullmq.UnrecoverableError(text)

    async def do_delay(self, ms: int) -> None:
        if self.first_time():
            await self.job.moveToDelayed(int(time.time() * 1000) + ms, self.token)
            raise bullmq.DelayedError

    async def do_child(self, queue: str, name: str, data: Any, opts: dict[str, Any]) -> None:
        if self.first_time():
            prefix = self.driver.options["prefix"]
            parent = {"id": self.id, "queue": f"{prefix}:{self.queue}"}
            await self.driver.queue(queue).add(name, data, {**opts, "parent": parent})

    async def do_wait_children(self) -> None:
        if await self.job.moveToWaitingChildren(self.token, {}):
            raise bullmq.WaitingChildrenError

    async def do_children_values(self) -> None:
        self.result = sorted((await self.job.getChildrenValues()).values())


class BullMQ(Service):
    """The driven library."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"connection": url, "prefix": prefix}
        self.queues: dict[str, Any] = {}
        self.workers: dict[str, tuple[Any, list[str]]] = {}
        self.readers: dict[str, tuple[Any, list[dict[str, Any]]]] = {}
        self.producer: Any = None
        self.running: list[asyncio.Future[Any]] = []

    # -- what is open ------------------------------------------------------------------------------

    def queue(self, name: str) -> Any:
        if name not in self.queues:
            self.queues[name] = bullmq.Queue(name, dict(self.options))
        return self.queues[name]

    def flows(self) -> Any:
        if self.producer is None:
            self.producer = bullmq.FlowProducer(
                self.options["connection"], {"prefix": self.options["prefix"]}
            )
        return self.producer

    async def found(self, queue: str, id: str) -> Any:
        job = await self.queue(queue).getJob(id)
        if job is None:
            raise LookupError(f"no job {id} in {queue}")
        return job

    async def version(self) -> str:
        return str(bullmq.__version__)

    async def reset(self) -> None:
        self.forget()
        for worker, _ in self.workers.values():
            await worker.close(force=True)
        for reader, _ in self.readers.values():
            await reader.close()
        for queue in self.queues.values():
            await queue.close()
        if self.producer is not None:
            await self.producer.close()
        self.queues, self.workers, self.readers, self.producer = {}, {}, {}, None

    # -- producing ---------------------------------------------------------------------------------

    async def add(
        self, queue: str, name: str, data: Any = None, opts: dict[str, Any] | None = None
    ) -> str:
        return str((await self.queue(queue).add(name, data, opts or {})).id)

    async def add_bulk(self, queue: str, jobs: list[dict[str, Any]]) -> list[str]:
        full = [{"data": None, "opts": {}, **job} for job in jobs]
        return [str(job.id) for job in await self.queue(queue).addBulk(full)]

    async def add_flow(self, flow: dict[str, Any]) -> dict[str, Any]:
        return _plain(await self.flows().add(self._node(flow)))

    def _node(self, flow: dict[str, Any]) -> dict[str, Any]:
        return {
            "queueName": flow["queue"],
            "name": flow["name"],
            "prefix": self.options["prefix"],
            "data": flow.get("data"),
            "opts": flow.get("opts", {}),
            "children": [self._node(child) for child in flow.get("children", [])],
        }

    # -- reading -----------------------------------------------------------------------------------

    async def job(self, queue: str, id: str) -> dict[str, Any] | None:
        job = await self.queue(queue).getJob(id)
        if job is None:
            return None
        return {
            "id": job.id,
            "name": job.name,
            "data": job.data,
            "state": await job.getState(),
            "progress": job.progress,
            "result": job.returnvalue,
            "reason": job.failedReason,
            "attempts_made": job.attemptsMade,
            "delay": job.delay,
            "priority": job.priority,
        }

    async def counts(self, queue: str) -> Any:
        return await self.queue(queue).getJobCounts()

    async def ids(self, queue: str, state: str) -> list[str]:
        return [str(job.id) for job in await self.queue(queue).getJobs([state])]

    async def logs(self, queue: str, id: str) -> Any:
        return (await self.queue(queue).getJobLogs(id))["logs"]

    # -- events ------------------------------------------------------------------------------------

    async def events_open(self, queue: str) -> str:
        reader = bullmq.QueueEvents(queue, {**self.options, "lastEventId": "0-0", "autorun": False})
        seen: list[dict[str, Any]] = []

        def listen(event: str) -> None:
            def on(*told: Any) -> None:
                fields: dict[str, Any] = told[0] if isinstance(told[0], dict) else {}
                seen.append({**fields, "event": event})

            reader.on(event, on)

        for event in EVENTS:
            listen(event)
        handle = self.handle_name("events")
        self.readers[handle] = (reader, seen)
        self.running.append(asyncio.ensure_future(reader.run()))
        return handle

    async def events_take(self, handle: str) -> list[dict[str, Any]]:
        seen = self.readers[handle][1]
        taken = list(seen)
        seen.clear()
        return taken

    # -- working -----------------------------------------------------------------------------------

    async def worker(self, queue: str, opts: dict[str, Any]) -> str:
        async def handler(job: Any, token: str) -> Any:
            return await Handler(self, job, token).run(job.data)

        # A round of blocking shorter than the time-out of the client's socket: see wire format 5.2.
        worker = bullmq.Worker(queue, handler, {**self.options, "drainDelay": 2, **opts})
        errors: list[str] = []

        def report(error: Any, *_: Any) -> None:
            errors.append(str(error))

        worker.on("error", report)
        handle = self.handle_name("worker")
        self.workers[handle] = (worker, errors)
        return handle

    async def worker_close(self, handle: str, force: bool = False) -> None:
        worker, _ = self.workers.pop(handle)
        await worker.close(force=force)

    async def worker_errors(self, handle: str) -> list[str]:
        return self.workers[handle][1]

    # -- operating ---------------------------------------------------------------------------------

    async def pause(self, queue: str) -> None:
        await self.queue(queue).pause()

    async def resume(self, queue: str) -> None:
        await self.queue(queue).resume()

    async def drain(self, queue: str, delayed: bool = False) -> None:
        await self.queue(queue).drain(delayed)

    async def clean(self, queue: str, state: str, grace: int = 0, limit: int = 0) -> Any:
        return await self.queue(queue).clean(grace, limit, state)

    async def obliterate(self, queue: str, force: bool = False) -> None:
        await self.queue(queue).obliterate(force)

    async def retry_all(self, queue: str, state: str) -> None:
        await self.queue(queue).retryJobs({"state": state})

    async def promote_all(self, queue: str) -> None:
        await self.queue(queue).promoteJobs({})

    async def concurrency(self, queue: str, value: int | None = None) -> None:
        on = self.queue(queue)
        await (on.setGlobalConcurrency(value) if value else on.removeGlobalConcurrency())

    async def rate_limit(
        self, queue: str, max: int | None = None, duration: int | None = None
    ) -> None:
        on = self.queue(queue)
        await (on.setGlobalRateLimit(max, duration) if max else on.removeGlobalRateLimit())

    async def hold_back(self, queue: str, ms: int) -> None:
        await self.queue(queue).rateLimit(ms)

    async def go_on(self, queue: str) -> None:
        await self.queue(queue).removeRateLimitKey()

    async def schedule(
        self, queue: str, id: str, repeat: dict[str, Any], template: dict[str, Any]
    ) -> str | None:
        job = await self.queue(queue).upsertJobScheduler(
            id, repeat, template.get("name"), template.get("data"), template.get("opts")
        )
        return None if job is None else str(job.id)

    async def unschedule(self, queue: str, id: str) -> Any:
        return await self.queue(queue).removeJobScheduler(id)

    async def retry(self, queue: str, id: str, state: str, reset: bool = False) -> None:
        opts = {"resetAttemptsMade": True} if reset else {}
        await (await self.found(queue, id)).retry(state, opts)

    async def remove(self, queue: str, id: str, children: bool = True) -> None:
        await (await self.found(queue, id)).remove({"removeChildren": children})

    async def promote(self, queue: str, id: str) -> None:
        await (await self.found(queue, id)).promote()

    async def update_data(self, queue: str, id: str, data: Any) -> None:
        await (await self.found(queue, id)).updateData(data)

    async def change_priority(self, queue: str, id: str, priority: int, lifo: bool = False) -> None:
        await (await self.found(queue, id)).changePriority({"priority": priority, "lifo": lifo})

    async def progress(self, queue: str, id: str, value: Any) -> None:
        await (await self.found(queue, id)).updateProgress(value)

    async def log(self, queue: str, id: str, text: str, keep: int = 0) -> Any:
        return await bullmq.Job.addJobLog(self.queue(queue), id, text, keep)


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    job = node["job"]
    return {
        "queue": job.queue.name,
        "name": job.name,
        "id": job.id,
        "children": [_plain(child) for child in node.get("children") or []],
    }


if __name__ == "__main__":
    asyncio.run(serve(BullMQ(*sys.argv[1:3])))
