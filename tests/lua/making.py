"""Short ways to the calls of a producer and a worker."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.protocol.adding import NewNode
from toril.protocol.finishing import Fetch, Finish, TickReply, tick
from toril.protocol.record import CallRecord
from toril.snapshots import JobSnapshot, ParentRef

LOCK_MS = 30_000


def node(id: str, queue: str = Q, parent: str | None = None, **more: Any) -> NewNode:
    """A node; `parent` is the key of its parent, `opts` its options."""
    ref = None
    if parent is not None:
        queue_key, _, parent_id = parent.rpartition(":")
        ref = ParentRef(queue_key, parent_id)
    told: dict[str, Any] = {"name": "send", "data": "{}", "opts": {}, "timestamp": NOW, **more}
    return NewNode(queue=queue, id=id, parent=ref, **told)


def finish(
    job: JobSnapshot | str, token: str = "t:1", kind: Any = "completed", **more: Any
) -> Finish:
    if isinstance(job, str):
        job = JobSnapshot("mail", job, {})
    more.setdefault("value", "null" if kind == "completed" else "")
    return Finish(job, token, kind, **more)


def fetch(limit: int = 1, token: str = "t:1", **more: Any) -> Fetch:
    return Fetch(token, LOCK_MS, limit, **more)


def take(run: Runner, limit: int = 1, token: str = "t:1", queue: str = Q) -> TickReply:
    """Pick up jobs."""
    reply: TickReply = run(tick(queue, now=NOW, fetch=fetch(limit, token)))
    return reply


def active(raw: Any, seed: Seed, id: str = "j", **more: Any) -> str:
    """Write a running job; its key."""
    more.setdefault("ats", 1)
    key = seed.job(id, "active", **more)
    raw.set(f"{key}:lock", "t:1", px=LOCK_MS)
    return key


def codes(run: Runner, *finishes: Finish, **more: Any) -> tuple[int, ...]:
    """What became of attempts that are ended in one call."""
    return end(run, *finishes, **more).codes


def end(run: Runner, *finishes: Finish, now: int = NOW + 5, **more: Any) -> TickReply:
    """End attempts."""
    reply: TickReply = run(tick(Q, now=now, finishes=finishes, **more))
    return reply


class Numbers:
    """Call records of one lane."""

    def __init__(self) -> None:
        self.n = 0

    @contextmanager
    def call(self) -> Generator[CallRecord]:
        self.n += 1
        yield CallRecord("producer", 0, self.n)


def stored_fields(client: Any, key: str) -> dict[bytes, bytes]:
    """A hash as a snapshot has it."""
    return {name.encode(): value.encode() for name, value in client.hgetall(key).items()}


def event_names(stream: Sequence[dict[str, str]]) -> list[str]:
    return [entry["event"] for entry in stream]
