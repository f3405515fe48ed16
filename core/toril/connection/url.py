"""Reading the URL of a server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from toril.connection.endpoint import CONNECT_TIMEOUT, REPLY_TIMEOUT, Access, Address, Endpoint
from toril.errors import ConfigurationError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379

FORMS = """\
  redis://[user:password@]host[:port][/db]       one server; rediss:// if encrypted
  unix://[user:password@]/path/of/socket[?db=0]  one server, over its unix socket
  redis+sentinel://[user:password@]host:port,host:port/service[/db]
  redis+cluster://[user:password@]host:port,host:port
  embedded:DIR                                   a server of its own, for development
`valkey` may stand for `redis` everywhere."""

_URL = re.compile(
    r"(?P<scheme>[a-z][a-z+]*)://(?:(?P<login>[^@/]*)@)?(?P<places>[^/?#]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)


def parse_url(url: str) -> Endpoint:
    """What `url` names.

    Options in the query: `db`, `username`, `password`, `socket_timeout` and
    `socket_connect_timeout` (seconds), `sentinel_username`, `sentinel_password`, and redis-py's
    `ssl_…` options. Options that only concern redis-py's own client are passed over.

    Raises:
        ConfigurationError: for anything else; the message never shows a password.
    """
    if url.startswith("embedded:"):
        return _embedded(url)
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigurationError(f"{redacted(url)!r} is not a server's URL. Known forms:\n{FORMS}")
    scheme = match["scheme"].lower().replace("valkey", "redis")
    options = _options(match["query"] or "", redacted(url))
    access = _access(match["login"] or "", options, tls=scheme.startswith("rediss"))
    path = unquote(match["path"] or "")
    places = match["places"]
    if scheme == "unix":
        if places or not path:
            raise ConfigurationError(
                f"{redacted(url)!r} names no socket: write three slashes, unix:///path/of/socket"
            )
        return Endpoint("single", (Address("", 0, path),), access)
    match scheme.replace("rediss", "redis"):
        case "redis":
            addresses = _addresses(places or "localhost", DEFAULT_PORT, redacted(url))
            if len(addresses) != 1:
                raise ConfigurationError(
                    f"{redacted(url)!r} names several servers; say what they are with "
                    "redis+sentinel:// or redis+cluster://"
                )
            return Endpoint("single", addresses, _with_db(access, path.strip("/"), url))
        case "redis+sentinel":
            service, _, db = path.strip("/").partition("/")
            if not service:
                raise ConfigurationError(
                    f"{redacted(url)!r} lacks the name of the service that the sentinels watch: "
                    "redis+sentinel://host:26379/NAME"
                )
            return Endpoint(
                "sentinel",
                _addresses(places, SENTINEL_PORT, redacted(url)),
                _with_db(access, db, url),
                service=service,
                sentinel_access=_sentinel_access(access, options),
            )
        case "redis+cluster":
            if path.strip("/") not in ("", "0") or access.db:
                raise ConfigurationError(
                    f"{redacted(url)!r}: a cluster has no numbered databases; leave the path out"
                )
            return Endpoint("cluster", _addresses(places, DEFAULT_PORT, redacted(url)), access)
        case _:
            raise ConfigurationError(
                f"{redacted(url)!r} has an unknown scheme. Known forms:\n{FORMS}"
            )


def redacted(url: str) -> str:
    """`url` without its passwords."""
    url = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", url)
    return re.sub(r"((?:^|[?&])\w*password=)[^&#]*", r"\1***", url)


def _embedded(url: str) -> Endpoint:
    directory = url.removeprefix("embedded:").removeprefix("//")
    if not directory:
        raise ConfigurationError("'embedded:' lacks its directory, for example embedded:.toril")
    path = Path(directory).expanduser().absolute()
    return Endpoint("embedded", (), directory=path)


def _addresses(places: str, default_port: int, shown: str) -> tuple[Address, ...]:
    found: list[Address] = []
    for place in places.split(","):
        match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]*)(?::(\d+))?", place.strip())
        if match is None or not (match[1] or match[2]):
            raise ConfigurationError(
                f"{shown!r} does not name hosts and ports (in a password, '/', '?' and '#' are "
                "written %2F, %3F and %23)"
            )
        port = int(match[2] or default_port)
        if not 0 < port < 65536:
            raise ConfigurationError(f"{shown!r}: there is no port {port}")
        found.append(Address(unquote(match[1]).strip("[]") or "localhost", port))
    return tuple(found)


def _with_db(access: Access, db: str, url: str) -> Access:
    if not db:
        return access
    if not db.isdecimal():
        raise ConfigurationError(f"{redacted(url)!r} ends in no number of a database")
    return replace(access, db=int(db))


def _number(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise ValueError
    return number


def _database(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "y", "t"):
        return True
    if text.lower() in ("0", "false", "no", "n", "f"):
        return False
    raise ValueError


def _certificates(text: str) -> str:
    level = text.lower().removeprefix("cert_")
    if level not in ("none", "optional", "required"):
        raise ValueError
    return level


_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "db": _database,
    "username": str,
    "password": str,
    "socket_timeout": _number,
    "socket_connect_timeout": _number,
    "sentinel_username": str,
    "sentinel_password": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_cert_reqs": _certificates,
    "ssl_check_hostname": _flag,
    "ssl_ciphers": str,
}

_PASSED_OVER = frozenset(
    {
        "client_name",
        "decode_responses",
        "encoding",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "protocol",
        "retry_on_timeout",
        "socket_keepalive",
        "socket_read_size",
        "timeout",
    }
)


def _options(query: str, shown: str) -> Mapping[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in _PASSED_OVER:
            continue
        read = _OPTIONS.get(name)
        if read is None:
            near = difflib.get_close_matches(name, _OPTIONS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"{shown!r}: unknown option {name!r}{hint}")
        try:
            options[name] = read(text)
        except ValueError:
            value = "***" if "password" in name else repr(text)
            raise ConfigurationError(f"{shown!r}: {value} is no value of {name!r}") from None
    return options


def _access(login: str, options: Mapping[str, Any], *, tls: bool) -> Access:
    username, _, password = login.partition(":")
    encryption = tuple((name, value) for name, value in options.items() if name.startswith("ssl_"))
    return Access(
        db=options.get("db", 0),
        username=unquote(username) or options.get("username"),
        password=unquote(password) or options.get("password"),
        tls=encryption if tls else None,
        connect_timeout=options.get("socket_connect_timeout", CONNECT_TIMEOUT),
        reply_timeout=options.get("socket_timeout", REPLY_TIMEOUT),
    )


def _sentinel_access(access: Access, options: Mapping[str, Any]) -> Access:
    return replace(
        access,
        db=0,
        username=options.get("sentinel_username"),
        password=options.get("sentinel_password"),
    )
