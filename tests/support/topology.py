"""Groups of servers on loopback: a cluster, and a master with replicas under Sentinel."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.support.server import Server, binary, free_port

READY_DEADLINE = 20.0  # seconds


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {READY_DEADLINE} s")
        time.sleep(0.01)


@dataclass(frozen=True)
class Cluster:
    """Masters that share the slots evenly, in the order of `nodes`; replica n is of master n."""

    nodes: tuple[Server, ...]
    replicas: tuple[Server, ...] = ()

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def owner(self, key: str) -> int:
        """The number of the master that was given the slot of `key` at the start."""
        return next(
            number
            for number in range(len(self.nodes))
            if key_slot(key.encode()) < _bound(number + 1, len(self.nodes))
        )


def node_id(node: Server) -> str:
    """How a node of a cluster is called in it."""
    with node.client() as client:
        return str(client.execute_command("CLUSTER", "MYID"))


def _bound(number: int, size: int) -> int:
    return 16384 * number // size


@contextmanager
def cluster(
    size: int = 3, *, replicas: bool = False, config: Mapping[str, str] | None = None
) -> Generator[Cluster, None, None]:
    """A cluster of `size` masters, with a replica each if wanted; `config` of all of them."""
    with ExitStack() as stack:
        nodes: list[Server] = []
        for _ in range(size * (2 if replicas else 1)):
            settings = {
                "cluster-enabled": "yes",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": "1000",
                "repl-diskless-sync-delay": "0",
            }
            node = Server.start(settings | dict(config or {}))
            stack.callback(node.stop)
            nodes.append(node)
        first = nodes[0]
        for number, node in enumerate(nodes):
            with node.client() as client:
                client.execute_command("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
                if number < size:
                    slots = _bound(number, size), _bound(number + 1, size) - 1
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
                if node is not first:
                    client.execute_command(
                        "CLUSTER", "MEET", "127.0.0.1", first.port, first.config["cluster-port"]
                    )
        wait_until(lambda: all(_is_whole(node, len(nodes)) for node in nodes), "the cluster")
        masters, others = tuple(nodes[:size]), tuple(nodes[size:])
        for master, replica in zip(masters, others, strict=False):
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", node_id(master))
            wait_until(partial(is_replicated, master), "the replication")
        yield Cluster(masters, others)


def is_replicated(master: Server) -> bool:
    """Whether all of its replicas have all that it has."""
    with master.client() as client:
        told: Any = client.info("replication")
        return bool(told["connected_slaves"]) and told["slave0"]["state"] == "online"


def _is_whole(node: Server, size: int) -> bool:
    with node.client() as client:
        info: Any = client.cluster("INFO")
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(size))


@dataclass(frozen=True)
class Group:
    """A master, its replicas, and the ports of the sentinels that watch it as `service`."""

    servers: tuple[Server, ...]
    sentinel_ports: tuple[int, ...]
    service: str = "mymaster"

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{places}/{self.service}"

    def master_port(self) -> int:
        with redis.Redis(port=self.sentinel_ports[0], decode_responses=True) as sentinel:
            address: Any = sentinel.sentinel_get_master_addr_by_name(self.service)
            return int(address[1])

    def kill_master(self) -> None:
        """End the master, and wait until the sentinels name a replica that has taken over."""
        before = self.master_port()
        next(server for server in self.servers if server.port == before).stop()
        wait_until(lambda: self.master_port() != before, "the fail-over")
        wait_until(lambda: _role(self.master_port()) == "master", "the promotion")


def _role(port: int) -> str:
    with redis.Redis(port=port, decode_responses=True) as client:
        return str(client.info("replication")["role"])


@contextmanager
def sentinel(replicas: int = 1, sentinels: int = 1) -> Generator[Group, None, None]:
    """A master with `replicas`, watched by `sentinels`."""
    with ExitStack() as stack:
        fast = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
        servers = [Server.start(fast) for _ in range(1 + replicas)]
        for server in servers:
            stack.callback(server.stop)
        master = servers[0]
        for server in servers[1:]:
            with server.client() as client:
                client.replicaof("127.0.0.1", str(master.port))
        wait_until(lambda: _connected_replicas(master) == replicas, "the replication")
        ports = tuple(_start_sentinel(stack, master, sentinels // 2 + 1) for _ in range(sentinels))
        for port in ports:
            wait_until(partial(_knows, port, replicas), "the sentinel")
        yield Group(tuple(servers), ports)


def _connected_replicas(master: Server) -> int:
    with master.client() as client:
        return int(client.info("replication")["connected_slaves"])


def _start_sentinel(stack: ExitStack, master: Server, quorum: int) -> int:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toril-")))
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor mymaster 127.0.0.1 {master.port} {quorum}\n"
        "sentinel down-after-milliseconds mymaster 500\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary()), str(config), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def stop() -> None:
        process.terminate()
        process.wait()

    stack.callback(stop)
    return port


def _knows(port: int, replicas: int) -> bool:
    try:
        with redis.Redis(port=port, decode_responses=True) as client:
            state: Any = client.sentinel_master("mymaster")
            return int(state["num-slaves"]) == replicas
    except redis.ConnectionError:
        return False
