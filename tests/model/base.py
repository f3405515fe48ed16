"""What all rules of the state machine share, and what is checked after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from tests.model.agreement import equal, same
from tests.model.keeping import Keeping
from tests.model.model import Model
from tests.model.places import ModelJob, Refused
from tests.model.strategies import QUEUES
from tests.model.world import START, World
from tests.support.invariants import check_stored, read

from toril.errors import TorilError
from toril.snapshots import JobSnapshot

T = TypeVar("T")


@dataclass(frozen=True)
class Held:
    """A job that a worker runs, or believes to run."""

    worker: str
    queue: str
    token: str
    job: JobSnapshot


class Base(RuleBasedStateMachine):
    """The server, the model, and the way to do the same in both."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.begin()
        self.model = Model(START, QUEUES)
        self.keeping = Keeping(self.model)
        self.held: list[Held] = []
        self.stale: set[str] = set()
        """Queues in which finished jobs were put back since the last fresh sweep: until the next
        one the cleanup plugin may still count what was decided about them."""
        self.changed: set[str] = set()
        """Queues for which something else was said since the last sweep."""
        self.serial = 0
        self.tasks = 0

    @initialize(concurrency=st.sampled_from((None, None, 1, 3)))
    def limit(self, concurrency: int | None) -> None:
        """A foreign program has set a global concurrency."""
        if concurrency is not None:
            self.model.queues["bull:b"].concurrency = concurrency
            self.world.client.hset("bull:b:meta", "concurrency", concurrency)

    def new_id(self) -> str:
        self.serial += 1
        return f"j{self.serial:03}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.world.run(work)

    def both(self, model: Callable[[], T], real: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Do it in both; their values must be equal, or the errors."""
        try:
            expected: Any = model()
        except Refused as refused:
            expected = str(refused)
        try:
            value = self.run(real())
        except TorilError as error:
            value = type(error).__name__
        assert value == expected, f"the server says {value!r}, the model {expected!r}"
        return value

    def pick(self, number: int, *states: str) -> ModelJob | None:
        """One of the jobs in these states, or of all."""
        jobs = [job for job in self.model.jobs.values() if not states or job.state in states]
        return jobs[number % len(jobs)] if jobs else None

    def has(self, *states: str) -> bool:
        return any(job.state in states for job in self.model.jobs.values())

    def open_queues(self) -> list[str]:
        """The queues from which a job can be taken now."""
        return [q.key for q in self.model.queues.values() if q.ready and not q.blocked]

    async def job(self, job: ModelJob) -> Any:
        found = await self.world.app.queue(job.queue.name).get(job.id)
        assert found is not None
        return found

    def by_rules(self) -> None:
        """Carry out in the model what rules have removed, if they allow it."""
        removed = [key for _, key, *more in self.world.listener.told if more == ["rule"]]
        for key in removed:
            job = self.model.jobs.get(key)
            assert job is not None, f"{key} was removed by a rule, but is gone"
            assert self.keeping.may_go(job), f"{key} was removed by a rule that does not allow it"
        for key in removed:
            self.model.gone(self.model.jobs[key], "rule")

    def ancestors(self, job: ModelJob | None) -> set[str]:
        """The keys of a job and of all above it."""
        found: set[str] = set()
        while job is not None and job.key not in found:
            found.add(job.key)
            job = self.model.parent_of(job)
        return found

    @invariant()
    def agrees(self) -> None:
        told, self.world.listener.told = self.world.listener.told, []
        equal("what the hooks heard", Counter(told), Counter(self.model.told))
        self.model.told.clear()
        self.keeping.look()
        stored = read(self.world.client, "bull")
        wrong = [
            violation
            for violation in check_stored(stored)
            # The note about a parent that was removed goes with the next look of the rescue.
            if violation.kind != "deferred-left"
            and (
                violation.kind != "drift"
                or stored.split(violation.key)[0] not in self.stale | self.changed
            )
        ]
        assert not wrong, "\n".join(map(str, wrong))
        for queue in self.model.queues.values():
            same(self.model, queue, stored)
