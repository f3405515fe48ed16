"""What a trace can do: verbs, and the strategies that draw their arguments.

A step names jobs by number, modulo how many there are, so that every part of a trace is a trace,
and a failing one can be made smaller. A verb that has nothing to act on does nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import redis
from hypothesis import strategies as st

from tests.differential.duel import QUEUES as ALL_QUEUES
from tests.differential.duel import Duel, Known, refused
from tests.differential.exceptions import known
from tests.support.dump import JOB_PARTS

Verb = Callable[..., Awaitable[None]]


@dataclass(frozen=True, repr=False)
class Step:
    """One step: a verb and its arguments."""

    verb: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.verb}({', '.join(f'{n}={v!r}' for n, v in self.arguments.items())})"

    async def play(self, duel: Duel) -> None:
        """Do it on both sides; one millisecond passes before."""
        await duel.advance(1)
        await VERBS[self.verb](duel, **self.arguments)


VERBS: Final[dict[str, Verb]] = {}
ARGUMENTS: Final[dict[str, st.SearchStrategy[dict[str, Any]]]] = {}
CHOICE: Final[list[str]] = []
"""The verbs, each as often as it has weight."""


def verb(weight: int = 1, **arguments: st.SearchStrategy[Any]) -> Callable[[Verb], Verb]:
    """Make a function a verb whose arguments are drawn from these strategies."""

    def register(function: Verb) -> Verb:
        name = getattr(function, "__name__", "")
        VERBS[name] = function
        ARGUMENTS[name] = st.fixed_dictionaries(arguments)
        CHOICE.extend([name] * weight)
        return function

    return register


def traces(length: int) -> st.SearchStrategy[list[Step]]:
    """Traces of so many steps; smaller ones have more steps that only let time pass."""

    @st.composite
    def steps(draw: st.DrawFn) -> Step:
        name = draw(st.sampled_from(CHOICE))
        return Step(name, draw(ARGUMENTS[name]))

    return st.lists(steps(), min_size=length, max_size=length)


QUEUES = st.sampled_from(ALL_QUEUES)
NUMBERS = st.integers(0, 30)
DELAYS = st.sampled_from([0, 1, 5, 1000])
DATA = st.sampled_from([{}, {"a": 1}, [1, None], "text", 0, True])
POLICIES = st.sampled_from(
    [
        "failParentOnFailure",
        "ignoreDependencyOnFailure",
        "continueParentOnFailure",
        "removeDependencyOnFailure",
    ]
)


def options(*, delayed: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Options of a job in BullMQ's words."""
    backoff = st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["fixed", "exponential"]), "delay": st.sampled_from([5, 1000])}
        )
    )
    told: dict[str, st.SearchStrategy[Any]] = {
        "priority": st.sampled_from([1, 2, 7]),
        "attempts": st.integers(1, 3),
        "backoff": backoff,
        "lifo": st.just(value=True),
        "keepLogs": st.integers(1, 2),
    }
    if delayed:
        told["delay"] = st.sampled_from([1, 5, 1000])
    return st.fixed_dictionaries({}, optional=told).map(_consistent)


WINDOWS = st.sampled_from(["w0", "w1"])
KINDS = st.sampled_from(
    [
        {},
        {"ttl": 60_000},
        {"ttl": 60_000, "extend": True},
        {"ttl": 60_000, "extend": True, "replace": True},
        {"replace": True},
        {"keepLastIfActive": True},
    ]
)


def _consistent(opts: dict[str, Any]) -> dict[str, Any]:
    """Without what BullMQ does not take together."""
    if "priority" in opts:
        opts.pop("lifo", None)
    return opts


def pick(jobs: list[Known], number: int) -> Known | None:
    """The job of that number."""
    return jobs[number % len(jobs)] if jobs else None


def fresh(duel: Duel) -> str:
    """A name that no job has had."""
    duel.serial += 1
    return f"j{duel.serial}"


# -- time and reading ------------------------------------------------------------------------------


@verb(weight=4, ms=st.sampled_from([0, 1, 4, 1000, 60_000]))
async def wait(duel: Duel, ms: int) -> None:
    """Let time pass."""
    duel.told.append(f"{ms} ms pass")
    await duel.advance(ms)


@verb(weight=3, number=NUMBERS)
async def read_job(duel: Duel, number: int) -> None:
    """Read a job."""
    if job := pick(duel.jobs, number):
        found, _ = await duel.both("job", queue=job.queue, id=job)
        if found is None:
            return
        await duel.both("logs", queue=job.queue, id=job)
        await duel.both("children", queue=job.queue, id=job)


@verb(weight=2, queue=QUEUES)
async def read_queue(duel: Duel, queue: str) -> None:
    """Read a queue."""
    await duel.both("counts", queue=queue)
    for state in ("waiting", "active", "delayed", "prioritized", "waiting-children"):
        await duel.both("ids", queue=queue, state=state, ascending=True)
    for state in ("completed", "failed"):
        await duel.both("ids", queue=queue, state=state, ascending=False)


# -- adding ----------------------------------------------------------------------------------------


@verb(weight=6, queue=QUEUES, data=DATA, opts=options(), own=st.booleans())
async def add(duel: Duel, queue: str, data: Any, opts: dict[str, Any], own: bool) -> None:
    """Add a job, with an id of its own or one that the library makes."""
    name = fresh(duel)
    given = {**opts, "jobId": name} if own or queue in duel.obliterated else opts
    await duel.both("add", new=[name], queue=queue, name=name, data=data, opts=given)


@verb(weight=4, queue=QUEUES, opts=options(), window=WINDOWS, kind=KINDS)
async def add_once(
    duel: Duel, queue: str, opts: dict[str, Any], window: str, kind: dict[str, Any]
) -> None:
    """Add a job unless the window is taken."""
    name = fresh(duel)
    given = {**opts, "jobId": name, "deduplication": {"id": window, **kind}}
    await duel.both("add", new=[name], queue=queue, name=name, data={}, opts=given)


@verb(queue=QUEUES, window=WINDOWS, close=st.booleans())
async def look_at_window(duel: Duel, queue: str, window: str, close: bool) -> None:
    """Ask who has a window, and perhaps close it."""
    await duel.both("window_owner", queue=queue, window=window)
    if close:
        await duel.both("close_window", queue=queue, window=window)


@verb(number=NUMBERS, opts=options())
async def add_again(duel: Duel, number: int, opts: dict[str, Any]) -> None:
    """Add a job with an id that has been used."""
    job = pick([one for one in duel.jobs if one.ids[0] == one.ids[1]], number)
    if job and not job.ids[0].startswith("repeat:"):
        given = {**opts, "jobId": job}
        await duel.both("add", queue=job.queue, name=job.name, data={}, opts=given)


@verb(weight=3, queue=QUEUES, each=st.lists(options(), min_size=1, max_size=3))
async def add_bulk(duel: Duel, queue: str, each: list[dict[str, Any]]) -> None:
    """Add several jobs in one call."""
    base = fresh(duel)
    names = [f"{base}.{number}" for number in range(len(each))]
    jobs = [
        {"name": name, "data": {}, "opts": {**opts, "jobId": name}}
        for name, opts in zip(names, each, strict=True)
    ]
    await duel.both("add_bulk", new=names, queue=queue, jobs=jobs)


def _nodes(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    children = st.just([]) if depth == 0 else st.lists(_nodes(depth - 1), max_size=3)
    return st.fixed_dictionaries(
        {
            "queue": QUEUES,
            "opts": options(),
            "policy": st.one_of(st.none(), POLICIES),
            "children": children,
        }
    )


def _flow(node: dict[str, Any], name: str, *, root: bool = True) -> dict[str, Any]:
    opts = {**node["opts"], "jobId": name}
    if node["policy"] and not root:
        opts[node["policy"]] = True
    below = [
        _flow(child, f"{name}.{number}", root=False)
        for number, child in enumerate(node["children"])
    ]
    return {"queue": node["queue"], "name": name, "data": {}, "opts": opts, "children": below}


@verb(weight=6, node=_nodes(2))
async def add_flow(duel: Duel, node: dict[str, Any]) -> None:
    """Add a tree of jobs."""
    await duel.both("add_flow", flow=_flow(node, fresh(duel)))


@verb(weight=3, number=NUMBERS, queue=QUEUES, policy=st.one_of(st.none(), POLICIES), opts=options())
async def add_child(
    duel: Duel, number: int, queue: str, policy: str | None, opts: dict[str, Any]
) -> None:
    """Add a job to a parent that is there already."""
    if parent := pick(duel.jobs, number):
        name = fresh(duel)
        given = {**opts, "jobId": name, "parent": {"id": parent, "queue": f"bull:{parent.queue}"}}
        if policy:
            given[policy] = True
        await duel.both("add", new=[name], queue=queue, name=name, data={}, opts=given)


# -- working ---------------------------------------------------------------------------------------


@verb(weight=16, queue=QUEUES)
async def take(duel: Duel, queue: str) -> None:
    """Fetch a job as a worker does."""
    if not any(duel.node.exists(f"bull:{queue}:{state}") for state in ("wait", "prioritized")):
        queue = next(each for each in ALL_QUEUES if each != queue)
    if known("a parent whose failure is decided", duel.decided(queue)):
        return
    duel.watched.add(queue)
    node, toril = await duel.both("take", queue=queue)
    if node is not None:
        duel.add(queue, node["name"], (node["id"], toril["id"]))
        found = duel.find(queue, node["id"], 0)
        assert found is not None
        duel.held.append(found)


async def _ends(duel: Duel, method: str, number: int, **params: Any) -> None:
    if job := pick(duel.held, number):
        replies = await duel.both(method, queue=job.queue, id=job, **params)
        if not refused(replies):
            duel.held.remove(job)


@verb(weight=10, number=NUMBERS, value=DATA)
async def complete(duel: Duel, number: int, value: Any) -> None:
    """End a job well."""
    job = pick(duel.held, number)
    if job and known("ending by hand with open children", duel.children_keep(job)):
        return
    await _ends(duel, "complete", number, value=value)


@verb(weight=8, number=NUMBERS, kind=st.sampled_from(["plain", "plain", "unrecoverable"]))
async def fail(duel: Duel, number: int, kind: str) -> None:
    """End an attempt badly."""
    await _ends(duel, "fail", number, kind=kind, text="boom")


@verb(weight=2, number=NUMBERS, ms=st.sampled_from([1, 5, 1000]))
async def put_off(duel: Duel, number: int, ms: int) -> None:
    """Let a running job run again later."""
    await _ends(duel, "put_off", number, ms=ms)


@verb(weight=2, number=NUMBERS)
async def give_back(duel: Duel, number: int) -> None:
    """Put a running job back to those that wait."""
    await _ends(duel, "give_back", number)


@verb(weight=4, number=NUMBERS)
async def await_children(duel: Duel, number: int) -> None:
    """Let a running job wait for its children."""
    if job := pick(duel.held, number):
        failed = duel.node.exists(f"bull:{job.queue}:{job.ids[0]}:unsuccessful")
        if known("ending by hand with open children", failed):
            return
        replies = await duel.both("await_children", queue=job.queue, id=job)
        if not refused(replies) and replies[0]:
            duel.held.remove(job)


# -- changing a job --------------------------------------------------------------------------------


async def _acts(duel: Duel, method: str, number: int, **params: Any) -> None:
    if job := pick(duel.jobs, number):
        await duel.both(method, queue=job.queue, id=job, **params)


@verb(number=NUMBERS)
async def progress(duel: Duel, number: int) -> None:
    """Report progress."""
    await _acts(duel, "progress", number, value=number)


@verb(number=NUMBERS)
async def log(duel: Duel, number: int) -> None:
    """Add a log line."""
    await _acts(duel, "log", number, text=f"line {len(duel.told)}")


@verb(number=NUMBERS, data=DATA)
async def update_data(duel: Duel, number: int, data: Any) -> None:
    """Replace the payload."""
    await _acts(duel, "update_data", number, data=data)


@verb(weight=2, number=NUMBERS)
async def promote(duel: Duel, number: int) -> None:
    """Let a delayed job run now."""
    await _acts(duel, "promote", number)


@verb(weight=3, number=NUMBERS, reset=st.booleans())
async def retry(duel: Duel, number: int, reset: bool) -> None:
    """Let a finished job run again. Node wants to be told which state it is in."""
    if job := pick(duel.jobs, number):
        done = duel.node.zscore(f"bull:{job.queue}:completed", job.ids[0]) is not None
        state = "completed" if done else "failed"
        await duel.both("retry", queue=job.queue, id=job, state=state, reset=reset)


@verb(weight=2, number=NUMBERS, children=st.booleans())
async def remove(duel: Duel, number: int, children: bool) -> None:
    """Remove a job."""
    await _acts(duel, "remove", number, children=children)


@verb(weight=2, number=NUMBERS, delay=DELAYS)
async def change_delay(duel: Duel, number: int, delay: int) -> None:
    """Change when a delayed job is due."""
    await _acts(duel, "change_delay", number, delay=delay)


@verb(weight=2, number=NUMBERS, priority=st.sampled_from([0, 1, 7]), lifo=st.booleans())
async def change_priority(duel: Duel, number: int, priority: int, lifo: bool) -> None:
    """Change the priority of a waiting job."""
    await _acts(duel, "change_priority", number, priority=priority, lifo=lifo)


@verb(number=NUMBERS, keep=st.integers(0, 2))
async def clear_logs(duel: Duel, number: int, keep: int) -> None:
    """Remove log lines."""
    await _acts(duel, "clear_logs", number, keep=keep)


@verb(weight=2, number=NUMBERS)
async def unlink(duel: Duel, number: int) -> None:
    """Take a child away from its parent."""
    await _acts(duel, "unlink", number)


@verb(number=NUMBERS)
async def remove_unprocessed(duel: Duel, number: int) -> None:
    """Remove the children that have not run."""
    await _acts(duel, "remove_unprocessed", number)


# -- operating a queue -----------------------------------------------------------------------------


@verb(queue=QUEUES)
async def pause(duel: Duel, queue: str) -> None:
    """Let no worker begin another job."""
    await duel.both("pause", queue=queue)


@verb(weight=2, queue=QUEUES)
async def resume(duel: Duel, queue: str) -> None:
    """Undo it."""
    await duel.both("resume", queue=queue)


@verb(queue=QUEUES, delayed=st.booleans())
async def drain(duel: Duel, queue: str, delayed: bool) -> None:
    """Remove what waits."""
    waiting = cast("list[str]", duel.node.lrange(f"bull:{queue}:wait", 0, -1))
    runs = any(id.startswith("repeat:") for id in waiting)
    if known("draining beside the run of a schedule", runs and len(waiting) > 1):
        return
    before = duel.parents()

    def mend(node: redis.Redis) -> None:
        if known("draining tells which parents run"):
            for home, id in sorted(before - duel.parents(), reverse=True):
                if not node.exists(f"bull:{home}:{id}"):
                    continue
                told = {"event": "waiting", "jobId": id, "prev": "waiting-children"}
                node.xadd(f"bull:{home}:events", cast("Any", told))

    await duel.both("drain", mend=mend, queue=queue, delayed=delayed)


@verb(
    queue=QUEUES,
    state=st.sampled_from(["completed", "failed", "delayed", "wait", "prioritized"]),
    grace=st.sampled_from([0, 5]),
    limit=st.sampled_from([0, 1]),
)
async def clean(duel: Duel, queue: str, state: str, grace: int, limit: int) -> None:
    """Remove old jobs of one state."""
    if known("cleaning leaves children of living parents", duel.children_in(queue, state)):
        return
    await duel.both("clean", any_order=True, queue=queue, state=state, grace=grace, limit=limit)


@verb(queue=QUEUES, state=st.sampled_from(["completed", "failed"]))
async def retry_all(duel: Duel, queue: str, state: str) -> None:
    """Let all finished jobs of one outcome run again."""
    if known("retrying all keeps priorities", duel.prioritised(queue, state)):
        return
    await duel.both("retry_all", queue=queue, state=state)


@verb(queue=QUEUES)
async def promote_all(duel: Duel, queue: str) -> None:
    """Let all delayed jobs run now."""
    if known("promoting all keeps priorities", duel.prioritised(queue, "delayed")):
        return
    delayed = cast("list[str]", duel.node.zrange(f"bull:{queue}:delayed", 0, -1))

    def mend(node: redis.Redis) -> None:
        if known("promoting all clears the delay"):
            for id in delayed:
                node.hset(f"bull:{queue}:{id}", "delay", 0)

    await duel.both("promote_all", mend=mend, queue=queue)


@verb(queue=QUEUES, force=st.booleans())
async def obliterate(duel: Duel, queue: str, force: bool) -> None:
    """Remove a queue."""

    def mend(node: redis.Redis) -> None:
        if known("obliterating takes parents that wait"):
            for id in cast("list[str]", node.zrange(f"bull:{queue}:waiting-children", 0, -1)):
                for part in ("", *(f":{part}" for part in JOB_PARTS)):
                    node.delete(f"bull:{queue}:{id}{part}")
            node.delete(f"bull:{queue}:waiting-children")

    if known("obliterating frees parents elsewhere", duel.child_elsewhere(queue)):
        return
    running = duel.node.exists(f"bull:{queue}:active") and not force
    if known("obliterating looks before it pauses", running):
        return
    await duel.both("obliterate", mend=mend, queue=queue, force=force)
    duel.obliterate(queue)


@verb(queue=QUEUES, value=st.sampled_from([0, 1, 2]))
async def concurrency(duel: Duel, queue: str, value: int) -> None:
    """Say how many of its jobs may run at once; 0: no limit."""
    await duel.both("concurrency", queue=queue, value=value)


PACES = st.one_of(
    st.fixed_dictionaries(
        {"every": st.sampled_from([1000, 5000])},
        optional={"limit": st.integers(1, 2), "immediately": st.just(value=True)},
    ),
    st.fixed_dictionaries({"pattern": st.sampled_from(["* * * * * *", "*/5 * * * *"])}),
)


@verb(
    weight=2,
    queue=QUEUES,
    id=st.sampled_from(["s0", "s1"]),
    repeat=PACES,
    opts=options(delayed=False),
)
async def schedule(
    duel: Duel, queue: str, id: str, repeat: dict[str, Any], opts: dict[str, Any]
) -> None:
    """Make or change a schedule."""
    record = cast("dict[str, str]", duel.node.hgetall(f"bull:{queue}:repeat:{id}"))
    changed = str(repeat.get("every", "")) != record.get("every", "")
    paused = duel.node.hexists(f"bull:{queue}:meta", "paused")
    if known("a schedule changed on a paused queue", paused and record and changed):
        return
    template = {"name": f"of-{id}", "data": {"s": id}, "opts": opts}
    await duel.both("schedule", silent=True, queue=queue, id=id, repeat=repeat, template=template)


@verb(queue=QUEUES, id=st.sampled_from(["s0", "s1"]))
async def unschedule(duel: Duel, queue: str, id: str) -> None:
    """End a schedule."""
    await duel.both("unschedule", queue=queue, id=id)
