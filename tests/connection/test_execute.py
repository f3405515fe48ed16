"""Requests: scripts that the server does not know, replies that are lost, errors of the server."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.conftest import ServerFactory
from tests.connection.conftest import SHORT, Face, Faces, Scripts, call, limited_user, read
from tests.support.proxy import FaultProxy
from tests.support.server import DEFAULTS, Server, free_port

from toril.connection.call import Read, Resend
from toril.connection.conversation import Patience
from toril.connection.execute import Executor, SyncExecutor
from toril.connection.open import open_endpoint
from toril.errors import (
    ConfigurationError,
    IndeterminateError,
    ServerError,
    ServerFull,
    ServerUnavailable,
)


async def test_a_script_is_loaded_when_the_server_lacks_it(face: Faces, raw: redis.Redis) -> None:
    one = face(f"redis://127.0.0.1:{raw.connection_pool.connection_kwargs['port']}")
    raw.script_flush()
    assert await one.run(call("count")) == 1
    raw.script_flush()
    assert await one.run(call("count")) == 2
    assert await one.run(call("count")) == 3


async def test_replies_are_bytes_and_numbers(face: Faces, redis_url: str) -> None:
    one = face(redis_url)
    several = Read((("HSET", "h", "f", "v"), ("HGETALL", "h"), ("GET", "none")), tuple)
    assert await one.run(several) == (1, [b"f", b"v"], None)


async def test_unix_socket(face: Faces, server: Server, redis_url: str) -> None:
    assert await face(server.unix_url).run(read("PING")) == b"PONG"


async def test_many_at_once(redis_url: str) -> None:
    executor = Executor(open_endpoint(redis_url), Scripts())
    counts = await asyncio.gather(*(executor.run(call("count")) for _ in range(200)))
    assert sorted(counts) == list(range(1, 201))
    await executor.aclose()


def test_many_threads_at_once(redis_url: str) -> None:
    executor = SyncExecutor(open_endpoint(redis_url), Scripts())
    counts: list[int] = []

    def work() -> None:
        counts.extend(executor.run(call("count")) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == list(range(1, 401))
    executor.close()


async def test_cancelled_request_leaves_no_reply_behind(proxy: FaultProxy) -> None:
    executor = Executor(open_endpoint(proxy.url), Scripts())
    await executor.run(read("SET", "k", "right"))
    proxy.blackhole()
    task = asyncio.create_task(executor.run(read("ECHO", "wrong")))
    while b"ECHO" not in proxy.commands:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proxy.restore()
    assert await executor.run(read("GET", "k")) == b"right"
    await executor.aclose()


async def test_cancelled_before_an_idle_connection_is_used_closes_it(
    raw: redis.Redis, redis_url: str
) -> None:
    executor = Executor(open_endpoint(redis_url), Scripts())
    await executor.run(read("PING"))
    (connection,) = executor.pool().idle[executor.route.server(executor.endpoint.addresses[0])]
    raw.client_kill_filter(_type="normal", skipme=True)
    while not connection.has_news:
        time.sleep(0.001)  # noqa: ASYNC251 - the loop is to see nothing of it
    task = asyncio.create_task(executor.run(read("PING")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.is_connected
    await executor.aclose()


# Lost replies.


async def test_lost_reply_never_sends_a_plain_call_again(
    face: Faces, proxy: FaultProxy, raw: redis.Redis
) -> None:
    one = face(proxy.url)
    await one.run(read("PING"))
    proxy.drop_reply("EVALSHA")
    raw.script_load("return redis.call('INCR', KEYS[1])")
    with pytest.raises(IndeterminateError) as caught:
        await one.run(call("count", resend=Resend.NEVER))
    assert caught.value.job_ids == ("job-1", "job-2")
    assert raw.get("k") == "1"


async def test_lost_reply_of_a_recorded_call_is_asked_for_again(
    face: Faces, proxy: FaultProxy, raw: redis.Redis
) -> None:
    one = face(proxy.url)
    assert await one.run(call("recorded", 1, resend=Resend.RECORDED)) == [b"first", 1]
    proxy.drop_reply("EVALSHA")
    assert await one.run(call("recorded", 2, resend=Resend.RECORDED)) == [b"again", 2]
    assert raw.get("k") == "2"
    assert proxy.dropped == 1


async def test_lost_command_of_a_recorded_call_is_carried_out_once(
    face: Faces, proxy: FaultProxy, raw: redis.Redis
) -> None:
    one = face(proxy.url)
    await one.run(call("recorded", 1, resend=Resend.RECORDED))
    proxy.drop_command("EVALSHA")
    assert await one.run(call("recorded", 2, resend=Resend.RECORDED)) == [b"first", 2]


async def test_lost_reply_of_a_repeatable_call_and_of_a_read(
    face: Faces, proxy: FaultProxy, raw: redis.Redis
) -> None:
    one = face(proxy.url)
    await one.run(call("put", "a", resend=Resend.ALWAYS))
    proxy.drop_reply("EVALSHA")
    assert await one.run(call("put", "b", resend=Resend.ALWAYS)) == b"done"
    proxy.drop_reply("GET")
    assert await one.run(read("GET", "k")) == b"b"
    assert proxy.dropped == 2


async def test_server_that_stays_away_after_a_lost_reply_leaves_doubt(
    face: Faces, proxy: FaultProxy
) -> None:
    one = face(proxy.url, SHORT)
    await one.run(call("recorded", 1, resend=Resend.RECORDED))
    proxy.drop_reply("EVALSHA")
    done = threading.Event()

    def refuse_when_dropped() -> None:
        while not proxy.dropped:
            done.wait(0.0005)
        proxy.refuse()

    breaker = threading.Thread(target=refuse_when_dropped)
    breaker.start()
    with pytest.raises(IndeterminateError, match="job-1"):
        await _until_it_fails(one, proxy)  # the breaker may be slower than the second sending
    breaker.join()


async def _until_it_fails(one: Face, proxy: FaultProxy) -> None:
    for n in range(2, 50):
        await one.run(call("recorded", n, resend=Resend.RECORDED))
        proxy.drop_reply("EVALSHA")


async def test_record_that_may_have_expired_is_not_relied_on(
    face: Faces, proxy: FaultProxy
) -> None:
    one = face(proxy.url, Patience(total=None, recorded=0.0))
    await one.run(call("recorded", 1, resend=Resend.RECORDED))
    proxy.drop_reply("EVALSHA")
    with pytest.raises(IndeterminateError):
        await one.run(call("recorded", 2, resend=Resend.RECORDED))


async def test_no_reply_in_time(face: Faces, proxy: FaultProxy, raw: redis.Redis) -> None:
    one = face(proxy.url + "?socket_timeout=0.1&socket_connect_timeout=0.1", SHORT)
    await one.run(read("PING"))
    proxy.blackhole()
    with pytest.raises(IndeterminateError):
        await one.run(call("count"))
    with pytest.raises(ServerUnavailable):
        await one.run(read("GET", "k"))
    proxy.restore()
    assert await one.run(read("PING")) == b"PONG"


async def test_idle_connection_that_the_server_closed_is_not_used(
    face: Faces, raw: redis.Redis, redis_url: str
) -> None:
    one = face(redis_url)
    await one.run(call("count"))
    raw.client_kill_filter(_type="normal", skipme=True)
    time.sleep(0.02)  # noqa: ASYNC251 - the loop is to see nothing of it
    assert await one.run(call("count", resend=Resend.NEVER)) == 2


async def test_slow_and_sliced_connection(face: Faces, proxy: FaultProxy) -> None:
    one = face(proxy.url)
    proxy.slice(1)
    proxy.delay(0.001)
    assert await one.run(call("put", "x" * 300, resend=Resend.ALWAYS)) == b"done"
    assert await one.run(read("GET", "k")) == b"x" * 300


# A server that cannot be had.


async def test_refused_connection_is_tried_for_a_while(face: Faces) -> None:
    one = face(f"redis://127.0.0.1:{free_port()}", SHORT)
    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1"):
        await one.run(call("count"))


async def test_server_that_comes_back_is_used(face: Faces, proxy: FaultProxy) -> None:
    one = face(proxy.url)
    await one.run(read("PING"))
    proxy.refuse()
    timer = threading.Timer(0.05, proxy.accept)
    timer.start()
    assert await one.run(call("put", "v", resend=Resend.ALWAYS)) == b"done"
    timer.join()


async def test_replica_is_left_until_it_is_master_again(
    face: Faces, fresh_server: ServerFactory
) -> None:
    server = fresh_server()
    one = face(server.url, SHORT)
    await one.run(call("count"))
    with server.client() as admin:
        admin.replicaof("127.0.0.1", str(free_port()))
        with pytest.raises(ServerUnavailable, match="replica"):
            await one.run(call("count"))
        timer = threading.Timer(0.05, lambda: admin.replicaof("NO", "ONE"))
        timer.start()
        assert await one.run(call("count")) == 2
        timer.join()


async def test_too_few_replicas(face: Faces, fresh_server: ServerFactory) -> None:
    server = fresh_server(min_replicas_to_write="1")
    with pytest.raises(ServerUnavailable, match="replicas"):
        await face(server.url, SHORT).run(call("count"))


async def test_full_server(face: Faces, fresh_server: ServerFactory) -> None:
    server = fresh_server(maxmemory="1")
    one = face(server.url)
    with pytest.raises(ServerFull):
        await one.run(call("count"))
    assert await one.run(read("GET", "k")) is None


async def test_busy_server(face: Faces, fresh_server: ServerFactory) -> None:
    server = fresh_server(busy_reply_threshold="1")
    with server.client() as admin, server.client() as other:
        loop = threading.Thread(target=_spin, args=(other,))
        loop.start()
        with pytest.raises(redis.ResponseError, match="BUSY"):
            _ping_until_it_fails(admin)
        one = face(server.url)
        timer = threading.Timer(0.05, admin.script_kill)
        timer.start()
        assert await one.run(read("SET", "k", "v")) == b"OK"
        timer.join()
        loop.join()


def _ping_until_it_fails(client: redis.Redis) -> None:
    while True:
        client.ping()


def _spin(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="killed"):
        client.eval("while true do end", 0)


async def test_loading_server(face: Faces, fresh_server: ServerFactory) -> None:
    first = fresh_server()
    with first.client() as admin:
        admin.execute_command("DEBUG", "POPULATE", 3000)
        admin.save()
    slow = {"dir": str(first.directory), "key-load-delay": "100"}  # microseconds
    slow["loading-process-events-interval-bytes"] = "1024"
    server = Server._launch({**DEFAULTS, **slow}, ())
    try:
        with redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as other:
            assert await _first_answer(other) == "loading"
        assert await face(server.url).run(call("count")) == 1
    finally:
        server.stop()


async def _first_answer(client: redis.Redis) -> str:
    while True:
        try:
            return f"not loading: {client.get('x')!r}"
        except redis.BusyLoadingError:
            return "loading"
        except redis.ConnectionError:
            await asyncio.sleep(0.001)


async def test_error_of_a_script_is_raised(face: Faces, raw: redis.Redis, redis_url: str) -> None:
    raw.rpush("k", "a list")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await face(redis_url).run(call("count"))


# Login, rights, version.


async def test_wrong_password_is_a_matter_of_configuration(
    face: Faces, fresh_server: ServerFactory
) -> None:
    server = fresh_server()
    with server.client() as admin:
        admin.config_set("requirepass", "right")
    good = f"redis://:right@127.0.0.1:{server.port}"
    assert await face(good).run(read("PING")) == b"PONG"
    for login in ("", ":s3cret@"):
        with pytest.raises(ConfigurationError) as caught:
            await face(f"redis://{login}127.0.0.1:{server.port}").run(call("count"))
        assert "s3cret" not in str(caught.value)
        assert "password" in str(caught.value)


async def test_missing_right_is_a_matter_of_configuration(
    face: Faces, fresh_server: ServerFactory
) -> None:
    one = face(limited_user(fresh_server(), "~k", "+@all", "-set", "-info"))
    assert await one.run(call("count")) == 1  # without INFO the version goes unchecked
    with pytest.raises(ConfigurationError, match="ACL"):
        await one.run(read("SET", "k", "v"))


async def test_client_name_and_database(redis_url: str, raw: redis.Redis) -> None:
    url = redis_url.removesuffix("/0") + "/3"
    executor = Executor(open_endpoint(url), Scripts(), client_name="toril-test")
    await executor.run(call("count"))
    names = {client["name"]: client["db"] for client in raw.client_list()}
    assert names["toril-test"] == "3"
    await executor.aclose()


# Forks and loops.


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_opens_its_own_connections(raw: redis.Redis, redis_url: str) -> None:
    executor = SyncExecutor(open_endpoint(redis_url), Scripts())
    parent = executor.run(read("CLIENT", "ID"))
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, str(executor.run(read("CLIENT", "ID"))).encode())
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    child = int(os.read(read_end, 100))
    os.close(read_end)
    os.close(write_end)
    assert child != parent
    assert executor.run(read("CLIENT", "ID")) == parent
    executor.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_of_a_running_loop(raw: redis.Redis, redis_url: str) -> None:
    executor = Executor(open_endpoint(redis_url), Scripts())

    async def parent() -> tuple[int, int, int]:
        before: int = await executor.run(read("CLIENT", "ID"))
        child = asyncio.create_task(asyncio.to_thread(_in_child, executor))
        inside = await child
        after: int = await executor.run(read("CLIENT", "ID"))
        await executor.aclose()
        return before, inside, after

    before, inside, after = asyncio.run(parent())
    assert inside not in (0, before)
    assert after == before


def _in_child(executor: Executor) -> int:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.set_event_loop(None)

            async def ask() -> int:
                answer: int = await executor.run(read("CLIENT", "ID"))
                await executor.aclose()
                return answer

            os.write(write_end, str(asyncio.run(ask())).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    answer = int(os.read(read_end, 100) or 0)
    os.close(read_end)
    os.close(write_end)
    return answer


def test_second_loop_opens_its_own_connections(redis_url: str) -> None:
    executor = Executor(open_endpoint(redis_url), Scripts())

    async def ask() -> int:
        answer: int = await executor.run(read("CLIENT", "ID"))
        await executor.aclose()
        return answer

    assert asyncio.run(ask()) != asyncio.run(ask())
