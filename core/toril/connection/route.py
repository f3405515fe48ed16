"""Which server to ask for a key: one server, the master that Sentinel names, a cluster's node."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from redis.crc import key_slot
from redis.exceptions import RedisError

from toril.connection.endpoint import Access, Address, Endpoint, Server
from toril.connection.faults import error_code
from toril.connection.steps import Exchange, InThread, NotSent, Refused, ReplyLost, Steps
from toril.errors import ConfigurationError

SLOTS = 16384
_HASH_TAG = re.compile(rb"[^{]*\{[^}]+\}")

_log = logging.getLogger("toril.connection")


class Route(ABC):
    """Finds the server for a key and remembers it until it is told to forget it."""

    _one_holds_all = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._servers: dict[Address, Server] = {}
        self._known_good: set[Server] = set()
        self.holder: Server | None = None
        """Who holds every key, if that is known already: `locate` would find nothing else."""

    def locate(self, key: str | bytes | None) -> Steps[Server]:
        """The server that holds `key` (None: any that can be written to).

        Raises `NotSent`, `ReplyLost` or `Refused` if that cannot be found out now, and
        `ConfigurationError` if the server will not do.
        """
        server = yield from self._find(key)
        if server not in self._known_good:
            yield from self._check(server)
        elif self._one_holds_all:
            self.holder = server
        return server

    def masters(self) -> Steps[Sequence[Server]]:
        """Every server that holds keys. Raises what `locate` raises."""
        return ((yield from self.locate(None)),)

    @abstractmethod
    def _find(self, key: str | bytes | None, /) -> Steps[Server]: ...

    @abstractmethod
    def forget(self) -> None:
        """What was found cannot be used (any more): find out anew."""

    def close(self) -> Steps[None]:
        """Give back what was taken to reach the server."""
        yield from ()
        self.forget()

    def redirect(self, slot: int, address: Address) -> Server:  # noqa: ARG002
        """A cluster says that `address` has the slot now."""
        return self.server(address)

    def server(self, address: Address, access: Access | None = None) -> Server:
        """The one `Server` of that address."""
        known = self._servers.get(address)
        if known is None:
            known = self._servers[address] = Server(address, access or self.endpoint.access)
        return known

    def _check(self, server: Server) -> Steps[None]:
        replies = yield Exchange(server, (("INFO", "server"), ("INFO", "memory")))
        for reply in replies:
            if isinstance(reply, RedisError) and error_code(reply) != "NOPERM":
                raise Refused(reply, server)
        check_server([r.decode() for r in replies if isinstance(r, bytes)], str(self.endpoint))
        self._known_good.add(server)


class SingleRoute(Route):
    """One server at a fixed address; whoever answers there is used."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._only = self.server(endpoint.addresses[0])

    def _find(self, _key: str | bytes | None, /) -> Steps[Server]:
        yield from ()
        return self._only

    def forget(self) -> None:
        """The address stays the same."""


class EmbeddedRoute(Route):
    """The server of a directory, which is started if nobody has done so."""

    def __init__(self, endpoint: Endpoint, directory: Path) -> None:
        # Here, not above: few need it, and all would wait for its import.
        from toril.connection.embedded import Membership

        super().__init__(endpoint)
        self._membership = Membership(directory)
        self._server: Server | None = None

    def _find(self, _key: str | bytes | None, /) -> Steps[Server]:
        if self._server is None:
            path = yield InThread(self._membership.join)
            self._server = self.server(Address("", 0, str(path)))
        return self._server

    def forget(self) -> None:
        """The server may have ended; then the next use starts it again."""
        self._server = self.holder = None

    def close(self) -> Steps[None]:
        """Leave the directory; the last one waits for the server's end."""
        self.forget()
        yield InThread(self._membership.leave)


class SentinelRoute(Route):
    """The master of a group, as the sentinels know it. The first that answers is believed."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._sentinels = [Server(a, endpoint.sentinel_access) for a in endpoint.addresses]
        self._master: Server | None = None

    def _find(self, _key: str | bytes | None, /) -> Steps[Server]:
        if self._master is None:
            self._master = yield from self._discover()
        return self._master

    def forget(self) -> None:
        """The master may have changed."""
        self._master = self.holder = None

    def _discover(self) -> Steps[Server]:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.endpoint.service)
        said: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                (reply,) = yield Exchange(sentinel, (question,))
            except (NotSent, ReplyLost) as error:
                said.append(str(error))
                continue
            if isinstance(reply, list):
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                host, port = cast("list[bytes]", reply)
                return (yield from self._master_at(Address(host.decode(), int(port))))
            said.append(f"{sentinel}: {reply or 'does not know this service'}")
        raise NotSent(f"no sentinel names a master of {self.endpoint.service!r}: {'; '.join(said)}")

    def _master_at(self, address: Address) -> Steps[Server]:
        server = self.server(address)
        (role,) = yield Exchange(server, (("ROLE",),))
        if isinstance(role, RedisError) and error_code(role) != "NOPERM":
            raise Refused(role, server)
        if isinstance(role, list) and role[0] != b"master":
            raise NotSent(f"{server} is not the master yet", server)
        return server


class ClusterRoute(Route):
    """The node that holds the slot of a key."""

    _one_holds_all = False

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._nodes = [self.server(address) for address in endpoint.addresses]
        """Who can tell the slots, in the order in which they are asked."""
        self._slots: list[Server | None] = []
        self._stale = True

    def _find(self, key: str | bytes | None, /) -> Steps[Server]:
        raw = key.encode() if isinstance(key, str) else key
        if raw is not None and _HASH_TAG.match(raw) is None:
            raise ConfigurationError(
                f"{self.endpoint}: the keys of a queue must be in one slot of the cluster, and "
                f"{raw.decode(errors='replace')!r} has no hash tag; put one into the queue's "
                "name, app.queue('{mail}'), or into the prefix, App(url, prefix='{bull}')"
            )
        if self._stale:
            self._slots = yield from self._map()
            self._stale = False
        if raw is None:
            server = next((server for server in self._slots if server), None)
        else:
            server = self._slots[key_slot(raw)]
        if server is None:
            self._stale = True
            raise NotSent("no node of the cluster holds this slot now")
        return server

    def masters(self) -> Steps[Sequence[Server]]:
        """The nodes that have slots. Raises what `locate` raises."""
        yield from self.locate(None)
        return tuple(dict.fromkeys(filter(None, self._slots)))

    def forget(self) -> None:
        """The slots may have moved; another node is asked next, as this one may be cut off."""
        self._stale = True
        self._nodes.append(self._nodes.pop(0))

    def redirect(self, slot: int, address: Address) -> Server:
        """Remember that `address` has the slot now."""
        server = self.server(address)
        if self._slots:
            self._slots[slot] = server
        return server

    def _map(self) -> Steps[list[Server | None]]:
        said: list[str] = []
        for node in tuple(self._nodes):
            try:
                (reply,) = yield Exchange(node, (("CLUSTER", "SLOTS"),))
            except (NotSent, ReplyLost) as error:
                said.append(str(error))
                continue
            if not isinstance(reply, RedisError):
                return self._read_map(reply, node)
            said.append(f"{node}: {reply}")
        raise NotSent(f"no node of the cluster tells its slots: {'; '.join(said)}")

    def _read_map(self, ranges: Sequence[Any], asked: Server) -> list[Server | None]:
        slots: list[Server | None] = [None] * SLOTS
        told: list[Server] = []
        for first, last, *nodes in ranges:
            primary, *replicas = (
                # A node that does not know its own name leaves it out.
                self.server(Address(_name(host) or asked.address.host, int(port)))
                for host, port, *_ in nodes
            )
            slots[first : last + 1] = [primary] * (last + 1 - first)
            told += (primary, *replicas)
        self._nodes = list(dict.fromkeys((asked, *told, *self._nodes)))
        return slots


def _name(host: bytes | None) -> str:
    return host.decode() if host and host != b"?" else ""


def route_for(endpoint: Endpoint) -> Route:
    """The route that `endpoint` asks for."""
    if endpoint.directory is not None:
        return EmbeddedRoute(endpoint, endpoint.directory)
    if endpoint.kind == "sentinel":
        return SentinelRoute(endpoint)
    if endpoint.kind == "cluster":
        return ClusterRoute(endpoint)
    return SingleRoute(endpoint)


_evicting_told: set[str] = set()


def check_server(infos: Sequence[str], where: str) -> None:
    """Refuse a server that is too old; warn, once, of one that may throw away jobs.

    Args:
        infos: What the server answered to `INFO`; sections that were denied are left out.
        where: The server, for the message.

    Raises:
        ConfigurationError: the server is older than Redis 6.2 or Valkey 7.2.
    """
    facts = dict(re.findall(r"^(\w+):(.*?)\r?$", "\n".join(infos), re.MULTILINE))
    for name, version, oldest in (
        ("Valkey", facts.get("valkey_version"), (7, 2)),
        ("Redis", facts.get("redis_version"), (6, 2)),
    ):
        if version is not None:
            numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
            if numbers < oldest:
                raise ConfigurationError(
                    f"{where}: this server is {name} {version}; needed is Redis 6.2 or newer, or "
                    "Valkey 7.2 or newer"
                )
            break
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and where not in _evicting_told:
        _evicting_told.add(where)
        _log.warning(
            "%s has maxmemory-policy %s: when its memory is full it throws away jobs and locks; "
            "set it to noeviction",
            where,
            policy,
        )
