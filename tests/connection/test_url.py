"""What names a server, and what does not; and that no text shows a password."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.sentinel
from hypothesis import given
from hypothesis import strategies as st

from toril.connection.endpoint import Access, Address, Endpoint
from toril.connection.open import open_endpoint
from toril.connection.url import parse_url, redacted
from toril.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "address", "access"),
    [
        ("redis://", Address("localhost", 6379), Access()),
        ("redis://localhost", Address("localhost", 6379), Access()),
        ("valkey://cache:7000/2", Address("cache", 7000), Access(db=2)),
        ("redis://cache:7000?db=2", Address("cache", 7000), Access(db=2)),
        ("rediss://cache", Address("cache", 6379), Access(tls=())),
        ("valkeys://cache", Address("cache", 6379), Access(tls=())),
        ("redis://[::1]:7000", Address("::1", 7000), Access()),
        ("redis://:pw@cache", Address("cache", 6379), Access(password="pw")),
        ("redis://u:p%40w@cache", Address("cache", 6379), Access(username="u", password="p@w")),
        ("unix:///run/a%20b.sock?db=3", Address("", 0, "/run/a b.sock"), Access(db=3)),
        ("unix://u:p@/run/s", Address("", 0, "/run/s"), Access(username="u", password="p")),
        (
            "rediss://cache?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=false",
            Address("cache", 6379),
            Access(tls=(("ssl_cert_reqs", "none"), ("ssl_check_hostname", False))),
        ),
        (
            "redis://cache?socket_timeout=1.5&socket_connect_timeout=3&decode_responses=True",
            Address("cache", 6379),
            Access(reply_timeout=1.5, connect_timeout=3.0),
        ),
    ],
)
def test_one_server(url: str, address: Address, access: Access) -> None:
    assert parse_url(url) == Endpoint("single", (address,), access)


def test_sentinel() -> None:
    assert parse_url(
        "redis+sentinel://u:p@one,two:27000/mymaster/4?sentinel_password=sp"
    ) == Endpoint(
        "sentinel",
        (Address("one", 26379), Address("two", 27000)),
        Access(db=4, username="u", password="p"),
        service="mymaster",
        sentinel_access=Access(password="sp"),
    )


def test_cluster() -> None:
    assert parse_url("valkeys+cluster://one,two:7001") == Endpoint(
        "cluster", (Address("one", 6379), Address("two", 7001)), Access(tls=())
    )


@pytest.mark.parametrize("url", ["embedded:some/dir", "embedded://some/dir"])
def test_embedded(url: str) -> None:
    endpoint = parse_url(url)
    assert endpoint.directory == Path("some/dir").absolute()
    assert endpoint.kind == "embedded"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a server's URL"),
        ("localhost:6379", "not a server's URL"),
        ("http://localhost", "unknown scheme"),
        ("redis://one,two", "several servers"),
        ("redis://one/x", "no number of a database"),
        ("redis://one:99999", "no port 99999"),
        ("redis://one:port", "does not name hosts and ports"),
        ("redis://one?db=-1", "no value of 'db'"),
        ("redis://one?socket_timout=3", "did you mean 'socket_timeout'"),
        ("redis://one?socket_timeout=0", "no value of 'socket_timeout'"),
        ("redis+sentinel://one:26379", "name of the service"),
        ("redis+cluster://one/3", "no numbered databases"),
        ("unix://relative/path", "three slashes"),
        ("embedded:", "lacks its directory"),
    ],
)
def test_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret@cache/1",
        "redis://:s3cret@cache",
        "unix:///run/s?password=s3cret",
        "redis+sentinel://u:s3cret@one/m?sentinel_password=s3cret",
        "redis+cluster://u:s3cret@one",
        "redis://u:s3cret@cache/x",
        "redis://u:s3cret@one,two",
        "http://u:s3cret@cache",
        "redis://u:s3/cret@cache",
        "redis://u:12/cret@cache",
        "redis://u:s3?cret@cache",
        "redis://u:s3cret@cache?wrong=1&password=s3cret",
    ],
)
def test_no_text_shows_a_password(url: str) -> None:
    try:
        endpoint = parse_url(url)
    except ConfigurationError as error:
        shown = str(error)
    else:
        shown = f"{endpoint} {endpoint!r} {endpoint.access!r} {endpoint.sentinel_access!r}"
    assert "s3cret" not in shown
    assert "cret@" not in shown
    assert "cret" not in redacted(url)


@given(
    st.text(min_size=1),
    st.integers(1, 65535),
    st.integers(0, 15),
)
def test_any_password_can_be_written(password: str, port: int, db: int) -> None:
    from urllib.parse import quote

    try:
        url = f"redis://u:{quote(password, safe='')}@h:{port}/{db}"
    except UnicodeEncodeError:
        return
    endpoint = parse_url(url)
    assert endpoint.access == Access(db=db, username="u", password=password)
    assert endpoint.addresses == (Address("h", port),)


def test_nothing_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_endpoint(None, environ={})
    for way_out in ("redis://", "TORIL_URL", "embedded:"):
        assert way_out in str(caught.value)


def test_environment() -> None:
    named = open_endpoint(None, environ={"TORIL_URL": "redis://cache/1"})
    assert named == parse_url("redis://cache/1")
    assert open_endpoint("redis://other", environ={"TORIL_URL": "x"}) == parse_url("redis://other")


# Ready clients.

KWARGS: dict[str, Any] = {"host": "cache", "port": 7000, "db": 2, "username": "u", "password": "p"}
TAKEN = Endpoint("single", (Address("cache", 7000),), Access(db=2, username="u", password="p"))


@pytest.mark.parametrize(
    "client",
    [
        redis.Redis(**KWARGS),
        redis.asyncio.Redis(**KWARGS),
        redis.Redis(**KWARGS, decode_responses=True),
        redis.asyncio.Redis.from_url("redis://u:p@cache:7000/2", protocol=3),
    ],
)
def test_client_of_one_server(client: object) -> None:
    assert open_endpoint(client) == TAKEN


def test_client_with_encryption_and_a_socket() -> None:
    encrypted = open_endpoint(redis.Redis(host="cache", ssl=True, ssl_ca_certs="/ca.pem"))
    assert dict(encrypted.access.tls or ())["ssl_ca_certs"] == "/ca.pem"
    local = open_endpoint(redis.asyncio.Redis(unix_socket_path="/run/s"))
    assert local.addresses == (Address("", 0, "/run/s"),)


def test_client_with_a_credential_provider() -> None:
    provider = redis.UsernamePasswordCredentialProvider("u", "p")
    assert open_endpoint(redis.Redis(credential_provider=provider)).access == Access(
        credentials=provider
    )


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_client_of_a_master(module: Any) -> None:
    sentinel = module.Sentinel(
        [("one", 26379), ("two", 27000)], sentinel_kwargs={"password": "sp"}, password="p", db=4
    )
    endpoint = open_endpoint(sentinel.master_for("mymaster"))
    assert endpoint == Endpoint(
        "sentinel",
        (Address("one", 26379), Address("two", 27000)),
        Access(db=4, password="p"),
        service="mymaster",
        sentinel_access=Access(password="sp"),
    )
    with pytest.raises(ConfigurationError, match="master_for"):
        open_endpoint(sentinel.slave_for("mymaster"))
    with pytest.raises(ConfigurationError, match="master_for"):
        open_endpoint(sentinel)


def test_client_of_a_cluster() -> None:
    nodes = [redis.asyncio.cluster.ClusterNode("127.0.0.1", 7000)]
    client = redis.asyncio.RedisCluster(startup_nodes=nodes, password="p", ssl=True)
    endpoint = open_endpoint(client)
    assert (endpoint.kind, endpoint.addresses) == ("cluster", (Address("127.0.0.1", 7000),))
    assert endpoint.access.password == "p"
    assert endpoint.access.tls is not None


class _FakeConnection(redis.Connection):
    pass


def test_client_with_foreign_connections_is_refused() -> None:
    pool = redis.ConnectionPool(connection_class=_FakeConnection)
    with pytest.raises(ConfigurationError, match="_FakeConnection"):
        open_endpoint(redis.Redis(connection_pool=pool))


@pytest.mark.parametrize("target", [7, object(), ["redis://"]])
def test_anything_else_is_refused(target: object) -> None:
    with pytest.raises(ConfigurationError, match="by a URL or by a client"):
        open_endpoint(target)


def test_endpoint_is_taken_as_it_is() -> None:
    endpoint = replace(TAKEN)
    assert open_endpoint(endpoint) is endpoint
