"""The engine's loop, with the server's answers given by hand: what is hard to hit on a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, cast

import pytest
from tests.worker.conftest import until

from toril.clock import ManualClock
from toril.protocol.finishing import FAILED_CHILDREN, NO_LOCK, OPEN_CHILDREN, Finish, TickReply
from toril.snapshots import JobSnapshot
from toril.worker.active_job import ActiveJob, JobHost
from toril.worker.engine import Engine
from toril.worker.invoking import OnLoop
from toril.worker.outside import Batch, Turn, UnderWay
from toril.worker.runner import Runner
from toril.worker.slots import Slots

mine: ContextVar[str] = ContextVar("mine", default="nobody")
"""Set by each job."""


def reply(
    *jobs: str, codes: Iterable[int] = (), more: bool = False, due: int | None = None, at: int = 0
) -> TickReply:
    fields = {b"data": b"null", b"opts": b'{"attempts":2}', b"name": b"n"}
    snapshots = tuple(JobSnapshot("q", job, fields) for job in jobs)
    return TickReply(tuple(codes), snapshots, (), due, None, False, more, at)


class Asked:
    """A turn of the engine's, until it is answered."""

    def __init__(self, token: str, over: Callable[[UnderWay], None]) -> None:
        self._token = token
        self._over = over
        self._outcome: TickReply | Exception | None = None
        self.cancelled = False

    @property
    def ended(self) -> bool:
        return self._outcome is not None

    def answer(self, outcome: TickReply | Exception) -> None:
        self._outcome = outcome
        self._over(self)

    def result(self) -> Turn:
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return Turn(self._token, self._outcome)

    def cancel(self) -> None:
        self.cancelled = True


class Server:
    """Takes the engine's calls and answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Batch, Asked]] = []
        self.made: list[tuple[asyncio.Task[Any] | None, str]] = []
        self.watched = self.recalled = 0
        self.held: list[str] = []

    def take_turn(self, batch: Batch, over: Callable[[UnderWay], None], /) -> UnderWay:
        asked = Asked(f"token:{len(self.calls) + 1}", over)
        self.calls.append((batch, asked))
        self.made.append((asyncio.current_task(), mine.get()))
        return asked

    @property
    def crowded(self) -> bool:
        return False

    async def room(self) -> None: ...

    def empty_handed(self) -> None: ...

    def watch(self) -> None:
        self.watched += 1

    def recall(self) -> None:
        self.recalled += 1

    def hold(self, jobs: Iterable[ActiveJob], /) -> None:
        self.held = [job.id for job in jobs]

    async def called(self, number: int) -> Batch:
        """The `number`-th call, once it has been made."""
        await until(lambda: len(self.calls) >= number)
        return self.calls[number - 1][0]

    def answer(self, number: int, answer: TickReply) -> None:
        self.calls[number - 1][1].answer(answer)


class Bench:
    """An engine, its server, and jobs that end when they are told to."""

    def __init__(self, size: int, lanes: int) -> None:
        self.server = Server()
        self.ends: dict[str, asyncio.Event] = {}
        self.clock = ManualClock(1_000_000)
        self.slots = Slots(size)
        runner = Runner(
            OnLoop(self._run), backoffs={}, put_aside=self._put_aside,
            go_on=self._go_on, is_recent=self.slots.is_recent,
            around=lambda _: nullcontext(),
        )  # fmt: skip
        self.engine = Engine(
            queue="q", host=cast(JobHost, None), runner=runner, slots=self.slots,
            outside=self.server, clock=self.clock, lanes=lanes,
        )  # fmt: skip

    async def _run(self, job: ActiveJob) -> None:
        mine.set(job.id)
        await self.ends.setdefault(job.id, asyncio.Event()).wait()
        if job.id == "cancels itself" and job.task is not None:
            job.task.cancel()

    def _go_on(self, job: JobSnapshot, schedule: str) -> Awaitable[None]:
        raise AssertionError

    def _put_aside(self, job: ActiveJob) -> Awaitable[Finish | None]:
        raise AssertionError

    def end(self, *ids: str) -> None:
        for job in ids:
            self.ends.setdefault(job, asyncio.Event()).set()


@pytest.fixture
async def one_lane() -> AsyncIterator[Bench]:
    bench = Bench(4, 1)
    running = asyncio.create_task(bench.engine.run())
    yield bench
    running.cancel()
    await asyncio.wait((running,))


@pytest.fixture
async def two_lanes() -> AsyncIterator[Bench]:
    bench = Bench(4, 2)
    running = asyncio.create_task(bench.engine.run())
    yield bench
    running.cancel()
    await asyncio.wait((running,))


def ids(batch: Batch) -> list[str]:
    return [job.id for job, _ in batch.ended]


async def test_what_ended_and_what_may_be_fetched_go_in_one_call(one_lane: Bench) -> None:
    server = one_lane.server
    assert (await server.called(1)).fetch == 4
    server.answer(1, reply("a", "b", "c"))
    await until(lambda: server.held == ["a", "b", "c"] and server.watched)
    one_lane.end("c", "a")
    batch = await server.called(2)
    assert (ids(batch), batch.fetch) == (["c", "a"], 2), "one slot is kept for the next that comes"
    assert len(server.calls) == 2


async def test_a_marker_during_a_call_is_not_forgotten(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    one_lane.engine.look()  # a job was added after the server had looked
    server.answer(1, reply())
    assert (await server.called(2)).fetch == 4


async def test_an_empty_answer_is_followed_by_waiting(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply())
    await until(lambda: server.watched)
    await asyncio.sleep(0.02)
    assert len(server.calls) == 1
    one_lane.engine.look()
    await server.called(2)


async def test_a_job_falls_due(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply(due=1_000_030))
    await until(lambda: server.watched)
    assert len(server.calls) == 1
    one_lane.clock.advance("30ms")
    await server.called(2)


async def test_no_call_is_made_while_all_slots_are_busy(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply("a", "b", "c", "d", more=True))
    await until(lambda: server.held)
    one_lane.engine.look()
    await asyncio.sleep(0.02)
    assert len(server.calls) == 1
    one_lane.end("b")
    batch = await server.called(2)
    assert (ids(batch), batch.fetch) == (["b"], 1)


async def test_an_end_refused_for_open_children_is_sent_once_more_and_then_fails(
    one_lane: Bench,
) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply("parent"))
    one_lane.end("parent")
    await server.called(2)
    server.answer(2, reply(codes=[OPEN_CHILDREN]))
    ((_, again),) = (await server.called(3)).ended
    assert again.kind == "completed"
    server.answer(3, reply(codes=[OPEN_CHILDREN]))
    ((_, failed),) = (await server.called(4)).ended
    assert (failed.kind, failed.value) == (
        "retry",
        "Job parent has pending dependencies. moveToFinished",
    )
    server.answer(4, reply(codes=[0]))
    await until(lambda: not one_lane.slots.held)


async def test_failed_children_fail_the_parent_for_good(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply("parent"))
    one_lane.end("parent")
    await server.called(2)
    server.answer(2, reply(codes=[FAILED_CHILDREN]))
    ((_, failed),) = (await server.called(3)).ended
    assert failed.kind == "failed"


async def test_other_refusals_are_final(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply("a"))
    one_lane.end("a")
    await server.called(2)
    server.answer(2, reply(codes=[NO_LOCK]))
    await until(lambda: not one_lane.slots.held)
    assert one_lane.slots.busy == 0
    await asyncio.sleep(0.02)
    assert len(server.calls) == 2


async def test_two_lanes_share_the_slots(two_lanes: Bench) -> None:
    server = two_lanes.server
    assert (await server.called(1)).fetch == 2  # half of them
    server.answer(1, reply("a", "b", more=True))
    assert (await server.called(2)).fetch == 2
    two_lanes.end("a", "b")
    batch = await server.called(3)  # the second call is still under way
    assert (sorted(ids(batch)), batch.fetch) == (["a", "b"], 2)
    assert two_lanes.slots.free == 0


async def test_the_end_of_the_last_job_that_runs_is_sent_in_its_own_step(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply("a", "b"))
    await until(lambda: server.watched)
    tasks = {job.id: job.task for job in one_lane.slots.held}
    one_lane.end("a", "b")
    assert ids(await server.called(2)) == ["a", "b"], "who ended just before it is in its call"
    assert server.made[1] == (tasks["b"], "nobody"), "not in the job's own context"
    server.answer(2, reply("c", "d", codes=[0, 0]))
    await until(lambda: one_lane.slots.busy == 2)
    one_lane.end("c")
    assert ids(await server.called(3)) == ["c"]
    assert server.made[2] == server.made[0], "others might have ended in the same turn of the loop"


async def test_who_cancels_a_handler_cancels_nothing_else() -> None:
    bench = Bench(1, 1)
    running = asyncio.create_task(bench.engine.run())
    await bench.server.called(1)
    bench.server.answer(1, reply("cancels itself"))
    bench.end("cancels itself")
    ((_, finish),) = (await bench.server.called(2)).ended
    assert finish.kind == "completed", "it had ended before it could be cancelled"
    bench.server.answer(2, reply("a", codes=[0]))
    bench.end("a")
    assert ids(await bench.server.called(3)) == ["a"]
    running.cancel()
    await asyncio.wait((running,))
    assert bench.server.calls[2][1].cancelled, "but who ends the engine ends its call"


async def test_only_one_call_looks_for_jobs_when_nothing_is_known(two_lanes: Bench) -> None:
    server = two_lanes.server
    await server.called(1)
    await asyncio.sleep(0.02)
    assert len(server.calls) == 1


async def test_a_parents_end_waits_for_the_lane_in_which_its_childs_may_be(
    two_lanes: Bench,
) -> None:
    server = two_lanes.server
    await server.called(1)
    server.answer(1, reply("child", "parent"))
    await until(lambda: server.held)
    two_lanes.end("child")
    await server.called(2)
    two_lanes.end("parent")
    await server.called(3)
    server.answer(3, reply(codes=[OPEN_CHILDREN]))  # it came before the child's end
    await asyncio.sleep(0.02)
    assert len(server.calls) == 3
    server.answer(2, reply(codes=[0]))
    ((job, finish),) = (await server.called(4)).ended
    assert (job.id, finish.kind) == ("parent", "completed")


async def test_a_lost_lock_does_not_concern_a_job_whose_end_is_under_way(one_lane: Bench) -> None:
    server = one_lane.server
    await server.called(1)
    server.answer(1, reply("a"))
    one_lane.end("a")
    await server.called(2)
    (job,) = one_lane.slots.held
    one_lane.engine.lose([job])  # the end has been carried out, its reply is not here yet
    assert not job.lost
    server.answer(2, reply(codes=[0]))
    await until(lambda: not one_lane.slots.held)


async def test_a_broken_turn_ends_the_engine() -> None:
    for lanes in (1, 2):
        bench = Bench(4, lanes)
        running = asyncio.create_task(bench.engine.run())
        await bench.server.called(1)
        bench.server.calls[0][1].answer(ValueError("refused for good"))
        with pytest.raises(ValueError, match="refused for good"):
            await running


def test_slots_know_the_younger_half() -> None:
    slots = Slots(9)
    jobs = [ActiveJob(cast(JobHost, None), JobSnapshot("q", str(n), {}), "t") for n in range(5)]
    for job in jobs:
        slots.start(job)
    assert [slots.is_recent(job) for job in jobs] == [False, False, False, True, True]
    slots.forget(jobs[0])
    assert slots.is_recent(jobs[2]) is False
    slots.forget(jobs[1])
    slots.forget(jobs[2])
    assert [slots.is_recent(job) for job in jobs[3:]] == [False, True]
