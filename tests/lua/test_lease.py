from __future__ import annotations

import redis
from tests.lua.conftest import fill
from tests.lua.running import Runner
from tests.lua.seeding import Q

from toril.protocol.leases import release_lease, renew_lease, take_lease

KEY = f"{Q}:toril:lease:sweep"


def test_one_holds_it(run: Runner, raw: redis.Redis) -> None:
    assert run(take_lease(Q, "sweep", "a", 5000)) is True
    assert run(take_lease(Q, "sweep", "b", 5000)) is False
    assert raw.get(KEY) == "a"
    assert 0 < int(raw.pttl(KEY)) <= 5000
    assert run(take_lease(Q, "other", "b", 5000)) is True


def test_taking_again_renews(run: Runner, raw: redis.Redis) -> None:
    run(take_lease(Q, "sweep", "a", 1000))
    assert run(take_lease(Q, "sweep", "a", 9000)) is True
    assert int(raw.pttl(KEY)) > 1000


def test_only_its_holder_renews_or_releases(run: Runner, raw: redis.Redis) -> None:
    assert run(renew_lease(Q, "sweep", "a", 5000)) is False
    assert run(release_lease(Q, "sweep", "a")) is False
    run(take_lease(Q, "sweep", "a", 1000))
    assert run(renew_lease(Q, "sweep", "b", 5000)) is False
    assert run(release_lease(Q, "sweep", "b")) is False
    assert int(raw.pttl(KEY)) <= 1000
    assert run(renew_lease(Q, "sweep", "a", 5000)) is True
    assert int(raw.pttl(KEY)) > 1000
    assert run(release_lease(Q, "sweep", "a")) is True
    assert not raw.exists(KEY)
    assert run(take_lease(Q, "sweep", "b", 5000)) is True


def test_on_a_full_server(own_server: redis.Redis) -> None:
    run = Runner(own_server)
    fill(own_server)
    assert run(take_lease(Q, "sweep", "a", 5000)) is True
    assert run(renew_lease(Q, "sweep", "a", 5000)) is True
    assert run(release_lease(Q, "sweep", "a")) is True
