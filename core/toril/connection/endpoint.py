"""Which server is meant: addresses, login and time limits, as read from a URL or a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection, unless the URL says otherwise."""
REPLY_TIMEOUT = 5.0
"""Seconds to wait for a reply, unless the URL says otherwise."""

Kind = Literal["single", "sentinel", "cluster", "embedded"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server process listens: `host` and `port`, or the `path` of a unix socket."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in: login, database, encryption, and how long to wait (seconds)."""

    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credentials: Any = field(default=None, repr=False)
    """A credential provider of redis-py, instead of a name and a password."""
    tls: tuple[tuple[str, Any], ...] | None = field(default=None, repr=False)
    """Options of the encryption, by redis-py's names (`ssl_…`); None: not encrypted."""
    connect_timeout: float = CONNECT_TIMEOUT
    reply_timeout: float = REPLY_TIMEOUT


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """One server process and how to get into it. Compared by identity: routes keep one each."""

    address: Address
    access: Access

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, a group watched by Sentinel, a cluster, or a directory with a server of its own.

    Its text is a URL without secrets: safe in logs, errors and tables.
    """

    kind: Kind
    addresses: tuple[Address, ...]
    """The server; or the sentinels; or the nodes of the cluster to ask first."""
    access: Access = Access()
    service: str = ""
    """The name under which the sentinels know the group."""
    sentinel_access: Access = Access()
    directory: Path | None = None
    """Where an embedded server keeps its data."""

    def __str__(self) -> str:
        if self.directory is not None:
            return f"embedded:{self.directory}"
        scheme = "redis" if self.access.tls is None else "rediss"
        login = ""
        if self.access.username or self.access.password or self.access.credentials:
            login = f"{self.access.username or ''}:***@"
        places = ",".join(str(address) for address in self.addresses)
        if self.kind == "sentinel":
            return f"{scheme}+sentinel://{login}{places}/{self.service}/{self.access.db}"
        if self.kind == "cluster":
            return f"{scheme}+cluster://{login}{places}"
        if self.addresses[0].path:
            return f"unix://{login}{places}?db={self.access.db}"
        return f"{scheme}://{login}{places}/{self.access.db}"

    def __repr__(self) -> str:
        return f"Endpoint({str(self)!r})"
