"""Flows that are kept whole: nothing goes before all may go, and then all of it does."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import redis
from tests.support.place import Place, entries, place, work

from toril import Flow, hookimpl
from toril.plugins import FinishedJob, JobRemoved
from toril.types import ChildFailurePolicy
from toril_plugins import Due, Flows, Hold, Holds, Keep, Postpone, Retention, Rewrite, Verdicts
from toril_plugins.cleanup import trees

QUEUES = ("p", "q", "r")
WHOLE = Retention(completed=Keep("1d", flow=True), failed=Keep("1d", flow=True))


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


async def run(here: Place, *queues: str) -> None:
    for queue in queues or QUEUES:
        await here.app.worker(queue, work, concurrency=10).run(burst=True)


async def sweep(here: Place, later: str = "0s", *queues: str) -> None:
    here.clock.advance(later)
    for queue in queues or QUEUES:
        assert await here.app.run_services(queue)


def jobs(raw: redis.Redis) -> set[str]:
    """The ids of all jobs of all queues."""
    keys: Any = raw.keys("bull:*:*")
    return {key.split(":")[2] for key in keys if raw.type(key) == "hash"} & IDS


IDS = {f"{letter}{number}" for letter in "abcdefgh" for number in range(400)}


def family(*, child: str = "do") -> Flow:
    """A root in p; below it two jobs in q, of which one has two below itself in r."""
    grand = [Flow("r", "do", 1, id="c0"), Flow("r", "do", 1, id="c1")]
    return Flow(
        "p",
        "do",
        1,
        id="a0",
        children=[Flow("q", child, 1, id="b0"), Flow("q", "do", 1, id="b1", children=grand)],
    )


ALL = {"a0", "b0", "b1", "c0", "c1"}


async def finished_family(here: Place, flow: Flow | None = None) -> None:
    await here.app.add_flow(flow or family(), WHOLE)
    await run(here, "r", "q", "p")


async def test_the_tree_stays_until_the_roots_age_and_goes_whole(
    here: Place, raw: redis.Redis
) -> None:
    await here.app.add_flow(family(), WHOLE)
    await run(here, "r", "q")
    await sweep(here, "30d")
    assert jobs(raw) == ALL
    await run(here, "p")
    await sweep(here, "23h")
    assert jobs(raw) == ALL
    await sweep(here, "1h")
    assert jobs(raw) == set()
    order = [id for id, _ in here.removed.jobs]
    assert order[-1] == "a0"
    assert order.index("b1") > max(order.index("c0"), order.index("c1"))
    assert {rule for _, rule in here.removed.jobs} == {"flow: 1d, flow"}
    assert not list(raw.keys("bull:*:toril:cleanup:*"))


async def test_what_is_said_for_the_queues_does_not_touch_it(here: Place, raw: redis.Redis) -> None:
    for queue in QUEUES:
        await here.app.queue(queue).set(Retention(completed=Keep.nothing(), failed=1))
    await finished_family(here)
    await sweep(here, "23h")
    assert jobs(raw) == ALL


async def test_a_tombstone_is_left_of_each(here: Place, raw: redis.Redis) -> None:
    keep = Retention(completed=Keep("1d", flow=True, tombstone="9d"))
    await here.app.add_flow(family(), keep)
    await run(here, "r", "q", "p")
    await sweep(here, "1d")
    assert jobs(raw) == set()
    assert len(raw.keys("bull:*:toril:cleanup:tomb:@*")) == 5
    assert raw.hget("bull:r:toril:cleanup:tomb:@c0", "parent") == "bull:q:b1"


async def test_not_while_a_job_of_it_is_not_final(here: Place, raw: redis.Redis) -> None:
    await finished_family(here)
    raw.zrem("bull:r:completed", "c1")
    raw.lpush("bull:r:wait", "c1")
    await sweep(here, "1d")
    assert jobs(raw) == ALL
    assert reason(raw) == "job c1 of queue r: open"
    await run(here, "r")
    await sweep(here, "1d")
    await sweep(here)
    assert jobs(raw) == set()


def reason(raw: redis.Redis) -> str:
    """Why the root has been put off."""
    host = raw.connection_pool.connection_kwargs
    with redis.Redis(host=host["host"], port=host["port"]) as client:
        stored: Any = client.hget("bull:p:toril:cleanup:rule:completed", "a0")
    why: str = msgspec.msgpack.decode(stored)["why"]
    return why


async def test_not_while_somebody_holds_a_lock_on_it(here: Place, raw: redis.Redis) -> None:
    await finished_family(here)
    raw.set("bull:q:b0:lock", "token")
    await sweep(here, "1d")
    assert jobs(raw) == ALL
    raw.delete("bull:q:b0:lock")
    await sweep(here, "1h")
    assert jobs(raw) == set()


async def test_children_whose_root_is_gone_go_by_their_own_age(
    here: Place, raw: redis.Redis
) -> None:
    await finished_family(here)
    assert await here.app.queue("p").remove("a0", children=False)
    await sweep(here, "23h")
    assert jobs(raw) == ALL - {"a0"}
    await sweep(here, "1h")
    await sweep(here)
    assert jobs(raw) == set()


async def test_a_job_with_a_word_of_its_own_stays(here: Place, raw: redis.Redis) -> None:
    flow = Flow(
        "p",
        "do",
        1,
        id="a0",
        children=[
            Flow("q", "do", 1, Retention(completed="5d"), id="b0", children=[
                Flow("r", "do", 1, id="c0"),
            ]),
        ],
    )  # fmt: skip
    await finished_family(here, flow)
    await sweep(here, "1d")
    assert jobs(raw) == {"b0"}
    await sweep(here, "4d")
    assert jobs(raw) == set()


async def test_a_child_that_failed_without_the_parent_goes_too(
    here: Place, raw: redis.Redis
) -> None:
    """`b0` fails with no policy and stays in the parent's list; `b1` fails the parent."""
    flow = Flow(
        "p",
        "do",
        1,
        id="a0",
        children=[
            Flow("q", "fail", 1, id="b0"),
            Flow("q", "fail", 1, id="b1", on_failure="fail"),
        ],
    )
    await here.app.add_flow(flow, WHOLE)
    await run(here, "q", "p")
    assert await here.app.queue("p").state("a0") == "failed"
    await sweep(here, "1d")
    assert jobs(raw) == set()


async def test_a_child_of_which_the_parent_knows_nothing_goes_by_itself(
    here: Place, raw: redis.Redis
) -> None:
    flow = Flow(
        "p", "do", 1, id="a0", children=[Flow("q", "fail", 1, id="b0", on_failure="remove")]
    )
    await here.app.add_flow(flow, WHOLE)
    await run(here, "q", "p")
    await sweep(here, "1d")
    await sweep(here, "2h")
    assert jobs(raw) == set()


async def test_a_large_flow_goes_in_slices(here: Place, raw: redis.Redis) -> None:
    children = [Flow("q", "do", 1, id=f"b{n}") for n in range(350)]
    await here.app.add_flow(Flow("p", "do", 1, id="a0", children=children), WHOLE)
    await here.app.worker("q", work, concurrency=100).run(burst=True)
    await run(here, "p")
    await sweep(here, "1d")
    assert jobs(raw) == set()


class Stops(Exception):
    pass


def stop_after(removals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process in the middle of a flow, as far as the sweeper can tell."""
    run, left = trees.Trees._run, [Stops] * removals

    async def counted(these: Any, *args: Any) -> Any:
        if args[2] == "tree_remove":
            if not left:
                raise Stops
            left.pop()
        return await run(these, *args)

    monkeypatch.setattr(trees.Trees, "_run", counted)


@pytest.mark.parametrize("after", range(3))
async def test_a_crash_between_slices_goes_on(
    here: Place, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    await finished_family(here)
    with monkeypatch.context() as patch:
        stop_after(after, patch)
        here.clock.advance("1d")
        with pytest.raises(Stops):
            await here.app.run_services("p")
    left = jobs(raw)
    assert "a0" in left
    assert len(left) == {0: 5, 1: 3, 2: 1}[after]
    await sweep(here, "1m")
    assert jobs(raw) == set()


class Watcher:
    """Checks with each removal that no parent goes before its children."""

    def __init__(self) -> None:
        self.order: list[str] = []

    @hookimpl
    def toril_jobs_removed(self, events: Any) -> None:
        for event in events:
            assert isinstance(event, JobRemoved)
            self.order.append(event.job.id)


class ByTree:
    """A strategy that keeps flows whole."""

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return Keep("2h", flow=True)


async def test_a_strategy_can_ask_for_it(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url, plugins=[ByTree()]) as here:
        await here.app.add_flow(family())
        await run(here, "r", "q", "p")
        await sweep(here, "1h")
        assert jobs(raw) == ALL
        await sweep(here, "1h")
        assert jobs(raw) == set()


class Says:
    """Reviews and copies, and notes what it was shown."""

    def __init__(self) -> None:
        self.stays: set[str] = set()
        self.copied: list[str] = []
        self.broken = False

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        return {d.job.id: Postpone("1h", "not yet") for d in due if d.job.id in self.stays}

    @hookimpl
    def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
        if self.broken:
            raise RuntimeError("the disk is full")
        self.copied += [job.id for job in jobs]


async def test_each_is_reviewed_and_copied_and_one_that_stays_keeps_the_rest(
    redis_url: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    says = Says()
    says.stays.add("b1")
    async with place(redis_url, plugins=[says]) as here:
        await finished_family(here)
        await sweep(here, "1d")
        assert {"a0", "b1"} <= jobs(raw)
        assert "not yet" in reason(raw)
        says.stays.clear()
        says.broken = True
        await sweep(here, "1h")
        assert {"a0", "b1"} <= jobs(raw)
        assert "the disk is full" in caplog.text
        says.broken = False
        await sweep(here, "1h")
        assert jobs(raw) == set()
        assert set(says.copied) == ALL


class Rewrites:
    """Keeps one job of each flow for longer, without its data."""

    toril_name = "rewrites"

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due], flows: Flows) -> Verdicts:
        return {
            each.job.id: Rewrite(keep=Keep("5d"), data=None, note="seen")
            for each in due
            if each.job.id in ("b1", "c0") and each.note is None
        }


async def test_one_that_is_rewritten_leaves_its_flow(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url, plugins=[Rewrites()]) as here:
        await finished_family(here)
        for later in ("1d", "1h", "1h", "1h"):
            await sweep(here, later)
        assert jobs(raw) == {"b1", "c0"}
        queue_of = {"b1": "q", "c0": "r"}
        for job_id, queue in queue_of.items():
            job = await here.app.queue(queue).get(job_id)
            assert job is not None
            assert job.data is None
            told = {fact.subject: fact for fact in await job.explain()}
            assert (told["rule"].level, told["rule"].text) == ("plugin rewrites", "5d")
        await sweep(here, "4d")
        await sweep(here, "1h")
        assert jobs(raw) == set()
        assert entries(raw) == {}


async def test_not_while_one_of_it_is_held(here: Place, raw: redis.Redis) -> None:
    await here.app.queue("r").set(Holds(Hold(id="c0", why="lawsuit")))
    await finished_family(here)
    await sweep(here, "1d")
    assert jobs(raw) == ALL
    assert reason(raw) == "job c0 of queue r: held"
    await here.app.queue("r").unset(Holds)
    for later in ("0s", "1m", "1h", "1h"):
        await sweep(here, later)
    assert jobs(raw) == set()


async def test_what_is_retried_in_between_keeps_what_is_above_it(
    here: Place, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow(
        "p", "do", 1, id="a0", children=[Flow("q", "fail", 1, id="b0", on_failure="ignore")]
    )
    await here.app.add_flow(flow, WHOLE)
    await run(here, "q", "p")
    assert await here.app.queue("p").state("a0") == "completed"
    look = trees.look

    async def look_and_retry(*args: Any) -> Any:
        levels = await look(*args)
        await here.app.queue("q").retry_all("failed")
        return levels

    with monkeypatch.context() as patch:
        patch.setattr(trees, "look", look_and_retry)
        await sweep(here, "1d", "p")
    assert await here.app.queue("q").state("b0") == "waiting"
    assert {"a0", "b0"} <= jobs(raw)
    await run(here, "q")
    for later in ("1d", "1h", "1h"):
        await sweep(here, later)
    assert jobs(raw) == set()


async def test_it_is_not_said_for_a_queue(here: Place) -> None:
    with pytest.raises(ValueError, match="said for a flow"):
        await here.queue.set(WHOLE)
    assert await here.queue.said(Retention) is None


def random_tree(rng: random.Random, names: list[str], depth: int = 0) -> Flow:
    name = "fail" if depth and rng.random() < 0.25 else "do"
    policies: list[ChildFailurePolicy] = ["fail", "ignore", "continue", "remove"]
    policy = rng.choice(policies)
    settings = [Retention(completed="5d")] if depth and rng.random() < 0.15 else []
    id = names.pop()
    count = rng.randint(0, 3) if depth < 4 else 0
    children = [random_tree(rng, names, depth + 1) for _ in range(count) if names]
    return Flow(
        rng.choice(QUEUES), name, 1, *settings, id=id, children=children, on_child_failure=policy
    )


def name_of(flow: Flow) -> str:
    return str(flow.options.get("id"))


def walk(flow: Flow) -> list[Flow]:
    return [flow, *(each for child in flow.children for each in walk(child))]


@pytest.mark.parametrize("seed", range(12))
async def test_random_trees_go_whole_and_children_first(
    redis_url: str, raw: redis.Redis, seed: int
) -> None:
    rng = random.Random(seed)
    tree = random_tree(rng, [f"a{n}" for n in range(25)])
    watcher = Watcher()
    async with place(redis_url, plugins=[watcher]) as here:
        await here.app.add_flow(tree, WHOLE)
        for _ in range(6):
            await run(here, *rng.sample(QUEUES, 3))
            here.clock.advance("10m")
        everyone = {name_of(flow) for flow in walk(tree)}
        free = {name_of(flow) for flow in walk(tree) if flow.settings and flow.name == "do"}
        assert jobs(raw) == everyone
        final = {
            id for id in everyone for queue in QUEUES for outcome in ("completed", "failed")
            if raw.zscore(f"bull:{queue}:{outcome}", id) is not None
        }  # fmt: skip
        # Nothing of a tree may go while some of it has not ended, and only as a whole.
        for _ in range(3):
            await sweep(here, "8h", *rng.sample(QUEUES, 3))
        await sweep(here, "1h")
        await sweep(here, "1h")
        if final == everyone:
            # A failure that its parent was told to forget is not found below one that stays.
            assert jobs(raw) <= free | {
                name_of(below)
                for flow in walk(tree)
                if name_of(flow) in free
                for below in walk(flow)
            }
            index = {id: n for n, id in enumerate(watcher.order)}
            for flow in walk(tree):
                for child in flow.children:
                    if name_of(flow) in index and name_of(child) in index:
                        first = index[name_of(child)] < index[name_of(flow)]
                        assert first or child.name == "fail"
            for later in ("5d", "1h", "1h", "1h", "1h"):
                await sweep(here, later)
            assert jobs(raw) == set()
            assert entries(raw) == {}
        else:
            assert jobs(raw) >= final - free
