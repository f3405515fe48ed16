"""`toril retention` and `toril sweep`, as somebody types them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from toril import App, NewJob
from toril.cli import main


@pytest.fixture
def mail(redis_url: str, raw: redis.Redis) -> str:
    """A queue with a completed job; its server's URL."""
    with App(redis_url, plugins=[]).sync as app:
        app.queue("mail").add_many([NewJob("send", id="old")])
    raw.lrem("bull:mail:wait", 1, "old")
    raw.zadd("bull:mail:completed", {"old": 1000})
    raw.hset("bull:mail:old", mapping={"finishedOn": 1000, "returnvalue": "null"})
    return redis_url


def toril_(url: str, *arguments: str) -> Result:
    environ = {"TORIL_URL": url, "TORIL_PLUGINS": "persistence,cleanup"}
    return CliRunner().invoke(main, arguments, env=environ)


def test_what_is_set_is_shown_and_swept(mail: str, raw: redis.Redis) -> None:
    assert toril_(mail, "retention", "set", "mail", "--completed", "7d").exit_code == 0
    for _ in range(20):
        # The first sweep may only decide about a job that nobody was asked about.
        swept = toril_(mail, "sweep", "mail")
        assert (swept.exit_code, swept.stdout) == (0, "")
        if not raw.exists("bull:mail:old"):
            break
    assert raw.exists("bull:mail:old") == 0
    shown = json.loads(toril_(mail, "retention", "show", "mail", "-o", "json").stdout)
    (row,) = shown["retention"]
    assert (row["outcome"], row["keep"], row["level"], row["holds"]) == (
        "completed", "7d", "queue", True,
    )  # fmt: skip


def test_a_mistyped_name_becomes_no_queue(mail: str, raw: redis.Redis) -> None:
    done = toril_(mail, "sweep", "mial")
    assert (done.exit_code, done.stderr) == (0, "queue 'mial' has no jobs\n")
    assert raw.keys("bull:mial:*") == []


def test_wrong_arguments(mail: str) -> None:
    for arguments, text in (
        (("sweep", "mail", "--every", "0"), "not a duration"),
        (("sweep", "mail", "--every", "0s"), "less than 100ms"),
        (("retention", "set", "mail"), "say --completed, --failed or both"),
        (("retention", "set", "mail", "--failed", "5 parsecs"), "such as 7d, 1000"),
        (("retention", "unset", "mail", "--level", "job"), "is not one of"),
    ):
        done = toril_(mail, *arguments)
        assert done.exit_code == 2, done.output
        assert text in done.stderr


class TestAudit:
    def test_all_is_well(self, redis_url: str) -> None:
        with App(redis_url, plugins=[]).sync as app:
            app.queue("mail").add("send")
        done = toril_(redis_url, "audit")
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr == "no findings\n"

    def test_a_problem_is_found_and_repaired(self, redis_url: str, raw: redis.Redis) -> None:
        with App(redis_url, plugins=[]).sync as app:
            app.queue("mail").add("send")
            app.queue("other").add("send")
        raw.rpush("bull:mail:gone:logs", "a line")
        raw.hset("bull:other:meta", "version", "bullmq:5.45.2")
        assert toril_(redis_url, "audit", "other").exit_code == 0  # a note is no problem
        found = toril_(redis_url, "audit", "-o", "json")
        assert found.exit_code == 6
        mail, other = json.loads(found.stdout)["findings"]
        assert mail == {
            "queue": "mail", "kind": "orphan-key", "severity": "problem", "count": 1,
            "what": "belongs to a job that is gone", "key": "bull:mail:gone:logs",
            "repair": "remove what is left of the job", "repaired": None,
        }  # fmt: skip
        assert (other["queue"], other["kind"], other["severity"]) == (
            "other", "foreign-version", "note",
        )  # fmt: skip
        assert toril_(redis_url, "audit", "--repair", "--dry-run").exit_code == 6
        assert raw.exists("bull:mail:gone:logs")
        done = toril_(redis_url, "audit", "mail", "--repair", "-o", "json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["findings"][0]["repaired"] is True
        assert toril_(redis_url, "audit", "mail").exit_code == 0
        entries: Any = raw.xrange("bull:mail:toril:cleanup:journal")
        ((_, entry),) = entries
        assert (entry["what"], entry["kind"], entry["count"]) == ("repair", "orphan-key", "1")
        assert entry["who"].startswith("toril audit by ")

    def test_what_cannot_be_repaired_stays_a_problem(
        self, redis_url: str, raw: redis.Redis
    ) -> None:
        with App(redis_url, plugins=[]).sync as app:
            job = app.queue("mail").add("send")
        raw.hset(f"bull:mail:{job.id}", "timestamp", "soon")
        assert toril_(redis_url, "audit", "--repair").exit_code == 6
        assert raw.exists("bull:mail:toril:cleanup:journal") == 0

    def test_what_was_left_out_is_said(self, redis_url: str) -> None:
        with App(redis_url, plugins=[]).sync as app:
            app.queue("mail").add_many([NewJob("send") for _ in range(300)])
        done = toril_(redis_url, "audit", "--most", "100")
        assert done.exit_code == 0
        assert "queue 'mail' has more than 100 jobs: not all were looked at" in done.stderr
