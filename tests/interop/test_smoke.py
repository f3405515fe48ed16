"""What one library refuses where another would wait for ever; and a dashboard on what both do."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from typing import Any

import pytest
import redis

from tests.interop.conftest import Library
from tests.interop.duo import Duo
from tests.support.driver import DriverError
from tests.support.dump import dump


async def test_flow_that_would_never_run_is_refused(library: Library, raw: redis.Redis) -> None:
    """Node adds such a flow, and its second parent waits for ever (wire format 6.3)."""
    node, toril = library("node"), library("toril")
    shared = {"queue": "steps", "name": "shared", "data": {}, "opts": {"jobId": "shared"}}
    try:
        await node.add_flow({"queue": "orders", "name": "first", "data": {}, "children": [shared]})
        since = int(time.time() * 1000)
        before = dump(raw, since)
        with pytest.raises(DriverError, match="another living parent"):
            await toril.add_flow(
                {"queue": "orders", "name": "second", "data": {}, "children": [shared]}
            )
        assert dump(raw, since) == before
    finally:
        for driver in (node, toril):
            await driver.reset()


# -- bull-board ------------------------------------------------------------------------------------


async def ask(url: str, method: str = "GET") -> Any:
    def send() -> Any:
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            text = reply.read().decode()
            return json.loads(text) if text else None

    return await asyncio.to_thread(send)


@pytest.mark.parametrize("name", ["node", "toril"])
async def test_dashboard_shows_and_acts(library: Library, redis_url: str, name: str) -> None:
    """bull-board on top of Node reads and steers a queue that `name` produces and works."""
    ours, node = library(name), library("node")
    once = {"do": [["fail-times", 1, "first"], ["log", "hello"], ["return", 7]]}
    job = await ours.add("mail", "send", once)
    later = await ours.add("mail", "later", {"do": []}, {"delay": 60_000})
    await ours.worker("mail")
    await Duo(ours, node).settled("mail", job, "failed")
    board = await node.call("board", queues=["mail"])

    async def shown(state: str) -> dict[str, Any]:
        listed = await ask(
            f"{board}/api/queues?activeQueue=mail&status={state}&page=1&jobsPerPage=10"
        )
        (queue,) = (each for each in listed["queues"] if each["name"] == "mail")
        assert isinstance(queue, dict)
        return queue

    queue = await shown("failed")
    assert (queue["counts"]["failed"], queue["counts"]["delayed"]) == (1, 1)
    (failed,) = queue["jobs"]
    assert (failed["id"], failed["name"], failed["failedReason"]) == (job, "send", "first")
    assert failed["isFailed"]
    assert len(await node.call("workers", queue="mail")) == 1
    await ask(f"{board}/api/queues/mail/{job}/retry", "PUT")
    assert (await Duo(ours, node).settled("mail", job, "completed"))["result"] == 7
    assert await ask(f"{board}/api/queues/mail/{job}/logs") == ["hello"]
    await ask(f"{board}/api/queues/mail/{later}/promote", "PUT")
    await Duo(ours, node).settled("mail", later, "completed")
    await ask(f"{board}/api/queues/mail/pause", "PUT")
    assert (await shown("completed"))["isPaused"]
    await ask(f"{board}/api/queues/mail/resume", "PUT")
    await ask(f"{board}/api/queues/mail/{later}/clean", "PUT")
    assert await ours.job("mail", later) is None
    for driver in {ours, node}:
        await driver.reset()
