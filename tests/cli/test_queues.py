from __future__ import annotations

import json

import pytest
import redis
from click.testing import CliRunner, Result

from toril import App, NewJob, Setting
from toril.cli import main

Q = "bull:mail"


@pytest.fixture
def mail(redis_url: str) -> str:
    """A queue with three waiting jobs and a delayed one; its server's URL."""
    with App(redis_url, plugins=[]).sync as app:
        queue = app.queue("mail")
        queue.add_many(NewJob("send", {"n": n}, id=f"job{n}") for n in range(3))
        queue.add("later", delay="1h", id="late")
    return redis_url


def queues(url: str, *arguments: str, **environ: str) -> Result:
    environ = {"TORIL_URL": url, "TORIL_PLUGINS": "", **environ}
    return CliRunner().invoke(main, ["queues", *arguments], env=environ)


def test_ls(mail: str) -> None:
    done = queues(mail, "ls")
    assert done.exit_code == 0
    title, row = done.stdout.splitlines()
    assert title.split()[:3] == ["queue", "waiting", "active"]
    assert row.split() == ["mail", "3", "0", "1", "0", "0", "0", "0", "no"]
    document = json.loads(queues(mail, "ls", "-o", "json").stdout)
    assert document["v"] == 1
    assert document["queues"][0]["queue"] == "mail"
    assert document["queues"][0]["delayed"] == 1
    assert queues(mail, "list", "-o", "ids").stdout == "mail\n"


def test_ls_of_nothing(redis_url: str) -> None:
    done = queues(redis_url, "ls")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no queues\n")


def test_another_prefix(mail: str) -> None:
    assert queues(mail, "ls", "--prefix", "other").stdout == ""
    assert queues("redis://127.0.0.1:1", "ls", "--url", mail, "-o", "ids").stdout == "mail\n"


def test_show(mail: str, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", mapping={"concurrency": 5, "max": 10, "duration": 1000})
    shown = json.loads(queues(mail, "show", "mail", "-o", "json").stdout)["queue"]
    assert (shown["waiting"], shown["concurrency"], shown["rate"]) == (3, 5, "10 per 1s")
    assert "concurrency" in queues(mail, "show", "mail").stdout


def test_show_what_is_said(mail: str) -> None:
    from toril_plugins import Retention

    said: Setting = Retention(completed="7d")
    with App(mail).sync as app:
        app.queue("mail").set(said, source="somebody")
    shown = queues(mail, "show", "mail", TORIL_PLUGINS="persistence,cleanup").stdout
    assert "retention: completed 7d (queue, by somebody, " in shown


@pytest.mark.parametrize("command", ["show", "resume", "drain", "obliterate"])
def test_a_queue_that_is_not_there(redis_url: str, command: str) -> None:
    done = queues(redis_url, command, "nobody")
    assert done.exit_code == 4
    assert "no queue 'nobody'" in done.stderr


def test_a_new_queue_begins_paused(redis_url: str, raw: redis.Redis) -> None:
    done = queues(redis_url, "pause", "mail")
    assert (done.exit_code, done.stderr) == (
        0,
        "queue 'mail' is new: it has no jobs yet, and begins paused\n",
    )
    assert raw.hget(f"{Q}:meta", "paused") == "1"


def test_pause_and_resume(mail: str, raw: redis.Redis) -> None:
    paused = queues(mail, "pause", "mail")
    assert (paused.exit_code, paused.stderr) == (0, "")
    assert raw.hget(f"{Q}:meta", "paused") == "1"
    assert queues(mail, "ls").stdout.split()[-1] == "yes"
    assert queues(mail, "resume", "mail").exit_code == 0
    assert raw.hget(f"{Q}:meta", "paused") is None


def test_drain(mail: str, raw: redis.Redis) -> None:
    refused = queues(mail, "drain", "mail")
    assert refused.exit_code == 5
    assert "remove 3 jobs of queue 'mail'; say --yes" in refused.stderr
    assert raw.llen(f"{Q}:wait") == 3
    done = queues(mail, "drain", "mail", "--yes")
    assert (done.exit_code, done.stderr) == (0, "3 jobs removed\n")
    assert raw.zcard(f"{Q}:delayed") == 1
    assert queues(mail, "drain", "mail", "--delayed", "--yes").stderr == "1 jobs removed\n"


def test_clean(mail: str, raw: redis.Redis) -> None:
    oldest = raw.lindex(f"{Q}:wait", -1)
    refused = queues(mail, "clean", "mail", "waiting", "--older-than", "0s")
    assert refused.exit_code == 5
    assert "remove the waiting jobs of queue 'mail' that are 0s old; say --yes" in refused.stderr
    one = ("clean", "mail", "waiting", "--older-than", "0s", "--limit", "1", "--yes")
    done = queues(mail, *one)
    assert (done.exit_code, done.stderr) == (0, "1 jobs removed\n")
    assert raw.llen(f"{Q}:wait") == 2
    assert oldest not in raw.lrange(f"{Q}:wait", 0, -1)
    young = queues(mail, "clean", "mail", "waiting", "--older-than", "1h", "--yes")
    assert (young.exit_code, young.stderr) == (0, "0 jobs removed\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mail", "waiting"), "Missing option '--older-than'"),
        (("mail", "waiting", "--older-than", "soon"), "'soon' is not a duration"),
        (("mail", "waiting-children", "--older-than", "1d"), "is not one of 'waiting', 'active'"),
        (("mail", "waiting", "--older-than", "1d", "--limit", "0"), "0 is not in the range"),
    ],
)
def test_clean_with_wrong_arguments(mail: str, arguments: tuple[str, ...], said: str) -> None:
    done = queues(mail, "clean", *arguments, "--yes")
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_obliterate(mail: str, raw: redis.Redis) -> None:
    assert queues(mail, "obliterate", "mail").exit_code == 5
    raw.lmove(f"{Q}:wait", f"{Q}:active", "RIGHT", "LEFT")
    running = queues(mail, "obliterate", "mail", "--yes")
    assert running.exit_code == 5
    assert queues(mail, "obliterate", "mail", "--yes", "--force").exit_code == 0
    assert raw.keys("*") == []


def test_no_server() -> None:
    done = queues("", "ls")
    assert done.exit_code == 2
    assert "no server is named" in done.stderr


def test_event_values(mail: str, raw: redis.Redis) -> None:
    assert queues(mail, "event-values", "mail", "off").exit_code == 0
    assert raw.hget(f"{Q}:meta", "toril.events.values") == "off"
    assert "events: off (queue" in queues(mail, "show", "mail").stdout
    assert queues(mail, "event-values", "mail", "on").exit_code == 0
    assert not raw.hexists(f"{Q}:meta", "toril.events.values")
    assert queues(mail, "event-values", "mial", "off").exit_code == 4
    assert queues(mail, "event-values", "mail", "maybe").exit_code == 2


def test_limits(mail: str, raw: redis.Redis) -> None:
    def shown(*arguments: str) -> dict[str, object]:
        done = queues(mail, "limits", "mail", *arguments, "-o", "json")
        assert done.exit_code == 0, done.stderr
        limits: dict[str, object] = json.loads(done.stdout)["limits"]
        return limits

    nothing = {"queue": "mail", "concurrency": None, "maxed": False, "rate": None}
    assert shown() == nothing | {"limited_for": None}
    said = {"concurrency": 1, "rate": "100 per 1m"}
    assert shown("--concurrency", "1", "--rate", "100/1m") == nothing | said | {"limited_for": None}
    raw.lpush(f"{Q}:active", "one")
    held = shown("--rate", "none", "--hold", "1h")
    assert (held["maxed"], held["rate"]) == (True, None)
    assert str(held["limited_for"]).startswith(("1h", "59m 59s"))
    assert shown("--concurrency", "none", "--free") == nothing | {"limited_for": None}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--rate", "100"), "not a rate such as 100/1m"),
        (("--rate", "x/1m"), "not a rate such as 100/1m"),
        (("--rate", "0/1m"), "at least 1"),
        (("--rate", "5/soon"), "not a duration"),
        (("--concurrency", "0"), "not a number of jobs"),
        (("--concurrency", "many"), "not a number of jobs"),
        (("--hold", "soon"), "not a duration"),
        (("--hold", "0s"), "at least 1"),
    ],
)
def test_limits_that_are_none(mail: str, wrong: tuple[str, str], said: str) -> None:
    done = queues(mail, "limits", "mail", *wrong)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_limits_of_a_new_queue(mail: str) -> None:
    done = queues(mail, "limits", "mial", "--concurrency", "2")
    assert done.exit_code == 0
    assert "queue 'mial' is new" in done.stderr
