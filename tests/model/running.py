"""The rules of workers: picking up, ending, losing jobs, and sending calls again."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.model.agreement import equal
from tests.model.base import Held
from tests.model.steps import STALLED_MS, Steps
from tests.model.strategies import QUEUES, endings, queues, some, workers
from tests.model.world import LOCK_MS

from toril.connection.call import Call, only
from toril.errors import IndeterminateError
from toril.protocol.adding import Added
from toril.protocol.changing import add_log
from toril.protocol.finishing import TickReply
from toril.protocol.locking import renew, wait_children
from toril.protocol.record import CallRecord


class Running(Steps):
    """What workers do, and what happens to them."""

    @precondition(lambda self: any(queue.ready for queue in self.model.queues.values()))
    @rule(worker=workers, number=some, limit=st.integers(1, 4), woken=st.booleans())
    def fetch(self, worker: str, number: int, limit: int, woken: bool) -> None:
        ready = [queue.key for queue in self.model.queues.values() if queue.ready]
        queue = ready[number % len(ready)]
        if woken:  # it waited for the marker, and has taken it
            self.world.client.zpopmin(f"{queue}:marker")
        self.turn(worker, queue, [], limit)

    @precondition(lambda self: self.open_queues())
    @rule(
        worker=workers, number=some, checked=st.booleans(),
        kinds=endings(8, "completed", "completed", "failed"),
    )  # fmt: skip
    def work(self, worker: str, number: int, checked: bool, kinds: list[str]) -> None:
        """Pick up some jobs and end all of them; others may look for stalled ones meanwhile."""
        ready = self.open_queues()
        queue = ready[number % len(ready)]
        before = len(self.held)
        self.turn(worker, queue, [], len(kinds))
        taken = self.held[before:]
        del self.held[before:]
        if checked:
            self.look_for_stalled(queue, after=STALLED_MS)
        self.end(taken, kinds, 0)

    @precondition(lambda self: self.held)
    @rule(
        number=some, kinds=endings(4, "completed", "completed", "failed", "retry", "delay", "wait"),
        limit=st.integers(0, 3), delay=st.sampled_from((1, 700)), flag=st.booleans(),
    )  # fmt: skip
    def finish(self, number: int, kinds: list[str], limit: int, delay: int, flag: bool) -> None:
        """End some of the jobs of a worker, and perhaps pick up others."""
        first = self.held[number % len(self.held)]
        chosen = [first]
        for held in self.held:
            same = (held.worker, held.queue) == (first.worker, first.queue)
            known = held.job.id in {one.job.id for one in chosen}
            if same and not known and len(chosen) < len(kinds):
                chosen.append(held)
        self.held = [held for held in self.held if held not in chosen]
        self.end(chosen, kinds, limit, delay, flag=flag)

    @precondition(lambda self: self.held)
    @rule(number=some)
    def put_aside(self, number: int) -> None:
        waiting = [held for held in self.held if self.has_children(held)] or self.held
        held = waiting[number % len(waiting)]
        self.tasks += 1
        record = CallRecord("aside", self.tasks, 1)
        call = wait_children(held.queue, held.job.id, held.token, now=self.model.now, record=record)
        job = self.model.jobs.get(f"{held.queue}:{held.job.id}")
        done = self.both(
            lambda: self.model.wait_children(job, held.token),
            lambda: self.world.app.perform(only(call)),
        )
        if done is not False:
            self.held.remove(held)

    def has_children(self, held: Held) -> bool:
        job = self.model.jobs.get(f"{held.queue}:{held.job.id}")
        return job is not None and bool(job.dependencies or job.unsuccessful)

    @precondition(lambda self: self.held)
    @rule(number=some, checked=st.booleans())
    def go_on(self, number: int, checked: bool) -> None:
        """A worker renews its locks, and one of its jobs logs a line."""
        one = self.held[number % len(self.held)]
        held = [
            (other.job.id, other.token)
            for other in self.held
            if (other.worker, other.queue) == (one.worker, one.queue)
        ]
        if checked:
            self.look_for_stalled(one.queue, after=STALLED_MS)
        lost = self.run(self.world.app.perform(only(renew(one.queue, held, LOCK_MS))))
        equal("lost locks", list(lost), self.model.renew(self.model.queues[one.queue], held))
        call = add_log(one.queue, one.job.id, "a line", token=one.token)
        job = self.model.jobs.get(f"{one.queue}:{one.job.id}")
        self.both(
            lambda: self.model.log(job, one.token), lambda: self.world.app.perform(only(call))
        )

    @precondition(lambda self: self.has("active"))
    @rule(number=some)
    def expire_lock(self, number: int) -> None:
        job = self.pick(number, "active")
        assert job is not None
        job.token = None
        self.world.client.delete(f"{job.key}:lock")

    @precondition(lambda self: self.held)
    @rule(worker=workers, recovered=st.booleans())
    def crash(self, worker: str, recovered: bool) -> None:
        """The worker vanishes; its locks run out. Others may find its jobs at once."""
        for held in [one for one in self.held if one.worker == worker]:
            job = self.model.jobs.get(f"{held.queue}:{held.job.id}")
            if job is not None and job.token == held.token:
                job.token = None
                self.world.client.delete(f"{job.key}:lock")
            self.held.remove(held)
        for queue in QUEUES if recovered else ():
            self.look_for_stalled(queue, after=STALLED_MS)
            self.look_for_stalled(queue, after=STALLED_MS)

    @rule(
        ms=st.sampled_from((1, 500, 1000, 5000, 60_000, 7_200_000)),
        check=st.one_of(st.none(), queues),
    )
    def wait(self, ms: int, check: str | None) -> None:
        self.advance(ms)
        if check is not None:
            self.look_for_stalled(check)

    @precondition(lambda self: self.world.sent)
    @rule(number=st.integers(0, 3))
    def send_again(self, number: int) -> None:
        """The same call once more: the same reply, or refused as late; nothing changes."""
        call, result = self.world.sent[-1 - number % len(self.world.sent)]
        place, number = _record(call)
        numbers = [n for other, n in (_record(one) for one, _ in self.world.sent) if other == place]
        later = max(numbers) > number
        try:
            again = self.run(self.world.send_again(call))
        except IndeterminateError:
            assert later
            return
        assert not later
        if isinstance(result.value, TickReply):
            locked = [
                job.id for job in result.value.jobs if self.is_locked(call.keys[0], job.id, call)
            ]
            assert [job.id for job in again.jobs] == locked
            assert again.codes == result.value.codes
        elif isinstance(result.value, tuple):
            expected: list[Added] = list(result.value)
            assert [one.id for one in again] == [one.id for one in expected]
        else:
            assert again == result.value

    def is_locked(self, queue: str, job_id: str, call: Call[Any]) -> bool:
        job = self.model.jobs.get(f"{queue}:{job_id}")
        (_, whose), n = _record(call)
        return job is not None and job.token == f"{whose.rpartition(':')[0]}:{n}"


def _record(call: Call[Any]) -> tuple[tuple[str, str], int]:
    """Where the record of a call is kept (queue, who:lane), and its number."""
    packed = call.args[0]
    assert isinstance(packed, bytes)
    request = msgspec.msgpack.decode(packed)
    whose, n, _ = request[1] if call.script == "tick" else request["record"]
    return (call.keys[0], whose), n
