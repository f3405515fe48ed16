"""From what a user gives (a URL, a ready client, nothing) to an `Endpoint`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

from toril.connection.endpoint import CONNECT_TIMEOUT, REPLY_TIMEOUT, Access, Address, Endpoint
from toril.connection.url import FORMS, parse_url
from toril.errors import ConfigurationError

ENVIRONMENT = "TORIL_URL"

_TLS_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
    }
)


def open_endpoint(target: object = None, *, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """The server that `target` names. Opens no connection.

    Args:
        target: A URL; a client of redis-py or valkey-py, synchronous or asynchronous, for one
            server, a cluster, or a master found by Sentinel; or None for the URL in `TORIL_URL`.
            Of a client only the address and the login are taken: Toril makes connections of its
            own, so that neither side's settings (decoding, retries, time limits) touch the other.
        environ: The environment.

    Raises:
        ConfigurationError: nothing is named, or it cannot be understood.
    """
    if isinstance(target, Endpoint):
        return target
    if target is None:
        target = environ.get(ENVIRONMENT)
        if not target:
            raise ConfigurationError(
                "no server is named. Three ways out:\n"
                "  pass a URL:                 App('redis://localhost:6379')\n"
                f"  set it in the environment:  {ENVIRONMENT}=redis://localhost:6379\n"
                "  for development:            App('embedded:.toril') runs a server of its own"
            )
    if isinstance(target, str):
        return parse_url(target)
    if hasattr(target, "connection_pool"):
        return _of_client(target)
    if hasattr(target, "nodes_manager"):
        return _of_cluster(target)
    if hasattr(target, "discover_master"):
        raise ConfigurationError(
            "a Sentinel object watches several services; pass the client of one of them: "
            "sentinel.master_for('NAME')"
        )
    raise ConfigurationError(
        f"a server is named by a URL or by a client of redis-py, not by a "
        f"{type(target).__name__}. Known URLs:\n{FORMS}"
    )


def _of_client(client: Any) -> Endpoint:
    pool = client.connection_pool
    options: Mapping[str, Any] = pool.connection_kwargs
    kind = cast("type[object]", pool.connection_class)
    if kind.__module__.partition(".")[0] not in ("redis", "valkey"):
        raise ConfigurationError(
            f"a client with connections of its own kind ({kind.__module__}.{kind.__qualname__}) "
            "cannot be taken over; pass the URL of the server"
        )
    access = _access(options, tls="SSL" in kind.__name__)
    if hasattr(pool, "sentinel_manager"):
        if not pool.is_master:
            raise ConfigurationError("a replica cannot be written to; pass sentinel.master_for(…)")
        sentinels = [s.connection_pool for s in pool.sentinel_manager.sentinels]
        return Endpoint(
            "sentinel",
            tuple(_address(pool.connection_kwargs) for pool in sentinels),
            access,
            service=pool.service_name,
            sentinel_access=_access(
                sentinels[0].connection_kwargs, tls="SSL" in sentinels[0].connection_class.__name__
            ),
        )
    return Endpoint("single", (_address(options),), access)


def _of_cluster(client: Any) -> Endpoint:
    options: Mapping[str, Any] = client.nodes_manager.connection_kwargs
    nodes: Iterable[Any] = client.nodes_manager.startup_nodes.values()
    tls = bool(options.get("ssl")) or "SSL" in getattr(
        options.get("connection_class"), "__name__", ""
    )
    addresses = tuple(Address(str(node.host), int(node.port)) for node in nodes)
    return Endpoint("cluster", addresses, _access(options, tls=tls))


def _address(options: Mapping[str, Any]) -> Address:
    if options.get("path"):
        return Address("", 0, str(options["path"]))
    return Address(str(options.get("host", "localhost")), int(options.get("port", 6379)))


def _access(options: Mapping[str, Any], *, tls: bool) -> Access:
    encryption = tuple(
        (name, value)
        for name, value in options.items()
        if name in _TLS_OPTIONS and value is not None
    )
    return Access(
        db=int(options.get("db") or 0),
        username=options.get("username"),
        password=options.get("password"),
        credentials=options.get("credential_provider"),
        tls=encryption if tls else None,
        connect_timeout=options.get("socket_connect_timeout") or CONNECT_TIMEOUT,
        reply_timeout=options.get("socket_timeout") or REPLY_TIMEOUT,
    )
