"""Encrypted connections: the server must prove who it is, unless the URL waives that."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.connection.conftest import SHORT, Faces, call, read
from tests.support.proxy import FaultProxy
from tests.support.server import Server

from toril.errors import ConfigurationError, ServerUnavailable


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", "/CN=toril", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def encrypted(
    server: Server, redis_url: str, certificate: tuple[Path, Path]
) -> Iterator[FaultProxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with FaultProxy.start(server.port, context) as proxy:
        yield proxy


async def test_known_certificate(
    face: Faces, encrypted: FaultProxy, certificate: tuple[Path, Path]
) -> None:
    one = face(f"{encrypted.url}?ssl_ca_certs={certificate[0]}")
    assert await one.run(call("count")) == 1
    assert await one.run(read("GET", "k")) == b"1"


async def test_unknown_certificate_is_refused_at_once(face: Faces, encrypted: FaultProxy) -> None:
    with pytest.raises(ConfigurationError, match="ssl_ca_certs"):
        await face(encrypted.url).run(read("PING"))


async def test_check_can_be_waived(face: Faces, encrypted: FaultProxy) -> None:
    one = face(f"{encrypted.url}?ssl_cert_reqs=none&ssl_check_hostname=false")
    assert await one.run(read("PING")) == b"PONG"


async def test_plain_server_behind_an_encrypted_url(face: Faces, redis_url: str) -> None:
    url = redis_url.replace("redis:", "rediss:") + "?socket_connect_timeout=0.1"
    with pytest.raises(ServerUnavailable, match="rediss:"):
        await face(url, SHORT).run(read("PING"))
