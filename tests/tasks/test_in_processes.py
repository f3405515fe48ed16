"""Tasks in processes of a worker."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import pytest
from tests.tasks.kinds import Point

from toril import App, JobFailed


@pytest.fixture
def heavy(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, on the server of the session."""
    monkeypatch.setenv("TORIL_TEST_URL", redis_url)
    import tests.tasks.heavy

    module: ModuleType = tests.tasks.heavy
    return module


async def test_they_are_run_by_processes(heavy: Any) -> None:
    async with heavy.app, heavy.app.worker(heavy.queue, processes=2):
        job = await heavy.compute.add(Point(1, 2), times=3)
        pid, point = await job.result(timeout="20s")
        other = await heavy.told.add("from there")
        pids = {pid, await other.result(timeout="20s")}
        assert await other.logs() == ("from there",)
        crashed = await heavy.crashes.add()
        with pytest.raises(JobFailed, match="ended by SIGABRT"):
            await crashed.result(timeout="20s")
        assert (await crashed.refresh()).attempts_made == 2
        bad = await heavy.queue.add("compute", {"point": {"y": 1}}, attempts=3)
        with pytest.raises(JobFailed, match="argument 'point': object missing required field `x`"):
            await bad.result(timeout="20s")
        assert (await bad.refresh()).attempts_made == 1
    assert point == Point(3, 6)
    assert os.getpid() not in pids


async def local() -> None: ...


async def test_they_must_be_at_the_top_of_a_module(redis_url: str) -> None:
    app = App(redis_url, plugins=[])
    queue = app.queue("work")
    queue.task(local)
    with pytest.raises(TypeError, match="local is no task at the top of a module"):
        app.worker(queue, processes=1)
