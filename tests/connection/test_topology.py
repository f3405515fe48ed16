"""Sentinel and Cluster, for real: found, followed when they move, and asked only once per call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot
from tests.connection.conftest import SHORT, Faces, Scripts, call, read
from tests.support.server import free_port
from tests.support.topology import Cluster, Group, cluster, node_id, sentinel

from toril.clock import SystemClock
from toril.connection.blocking import StreamRead
from toril.connection.call import Call, Resend
from toril.connection.execute import Executor
from toril.connection.marker import MarkerWait, Waited
from toril.connection.open import open_endpoint
from toril.errors import ConfigurationError, ServerUnavailable


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster(3) as running:
        yield running


@pytest.fixture
def keys(nodes: Cluster) -> Iterator[list[str]]:
    """One key on each node."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < 3:
        key = f"{{q{number}}}:k"
        found.setdefault(key_slot(key.encode()) * 3 // 16384, key)
        number += 1
    yield [found[node] for node in range(3)]
    for node in nodes.nodes:
        with node.client() as client:
            client.flushall()


async def test_cluster_asks_the_node_that_has_the_key(
    face: Faces, nodes: Cluster, keys: list[str]
) -> None:
    one = face(nodes.url)
    for key in keys:
        assert await one.run(call("count", key=key)) == 1
        assert await one.run(read("GET", key)) == b"1"
    for node, key in zip(nodes.nodes, keys, strict=True):
        with node.client() as client:
            assert client.get(key) == "1"
    assert await one.run(read("PING")) == b"PONG"


async def test_cluster_client_is_taken(face: Faces, nodes: Cluster, keys: list[str]) -> None:
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=nodes.nodes[1].port)
    assert await face(client).run(call("count", key=keys[2])) == 1
    await client.aclose()


async def test_queues_of_two_slots_in_one_call_are_refused(
    face: Faces, nodes: Cluster, keys: list[str]
) -> None:
    one = face(nodes.url)
    with pytest.raises(ConfigurationError, match="tag"):
        await one.run(read("MGET", *keys))


async def test_slot_that_moves_is_waited_for(face: Faces, nodes: Cluster, keys: list[str]) -> None:
    one, hasty = face(nodes.url), face(nodes.url, SHORT)
    key, slot = keys[0], key_slot(keys[0].encode())
    assert await one.run(call("count", key=key)) == 1
    source, target = nodes.nodes[0], nodes.nodes[1]
    ids = [node_id(source), node_id(target)]
    with source.client() as giver, target.client() as taker:
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        try:
            # The key is still there; then it is over there, as others may not be yet.
            assert await one.run(call("count", key=key)) == 2
            giver.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 1000)
            for request in (call("count", key=key), read("GET", key)):
                with pytest.raises(ServerUnavailable, match="the cluster is moving these keys"):
                    await hasty.run(request)
        finally:
            for node in (taker, giver):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert await one.run(call("count", key=key)) == 3
        # And back, for the other tests.
        giver.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[1])
        taker.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[0])
        taker.execute_command("MIGRATE", "127.0.0.1", source.port, key, 0, 1000)
        for node in (giver, taker):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[0])
        assert await one.run(call("count", key=key)) == 4


async def test_waits_on_a_cluster(nodes: Cluster, keys: list[str]) -> None:
    executor = Executor(open_endpoint(nodes.url), Scripts())
    queue = keys[2].removesuffix(":k")
    marker = MarkerWait(executor, queue, clock=SystemClock())
    await executor.run(call("count", key=f"{queue}:k"))

    def behind(offset: float) -> Call[Any]:
        return call("count", key=f"{queue}:k")

    stream = StreamRead(executor, f"{queue}:events")
    waiting = asyncio.create_task(marker.wait(30, behind))
    xread = ("XREAD", "BLOCK", 30000, "STREAMS", f"{queue}:events", "0-0")
    reading = asyncio.create_task(stream.read(xread, 30))
    with nodes.nodes[2].client() as client:
        while client.info("clients")["blocked_clients"] < 2:
            await asyncio.sleep(0.001)
        client.xadd(f"{queue}:events", {"event": "added"})
        await marker.wake()
        assert await waiting == Waited(sent=True, result=2)
        assert (await reading)[0][0] == f"{queue}:events".encode()
        client.zadd(f"{queue}:marker", {"0": 0})
    assert await marker.wait(5, behind) == Waited(sent=True, result=3)
    await marker.aclose()
    await stream.aclose()
    await executor.aclose()


async def test_no_cluster_at_all(face: Faces, redis_url: str) -> None:
    with pytest.raises(ServerUnavailable, match="tells its slots"):
        await face(redis_url.replace("redis:", "redis+cluster:").removesuffix("/0"), SHORT).run(
            read("GET", "{k}")
        )


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with sentinel() as running:
        yield running


@pytest.fixture
def mortal_group() -> Iterator[Group]:
    with sentinel() as running:
        yield running


async def test_master_is_found_and_followed(face: Faces, mortal_group: Group) -> None:
    group = mortal_group
    one = face(group.url)
    port = read("CONFIG", "GET", "port")
    assert (await one.run(port))[1] == str(group.master_port()).encode()
    group.kill_master()
    assert await one.run(call("put", "v", resend=Resend.ALWAYS)) == b"done"
    assert (await one.run(port))[1] == str(group.master_port()).encode()


async def test_sentinel_client_is_taken(face: Faces, group: Group) -> None:
    make: Any = redis.Sentinel
    watcher = make([("127.0.0.1", group.sentinel_ports[0])])
    assert await face(watcher.master_for("mymaster")).run(read("PING")) == b"PONG"


async def test_sentinel_that_is_away_is_passed_over(face: Faces, group: Group) -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{group.sentinel_ports[0]}/mymaster"
    assert await face(url).run(read("PING")) == b"PONG"


async def test_service_that_no_sentinel_knows(face: Faces, group: Group) -> None:
    url = f"redis+sentinel://127.0.0.1:{group.sentinel_ports[0]}/other"
    with pytest.raises(ServerUnavailable, match="does not know this service"):
        await face(url, SHORT).run(read("PING"))


async def test_wait_finds_the_new_master(mortal_group: Group) -> None:
    group = mortal_group
    executor = Executor(open_endpoint(group.url), Scripts())
    marker = MarkerWait(executor, "bull:mail")
    await marker.wait(0.01)
    waiting = asyncio.create_task(marker.wait(30))
    await asyncio.to_thread(group.kill_master)
    assert await asyncio.wait_for(waiting, 10) == Waited()
    with redis.Redis(port=group.master_port()) as master:
        master.zadd("bull:mail:marker", {"0": 0})
        await marker.wait(5)
        assert not master.zcard("bull:mail:marker")
    await marker.aclose()
    await executor.aclose()
