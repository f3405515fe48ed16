"""The rules of people: adding, changing and removing jobs, and saying how long they are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.model.model import NewModelJob, flatten
from tests.model.places import ModelJob
from tests.model.running import Running
from tests.model.strategies import (
    Shape,
    delays,
    policies,
    priorities,
    queues,
    retentions,
    said,
    shapes,
    some,
)

from toril import Flow
from toril.snapshots import JobRef
from toril_plugins import Retention


class Machine(Running):
    """The scripts against the model."""

    @rule(
        queue=queues, name=st.sampled_from("xy"), delay=delays, priority=priorities,
        lifo=st.booleans(), known=st.one_of(st.none(), st.none(), some),
        parent=st.one_of(st.none(), st.none(), some), policy=policies, keep=said,
    )  # fmt: skip
    def add(
        self, queue: str, name: str, delay: int, priority: int, lifo: bool, known: int | None,
        parent: int | None, policy: str | None, keep: Retention | None,
    ) -> None:  # fmt: skip
        above = None
        if parent is not None:
            above = (parent % 2 and self.pick(parent, "active")) or self.pick(parent)
        job_id = self.known_id(queue, known, self.ancestors(above)) or self.new_id()
        new = NewModelJob(
            queue, job_id, name, delay, priority, lifo,
            above.key if above else None, policy if above else None,
        )  # fmt: skip
        options: dict[str, Any] = {
            "id": job_id, "delay": timedelta(milliseconds=delay), "priority": priority,
            "lifo": lifo, "attempts": 3,
        }  # fmt: skip
        if above is not None:
            options |= {"parent": JobRef(above.queue.name, above.id), "on_failure": policy}
        existed = f"{queue}:{job_id}" in self.model.jobs
        settings = () if keep is None else (keep,)

        async def real() -> str:
            queue_ = self.world.app.queue(new.queue.rpartition(":")[2])
            return (await queue_.add(name, {"n": name}, *settings, **options)).id

        def model() -> str:
            self.model.add(new)
            return job_id

        self.both(model, real)
        if keep is not None and not existed and f"{queue}:{job_id}" in self.model.jobs:
            self.keeping.own[f"{queue}:{job_id}"] = keep

    def known_id(self, queue: str, number: int | None, forbidden: set[str]) -> str | None:
        """The id of a job of that queue that exists, and is not above the new one."""
        if number is None:
            return None
        jobs = [
            job.id
            for job in self.model.jobs.values()
            if job.queue.key == queue
            and job.key not in forbidden
            and not self.covers(job)
            and (number % 8 == 0 or self.model.parent_of(job) is None)
        ]
        return jobs[number % len(jobs)] if jobs else None

    def covers(self, job: ModelJob) -> bool:
        """Whether the job has children: put below another one it could close a circle."""
        return any(other.parent == job.key for other in self.model.jobs.values())

    @rule(shape=shapes(2, least=1), keep=said)
    def add_flow(self, shape: Shape, keep: Retention | None) -> None:
        taken: set[str] = set()
        root = self.named(shape, None, taken)
        before = set(self.model.jobs)

        def real_node(node: NewModelJob) -> Flow:
            policy: Any = node.policy or "wait"
            options: dict[str, Any] = {} if node.parent is None else {"on_failure": policy}
            return Flow(
                node.queue.rpartition(":")[2], node.name, {"n": node.name},
                children=[real_node(child) for child in node.children],
                id=node.id, delay=timedelta(milliseconds=node.delay), priority=node.priority,
                **options,
            )  # fmt: skip

        async def real() -> str:
            settings = () if keep is None else (keep,)
            return (await self.world.app.add_flow(real_node(root), *settings)).id

        def model() -> str:
            self.model.add(root)
            return root.id

        self.both(model, real)
        if keep is not None:
            for node in flatten(root):
                key = f"{node.queue}:{node.id}"
                if key in self.model.jobs and key not in before:
                    self.keeping.own[key] = keep

    def named(self, shape: Shape, parent: str | None, taken: set[str]) -> NewModelJob:
        """The flow with ids, some of which are those of jobs that exist."""
        job_id = self.known_id(shape.queue, shape.known_id, taken) or self.new_id()
        key = f"{shape.queue}:{job_id}"
        taken.add(key)
        return NewModelJob(
            shape.queue, job_id, shape.name, shape.delay, shape.priority, False, parent,
            shape.policy if parent else None,
            tuple(self.named(child, key, taken) for child in shape.children),
        )  # fmt: skip

    @precondition(lambda self: self.has("delayed"))
    @rule(number=some, every=st.booleans())
    def promote(self, number: int, every: bool) -> None:
        job = (number % 8 and self.pick(number, "delayed")) or self.pick(number)
        assert job is not None

        async def real() -> None:
            await (await self.job(job)).promote()

        if every:
            self.both(
                lambda: self.model.promote_all(job.queue),
                lambda: self.world.app.queue(job.queue.name).promote_all(),
            )
        else:
            self.both(lambda: self.model.promote(job), real)

    @rule(queue=queues, paused=st.sampled_from((True, False, False)))
    def pause(self, queue: str, paused: bool) -> None:
        place = self.world.app.queue(queue.rpartition(":")[2])
        self.run(place.pause() if paused else place.resume())
        self.model.queues[queue].paused = paused

    @precondition(lambda self: self.has("completed", "failed"))
    @rule(number=some, every=st.sampled_from((True, False, False)), reset=st.booleans())
    def retry(self, number: int, every: bool, reset: bool) -> None:
        job = (number % 8 and self.pick(number, "completed", "failed")) or self.pick(number)
        assert job is not None
        self.stale.add(job.queue.key)
        state: Any = job.state

        async def real() -> None:
            await (await self.job(job)).retry(reset_attempts=reset)

        if every and state in ("completed", "failed"):
            self.both(
                lambda: self.model.retry_all(job.queue, state, reset=reset),
                lambda: self.world.app.queue(job.queue.name).retry_all(state, reset_attempts=reset),
            )
        else:
            self.both(lambda: self.model.retry(job, reset=reset), real)

    @precondition(lambda self: self.model.jobs)
    @rule(number=some, children=st.booleans())
    def remove(self, number: int, children: bool) -> None:
        job = self.pick(number)
        assert job is not None

        def model() -> bool:
            self.model.remove(job, children=children)
            return True

        self.both(
            model,
            lambda: self.world.app.queue(job.queue.name).remove(job.id, children=children),
        )

    @precondition(lambda self: self.model.jobs)
    @rule(
        queue=queues, older=st.sampled_from((0, 0, 1000)), limit=st.sampled_from((None, 1, 2)),
        state=st.sampled_from(
            ("drain", "waiting", "active", "delayed", "prioritized", "completed", "failed")
        ),
    )  # fmt: skip
    def clear(self, queue: str, state: Any, older: int, limit: int | None) -> None:
        """Clean a state, or drain."""
        place, real = self.model.queues[queue], self.world.app.queue(queue.rpartition(":")[2])
        if state == "drain":
            self.both(
                lambda: self.model.drain(place, delayed=bool(older)),
                lambda: real.drain(delayed=bool(older)),
            )
            return
        name, age = "wait" if state == "waiting" else state, timedelta(milliseconds=older)
        self.both(
            lambda: self.model.clean(place, name, self.model.now - older, limit or 0),
            lambda: real.clean(state, older_than=age, limit=limit),
        )

    @rule(queue=queues, keep=retentions(), swept=st.booleans())
    def say(self, queue: str, keep: Retention | None, swept: bool) -> None:
        self.say_now(queue, keep, swept=swept)

    @rule(queue=queues, fresh=st.booleans())
    def sweep(self, queue: str, fresh: bool) -> None:
        self.sweep_now(queue, fresh=fresh)
