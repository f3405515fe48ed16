"""Flows whose jobs are stored under several prefixes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
from tests.nouns.witness import Colour, Witness

from toril import ActiveJob, App, ConfigurationError, Flow, JobNotFound, JobRef, WaitForChildren
from toril.plugins import JobSaved
from toril.types import Json


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, prefix="other", plugins=[]) as made:
        yield made


def family() -> Flow:
    return Flow(
        "q",
        "root",
        id="root",
        children=[
            Flow("q", "here", id="here"),
            Flow("q", "there", id="there", prefix="other", children=[Flow("q", "leaf", id="leaf")]),
        ],
    )


async def work(job: ActiveJob) -> Json:
    return [job.name, sorted((await job.children()).processed)]


async def test_each_node_says_its_own(app: App, other: App, raw: redis.Redis) -> None:
    root = await app.add_flow(family())
    assert raw.smembers("bull:q:root:dependencies") == {"bull:q:here", "other:q:there"}
    assert raw.smembers("other:q:there:dependencies") == {"bull:q:leaf"}
    tree = await app.flow_tree(root)
    there = next(node for node in tree if node.job.name == "there")
    assert there.job.ref == JobRef("q", "there", "other")
    assert {node.job.ref for node in tree} == {
        JobRef("q", "root"),
        JobRef("q", "here"),
        JobRef("q", "there", "other"),
        JobRef("q", "leaf"),
    }
    for _ in range(3):
        await app.worker("q", work).run(burst=True)
        await other.worker("q", work).run(burst=True)
    assert await there.job.result(timeout="5s") == ["there", ["bull:q:leaf"]]
    assert await root.result(timeout="5s") == ["root", ["bull:q:here", "other:q:there"]]


async def test_a_job_under_another_prefix_can_be_looked_at_and_changed(
    app: App, other: App
) -> None:
    await app.add_flow(family())
    tree = await app.flow_tree(JobRef("q", "there", "other"))
    there, leaf = tree.job, tree.children[0].job
    assert (there.snapshot.prefix, leaf.snapshot.prefix) == ("other", None)
    above = await there.parent()
    assert above is not None
    assert above.ref == JobRef("q", "root")
    below = await leaf.parent()
    assert below is not None
    assert below.ref == there.ref
    await there.update({"n": 1})
    await there.change_priority(4)
    assert await there.log("line") == 1
    seen = await other.queue("q").get("there")
    assert seen is not None
    assert (seen.data, seen.snapshot.priority, await seen.logs()) == ({"n": 1}, 4, ("line",))
    assert (await there.refresh()).ref == JobRef("q", "there", "other")
    assert any("child of" in fact.text for fact in await there.explain())
    assert await there.unlink() is True
    with pytest.raises(ConfigurationError, match="under the prefix 'other'"):
        await there.erase()
    assert await there.remove() is True
    with pytest.raises(JobNotFound):
        await there.refresh()
    assert await app.queue("q").get("leaf") is None


async def test_a_root_below_a_job_under_another_prefix(
    app: App, other: App, raw: redis.Redis
) -> None:
    await other.queue("above").add("order", id="order")
    parent = JobRef("above", "order", "other")
    await app.add_flow(Flow("q", "root", id="r", parent=parent, children=[Flow("q", "kid")]))
    await app.queue("q").add("plain", id="p", parent=parent)
    assert raw.smembers("other:above:order:dependencies") == {"bull:q:r", "bull:q:p"}
    await other.add_flow(Flow("q", "mine", id="m", prefix="bull", parent=JobRef("above", "order")))
    assert raw.smembers("other:above:order:dependencies") >= {"bull:q:m"}


async def test_children_of_a_running_job(app: App, other: App) -> None:
    async def handler(job: ActiveJob) -> Json:
        found = await job.children()
        if not found.processed:
            (ref,) = await job.add_children([Flow("q", "there", id="kid", prefix="other")])
            assert ref == JobRef("q", "kid", "other")
            raise WaitForChildren
        return sorted(found.processed)

    job = await app.queue("q").add("root")
    await app.worker("q", handler).run(burst=True)
    await other.worker("q", work).run(burst=True)
    await app.worker("q", handler).run(burst=True)
    assert await job.result() == ["other:q:kid"]


async def test_the_own_prefix_is_none(app: App) -> None:
    root = await app.add_flow(Flow("q", "root", prefix="bull"))
    assert (root.ref.prefix, root.snapshot.prefix) == (None, None)
    with pytest.raises(ConfigurationError, match="prefix must not be empty"):
        await app.add_flow(Flow("q", "root", prefix=""))


async def test_plugins_see_where_a_job_goes(watched: App, witness: Witness) -> None:
    await watched.add_flow(family())
    assert {draft.id: draft.prefix for draft in witness.drafts} == {
        "root": None,
        "here": None,
        "there": "other",
        "leaf": None,
    }
    saved = {
        event.job.id: event.job.prefix for event in witness.events if isinstance(event, JobSaved)
    }
    assert saved["there"] == "other"
    assert saved["leaf"] is None


async def test_what_was_declared_is_for_the_queue_of_that_prefix(
    redis_url: str, raw: redis.Redis, witness: Witness
) -> None:
    async with App(redis_url, plugins=[witness]) as app:
        app.queue("q", Colour("red"))
        await app.add_flow(Flow("q", "root", prefix="other"))
        assert raw.hget("other:q:meta", "toril.colour.first") is None
        assert raw.hget("bull:q:meta", "toril.colour.first") is None
