from __future__ import annotations

import redis
from tests.lua.running import Runner
from tests.lua.seeding import Q, Seed

from toril.protocol import reading


def test_jobs_by_their_ids(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    large = [f"large-{n}" for n in range(4)]
    for name in large:
        seed.job(name, data='"' + 600_000 * "x" + '"')
    seed.job("small")
    raw.rpush(f"{Q}:garbled", "no", "hash")
    ids = ["nobody", *large, "garbled", *(["small"] * 150)]
    found = run(reading.jobs(Q, ids))
    assert [job and job.id for job in found] == [None, *large, None, *(["small"] * 150)]
    assert run(reading.jobs(Q, [])) == []
