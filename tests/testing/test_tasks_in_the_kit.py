from __future__ import annotations

from toril.testing import DrivenApp


async def double(number: int) -> int:
    return 2 * number


async def test_drain_runs_tasks_without_a_worker(toril_app: DrivenApp) -> None:
    job = await toril_app.queue("sums").task(double).add(4)
    await toril_app.drain()
    assert await job.result(timeout="5s") == 8
