"""Flows that BullMQ for Node and Toril build and work off together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import redis

from tests.conftest import Library
from tests.support.driver import Driver
from tests.support.node import Node
from toril import ActiveJob, App, Flow, JobRef, WaitForChildren
from toril.types import Json

STEPS = 3


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[]) as made:
        yield made


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, prefix="other", plugins=[]) as made:
        yield made


@pytest.fixture
def there(node: Node, redis_url: str) -> Iterator[Driver]:
    """Node under the prefix `other`."""
    with node.driver(redis_url, prefix="other") as driver:
        yield driver


@pytest.fixture
async def here(library: Library) -> AsyncIterator[Driver]:
    """Node under the prefix of the App."""
    driver = library("node")
    yield driver
    await driver.reset()


async def values(job: ActiveJob) -> Json:
    """What the children left, or the own name."""
    found = (await job.children()).processed
    return sorted(cast("Any", found.values())) or job.name


def returned(value: Any) -> dict[str, Any]:
    return {"do": [["return", value]]}


@pytest.mark.parametrize("producer", ["node", "toril"])
async def test_over_two_prefixes_worked_off_by_toril(
    app: App, other: App, here: Driver, producer: str
) -> None:
    if producer == "node":
        leaf = {"queue": "q", "name": "leaf", "opts": {"jobId": "leaf"}}
        middle = {
            "queue": "q",
            "name": "middle",
            "opts": {"jobId": "middle"},
            "prefix": "other",
            "children": [leaf],
        }
        root = {"queue": "q", "name": "root", "opts": {"jobId": "root"}, "children": [middle]}
        await here.call("add_flow", flow=root)
    else:
        below = Flow("q", "middle", id="middle", prefix="other", children=[Flow("q", "leaf")])
        await app.add_flow(Flow("q", "root", id="root", children=[below]))
    tree = await app.flow_tree(JobRef("q", "root"))
    assert [(node.job.name, node.job.ref.prefix) for node in tree] == [
        ("root", None),
        ("middle", "other"),
        ("leaf", None),
    ]
    async with app.worker("q", values), other.worker("q", values):
        assert await tree.job.result(timeout="10s") == [["leaf"]]


async def test_over_two_prefixes_worked_off_by_node(app: App, here: Driver, there: Driver) -> None:
    kids = [Flow("c", f"kid {n}", returned(n), id=f"kid-{n}", prefix="other") for n in range(3)]
    data = {"do": [["children-values"]]}
    root = await app.add_flow(Flow("q", "root", data, id="root", children=kids))
    shown = await here.call("flow", queue="q", id="root")
    assert sorted(child["name"] for child in shown["children"]) == ["kid 0", "kid 1", "kid 2"]
    await here.call("worker", queue="q", opts={})
    await there.call("worker", queue="c", opts={})
    assert await root.result(timeout="10s") == [0, 1, 2]


async def stepwise(job: ActiveJob) -> Json:
    """Adds two children in each of several steps; its data remember where it is."""
    step = cast("int", cast("dict[str, Any]", job.data)["step"])
    while step < STEPS:
        await job.add_children(
            [
                Flow("c", "kid", returned(10 * step + n), id=f"kid-{step}-{n}", on_failure="fail")
                for n in range(2)
            ]
        )
        step += 1
        await job.update({"step": step})
        if (await job.children_counts())["unprocessed"]:
            raise WaitForChildren
    return await values(job)


async def test_steps_whose_children_node_runs(app: App, here: Driver, raw: redis.Redis) -> None:
    await here.call("worker", queue="c", opts={})
    async with app.worker("q", stepwise):
        job = await app.queue("q").add("root", {"step": 0})
        assert await job.result(timeout="20s") == [0, 1, 10, 11, 20, 21]
    assert (await job.refresh()).attempts_made == 1
    assert job.snapshot.attempts_started <= STEPS + 1
    assert raw.zcard("bull:c:completed") == 2 * STEPS


async def test_a_step_whose_child_fails_in_node(app: App, here: Driver) -> None:
    await here.call("worker", queue="c", opts={})

    async def handler(job: ActiveJob) -> Json:
        await job.add_children(
            [Flow("c", "bad", {"do": [["fail", "boom"]]}, id="bad", on_failure="fail")]
        )
        raise WaitForChildren

    async with app.worker("q", handler):
        job = await app.queue("q").add("root", {"step": 0})
        async with app.events("q", after="0-0") as events:
            async for event in events:
                if event.kind == "failed":
                    break
    assert await job.state() == "failed"
    assert (await job.children()).failed == {"bull:c:bad"}


@pytest.mark.parametrize("worker", ["node", "toril"])
async def test_children_pruned_on_one_side_free_the_parent_on_the_other(
    app: App, here: Driver, worker: str
) -> None:
    late = [Flow("c", "late", id=f"late-{n}", delay="1h") for n in range(2)]
    data = {"do": [["children-values"]]}
    root = await app.add_flow(Flow("q", "root", data, id="root", children=late))
    if worker == "node":
        assert sorted(await root.remove_unprocessed_children()) == ["late-0", "late-1"]
        await here.call("worker", queue="q", opts={})
        assert await root.result(timeout="10s") == []
    else:
        await here.call("remove_unprocessed", queue="q", id="root")
        async with app.worker("q", values):
            assert await root.result(timeout="10s") == "root"
