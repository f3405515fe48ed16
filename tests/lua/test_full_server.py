"""On a server that has reached its `maxmemory` jobs still end, are fetched and recovered; adding is
refused as a whole.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError
from tests.lua.conftest import fill
from tests.lua.database import contents
from tests.lua.making import Numbers, end, fetch, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.protocol.adding import add_flow, add_jobs
from toril.protocol.erasing import erase
from toril.protocol.finishing import tick
from toril.protocol.large_flows import add_large_flow, take_back
from toril.protocol.locking import renew, stalled_check, wait_children
from toril.protocol.plugin_call import plugin_call
from toril.protocol.record import CallRecord
from toril_lua import compose_plugin_script


@pytest.fixture
def client(own_server: redis.Redis) -> redis.Redis:
    return own_server


@pytest.fixture
def running(client: redis.Redis) -> Runner:
    """Ten waiting jobs and one active, `j0`, and a parent `p` that waits for it."""
    run, seed = Runner(client), Seed(client)
    run(add_jobs([node(f"j{i}") for i in range(11)], now=NOW))
    take(run)
    seed.job("p", "waiting-children", queue=OTHER)
    seed.job("j0", None, parent=f"{OTHER}:p", policy="fpof")
    return run


@pytest.mark.parametrize("kind", ["completed", "failed", "retry", "delay", "wait"])
def test_finishing(client: redis.Redis, running: Runner, kind: Any) -> None:
    fill(client)
    reply = end(running, finish("j0", kind=kind, value="1"), record=CallRecord("w", 0, 1))
    assert reply.codes == (0,)
    assert client.lrange(f"{Q}:active", 0, -1) == []
    again = end(running, finish("j0", kind=kind, value="1"), record=CallRecord("w", 0, 1))
    assert again == reply


@pytest.mark.parametrize("meta", [True, False])
def test_fetching(client: redis.Redis, running: Runner, meta: bool) -> None:
    if not meta:
        client.delete(f"{Q}:meta")
    running(add_jobs([node("d", queue=OTHER, opts={"delay": 1})], now=NOW))
    fill(client)
    assert len(take(running, 3, "t:2").jobs) == 3
    reply = running(tick(OTHER, now=NOW + 5, fetch=fetch(3), record=CallRecord("w", 0, 1)))
    assert [job.id for job in reply.jobs] == ["d"]


def test_an_empty_fetch_is_no_error(client: redis.Redis) -> None:
    fill(client)
    reply = Runner(client)(tick(Q, now=NOW, fetch=fetch(3), record=CallRecord("w", 0, 1)))
    assert reply.jobs == ()


def test_renewing(client: redis.Redis, running: Runner) -> None:
    fill(client)
    client.pexpire(f"{Q}:j0:lock", 500)
    assert running(renew(Q, [("j0", "t:1"), ("gone", "t:1")], 30_000)) == ("gone",)
    assert client.pttl(f"{Q}:j0:lock") > 20_000


def test_the_stalled_check(client: redis.Redis, running: Runner) -> None:
    fill(client)
    running(stalled_check(Q, now=NOW, interval_ms=1000, max_stalled=1))
    client.delete(f"{Q}:j0:lock")
    report = running(stalled_check(Q, now=NOW + 1000, interval_ms=1000, max_stalled=1))
    assert (report.ran, report.recovered) == (True, 1)
    assert client.lrange(f"{Q}:wait", -1, -1) == ["j0"]


def test_waiting_for_children(client: redis.Redis, running: Runner) -> None:
    client.sadd(f"{Q}:j0:dependencies", f"{Q}:c")
    fill(client)
    record = CallRecord("w", 0, 1)
    assert running(wait_children(Q, "j0", "t:1", now=NOW, record=record))
    assert client.zscore(f"{Q}:waiting-children", "j0") == NOW


def test_a_plugin_s_own_script(client: redis.Redis, running: Runner) -> None:
    end(running, finish("j0"))
    fill(client)
    source = "redis.call('SET', ctx.own('x'), 1) return ctx.remove('j0', 'completed', 'r', args)"
    script = compose_plugin_script(source, (), "p", "s")
    call = plugin_call(Q, "p", "s", NOW + 5, now=NOW)
    effects = call.parse(running.raw("EVAL", script.text, 1, Q, *call.args))
    assert (effects.value, effects.chunk_errors) == (True, ())
    assert not client.exists(f"{Q}:j0")


@pytest.mark.parametrize("meta", [True, False])
def test_adding_is_refused_whole(client: redis.Redis, meta: bool) -> None:
    if meta:
        client.hset(f"{Q}:meta", "opts.maxLenEvents", 10000)
    seed = Seed(client)
    seed.job("done", "completed", returnvalue="1")
    seed.job("p", "waiting-children")
    run = Runner(client)
    fill(client)
    before = contents(client)
    nodes = [node("a"), node("d", opts={"delay": 5}), node("done", parent=f"{Q}:p")]
    flow = [node("root", is_parent=True), node("c", OTHER, f"{Q}:root")]
    record = CallRecord("p", 0, 1)
    for operation in (
        add_jobs(nodes, now=NOW, record=record),
        add_jobs([node("", counter=True)], now=NOW),
        add_flow(flow, now=NOW, record=record),
        add_large_flow(flow, clock=lambda: NOW, calls=Numbers().call),
    ):
        with pytest.raises(OutOfMemoryError):
            run(operation)
    assert contents(client) == before


def test_erasing(client: redis.Redis, running: Runner) -> None:
    end(running, finish("j0"))
    client.zadd(f"{OTHER}:completed", {"p": NOW})
    client.delete(f"{OTHER}:waiting-children")
    fill(client)
    traces = running(erase(Q, "j0", now=NOW))
    assert (traces.job, traces.in_parent) == (True, 1)
    assert not client.keys("*j0*")
    assert "j0" not in str(client.xrange(f"{Q}:events"))


def test_taking_back_a_flow(client: redis.Redis, running: Runner) -> None:
    listed: dict[Any, Any] = {
        "nodes": 501,
        "lease": NOW,
        f"+{Q}:j1": "",
        f"+{Q}:j2": "",
        f"={OTHER}:p": "",
    }
    client.hset(f"{Q}:toril:flows:j1", mapping=listed)
    client.zadd(f"{Q}:toril:flows", {"j1": NOW})
    client.sadd(f"{OTHER}:p:dependencies", f"{Q}:never")
    fill(client)
    assert running(take_back(Q, "j1", "bull", now=NOW))
    assert not client.exists(f"{Q}:j1", f"{Q}:j2", f"{Q}:toril:flows", f"{Q}:toril:flows:j1")
    assert client.smembers(f"{OTHER}:p:dependencies") == {f"{Q}:j0"}


def test_a_recorded_add_is_refused_whole_and_one_that_was_done_is_answered(
    client: redis.Redis,
) -> None:
    run = Runner(client)
    run(add_jobs([node("first")], now=NOW))
    done, refused = (
        add_jobs([node(f"j{n}")], now=NOW, record=CallRecord("me", 0, n)) for n in (1, 2)
    )
    run(done)
    fill(client)
    before = contents(client)
    with pytest.raises(OutOfMemoryError):
        run(refused)
    assert [one.error for one in run(done)] == [None]
    assert contents(client) == before
    client.config_set("maxmemory", "0")
    run(refused)
    assert client.lrange(f"{Q}:wait", 0, -1) == ["j2", "j1", "first"]
