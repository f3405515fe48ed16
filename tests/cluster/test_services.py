"""Rescue, erasing and taking back on a cluster: what belongs together is in one slot."""

from __future__ import annotations

import pytest
from redis import RedisCluster
from tests.support.topology import Cluster

from toril import ActiveJob, App, Flow, JobNotFound, Unrecoverable
from toril.clock import ManualClock


async def fail(job: ActiveJob) -> None:
    raise Unrecoverable("broken")


async def test_rescue_and_erase(nodes: Cluster) -> None:
    clock = ManualClock()
    async with App(nodes.url, plugins=[], prefix="{bull}", clock=clock) as app:
        child = Flow("steps", "bad")
        middle = Flow("reports", "sum", children=[child], on_child_failure="fail")
        top = await app.add_flow(Flow("top", "all", children=[middle], on_child_failure="fail"))
        tree = [node.job for node in await app.flow_tree(top)]
        await app.worker("steps", fail).run(burst=True)
        for _ in range(2):
            clock.advance("61s")
            assert await app.run_services("steps")
        assert [await job.state() for job in tree] == ["failed"] * 3
        for job in reversed(tree):
            erased = await job.erase()
            assert erased.job
            assert erased.events > 2
            with pytest.raises(JobNotFound):
                await job.refresh()


async def test_taking_back(nodes: Cluster) -> None:
    clock = ManualClock()
    async with App(nodes.url, plugins=[], prefix="{flow}", clock=clock) as app:
        children = [Flow("leaf", "l", id=f"l{n}") for n in range(600)]
        await app.add_flow(Flow("top", "root", id="root", children=children))
        made = {f"+{{flow}}:leaf:l{n}": "" for n in range(600)} | {"+{flow}:top:root": ""}
        with RedisCluster.from_url(nodes.url.replace("redis+cluster", "redis")) as client:
            client.hset("{flow}:top:toril:flows:root", mapping={"nodes": 601, "lease": 0, **made})
            client.zadd("{flow}:top:toril:flows", {"root": 0})
        assert await app.run_services("top")
        assert not any((await app.queue("leaf").counts()).values())
        assert not any((await app.queue("top").counts()).values())
