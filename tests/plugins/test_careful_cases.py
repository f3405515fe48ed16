"""Cases of plugin authors that review removals, or copy jobs before them."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from tests.plugins.cases import erase_personal, keep_failed_flows, report_only
from tests.plugins.cases.copies import Copies
from tests.plugins.cases.no_fridays import NoFridays

from toril import ActiveJob, Flow, Reject, Unrecoverable
from toril.plugins import GiveWay, Json
from toril.testing import AppOptions, DrivenApp, LeakCheck, Removed, ServerClock
from toril_plugins import Requires, Retention
from toril_plugins.testing import ArchiveContract, Copy, ReviewContract

A_DAY = Retention(completed="1d", failed="1d")


async def echo(job: ActiveJob) -> Json:
    return job.data


class TestCopies(ArchiveContract):
    plugin = Copies

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "jobs.db"

    @pytest.fixture
    def toril_options(self, place: None) -> AppOptions:
        self.config = {"copies": {"path": str(self.path)}}
        return {"plugins": [Copies, "persistence", "cleanup"], "config": self.config}

    def copies(self) -> Iterable[Copy]:
        with sqlite3.connect(self.path) as db:
            rows = db.execute("select queue, id, finished, data, ended from job").fetchall()
        db.close()
        return [Copy(*row[:3], *map(json.loads, row[3:])) for row in rows]

    @contextmanager
    def broken(self) -> Generator[None]:
        with sqlite3.connect(self.path) as db:
            db.execute("alter table job rename to elsewhere")
        yield
        with db:
            db.execute("alter table elsewhere rename to job")
        db.close()
        db.close()

    async def test_who_has_no_copies_removes_nothing(
        self, toril_app: DrivenApp, clock: ServerClock, removed: Removed
    ) -> None:
        """Another deployment runs without the plugin; the queue says that it must not be."""
        queue = toril_app.queue("jobs", A_DAY, Requires("copies"))
        toril_app.worker("jobs", echo)
        job = await queue.add("job", {"a": 1})
        await toril_app.drain()
        clock.advance("1d")
        plugins = ["persistence", "cleanup"]
        async with DrivenApp(toril_app.server, plugins=plugins, clock=clock) as other:
            with pytest.raises(GiveWay, match="requires the plugin copies"):
                await other.run_services("jobs")
            assert await job.state() == "completed"
        await toril_app.sweep()
        assert job in removed
        assert [copy.id for copy in self.copies()] == [job.id]


class TestNoFridays(ReviewContract):
    plugin = NoFridays

    async def test_nothing_is_removed_on_a_friday(
        self, toril_app: DrivenApp, clock: ServerClock, removed: Removed
    ) -> None:
        queue = toril_app.queue("jobs", A_DAY)
        toril_app.worker("jobs", echo)
        clock.advance(timedelta(days=(3 - clock.now().weekday()) % 7))  # a Thursday
        job = await queue.add("job")
        await toril_app.drain()
        clock.advance("1d")
        await toril_app.sweep()
        assert not removed
        assert "no removal on Fridays" in str(await job.explain())
        with pytest.raises(Reject, match="no removal on Fridays"):
            await job.remove()
        with pytest.raises(Reject, match="no removal on Fridays"):
            await queue.clean("completed", older_than="1h")
        clock.advance("1d")
        await toril_app.sweep()
        assert job in removed


class TestErasePersonal(ReviewContract):
    plugin = erase_personal
    queue = "orders"
    samples = ({"order": "17", "name": "Ada", "address": "12 St James's Square"},)

    async def test_personal_data_goes_and_the_rest_stays_ten_years(
        self, toril_app: DrivenApp, clock: ServerClock, removed: Removed, assert_no_leaks: LeakCheck
    ) -> None:
        queue = toril_app.queue("orders", A_DAY)
        toril_app.worker("orders", echo)
        job = await queue.add("order", self.samples[0])
        await toril_app.drain()
        clock.advance("1d")
        await toril_app.sweep()
        assert (await job.refresh()).data == {"order": "17"}
        clock.advance("3648d")
        await toril_app.sweep()
        assert not removed
        clock.advance("2d")
        await toril_app.sweep()
        assert [gone.data for gone in removed.by("completed", "3650d")] == [{"order": "17"}]
        assert_no_leaks()


class TestKeepFailedFlows(ReviewContract):
    plugin = keep_failed_flows

    async def test_a_flow_stays_while_it_runs_and_when_one_has_failed(
        self, toril_app: DrivenApp, clock: ServerClock, removed: Removed
    ) -> None:
        async def page(job: ActiveJob) -> None:
            if job.data == "bad":
                raise Unrecoverable("on purpose")

        toril_app.queue("pages", A_DAY)
        toril_app.queue("reports", A_DAY)
        toril_app.worker("pages", page)
        toril_app.worker("reports", echo)
        later = Flow("pages", "later", delay="2d")
        running = Flow("reports", "r", children=[Flow("pages", "good"), later])
        failed = Flow("reports", "r", children=[Flow("pages", "a"), Flow("pages", "b", "bad")],
                      on_child_failure="ignore")  # fmt: skip
        good = Flow("reports", "r", children=[Flow("pages", "c"), Flow("pages", "d")])
        for flow in (running, failed, good):
            await toril_app.add_flow(flow)
        await toril_app.drain()
        clock.advance("1d")
        await toril_app.sweep()
        assert sorted(job.name for job in removed.by("completed")) == ["c", "d", "r"]
        clock.advance("1d")
        await toril_app.drain()
        clock.advance("1d")
        await toril_app.sweep()
        assert len(removed) == 6, "the one that ran has ended well"
        clock.advance("29d")
        await toril_app.sweep()
        assert len(removed) == 6
        left = [job async for job in toril_app.queue("pages").jobs()]
        assert {job.name for job in left} == {"a", "b"}


class TestReportOnly(ReviewContract):
    plugin = report_only

    async def test_it_tells_what_would_go(
        self,
        toril_app: DrivenApp,
        clock: ServerClock,
        removed: Removed,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = toril_app.queue("jobs", A_DAY)
        toril_app.worker("jobs", echo)
        job = await queue.add("job")
        await toril_app.drain()
        clock.advance("1d")
        with caplog.at_level(logging.INFO, report_only.log.name):
            await toril_app.sweep()
        assert f"would remove jobs/{job.id}: queue: 1d" in caplog.text
        assert not removed


@pytest.mark.toril(A_DAY, config={"cleanup": {"report_only": True}})
async def test_the_option_of_cleanup_reports_only_too(
    toril_app: DrivenApp, clock: ServerClock, removed: Removed
) -> None:
    toril_app.worker("jobs", echo)
    job = await toril_app.queue("jobs").add("job")
    await toril_app.drain()
    clock.advance("2d")
    await toril_app.sweep()
    assert await job.state() == "completed"
    assert not removed
