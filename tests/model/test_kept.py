"""What is kept is what the model says, after every sweep: whoever said what at which level, whoever
finished the jobs, whatever was retried or removed in between, and wherever a sweep was cut off.

`TORIL_MODEL=long pytest tests/model` tries more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.model.kept import LIVE_LEVELS, Ended, Kept, LiveLevel, OwnLevel
from tests.model.world import World, world
from tests.support.invariants import check

from toril import Every, Flow, Setting
from toril.errors import GiveWay, IndeterminateError, Reject
from toril.plugins import Outcome
from toril.protocol.finishing import Finish
from toril.protocol.settings import set_live
from toril_plugins import Ceiling, Hold, Holds, Keep, Requires, Retention

# Making a failing program smaller may take minutes: by `TORIL_MODEL=long` only.
LONG = os.environ.get("TORIL_MODEL") == "long"
PHASES = (Phase.generate, Phase.shrink) if LONG else (Phase.generate,)
QUICK = settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                           HealthCheck.function_scoped_fixture],
)  # fmt: skip
PROFILES = {"quick": QUICK, "long": settings(QUICK, max_examples=5000)}

KEEPS: Final = (
    Keep.nothing(),
    Keep.forever(),
    Keep(last=1),
    Keep(last=3),
    Keep(age="10s"),
    Keep(age="1m", last=2),
    Keep(last=1, key="name"),
    Keep(last=2, key="data.customer"),
    Keep(first=1, last=1),
    Keep(first=2, key="name"),
    Keep(age="1m", data="5s", tombstone="1h"),
)

CEILINGS: Final = (
    Ceiling(completed=2, failed="30s"),
    Ceiling(completed=Keep(age="10s", last=3)),
    Ceiling(failed=1),
)


@st.composite
def retentions(draw: st.DrawFn) -> Retention:
    """What is said about one outcome, or about both."""
    first, other = draw(st.sampled_from(KEEPS)), draw(st.sampled_from((None, *KEEPS)))
    if draw(st.booleans()):
        return Retention(completed=first, failed=other)
    return Retention(completed=other, failed=first)


@dataclass(frozen=True)
class Ending:
    """A job that is going to end: who ends it, how, and what is said for it: as a job, for its
    flow, or, if it is the run of a schedule, in the template."""

    outcome: Outcome
    name: str
    customer: str
    by_toril: bool
    own: Mapping[OwnLevel, Retention]


def said_for_it(*levels: OwnLevel) -> st.SearchStrategy[dict[OwnLevel, Retention]]:
    """What is said for one job, at these levels."""
    return st.fixed_dictionaries({level: retentions() for level in levels})


endings = st.builds(
    Ending,
    st.sampled_from(("completed", "completed", "failed")),
    st.sampled_from("xy"),
    st.sampled_from("ab"),
    st.booleans(),
    st.one_of(
        said_for_it(),
        said_for_it("job"),
        said_for_it("flow"),
        said_for_it("job", "flow"),
        said_for_it("template"),
    ),
)


@dataclass(frozen=True)
class Say:
    level: LiveLevel
    value: Retention | None


@dataclass(frozen=True)
class Limit:
    """A ceiling is said, or taken back."""

    value: Ceiling | None


@dataclass(frozen=True)
class HoldNames:
    """Jobs with these names are held, and no others."""

    names: frozenset[str]


@dataclass(frozen=True)
class Require:
    """A plugin is required that nobody has, or is not any more."""

    required: bool


@dataclass(frozen=True)
class Retry:
    """Some finished job is run again, and ends again."""

    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Remove:
    number: int


@dataclass(frozen=True)
class Wait:
    seconds: int


Change: TypeAlias = Say | Limit | HoldNames | Require | Retry | Remove | Wait


@dataclass(frozen=True)
class Round:
    """Something happens; then a sweep; then jobs end; then a sweep, which may be cut off before
    its `cut`-th exchange with the server, or after it."""

    change: Change | None
    endings: list[Ending]
    cut: int | None
    lost: bool
    fresh: bool


changes = st.one_of(
    st.none(),
    st.builds(Say, st.sampled_from(LIVE_LEVELS), st.one_of(st.none(), retentions())),
    st.builds(Say, st.sampled_from(LIVE_LEVELS), retentions()),
    st.builds(Retry, st.integers(0, 50), st.sampled_from(("completed", "failed"))),
    st.builds(Remove, st.integers(0, 50)),
    st.builds(Wait, st.sampled_from((1, 9, 10, 50, 60))),
    st.builds(Limit, st.sampled_from((None, *CEILINGS))),
    st.builds(HoldNames, st.sampled_from((frozenset(), frozenset("x"), frozenset("xy")))),
    st.builds(Require, st.booleans()),
)
rounds = st.lists(
    st.builds(
        Round,
        changes,
        st.lists(endings, max_size=5),
        st.one_of(st.none(), st.integers(1, 12)),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


class Trial:
    """The server and the model, and the way to do the same in both."""

    def __init__(self, place: World) -> None:
        place.begin()
        self.place = place
        self.model = Kept()
        self.queue = place.app.queue("q")
        self._serial = 0
        self._thorough = True
        self._gave_way = False

    @property
    def now(self) -> int:
        return self.place.clock.now_ms()

    def advance(self, seconds: float) -> None:
        self.place.clock.advance(timedelta(seconds=seconds))

    # -- what happens ------------------------------------------------------------------------------

    def change(self, change: Change | None) -> None:
        match change:
            case Say(level, value):
                self.say(level, value)
            case Wait(seconds):
                self.advance(seconds)
            case Limit(value):
                self.set_or_unset(Ceiling, value)
                self.model.ceiling = value
            case HoldNames(names):
                holds = [Hold(name=name) for name in sorted(names)]
                self.set_or_unset(Holds, Holds(*holds) if holds else None)
                self.model.hold(names)
            case Require(required):
                self.set_or_unset(Requires, Requires("ghost") if required else None)
                self.model.required = required
            case Retry(number, outcome) if (job := self.pick(number)) is not None:
                found: Any = self.place.run(self.queue.get(job.id))
                self.place.run(found.retry())
                del self.model.jobs[job.id]
                self.run_one(outcome)
                self.model.ended(
                    Ended(job.id, outcome, job.name, job.customer, self.now, job.own),
                    by_toril=True,
                )
            case Remove(number) if (job := self.pick(number)) is not None:
                self.remove(job)
            case _:
                pass

    def remove(self, job: Ended) -> None:
        """By hand; what is held is refused, and all is where a required plugin is missing."""
        try:
            assert self.place.run(self.queue.remove(job.id))
        except Reject:
            assert self.model.required or job.name in self.model.held
        else:
            assert not self.model.required
            assert job.name not in self.model.held
            del self.model.jobs[job.id]

    def pick(self, number: int) -> Ended | None:
        jobs = [self.model.jobs[key] for key in sorted(self.model.jobs)]
        return jobs[number % len(jobs)] if jobs else None

    def say(self, level: LiveLevel, value: Retention | None) -> None:
        saying = set_live(
            "bull:q", Retention, level, value, how="set", source="the test", now=self.now
        )
        self.place.run(self.place.app.perform(saying))
        self.model.live.pop(level, None)
        if value is not None:
            self.model.live[level] = value

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
        if ending.by_toril:
            self.run_one(ending.outcome)
        else:
            self.foreign_end(job)
        job.finished_on = self.now
        self.model.ended(job, by_toril=ending.by_toril)

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

    def sweep(self, *, fresh: bool, times: int = 1) -> None:
        if fresh:
            self.place.app.runtime.services.clear()
        for _ in range(times):
            try:
                assert self.place.run(self.place.app.run_services("q"))
            except GiveWay:
                assert self.model.required
        # A sweeper that gave way has not begun.
        self._thorough = fresh or (self._thorough and self._gave_way)
        self._gave_way = self.model.required
        verdict = self.model.sweep(self.now, thorough=self._thorough)
        raw = self.place.client
        left = {
            state: set(raw.zrange(f"bull:q:{state}", 0, -1)) for state in ("completed", "failed")
        }
        assert left["completed"] | left["failed"] <= self.model.jobs.keys()
        gone = {job.id for job in self.model.jobs.values() if job.id not in left[job.outcome]}
        assert verdict.must <= gone, f"kept: {verdict.must - gone}"
        assert gone <= verdict.may, f"gone: {gone - verdict.may}"
        for job_id in gone:
            del self.model.jobs[job_id]

    def cut_sweep(self, cut: int, *, lost: bool) -> None:
        """A sweeper dies before, or just after, its `cut`-th exchange; its lease runs out."""
        executor = self.place.app.runtime.executor
        run, left = executor.run, cut

        async def cutting(request: Any, *more: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 or (left == 0 and not lost):
                raise IndeterminateError("cut off by the test")
            result = await run(request, *more, **named)
            if left == 0:
                raise IndeterminateError("cut off by the test")
            return result

        executor.run = cutting  # type: ignore[method-assign]
        try:
            self.place.run(self.place.app.run_services("q"))
        except (IndeterminateError, GiveWay):
            pass
        finally:
            executor.run = run  # type: ignore[method-assign]
        self.place.app.runtime.services.clear()
        for key in self.place.client.scan_iter("bull:q:toril:lease:*"):
            self.place.client.delete(key)


@pytest.mark.timeout(6 * 3600)
def test_what_is_kept_is_what_the_model_says(redis_url: str, raw: redis.Redis) -> None:
    profile = PROFILES[os.environ.get("TORIL_MODEL", "quick")]
    with world(redis_url, raw) as place:

        @profile
        @given(rounds)
        def holds(program: list[Round]) -> None:
            trial = Trial(place)
            for each in program:
                trial.change(each.change)
                # What was held is asked about by one sweep, and counts for the next.
                times = 2 if isinstance(each.change, HoldNames) else 1
                trial.sweep(fresh=each.fresh or isinstance(each.change, Retry), times=times)
                for ending in each.endings:
                    trial.end(ending)
                if each.cut is not None:
                    trial.cut_sweep(each.cut, lost=each.lost)
                trial.sweep(fresh=each.fresh or each.cut is not None)
            assert check(raw) == []

        holds()
