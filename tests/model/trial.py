"""A server and the model of what is kept, to which the same is done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from operator import attrgetter
from typing import Any, Final, TypeAlias

import pytest
from tests.model.ended import OUTCOMES, Answers, Ended, LiveLevel, OwnLevel, Tier, Tomb
from tests.model.kept import Kept
from tests.model.programs import (
    Answer,
    Change,
    Ending,
    HoldNames,
    Limit,
    Program,
    Remove,
    Require,
    Retry,
    Say,
    TakeIds,
    Wait,
    WaitForOne,
)  # fmt: skip
from tests.model.world import World

from toril import Every, Flow, Setting, hookimpl
from toril.connection.steps import Steps
from toril.errors import GiveWay, IndeterminateError, JobStateError, Reject
from toril.plugins import FinishedJob, Outcome
from toril.protocol.finishing import Finish
from toril.protocol.settings import set_live
from toril_plugins import Ceiling, Hold, Holds, IdWindow, Keep, Requires, Retention

Left: TypeAlias = tuple[Outcome, bool, frozenset[Tier]]
"""How a job ended, whether it is held and out of everybody's reach, and what of it is gone."""
HELD: Final = 9e15
"""The score of a held job."""


class Strategy:
    """A plugin that says of some jobs what is kept."""

    def __init__(self) -> None:
        self.answers: Answers = {}

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return self.answers.get((job.outcome, job.name))


class Trial:
    """The server and the model, and the way to do the same in both.

    `strategy`: the one of the App, if it has one.
    """

    def __init__(self, place: World, strategy: Strategy | None = None) -> None:
        place.begin()
        self.place = place
        self.strategy = strategy
        if strategy is not None:
            strategy.answers = {}
        # What may be the case; more than one after a sweep was cut off.
        self.models = [Kept(None if strategy is None else {})]
        self.queue = place.app.queue("q")
        self._serial = 0
        self._began = time.monotonic()

    @property
    def now(self) -> int:
        return self.place.clock.now_ms()

    def advance(self, seconds: float) -> None:
        self.place.clock.advance(timedelta(seconds=seconds))

    @property
    def model(self) -> Kept:
        """For what all of them agree about."""
        return self.models[0]

    def run(self, program: Program) -> None:
        """Let it happen; raises `AssertionError` where what is kept is not what a model says."""
        self.change(program.beginning)
        for each in program.rounds:
            self.change(each.change)
            self.sweep(fresh=each.fresh or isinstance(each.change, Retry))
            for ending in each.endings:
                self.end(ending)
            if each.cut is not None:
                self.cut_sweep(each.cut, lost=each.lost)
            self.sweep(fresh=each.fresh or each.cut is not None)

    # -- what happens ------------------------------------------------------------------------------

    def change(self, change: Change | None) -> None:
        match change:
            case Say(level, value):
                self.say(level, value)
            case Wait(seconds):
                self.advance(seconds)
            case WaitForOne(number, early):
                ahead = self.model.due_at(self.now)
                if ahead:
                    self.advance((ahead[number % len(ahead)] - self.now - early) / 1000)
            case Limit() | HoldNames() | Require() | TakeIds():
                self.guard(change)
            case Answer(answers) if self.strategy is not None:
                self.strategy.answers = answers
                for model in self.models:
                    model.answers = answers
            case Retry(number, outcome) if (job := self.pick(number)) is not None:
                found: Any = self.place.run(self.queue.get(job.id))
                if "data" in job.lost:
                    with pytest.raises(JobStateError, match="taken its data"):
                        self.place.run(found.retry())
                    return
                self.place.run(found.retry())
                for model in self.models:
                    del model.jobs[job.id]
                self.run_one(outcome)
                self.ended(replace(anew(job), outcome=outcome), by_toril=True)
            case Remove(number) if (job := self.pick(number)) is not None:
                self.remove(job)
            case _:
                pass

    def guard(self, change: Limit | HoldNames | Require | TakeIds) -> None:
        """Say what stands above the rules."""
        match change:
            case Limit(value):
                self.set_or_unset(Ceiling, value)
                for model in self.models:
                    model.ceiling = value
            case HoldNames(names):
                holds = [Hold(name=name) for name in sorted(names)]
                self.set_or_unset(Holds, Holds(*holds) if holds else None)
                for model in self.models:
                    model.held = names
            case Require(required):
                self.set_or_unset(Requires, Requires("ghost") if required else None)
                for model in self.models:
                    model.required = required
            case TakeIds(window):
                self.set_or_unset(IdWindow, window)
                for model in self.models:
                    model.window = None if window is None else window.ms

    def remove(self, job: Ended) -> None:
        """By hand; what is held is refused, and all is where a required plugin is missing."""
        try:
            assert self.place.run(self.queue.remove(job.id))
        except Reject:
            assert self.model.required or job.name in self.model.held
        else:
            assert not self.model.required
            assert job.name not in self.model.held
            for model in self.models:
                del model.jobs[job.id]

    def pick(self, number: int) -> Ended | None:
        jobs = [self.model.jobs[key] for key in sorted(self.model.jobs)]
        return jobs[number % len(jobs)] if jobs else None

    def say(self, level: LiveLevel, value: Retention | None) -> None:
        saying = set_live(
            "bull:q", Retention, level, value, how="set", source="the test", now=self.now
        )
        self.place.run(self.place.app.perform(saying))
        for model in self.models:
            model.live.pop(level, None)
            if value is not None:
                model.live[level] = value

    def set_or_unset(self, kind: type[Setting], value: Setting | None) -> None:
        doing = self.queue.unset(kind) if value is None else self.queue.set(value)
        self.place.run(doing)

    def end(self, ending: Ending) -> None:
        self._serial += 1
        job_id = f"j{self._serial:03}"
        self.advance(0.001)
        job = Ended(
            job_id, ending.outcome, ending.name, ending.customer, self.now, dict(ending.own)
        )
        if "template" in ending.own:
            job.id = self.add_run(job)
        elif ending.by_toril or ending.own:
            self.add(job)
        self.place.client.rpush(f"bull:q:{job.id}:logs", "a line")
        if ending.by_toril:
            self.run_one(ending.outcome)
        else:
            self.foreign_end(job)
        self.ended(job, by_toril=ending.by_toril)

    def ended(self, job: Ended, *, by_toril: bool) -> None:
        for model in self.models:
            one = replace(job, finished_on=self.now)
            if by_toril:
                model.ended(one, self.now)
            else:
                model.ended_elsewhere(one)
        self.look()

    def add(self, job: Ended) -> None:
        flow = Flow("q", job.name, {"customer": job.customer}, *self._own(job, "job"), id=job.id)
        self.place.run(self.place.app.add_flow(flow, *self._own(job, "flow")))

    def add_run(self, job: Ended) -> str:
        """Make a schedule, take it back when it has its first run, and return the id of that."""
        data = {"customer": job.customer}
        every = Every("365d")
        making = self.queue.schedule(job.id, every, job.name, data, *self._own(job, "template"))
        self.place.run(making)
        assert self.place.run(self.queue.remove_schedule(job.id))
        return f"repeat:{job.id}:{self.now}"

    @staticmethod
    def _own(job: Ended, level: OwnLevel) -> tuple[Retention, ...]:
        value = job.own.get(level)
        return () if value is None else (value,)

    def run_one(self, outcome: Outcome) -> None:
        """A worker of Toril picks up the one job that waits, and ends it."""
        self.advance(0.001)
        token, taken = self.place.run(self.place.tick("bull:q", "w", [], 1))
        (job,) = taken.jobs
        text = "1" if outcome == "completed" else "as asked"
        finish = Finish(job, token, outcome, text)
        _, reply = self.place.run(self.place.tick("bull:q", "w", [finish], 0))
        assert list(reply.codes) == [0]

    def foreign_end(self, job: Ended) -> None:
        """A worker of another library ends it, and removes nothing."""
        raw = self.place.client
        stored: Any = raw.hgetall(f"bull:q:{job.id}") or {
            "name": job.name,
            "data": f'{{"customer":"{job.customer}"}}',
            "opts": "{}",
            "timestamp": self.now,
        }
        raw.lrem("bull:q:wait", 1, job.id)
        raw.delete("bull:q:marker")
        result = {"completed": "returnvalue", "failed": "failedReason"}[job.outcome]
        stored |= {"processedOn": self.now, "finishedOn": self.now, "atm": 1, "ats": 1, result: "1"}
        raw.hset(f"bull:q:{job.id}", mapping=stored)
        raw.zadd(f"bull:q:{job.outcome}", {job.id: self.now})

    # -- the sweep ---------------------------------------------------------------------------------

    def sweep(self, *, fresh: bool) -> None:
        if fresh:
            self.place.app.runtime.services.clear()
        try:
            assert self.place.run(self.place.app.run_services("q"))
        except GiveWay:
            assert self.model.required
        for model in self.models:
            for _ in model.sweep(self.now, fresh=fresh):
                pass
        self.look()

    def look(self) -> None:
        """What is there is what one of the models says; from now on only those count that do."""
        left = self.left()
        agreeing: list[Kept] = []
        for model in self.models:
            if said_of(model) == left:
                agreeing += [] if model in agreeing else [model]
        assert agreeing, self.told(left)
        self.models = agreeing
        self.look_at_tombs()

    def left(self) -> dict[str, Left]:
        """The jobs that are there."""
        raw: Any = self.place.client
        ids: list[tuple[str, Outcome, bool]] = [
            (job_id, state, score == HELD)
            for state in OUTCOMES
            for job_id, score in raw.zrange(f"bull:q:{state}", 0, -1, withscores=True)
        ]
        pipe = raw.pipeline(transaction=False)
        for job_id, _, _ in ids:
            pipe.hget(f"bull:q:{job_id}", "data")
            pipe.exists(f"bull:q:{job_id}:logs")
        answers = pipe.execute()
        found: dict[str, Left] = {}
        for (job_id, state, away), data, logs in zip(ids, answers[::2], answers[1::2], strict=True):
            lost: set[Tier] = {"data"} if data == "{ }" else set()
            found[job_id] = (state, away, frozenset(lost if logs else {*lost, "logs"}))
        return found

    def look_at_tombs(self) -> None:
        for kind, of in (("tomb", attrgetter("tombs")), ("taken", attrgetter("taken"))):
            found = self.lives(kind)
            took = 1000 * (time.monotonic() - self._began) + 50  # and what is rounded
            told = f"{kind}: {found}, not {of(self.model)}"
            self.models = [model for model in self.models if is_so(found, of(model), took)]
            assert self.models, told

    def lives(self, kind: str) -> dict[str, int]:
        """What is left of jobs that are gone, by id: for how long (ms)."""
        raw: Any = self.place.client
        begin = f"bull:q:toril:cleanup:{kind}:@"
        return {key.removeprefix(begin): raw.pttl(key) for key in raw.scan_iter(f"{begin}*")}

    def told(self, left: Mapping[str, Left]) -> str:
        """How what is there differs from what the models say."""
        lines: list[str] = []
        for model in self.models:
            said = said_of(model)
            lines += [
                f"kept: {sorted(left.items() - said.items())}",
                f"gone: {sorted(map(str, said.items() - left.items()))}",
                f"of: {[model.jobs[job_id] for job_id in said]}",
            ]
        return "\n".join(lines)

    def cut_sweep(self, cut: int, *, lost: bool) -> None:
        """A sweeper dies before, or just after, its `cut`-th exchange; its lease runs out."""
        self.models = [each for model in self.models for each in self.cut_off(model)]
        executor = self.place.app.runtime.executor
        converse, left = executor.converse, cut

        def cutting(request: Any, patience: Any = None) -> Steps[Any]:
            nonlocal left
            left -= 1
            if left < 0 or (left == 0 and not lost):
                raise IndeterminateError("cut off by the test")
            result = yield from converse(request, patience)
            if left == 0:
                raise IndeterminateError("cut off by the test")
            return result

        executor.converse = cutting  # type: ignore[method-assign]
        try:
            self.place.run(self.place.app.run_services("q"))
        except (IndeterminateError, GiveWay):
            pass
        finally:
            executor.converse = converse  # type: ignore[method-assign]
        self.place.app.runtime.services.clear()
        for key in self.place.client.scan_iter("bull:q:toril:lease:*"):
            self.place.client.delete(key)

    def cut_off(self, model: Kept) -> Iterator[Kept]:
        """How a sweep may leave things that is cut off after some step."""
        found = [model.fork()]
        for _ in model.sweep(self.now, fresh=False):
            if model not in found:
                found.append(model.fork())
        return iter(found)


def said_of(model: Kept) -> dict[str, Left]:
    """What a model says of the jobs that are there."""
    return {job.id: (job.outcome, job.away, job.lost) for job in model.jobs.values()}


def is_so(found: Mapping[str, int], expected: Mapping[str, Tomb], took: float) -> bool:
    """Whether this is left, and ends in time; what has ended within `took` may be gone."""
    return found.keys() <= expected.keys() and all(
        tomb.life - took <= found.get(job_id, 0) <= tomb.life for job_id, tomb in expected.items()
    )


def anew(job: Ended) -> Ended:
    """The job as it is when it is run again."""
    return Ended(job.id, job.outcome, job.name, job.customer, 0, job.own, job.lost)
