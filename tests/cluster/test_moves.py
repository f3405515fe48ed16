"""Slots that move and primaries that die while jobs are added and run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.crc import key_slot
from tests.support.server import Server
from tests.support.topology import Cluster, cluster, node_id

from toril import ActiveJob, App
from toril.errors import IndeterminateError, ServerUnavailable

SLOT = key_slot(b"{a}")


class Traffic:
    """A producer and a worker of a queue, side by side."""

    def __init__(self, app: App) -> None:
        self.queue = app.queue("{a}")
        self.added: list[str] = []
        self.ran: Counter[str] = Counter()
        self.unsure = 0
        self._worker = app.worker("{a}", self._work, concurrency=20)
        self._ended = False

    async def _work(self, job: ActiveJob) -> None:
        self.ran[job.id] += 1
        await asyncio.sleep(0.001)

    async def _produce(self) -> None:
        while not self._ended:
            try:
                self.added.append((await self.queue.add("send", {"text": "x" * 100})).id)
            except (IndeterminateError, ServerUnavailable):
                self.unsure += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def goes_on(self, jobs: int = 50) -> None:
        """Wait until so many more jobs have been added, and have run."""
        added, ran = len(self.added), len(self.ran)
        await self.until(lambda: len(self.added) > added + jobs and len(self.ran) > ran + jobs)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self._worker:
            producing = asyncio.create_task(self._produce())
            try:
                await self.goes_on()
                yield
                await self.goes_on()
            finally:
                self._ended = True
                await producing
            async with asyncio.timeout(20):
                while (await self.queue.counts())["waiting"]:
                    await asyncio.sleep(0.01)


def move_by_keys(source: Server, target: Server) -> None:
    """As `--cluster reshard` does it: the keys one after another, in two places meanwhile."""
    ids = [node_id(source), node_id(target)]
    with source.client() as giver, target.client() as taker:
        taker.execute_command("CLUSTER", "SETSLOT", SLOT, "IMPORTING", ids[0])
        giver.execute_command("CLUSTER", "SETSLOT", SLOT, "MIGRATING", ids[1])
        while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", SLOT, 10):
            giver.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (taker, giver):
            node.execute_command("CLUSTER", "SETSLOT", SLOT, "NODE", ids[1])


def move_at_once(source: Server, target: Server) -> None:
    """As Valkey 9 does it: copied in the background, then handed over."""
    with source.client() as giver:
        giver.execute_command(
            "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", node_id(target)
        )
        deadline = time.monotonic() + 10
        while (state := _migration(giver)) != "success":
            assert state != "failed"
            assert time.monotonic() < deadline, state
            time.sleep(0.01)


def _migration(client: Any) -> str:
    (told,) = client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
    return str(told["state"] if isinstance(told, dict) else told[told.index("state") + 1])


@pytest.mark.parametrize("move", [move_by_keys, move_at_once])
async def test_a_slot_moves(move: Callable[[Server, Server], None]) -> None:
    with cluster(2) as nodes:
        number = nodes.owner("{a}")
        source, target = nodes.nodes[number], nodes.nodes[1 - number]
        async with App(nodes.url) as app:
            traffic = Traffic(app)
            async with traffic.running():
                await asyncio.to_thread(move, source, target)
            with target.client() as client:
                assert client.exists("bull:{a}:meta")
            assert traffic.unsure == 0
            assert set(traffic.ran) == set(traffic.added)
            assert set(traffic.ran.values()) == {1}
            assert (await app.audit("{a}")).findings == ()


@pytest.fixture
def mortal() -> Any:
    with cluster(3, replicas=True) as nodes:
        yield nodes


async def test_a_primary_dies(mortal: Cluster) -> None:
    number = mortal.owner("{a}")
    dead, heir = mortal.nodes[number], mortal.replicas[number]
    # Only the primary that will die is named: the others are learned from it.
    async with App(f"redis+cluster://127.0.0.1:{dead.port}") as app:
        traffic = Traffic(app)
        async with traffic.running():
            dead.process.kill()
        with heir.client() as client:
            assert client.role()[0] == "master"
        # What was acknowledged and not replicated is gone, as the server gives no better promise.
        for lost in set(traffic.added) - set(traffic.ran):
            assert await traffic.queue.get(lost) is None
        assert (await app.audit("{a}")).findings == ()
