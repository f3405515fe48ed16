"""Cleaning decides nothing about flows.

Random trees are run twice, jobs being taken and ending in the same random order, once with nothing
removed, once with rules, sweeps, cleans, ceilings and holds in between; each job ends in the same
way, and each parent finds the same of its children.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, cast

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.model.world import World, world
from tests.support.invariants import check

from toril import Flow
from toril.plugins import JobSnapshot, Outcome
from toril.protocol.finishing import FAILED_CHILDREN, OPEN_CHILDREN, Finish
from toril.types import ChildFailurePolicy
from toril_plugins import Ceiling, Hold, Holds, Keep, Retention

LONG = os.environ.get("TORIL_MODEL") == "long"
PROFILE = settings(
    max_examples=4000 if LONG else 60,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink) if LONG else (Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NOT_YET: Final = (OPEN_CHILDREN, FAILED_CHILDREN)
"""The code of a job that cannot be completed, as it has open children."""
QUEUES: Final = ("a", "b", "c")
KEEPS: Final = (
    Keep.nothing(),
    Keep.nothing(),
    Keep(last=1),
    Keep(age="10s"),
    Keep(first=1, last=1),
    Keep(last=1, key="name"),
    Keep(age="20s", data="10s", logs="5s"),
    Keep(age="10s", tombstone="1h"),
    Keep.forever(),
)
keeps = st.sampled_from(KEEPS)
retentions = st.builds(Retention, completed=keeps, failed=keeps)
flow_retentions = st.one_of(
    retentions,
    st.just(Retention(completed=Keep(age="10s", flow=True), failed=Keep(age="10s", flow=True))),
)


@dataclass(frozen=True)
class Node:
    queue: str
    name: str
    outcome: Outcome
    policy: ChildFailurePolicy
    says: Retention | None
    children: tuple[Node, ...]


@dataclass(frozen=True)
class Sweep:
    queue: str


@dataclass(frozen=True)
class Clean:
    queue: str
    state: Literal["completed", "failed"]


@dataclass(frozen=True)
class Wait:
    seconds: int


@dataclass(frozen=True)
class Say:
    queue: str
    setting: Retention | Ceiling | Holds


Cleaning: TypeAlias = Sweep | Clean | Wait | Say


def nodes(depth: int) -> st.SearchStrategy[Node]:
    """Trees with `depth` levels below the root at most."""
    children: st.SearchStrategy[tuple[Node, ...]] = st.just(())
    if depth:
        children = st.lists(nodes(depth - 1), min_size=1, max_size=3).map(tuple)
    policies: Any = st.sampled_from(("wait", "fail", "continue", "ignore", "remove"))
    outcomes: Any = st.sampled_from(("completed", "failed"))
    own = st.one_of(st.none(), retentions)
    return st.builds(
        Node, st.sampled_from(QUEUES), st.sampled_from("xy"), outcomes, policies, own, children
    )


queues = st.sampled_from(QUEUES)
said: st.SearchStrategy[Any] = st.one_of(
    retentions,
    st.sampled_from((Ceiling(completed=1, failed=1), Ceiling(completed="5s", failed="5s"))),
    st.sampled_from((Holds(Hold(name="x")), Holds(Hold(name="y")))),
)
cleanings: st.SearchStrategy[Cleaning] = st.one_of(
    st.builds(Sweep, queues),
    st.builds(Sweep, queues),
    st.builds(Clean, queues, st.sampled_from(("completed", "failed"))),
    st.builds(Wait, st.sampled_from((1, 5, 10, 3600))),
    st.builds(Say, queues, said),
)
steps = st.lists(
    st.tuples(st.integers(0, 20), st.lists(cleanings, max_size=2)), min_size=5, max_size=20
)

Trace: TypeAlias = list[tuple[Any, ...]]


class Run:
    """One run of a tree on an empty server."""

    def __init__(self, place: World, *, cleaning: bool) -> None:
        place.begin()
        self.place = place
        self.cleaning = cleaning
        self.trace: Trace = []
        self._nodes: dict[str, Node] = {}
        self._taken: list[tuple[str, str, JobSnapshot]] = []  # queue, token, job

    def add(self, root: Node, says: Retention | None) -> None:
        said = (says,) if says is not None and self.cleaning else ()
        self.place.run(self.place.app.add_flow(self._flow(root, top=True), *said))

    def _flow(self, node: Node, *, top: bool = False) -> Flow:
        job_id = f"n{len(self._nodes)}"
        self._nodes[job_id] = node
        said = (node.says,) if node.says is not None and self.cleaning else ()
        options: dict[str, Any] = {} if top else {"on_failure": node.policy}
        children = [self._flow(child) for child in node.children]
        return Flow(node.queue, node.name, None, *said, children=children, id=job_id, **options)

    def step(self, choice: int) -> bool:
        """A worker takes the next job of one of the queues, or ends one of those it has taken."""
        ready = [queue for queue in QUEUES if self.place.client.llen(f"bull:{queue}:wait")]
        if not ready and not self._taken:
            return False
        choice %= len(ready) + len(self._taken)
        if choice < len(ready):
            queue = ready[choice]
            token, reply = self.place.run(self.place.tick(f"bull:{queue}", "w", [], 1))
            self._taken += [(queue, token, job) for job in reply.jobs]
        else:
            self._end(*self._taken.pop(choice - len(ready)))
        return True

    def _end(self, queue: str, token: str, job: JobSnapshot) -> None:
        raw, key = self.place.client, f"bull:{queue}:{job.id}"
        found = [raw.hgetall(f"{key}:{part}") for part in ("processed", "failed")]
        decided = job.deferred_failure
        outcome = "failed" if decided is not None else self._nodes[job.id].outcome
        text = {"completed": json.dumps(job.id), "failed": decided or "as asked"}[outcome]
        self.trace.append((job.id, outcome, text, found, raw.scard(f"{key}:dependencies")))
        finish = Finish(job, token, outcome, text)
        _, reply = self.place.run(self.place.tick(f"bull:{queue}", "w", [finish], 0))
        if reply.codes[0] in NOT_YET:  # as the worker does then
            finish = Finish(job, token, "failed", "has open or failed children")
            _, reply = self.place.run(self.place.tick(f"bull:{queue}", "w", [finish], 0))
        assert list(reply.codes) == [0]

    def clean(self, cleanings: Sequence[Cleaning]) -> None:
        app = self.place.app
        for one in cleanings:
            match one:
                case Sweep(queue):
                    assert self.place.run(app.run_services(queue))
                case Clean(queue, state):
                    self.place.run(app.queue(queue).clean(state, older_than="0s", limit=10))
                case Wait(seconds):
                    self.place.clock.advance(timedelta(seconds=seconds))
                case Say(queue, setting):
                    self.place.run(app.queue(queue).set(setting))

    def stuck(self) -> Counter[str]:
        """Who waits for children in the end."""
        raw = self.place.client
        return Counter(
            cast(str, job_id)
            for queue in QUEUES
            for job_id in raw.zrange(f"bull:{queue}:waiting-children", 0, -1)
        )


@pytest.mark.timeout(6 * 3600)
def test_cleaning_decides_nothing_about_flows(redis_url: str, raw: redis.Redis) -> None:
    with world(redis_url, raw) as place:

        @PROFILE
        @given(nodes(2), st.one_of(st.none(), flow_retentions), steps)
        def holds(
            root: Node, says: Retention | None, program: list[tuple[int, list[Cleaning]]]
        ) -> None:
            runs = [Run(place, cleaning=False), Run(place, cleaning=True)]
            ends: list[tuple[Trace, Counter[str]]] = []
            for run in runs:
                place.begin()
                run.add(root, says)
                program_of_all = [*program, *[(0, list[Cleaning]())] * 40]
                for choice, cleanings in program_of_all:
                    going = run.step(choice)
                    if run.cleaning:
                        run.clean(cleanings)
                    if not going:
                        break
                if run.cleaning:
                    run.clean([Wait(3600), *map(Sweep, QUEUES), Wait(3600), *map(Sweep, QUEUES)])
                    assert not run.step(0)
                    # Notes about parents who may need a rescue go with a rescue, and there is none.
                    assert {wrong.kind for wrong in check(raw)} <= {"deferred-left"}
                ends.append((run.trace, run.stuck()))
            assert ends[0] == ends[1]

        holds()
