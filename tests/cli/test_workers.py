from __future__ import annotations

import json

import redis
from click.testing import CliRunner, Result

from toril import App
from toril.cli import main
from toril.connection.blocking import worker_client_name
from toril.connection.call import only
from toril.protocol import inspecting
from toril.protocol.inspecting import Beat

Q = "bull:mail"


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"TORIL_URL": url, "TORIL_PLUGINS": ""})


def test_ls(redis_url: str, raw: redis.Redis) -> None:
    with App(redis_url, plugins=[]).sync as app:
        queue = app.queue("mail")
        queue.add("x")
        now = app.runtime.clock.now_ms()
        app.perform(only(inspecting.beat(Q, Beat("w", "ours", "h", 7, now, now, 4, ("a", "b"), 0))))
    raw.client_setname(worker_client_name("bull", "mail", "theirs"))
    done = run(redis_url, "workers", "ls", "mail")
    assert done.exit_code == 0, done.stderr
    title, ours, theirs = done.stdout.splitlines()
    assert title.split()[:5] == ["queue", "name", "library", "address", "age"]
    assert ours.split() == ["mail", "ours", "toril", "0", "a,", "b"]
    assert theirs.split()[:3] == ["mail", "theirs", "bullmq"]
    document = json.loads(run(redis_url, "workers", "ls", "-o", "json").stdout)
    assert [each["pid"] for each in document["workers"] if "pid" in each] == [7]
    assert run(redis_url, "workers", "ls", "-o", "ids").stdout == "ours\ntheirs\n"


def test_ls_of_nothing(redis_url: str) -> None:
    done = run(redis_url, "workers", "ls")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no workers\n")
    assert run(redis_url, "workers", "ls", "mail").exit_code == 4


def test_prometheus(redis_url: str) -> None:
    with App(redis_url, plugins=[]).sync as app:
        app.queue("mail").add("x")
        app.queue("other").add("x")
        text = app.queue("mail").prometheus()
    assert run(redis_url, "queues", "prometheus", "mail").stdout == text + "\n"
    both = run(redis_url, "queues", "prometheus").stdout
    assert both.count("# TYPE bullmq_job_count gauge") == 1
    assert 'bullmq_job_count{queue="other", state="waiting"} 1' in both
