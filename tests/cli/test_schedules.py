from __future__ import annotations

import json

import pytest
import redis
from click.testing import CliRunner, Result

from toril import App, Cron, Every
from toril.cli import main


@pytest.fixture
def reports(redis_url: str) -> str:
    """A queue with two schedules; its server's URL."""
    with App(redis_url, plugins=[]).sync as app:
        queue = app.queue("reports")
        queue.schedule("nightly", Cron("0 3 * * *", tz="Europe/Madrid"), "report", {"full": True})
        queue.schedule("poll", Every("5m"), "poll")
    return redis_url


def schedules(url: str, *arguments: str) -> Result:
    environ = {"TORIL_URL": url, "TORIL_PLUGINS": ""}
    return CliRunner().invoke(main, ["schedules", *arguments], env=environ)


def test_ls(reports: str) -> None:
    done = schedules(reports, "ls", "reports")
    assert done.exit_code == 0
    assert "0 3 * * * Europe/Madrid" in done.stdout
    assert "every 0:05:00" in done.stdout
    assert schedules(reports, "list", "reports", "-o", "ids").stdout == "poll\nnightly\n"


def test_show(reports: str) -> None:
    shown = schedules(reports, "show", "reports", "nightly", "--next", "3", "-o", "json")
    record = json.loads(shown.stdout)["schedule"]
    assert record["data"] == {"full": True}
    assert len(record["next"]) == 3
    assert record["next"][0] == record["next_run"]


def test_pause_resume_run_and_remove(reports: str, raw: redis.Redis) -> None:
    assert schedules(reports, "pause", "reports", "nightly").exit_code == 0
    shown = schedules(reports, "show", "reports", "nightly", "-o", "json").stdout
    assert json.loads(shown)["schedule"]["paused"]
    assert schedules(reports, "resume", "reports", "nightly").stderr.startswith("next run: ")
    id = schedules(reports, "run", "reports", "nightly").stdout.strip()
    assert raw.hget(f"bull:reports:{id}", "name") == "report"
    assert schedules(reports, "rm", "reports", "nightly").exit_code == 0
    assert raw.zrange("bull:reports:repeat", 0, -1) == ["poll"]


@pytest.mark.parametrize("command", ["show", "pause", "resume", "run", "rm"])
def test_none_of_that_id(reports: str, command: str) -> None:
    done = schedules(reports, command, "reports", "hourly")
    assert done.exit_code == 4
    assert "has no schedule 'hourly'" in done.stderr
    assert schedules(reports, command, "nothing", "hourly").exit_code == 4
