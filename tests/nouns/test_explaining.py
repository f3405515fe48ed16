from __future__ import annotations

import time

import pytest
import redis

from toril import App, Flow
from toril.explaining import facts
from toril.plugins import JobSnapshot, State
from toril.protocol.standing import Standing

AROUND = Standing(due=None, locked_for=None, paused=False, children_open=0, children_failed=0)


def told(state: State, around: Standing = AROUND, **fields: str) -> dict[str, str]:
    stored = {
        b"name": b"send",
        b"timestamp": b"1000",
        **{k.encode(): v.encode() for k, v in fields.items()},
    }
    return {
        fact.subject: fact.text for fact in facts(JobSnapshot("mail", "x", stored), state, around)
    }


@pytest.mark.parametrize(
    ("state", "around", "text"),
    [
        ("waiting", AROUND, "waiting to be run"),
        ("prioritized", AROUND, "waiting, with priority 7"),
        ("completed", AROUND, "completed"),
        ("unknown", AROUND, "nobody will run it"),
        ("active", AROUND, "no worker holds it"),
        ("active", Standing(None, 12_000, False, 0, 0), "a worker holds it for another 12s"),
        ("waiting-children", Standing(None, None, False, 3, 0), "waiting for 3 of its children"),
    ],
)
def test_states(state: State, around: Standing, text: str) -> None:
    assert text in told(state, around, priority="7")["state"]


def test_attempts() -> None:
    assert told("waiting", atm="2", opts='{"attempts":5}')["attempts"] == (
        "2 of 5 attempts have ended"
    )
    assert "its worker vanished 3 times" in told("waiting", stc="3")["attempts"]


def test_failures() -> None:
    failed = told("failed", failedReason="no luck", defa="child failed")
    assert failed["failure"] == "its last attempt failed: no luck"
    assert "next" not in failed
    deferred = told("waiting", defa="child failed")
    assert deferred["next"] == "the next worker fails it without running it: child failed"
    assert "failure" not in told("completed", failedReason="of an earlier attempt")


async def test_failed_children_that_keep_a_job_waiting(app: App, raw: redis.Redis) -> None:
    ids = [f"kid{n}" for n in range(5)]
    root = await app.add_flow(Flow("p", "root", children=[Flow("c", "kid", id=kid) for kid in ids]))
    assert "children" not in {fact.subject for fact in await root.explain()}
    raw.zadd("bull:c:failed", {"kid3": 1})
    said = {fact.subject: fact.text for fact in await root.explain()}
    assert said["children"] == (
        "1 of them has failed and keeps it waiting until it is retried or removed: c kid3"
    )
    raw.zadd("bull:c:failed", dict.fromkeys(ids, 1))
    said = {fact.subject: fact.text for fact in await root.explain()}
    assert said["children"].startswith("5 of them have failed and keep it waiting")
    assert said["children"].endswith(", …")


async def test_of_real_jobs(app: App, raw: redis.Redis) -> None:
    root = await app.add_flow(
        Flow(
            "p", "root", on_child_failure="fail", children=[Flow("c", "kid", id="kid", delay="1h")]
        )
    )
    (kid,) = (await app.flow_tree(root)).children
    await app.queue("c").pause()
    said = {fact.subject: fact for fact in await kid.job.explain()}
    assert said["state"].at is not None
    assert abs(said["state"].at - (time.time() + 3600) * 1000) < 60_000
    assert "paused" in said["queue"].text
    assert f"child of {root.id!r} in queue 'p'; if it fails for good, the parent fails" in (
        said["parent"].text
    )
    raw.zadd(f"bull:p:{root.id}:unsuccessful", {"bull:c:other": 1})
    above = {fact.subject: fact.text for fact in await root.explain()}
    assert above["state"] == "waiting for 1 of its children"
    assert above["children"] == "it cannot complete: 1 of its children failed"
