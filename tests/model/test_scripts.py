"""The scripts do what the model does, and no invariant is broken, whatever happens in which order.

`TORIL_MODEL=long` runs many more and longer examples (see `PROFILES`).
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model.base import Base
from tests.model.keeping_machine import KeepingMachine
from tests.model.machine import Machine
from tests.model.world import world

QUICK = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
PROFILES = {"quick": QUICK, "long": settings(QUICK, max_examples=5000, stateful_step_count=60)}


@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("machine", [Machine, KeepingMachine])
def test_the_scripts_do_what_the_model_does(
    redis_url: str, raw: redis.Redis, machine: type[Base]
) -> None:
    profile = PROFILES[os.environ.get("TORIL_MODEL", "quick")]
    with world(redis_url, raw) as place:
        make: Any = lambda: machine(place)  # noqa: E731 - its type says that it must be a class
        run_state_machine_as_test(make, settings=profile)
