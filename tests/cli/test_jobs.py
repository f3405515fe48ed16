from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from tests.support.distributions import Site

from toril import App, Flow, NewJob
from toril.cli import main

Q = "bull:mail"
ALL = ["job0", "job1", "job2"]


@pytest.fixture
def mail(redis_url: str) -> str:
    """A queue with three waiting jobs and a delayed one; its server's URL."""
    with App(redis_url, plugins=[]).sync as app:
        queue = app.queue("mail")
        queue.add_many(NewJob("send", {"n": n}, id=f"job{n}") for n in range(3))
        queue.add("later", {"to": "\x1b[31mred"}, delay="1h", id="late")
    return redis_url


def fail(raw: redis.Redis, *ids: str, ago: int = 0) -> None:
    now = int(time.time() * 1000) - ago
    for each in ids:
        raw.lrem(f"{Q}:wait", 1, each)
        raw.zadd(f"{Q}:failed", {each: now})
        raw.hset(f"{Q}:{each}", mapping={"failedReason": "no luck", "finishedOn": now, "atm": 1})


def jobs(url: str, *arguments: str, stdin: str = "") -> Result:
    environ = {"TORIL_URL": url, "TORIL_PLUGINS": ""}
    return CliRunner().invoke(main, ["jobs", *arguments], env=environ, input=stdin)


MEMORY = """
    from toril.plugins import JobRef, Recalled, hookimpl

    @hookimpl
    def toril_recall_job(job: JobRef) -> Recalled | None:
        if job.id != "old":
            return None
        return Recalled("completed", 1_790_000_000_000, "send", {"n": 1})
"""


def ids(done: Result) -> list[str]:
    assert done.exit_code == 0, done.stderr
    return done.stdout.split()


class TestLs:
    def test_states(self, mail: str) -> None:
        assert ids(jobs(mail, "ls", "mail", "-o", "ids")) == [*ALL, "late"]
        assert ids(jobs(mail, "list", "mail", "-s", "delayed", "-o", "ids")) == ["late"]
        assert ids(jobs(mail, "ls", "mail", "-s", "failed", "-o", "ids")) == []
        assert jobs(mail, "ls", "mail", "-s", "wait").exit_code == 2

    def test_of_no_queue(self, mail: str) -> None:
        done = jobs(mail, "ls", "mial")
        assert done.exit_code == 4
        assert "there is no queue 'mial'" in done.stderr

    def test_limits_and_filters(self, mail: str, raw: redis.Redis) -> None:
        assert ids(jobs(mail, "ls", "mail", "--limit", "2", "-o", "ids")) == ALL[:2]
        assert ids(jobs(mail, "ls", "mail", "--name", "later", "-o", "ids")) == ["late"]
        fail(raw, "job0", ago=7_200_000)
        fail(raw, "job1")
        since = ("ls", "mail", "-s", "failed", "--since", "1h", "-o", "ids")
        assert ids(jobs(mail, *since)) == ["job1"]
        wrong = jobs(mail, "ls", "mail", "--since", "5")
        assert wrong.exit_code == 2
        assert "not a duration" in wrong.stderr

    def test_table_and_documents(self, mail: str) -> None:
        table = jobs(mail, "ls", "mail", "-s", "waiting").stdout
        assert table.splitlines()[1].split()[:4] == ["job0", "send", "waiting", "0"]
        document = json.loads(jobs(mail, "ls", "mail", "-o", "json").stdout)
        assert document["jobs"][0]["data"] == {"n": 0}
        lines = jobs(mail, "ls", "mail", "-o", "ndjson").stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [*ALL, "late"]

    def test_a_garbled_job_hides_no_other(self, mail: str, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:job1", "data", "{")
        document = json.loads(jobs(mail, "ls", "mail", "-s", "waiting", "-o", "json").stdout)
        assert [job["id"] for job in document["jobs"]] == ALL
        assert "unreadable" in document["jobs"][1]["data"]


class TestShow:
    def test_everything(self, mail: str, raw: redis.Redis) -> None:
        fail(raw, "job0")
        raw.rpush(f"{Q}:job0:logs", "one", "two")
        shown: dict[str, Any] = json.loads(jobs(mail, "show", "mail", "job0", "-o", "json").stdout)
        job = shown["job"]
        assert (job["state"], job["reason"], job["attempts_made"]) == ("failed", "no luck", 1)
        assert job["logs"] == ["one", "two"]
        assert job["opts"] == {"attempts": 1, "jobId": "job0"}

    def test_a_result_that_was_taken_away(self, mail: str, raw: redis.Redis) -> None:
        raw.lrem(f"{Q}:wait", 1, "job0")
        raw.zadd(f"{Q}:completed", {"job0": 5})
        for stored, told in (("null", None), ("[1]", [1]), (None, "(not kept)")):
            raw.hset(f"{Q}:job0", "returnvalue", stored or "")
            if stored is None:
                raw.hdel(f"{Q}:job0", "returnvalue")
            shown = json.loads(jobs(mail, "show", "mail", "job0", "-o", "json").stdout)["job"]
            assert (shown["state"], shown["result"]) == ("completed", told)

    def test_a_terminal_is_not_steered_by_data(self, mail: str) -> None:
        done = jobs(mail, "show", "mail", "late")
        assert done.exit_code == 0
        assert "\x1b" not in done.stdout
        assert "\\u001b[31mred" in done.stdout

    @pytest.mark.parametrize("command", ["show", "explain"])
    def test_a_job_that_is_not_there(self, mail: str, command: str) -> None:
        done = jobs(mail, command, "mail", "nobody")
        assert (done.exit_code, done.stdout) == (4, "")
        assert "no job 'nobody' in queue 'mail'" in done.stderr

    def test_explain(self, mail: str, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", "paused", 1)
        done = jobs(mail, "explain", "mail", "late")
        assert done.exit_code == 0
        assert "delayed: it waits for its time" in done.stdout
        assert "the queue is paused" in done.stdout
        facts = json.loads(jobs(mail, "explain", "mail", "late", "-o", "json").stdout)["facts"]
        assert [fact["subject"] for fact in facts] == ["state", "attempts", "queue"]


class TestActing:
    def test_retry(self, mail: str, raw: redis.Redis) -> None:
        fail(raw, "job0", "job1")
        assert jobs(mail, "retry", "mail", "job0", "--reset-attempts").exit_code == 0
        assert raw.hget(f"{Q}:job0", "atm") is None
        time.sleep(0.002)
        done = jobs(mail, "retry", "mail", "--all")
        assert (done.exit_code, done.stderr) == (0, "1 jobs put back\n")
        assert raw.zcard(f"{Q}:failed") == 0

    def test_ids_from_stdin(self, mail: str, raw: redis.Redis) -> None:
        fail(raw, *ALL)
        listed = jobs(mail, "ls", "mail", "-s", "failed", "-o", "ids").stdout
        assert jobs(mail, "retry", "mail", "-", stdin=listed + "\n").exit_code == 0
        assert raw.llen(f"{Q}:wait") == 3

    def test_one_failure_stops_no_other(self, mail: str, raw: redis.Redis) -> None:
        fail(raw, "job0", "job2")
        done = jobs(mail, "retry", "mail", "job0", "job1", "nobody", "job2")
        assert done.exit_code == 5
        assert done.stderr.splitlines() == [
            "job 'job1' of queue 'mail' has not finished: it is waiting",
            "there is no job 'nobody' in queue 'mail'",
            "toril: 2 of 4 jobs were refused",
        ]
        assert raw.llen(f"{Q}:wait") == 3

    def test_promote(self, mail: str, raw: redis.Redis) -> None:
        assert jobs(mail, "promote", "mail", "late").exit_code == 0
        assert raw.llen(f"{Q}:wait") == 4
        assert jobs(mail, "promote", "mail", "late").exit_code == 5
        assert jobs(mail, "promote", "mail", "--all").stderr == "0 jobs promoted\n"

    def test_remove(self, mail: str, raw: redis.Redis) -> None:
        with App(mail, plugins=[]).sync as app:
            kids = [Flow("mail", "kid", id=f"kid{n}") for n in range(2)]
            app.add_flow(Flow("mail", "root", id="root", children=kids))
        assert jobs(mail, "remove", "mail", "kid0").exit_code == 0
        assert jobs(mail, "remove", "mail", "root", "--keep-children").exit_code == 0
        assert raw.exists(f"{Q}:kid1")
        assert jobs(mail, "remove", "mail", "root").exit_code == 4

    @pytest.mark.parametrize(
        "arguments", [["retry"], ["retry", "x", "--all"], ["promote"], ["remove"]]
    )
    def test_neither_and_both(self, mail: str, arguments: list[str]) -> None:
        assert jobs(mail, arguments[0], "mail", *arguments[1:]).exit_code == 2


class TestGone:
    """Jobs that are gone, of which a plugin still knows something."""

    def ask(self, url: str, command: str, id: str) -> Result:
        environ = {"TORIL_URL": url, "TORIL_PLUGINS": "memory"}
        return CliRunner().invoke(main, ["jobs", command, "mail", id, "-o", "json"], env=environ)

    def test_show(self, mail: str, site: Site) -> None:
        site.add("acme-memory", MEMORY)
        done = self.ask(mail, "show", "old")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["job"] == {
            "id": "old", "queue": "mail", "name": "send", "state": "gone", "outcome": "completed",
            "finished": "2026-09-21 14:13:20", "reason": None, "result": {"n": 1},
            "told_by": "memory",
        }  # fmt: skip
        assert self.ask(mail, "show", "older").exit_code == 4

    def test_explain(self, mail: str, site: Site) -> None:
        site.add("acme-memory", MEMORY)
        done = self.ask(mail, "explain", "old")
        (fact,) = json.loads(done.stdout)["facts"]
        assert fact["text"] == "gone; it completed, as 'memory' tells"
        assert self.ask(mail, "explain", "older").exit_code == 4


class TestErase:
    def test_several(self, mail: str, raw: redis.Redis) -> None:
        done = jobs(mail, "erase", "mail", "job0", "gone", "-", "-o", "json", stdin="late\n")
        assert done.exit_code == 0, done.stderr
        rows = json.loads(done.stdout)["erased"]
        assert [(row["id"], row["job"], row["events"]) for row in rows] == [
            ("job0", True, 3), ("gone", False, 0), ("late", True, 3),
        ]  # fmt: skip
        assert raw.keys("*job0*") == []

    def test_what_is_refused_does_not_stop_the_others(self, mail: str, raw: redis.Redis) -> None:
        raw.set(f"{Q}:job0:lock", "somebody")
        done = jobs(mail, "erase", "mail", "job0", "job1", "-o", "ids")
        assert done.exit_code == 5
        assert done.stdout.split() == ["job1"]
        assert "1 of 2 jobs were refused" in done.stderr
        assert jobs(mail, "erase", "mail").exit_code == 2


class TestChange:
    def test_delay_priority_and_data(self, mail: str, raw: redis.Redis) -> None:
        done = jobs(mail, "change", "mail", "late", "--delay", "2h", "--priority", "3")
        assert (done.exit_code, done.stdout) == (0, "")
        assert raw.hmget(f"{Q}:late", "delay", "priority") == ["7200000", "3"]
        done = jobs(mail, "change", "mail", "-", "--data", '{"n":[1]}', stdin="job0\njob1\n")
        assert done.exit_code == 0
        assert [raw.hget(f"{Q}:{each}", "data") for each in ALL] == [
            '{"n":[1]}',
            '{"n":[1]}',
            '{"n":2}',
        ]

    def test_lifo(self, mail: str, raw: redis.Redis) -> None:
        for arguments in (["job0"], ["job1", "--lifo"]):
            assert jobs(mail, "change", "mail", *arguments, "--priority", "5").exit_code == 0
        assert raw.zrange(f"{Q}:prioritized", 0, -1) == ["job1", "job0"]

    def test_asked_wrongly(self, mail: str) -> None:
        for arguments, told in (
            ([], "say what to change"),
            (["--lifo"], "say what to change"),
            (["--data", "1", "--lifo"], "--lifo says where"),
            (["--data", "{"], "not JSON"),
            (["--delay", "5"], "not a duration"),
        ):
            done = jobs(mail, "change", "mail", "job0", *arguments)
            assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
        done = jobs(mail, "change", "mail", "job0", "late", "--delay", "5m")
        assert done.exit_code == 5
        assert "1 of 2 jobs were refused" in done.stderr

    def test_logs(self, mail: str, raw: redis.Redis) -> None:
        raw.rpush(f"{Q}:job0:logs", "one", "two", "three")
        assert jobs(mail, "clear-logs", "mail", "job0", "--keep", "1").exit_code == 0
        assert raw.lrange(f"{Q}:job0:logs", 0, -1) == ["three"]
        assert jobs(mail, "clear-logs", "mail", "job0").exit_code == 0
        assert not raw.exists(f"{Q}:job0:logs")


def test_some_of_all(mail: str, raw: redis.Redis) -> None:
    fail(raw, "job0", ago=7_200_000)
    fail(raw, "job1")
    done = jobs(mail, "retry", "mail", "--all", "--older-than", "1h", "--limit", "5")
    assert "1 jobs put back" in done.stderr
    with App(mail, plugins=[]).sync as app:
        app.queue("mail").add("later", delay="3h", id="later")
    assert "1 jobs promoted" in jobs(mail, "promote", "mail", "--all", "--limit", "1").stderr
    assert raw.zrange(f"{Q}:delayed", 0, -1) == ["later"]
    wrong = jobs(mail, "retry", "mail", "job0", "--older-than", "1h")
    assert (wrong.exit_code, "--older-than goes with --all" in wrong.stderr) == (2, True)
