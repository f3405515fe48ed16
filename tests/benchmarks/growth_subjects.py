"""What may grow, and what is done then. See `growth`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from tests.benchmarks.growth_measure import QUEUE, Operation, Scene, Subject, work
from tests.benchmarks.growth_states import (
    PRIORITIES,
    fill,
    fill_schedules,
    job_id,
    payload,
    strand,
)
from toril import Every, Flow, NewJob
from toril.connection.call import only
from toril.protocol.inspecting import Beat, beat
from toril.protocol.locking import renew, stalled_check
from toril_plugins import Keep, Retention

POWERS = (1000, 10_000, 100_000, 1_000_000)
BULK = 2000
"""So many jobs an operation in bulk is about, or a quarter of those there are, if that is less."""


def _filled(state: str) -> Callable[[Scene], Awaitable[None]]:
    async def make(scene: Scene) -> None:
        fill(scene.raw, QUEUE, state, scene.size)
        await scene.queue().counts()

    return make


def _middle(scene: Scene) -> str:
    """Of the jobs made, one in the middle; another with every call."""
    number = scene.kept["middle"] = scene.kept.get("middle", scene.size // 2) % scene.size + 1
    return job_id(number)


def _some(scene: Scene) -> int:
    """So many jobs an operation in bulk is about."""
    return min(BULK, max(scene.size // 4, 1))


# Adding and working


def _add(**options: Any) -> Callable[[Scene], Awaitable[int]]:
    async def do(scene: Scene) -> int:
        await scene.queue().add("send", payload(), **options)
        return 1

    return do


async def _add_many(scene: Scene) -> int:
    await scene.queue().add_many([NewJob("send", payload()) for _ in range(BULK)])
    return BULK


async def _work(scene: Scene) -> int:
    return await work(scene, _some(scene))


async def _add_and_work(scene: Scene) -> int:
    await scene.queue().add_many([NewJob("send", payload()) for _ in range(BULK)])
    return await work(scene, BULK)


ADD = Operation("add one", _add(), 200)
ADD_MANY = Operation("add many", _add_many, 3)
WORK = Operation("fetch and finish", _work, 1)

# Looking


async def _counts(scene: Scene) -> int:
    await scene.queue().counts()
    return 1


def _page(state: str, place: float, **options: Any) -> Callable[[Scene], Awaitable[int]]:
    async def do(scene: Scene) -> int:
        start = int(scene.size * place)
        found = scene.queue().jobs(state, start=start, limit=100, **options)
        return len([job async for job in found])

    return do


async def _state(scene: Scene) -> int:
    assert await scene.queue().state(_middle(scene)) != "unknown"
    return 1


async def _explain(scene: Scene) -> int:
    job = await scene.queue().get(_middle(scene))
    await job.explain()
    return 1


async def _audit(scene: Scene) -> int:
    await scene.app.audit(QUEUE, most=1000)
    return min(scene.size, 1000)


def _looks(state: str) -> tuple[Operation, ...]:
    return (
        Operation("counts", _counts, 50),
        Operation("page of 100: first", _page(state, 0), 20),
        Operation("page of 100: middle", _page(state, 0.5), 20),
        Operation("state of a job", _state, 20),
        Operation("explain a job", _explain, 5),
        Operation("audit of 1,000 jobs", _audit, 1),
    )


# Changing and removing


async def _pause(scene: Scene) -> int:
    await scene.queue().pause()
    await scene.queue().resume()
    return 1


async def _remove(scene: Scene) -> int:
    assert await scene.queue().remove(_middle(scene))
    return 1


async def _change_priority(scene: Scene) -> int:
    job = await scene.queue().get(_middle(scene))
    await job.change_priority(5)
    return 1


async def _change_delay(scene: Scene) -> int:
    job = await scene.queue().get(_middle(scene))
    await job.change_delay("2h")
    return 1


def _clean(state: str) -> Callable[[Scene], Awaitable[int]]:
    async def do(scene: Scene) -> int:
        gone = await scene.queue().clean(state, older_than=timedelta(0), limit=_some(scene))
        return max(len(gone), 1)

    return do


async def _clean_few(scene: Scene) -> int:
    """Nearly all are locked: every job is looked at."""
    await scene.queue().clean("active", older_than=timedelta(0))
    return scene.size


async def _drain(scene: Scene) -> int:
    return max(len(await scene.queue().drain(delayed=True)), 1)


async def _obliterate(scene: Scene) -> int:
    keys: int = scene.raw.dbsize()
    await scene.queue().obliterate(force=True)
    return keys


async def _retry_all(scene: Scene) -> int:
    retried: int = await scene.queue().retry_all("completed", limit=_some(scene))
    return retried


async def _promote_all(scene: Scene) -> int:
    promoted: int = await scene.queue().promote_all(limit=_some(scene))
    return promoted


async def _lower_limit(scene: Scene) -> int:
    kept = scene.raw.zcard(f"bull:{QUEUE}:completed")
    least = max(kept - _some(scene), 0)
    await scene.queue().set(Retention(completed=Keep(last=least)))
    await scene.app.run_services(QUEUE)
    await scene.queue().unset(Retention)
    return kept - least


PAUSE = Operation("pause and resume", _pause, 20)
REMOVE = Operation("remove a job", _remove, 20)
OBLITERATE = Operation("obliterate", _obliterate, 1)
DRAIN = Operation("drain", _drain, 1)

WAITING = Subject(
    "waiting jobs",
    (*POWERS, 10_000_000),
    _filled("wait"),
    (
        ADD, ADD_MANY, WORK, *_looks("waiting"), PAUSE,
        Operation("change a priority", _change_priority, 20), REMOVE,
        Operation("clean some", _clean("waiting"), 1), DRAIN, OBLITERATE,
    ),
)  # fmt: skip
KEPT = Subject(
    "kept jobs",
    POWERS,
    _filled("completed"),
    (
        ADD, Operation("add, fetch and finish", _add_and_work, 1), *_looks("completed"), REMOVE,
        Operation("retry some", _retry_all, 1),
        Operation("a lowered limit", _lower_limit, 1, longest=20.0),
        Operation("clean some", _clean("completed"), 1), OBLITERATE,
    ),
)  # fmt: skip


async def _make_due(scene: Scene) -> int:
    """Some delayed jobs are due now, those that were due first."""
    key = f"bull:{QUEUE}:delayed"
    first: Any = scene.raw.zrange(key, 0, _some(scene) - 1)
    scene.raw.zadd(key, dict.fromkeys(first, 4096.0))
    return len(first)


DELAYED = Subject(
    "delayed jobs",
    POWERS,
    _filled("delayed"),
    (
        Operation("add one with a delay", _add(delay="3h"), 200),
        Operation("promote, fetch and finish", _work, 1, _make_due),
        *_looks("delayed"), Operation("change a delay", _change_delay, 20), REMOVE,
        Operation("promote some", _promote_all, 1),
        Operation("clean some", _clean("delayed"), 1), DRAIN, OBLITERATE,
    ),
)  # fmt: skip


async def _counts_per_priority(scene: Scene) -> int:
    await scene.queue().counts_per_priority(*range(1, PRIORITIES + 1))
    return 1


PRIORITISED = Subject(
    "prioritised jobs",
    POWERS,
    _filled("prioritized"),
    (
        Operation("add one with a priority", _add(priority=3), 200), WORK,
        *_looks("prioritized"), Operation("counts per priority", _counts_per_priority, 20),
        Operation("change a priority", _change_priority, 20), REMOVE,
        Operation("clean some", _clean("prioritized"), 1), DRAIN, OBLITERATE,
    ),
)  # fmt: skip

# Active jobs


async def _renew(scene: Scene) -> int:
    jobs = [(job_id(number), "somebody") for number in range(1, scene.size + 1)]
    for start in range(0, len(jobs), 250):
        part = jobs[start : start + 250]
        await scene.app.perform(only(renew(f"bull:{QUEUE}", part, 3_600_000)))
    return scene.size


async def _check(scene: Scene) -> int:
    now = scene.app.context.clock.now_ms()
    check = stalled_check(f"bull:{QUEUE}", now=now, interval_ms=1, max_stalled=1)
    report = await scene.app.perform(check)
    return max(scene.size, report.recovered)


async def _strand_some(scene: Scene) -> int:
    """Every tenth job's worker vanishes, of those whose worker has not."""
    at = scene.kept["stranded"] = scene.kept.get("stranded", 0) + 1
    strand(scene.raw, QUEUE, [job_id(n) for n in range(at, scene.size + 1, 10)])
    return scene.size


ACTIVE = Subject(
    "active jobs",
    (10, 100, 1000, 6400, 64_000),
    _filled("active"),
    (
        Operation("add, fetch and finish", _add_and_work, 2), *_looks("active"),
        Operation("renew all locks", _renew, 1),
        Operation("stalled check, all are well", _check, 3),
        Operation("stalled check, a tenth vanished", _check, 1, _strand_some),
        Operation("clean, nearly all are locked", _clean_few, 1),
        OBLITERATE,
    ),
)  # fmt: skip

# Flows


async def _nothing(scene: Scene) -> None:
    await scene.queue().counts()


async def _add_flow(scene: Scene) -> int:
    children = [Flow("steps", "step", payload()) for _ in range(scene.size)]
    scene.kept["parent"] = await scene.app.add_flow(Flow(QUEUE, "order", {}, children=children))
    return scene.size


async def _work_children(scene: Scene) -> int:
    return await work(scene, scene.size, queue="steps")


async def _children(scene: Scene) -> int:
    await scene.kept["parent"].children()
    return scene.size


async def _tree(scene: Scene) -> int:
    await scene.app.flow_tree(scene.kept["parent"])
    return 1


async def _work_parent(scene: Scene) -> int:
    assert await work(scene, 1) == 1
    return 1


async def _remove_tree(scene: Scene) -> int:
    assert await scene.queue().remove(scene.kept["parent"].id)
    return scene.size


_ALL = 60.0
FLOWS = Subject(
    "children of a flow",
    (10, 100, 1000, 10_000, 100_000),
    _nothing,
    (
        Operation("add a flow", _add_flow, 1, longest=_ALL),
        Operation("remove a flow of open children", _remove_tree, 1, longest=_ALL),
        Operation("add a flow", _add_flow, 1, longest=_ALL),
        Operation("flow tree", _tree, 5),
        Operation("fetch and finish the children", _work_children, 1, longest=_ALL),
        Operation("read the children", _children, 1),
        Operation("fetch and finish the parent", _work_parent, 1),
        Operation("remove a flow that has ended", _remove_tree, 1, longest=_ALL),
    ),
)

# Payloads, queues, workers, schedules


async def _add_payload(scene: Scene) -> int:
    await scene.queue().add("send", payload(scene.size))
    return 1


async def _work_payload(scene: Scene) -> int:
    return await work(scene, 20, concurrency=10)


async def _update(scene: Scene) -> int:
    job = scene.kept.get("job") or await scene.queue().add("send", payload(scene.size))
    scene.kept["job"] = job
    await job.update(payload(scene.size))
    return 1


PAYLOADS = Subject(
    "bytes of payload",
    (100, 1000, 10_000, 100_000, 1_048_576),
    _nothing,
    (
        Operation("add one", _add_payload, 60),
        Operation("page of 20", _page("waiting", 0), 5),
        Operation("fetch and finish", _work_payload, 1),
        Operation("update the payload", _update, 20),
    ),
)


async def _one_job_each(scene: Scene) -> int:
    for number in range(scene.size):
        await scene.app.queue(f"queue-{number}").add("send", payload())
    return scene.size


async def _names(scene: Scene) -> int:
    assert len(await scene.app.queues()) >= scene.size
    return scene.size


async def _work_one_queue(scene: Scene) -> int:
    queue = f"queue-{scene.size - 1}"
    await scene.app.queue(queue).add_many([NewJob("send", payload()) for _ in range(BULK)])
    return await work(scene, BULK, queue=queue)


QUEUES = Subject(
    "queues",
    (1, 10, 100, 1000),
    _nothing,
    (
        Operation("add one to each", _one_job_each, 1, longest=30.0),
        Operation("names of the queues", _names, 5),
        Operation("add, fetch and finish in one", _work_one_queue, 2),
    ),
)


async def _many_workers(scene: Scene) -> int:
    await scene.queue().add_many([NewJob("send", payload()) for _ in range(BULK)])
    done = await asyncio.gather(
        *(work(scene, BULK, concurrency=10) for _ in range(scene.size)),
    )
    return sum(done)


async def _beat(scene: Scene) -> int:
    """Of each of so many workers a sign of life."""
    for number in range(scene.size):
        now = scene.app.context.clock.now_ms()
        told = Beat(f"w{number}", "bench", "here", 1, now, now, 100, (), 0)
        await scene.app.perform(only(beat(f"bull:{QUEUE}", told)))
    return scene.size


async def _workers(scene: Scene) -> int:
    assert len(await scene.queue().workers()) >= scene.size
    return scene.size


WORKERS = Subject(
    "workers",
    (1, 4, 16, 64),
    _nothing,
    (
        Operation("add, fetch and finish", _many_workers, 2),
        Operation("signs of life", _beat, 5),
        Operation("list the workers", _workers, 10),
    ),
)


async def _scheduled(scene: Scene) -> None:
    fill_schedules(scene.raw, QUEUE, scene.size)
    await scene.queue().counts()


async def _upsert(scene: Scene) -> int:
    number = scene.kept["upserts"] = scene.kept.get("upserts", 0) + 1
    await scene.queue().schedule(f"new-{number}", Every("1h"), "send", payload())
    return 1


async def _replace(scene: Scene) -> int:
    await scene.queue().schedule(_name(scene), Every("2h"), "send", payload())
    return 1


async def _list_schedules(scene: Scene) -> int:
    return len(await scene.queue().schedules())


async def _next_runs(scene: Scene) -> int:
    """Schedules begin at once: their first runs are picked up and followed by the next."""
    for number in range(200):
        await scene.queue().schedule(f"now-{number}", Every("1h"), "send", payload())
    return await work(scene, 200)


async def _remove_schedule(scene: Scene) -> int:
    assert await scene.queue().remove_schedule(_name(scene))
    return 1


def _name(scene: Scene) -> str:
    number = scene.kept["schedule"] = scene.kept.get("schedule", scene.size // 2) + 1
    return f"s{number:08d}"


SCHEDULES = Subject(
    "schedules",
    (100, 1000, 10_000, 100_000),
    _scheduled,
    (
        Operation("create one", _upsert, 50), Operation("replace one", _replace, 20),
        Operation("create, fetch and finish, with the next run", _next_runs, 1),
        Operation("list all", _list_schedules, 1, longest=30.0),
        Operation("remove one", _remove_schedule, 20), OBLITERATE,
    ),
)  # fmt: skip

_ALL_SUBJECTS = (
    WAITING, KEPT, DELAYED, PRIORITISED, ACTIVE, FLOWS, PAYLOADS, QUEUES, WORKERS, SCHEDULES,
)  # fmt: skip
SUBJECTS = {subject.name.split()[0]: subject for subject in _ALL_SUBJECTS}
