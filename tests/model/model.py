"""What the scripts have to do, in plain Python.

Written from the data contract, not from the scripts. What rules about keeping jobs do is in
`keeping`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.model.places import SLOTS, STEP, Key, ModelJob, ModelQueue, Places, Refused

OK, NOT_FOUND, NO_LOCK, OPEN, OTHER, FAILED = 0, -1, -2, -4, -6, -9


@dataclass(frozen=True)
class Ending:
    """One attempt to end, as a worker asks for it."""

    id: str
    token: str
    kind: str
    text: str = ""
    delay: int = 0
    skip: bool = False
    lifo: bool = False


@dataclass(frozen=True)
class NewModelJob:
    """A node to add."""

    queue: str
    id: str
    name: str = "x"
    delay: int = 0
    priority: int = 0
    lifo: bool = False
    parent: Key | None = None
    policy: str | None = None
    children: tuple[NewModelJob, ...] = ()


class Model(Places):
    """Everything that can be done to the queues and jobs."""

    # Adding.

    def add(self, root: NewModelJob) -> None:
        """A job or a flow: all nodes, or refused whole."""
        nodes = list(flatten(root))
        for node in nodes:
            error = self._objection(node, inner=node is not nodes[0])
            if error is not None:
                raise Refused(error)
        finished: dict[Key, None] = {}
        for node in nodes:
            # A parent that this very flow has added may be the dangling one of an older job.
            if self._objection(node, inner=True) is None:
                self._write(node, finished)
        for parent in finished:
            self._release_if_done(self.jobs[parent])

    def _objection(self, new: NewModelJob, *, inner: bool) -> str | None:
        if new.parent is None:
            return None
        if not inner and new.parent not in self.jobs:
            return "ParentError"
        old = self.jobs.get(f"{new.queue}:{new.id}")
        if old is not None and old.parent not in (None, new.parent) and old.parent in self.jobs:
            return "ParentError"
        return None

    def _write(self, new: NewModelJob, finished: dict[Key, None]) -> None:
        queue, key = self.queues[new.queue], f"{new.queue}:{new.id}"
        parent = None if new.parent is None else self.jobs[new.parent]
        old = self.jobs.get(key)
        if old is None:
            job = ModelJob(queue, new.id, new.name, self.now, parent=new.parent, policy=new.policy)
            job.delay, job.priority, job.lifo = new.delay, new.priority, new.lifo
            self.jobs[key] = job
            self.told.append(("saved", key))
            if new.children:
                self.to_set(job, "waiting-children", self.now)
            elif new.delay:
                self.push_delayed(job, self.now + new.delay)
            else:
                self.push(job, next_to_run=new.lifo)
            if parent is not None:
                parent.dependencies.add(key)
        elif parent is not None:
            if old.state == "completed":
                parent.processed[key] = old.result or "null"
                parent.dependencies.discard(key)
                finished[parent.key] = None
            else:
                parent.dependencies.add(key)
            old.parent, old.policy = new.parent, new.policy

    # Picking up and ending.

    def tick(
        self, queue: ModelQueue, endings: Sequence[Ending], limit: int, token: str
    ) -> tuple[list[int], list[str], bool]:
        """Codes, ids picked up, blocked."""
        if any(ending.kind == "retry" for ending in endings):
            self.promote_due(queue)
        codes = [self._end(queue, ending) for ending in endings]
        if not limit:
            return codes, [], False
        self.promote_due(queue)
        room = limit
        if queue.concurrency is not None:
            room = min(room, queue.concurrency - len(queue.lists["active"]))
        if queue.paused or room <= 0:
            return codes, [], True
        return codes, self._take(queue, room, token), False

    def _take(self, queue: ModelQueue, count: int, token: str) -> list[str]:
        ids = queue.lists["wait"][::-1][:count]
        if len(ids) < count:
            first = queue.sorted("prioritized")[: count - len(ids)]
            if len(ids) + len(first) < count:
                queue.sequence = 0
            ids += first
        for job_id in ids:
            job = self.jobs[f"{queue.key}:{job_id}"]
            self.out(job)
            self.to_list(job, "active", tail=False)
            job.token = token
            job.processed_on = self.now
            job.started += 1
        return ids

    def _end(self, queue: ModelQueue, ending: Ending) -> int:
        job = self.jobs.get(f"{queue.key}:{ending.id}")
        if job is None:
            return NOT_FOUND
        if ending.kind == "completed" and job.dependencies:
            return OPEN
        if ending.kind == "completed" and job.unsuccessful:
            return FAILED
        if job.token is None:
            return NO_LOCK
        if job.token != ending.token:
            return OTHER
        self._release_lock(job)
        self.out(job)
        if ending.kind in ("completed", "failed"):
            self._settle(job, ending)
        else:
            self._put_off(job, ending)
        return OK

    def _release_lock(self, job: ModelJob) -> None:
        job.token = None
        job.queue.suspects.discard(job.id)

    def _settle(self, job: ModelJob, ending: Ending) -> None:
        parent = self.parent_of(job)
        if parent is not None and job.key in parent.dependencies:
            if ending.kind == "completed":
                parent.dependencies.remove(job.key)
                parent.processed[job.key] = ending.text
                self._release_if_done(parent)
            elif job.policy is not None:
                parent.dependencies.remove(job.key)
                self._child_failed(parent, job, ending.text)
        self.to_set(job, ending.kind, self.now)
        job.finished_on = self.now
        job.made += 1
        if ending.kind == "completed":
            job.result = ending.text
            self.told.append(("completed", job.key))
        else:
            job.reason = ending.text
            job.deferred = None
            self.told.append(("failed", job.key, True))

    def _child_failed(self, parent: ModelJob, child: ModelJob, reason: str) -> None:
        if child.policy == "fail":
            parent.unsuccessful[child.key] = self.now
            if parent.state != "failed":
                parent.deferred = f"child {child.key} failed"
            if parent.state == "delayed":
                parent.delay = 0
            if parent.state in ("waiting-children", "delayed"):
                self._release(parent)
        elif child.policy == "continue":
            parent.failures[child.key] = reason
            if parent.state == "waiting-children":
                self._release(parent)
        else:
            self._release_if_done(parent)
            if child.policy == "ignore":
                parent.failures[child.key] = reason

    def _release_if_done(self, parent: ModelJob) -> None:
        if not parent.dependencies and parent.state == "waiting-children":
            self._release(parent)

    def _release(self, parent: ModelJob) -> None:
        self.out(parent)
        if parent.delay:
            self.to_set(parent, "delayed", (self.now + parent.delay) * SLOTS)
        else:
            self.push(parent, next_to_run=True)

    def _put_off(self, job: ModelJob, ending: Ending) -> None:
        if ending.text:
            job.reason = ending.text
        if ending.kind != "wait" and not ending.skip:
            job.made += 1
            self.told.append(("failed", job.key, False))
        if ending.kind == "delay":
            job.delay = ending.delay
            self.push_delayed(job, self.now + ending.delay)
        elif ending.kind == "retry":
            self.push(job, next_to_run=ending.lifo)
        elif job.priority:
            self.to_set(job, "prioritized", job.priority * STEP)
        else:
            self.to_list(job, "wait", tail=True)

    def wait_children(self, job: ModelJob | None, token: str) -> bool:
        """Put aside; False if there is nothing to wait for."""
        if job is None:
            raise Refused("JobNotFound")
        if job.unsuccessful or job.deferred:
            raise Refused("JobStateError")
        if not job.dependencies:
            return False
        if job.token != token:
            raise Refused("LockLost")
        self._release_lock(job)
        self.out(job)
        self.to_set(job, "waiting-children", self.now)
        return True

    # Locks.

    def renew(self, queue: ModelQueue, held: Sequence[tuple[str, str]]) -> list[str]:
        """The ids whose lock is lost."""
        lost: list[str] = []
        for job_id, token in held:
            job = self.jobs.get(f"{queue.key}:{job_id}")
            if job is not None and job.token == token:
                queue.suspects.discard(job_id)
            else:
                lost.append(job_id)
        return lost

    def log(self, job: ModelJob | None, token: str) -> int:
        """A line of a running job; how many it has."""
        if job is None:
            raise Refused("JobNotFound")
        if job.token != token:
            raise Refused("LockLost")
        job.lines += 1
        return job.lines

    def stalled_check(
        self, queue: ModelQueue, interval: int, most: int, order: Sequence[str]
    ) -> list[str] | None:
        """The ids put back, None if it is not due. They go back in the order in which they were."""
        last = queue.checked_at
        if last is not None and last <= self.now < last + interval:
            return None
        queue.checked_at = self.now
        stalled = {
            job_id
            for job_id in queue.suspects
            if job_id in queue.lists["active"] and self.jobs[f"{queue.key}:{job_id}"].token is None
        }
        for job_id in (*(job_id for job_id in order if job_id in stalled), *(stalled - set(order))):
            job = self.jobs[f"{queue.key}:{job_id}"]
            job.stalled += 1
            if job.stalled > most:
                job.deferred = "job stalled more than allowable limit"
            self.out(job)
            self.to_list(job, "wait", tail=True)
            self.told.append(("stalled", job.key, job.stalled, job.stalled > most))
        queue.suspects = set(queue.lists["active"])
        return sorted(stalled)

    # Changing.

    def promote(self, job: ModelJob) -> None:
        if job.state != "delayed":
            raise Refused("JobStateError")
        self._promote(job)

    def promote_all(self, queue: ModelQueue) -> int:
        ids = queue.sorted("delayed")
        for job_id in ids:
            self._promote(self.jobs[f"{queue.key}:{job_id}"])
        return len(ids)

    def retry(self, job: ModelJob, *, reset: bool) -> None:
        previous = job.state
        if previous not in ("completed", "failed"):
            raise Refused("JobStateError")
        self.out(job)
        job.finished_on = job.processed_on = None
        if previous == "failed":
            job.reason = None
        else:
            job.result = None
        if reset:
            job.made = 0
        self.push(job, next_to_run=job.lifo)
        self._reopen(job, previous)
        self.told.append(("retried", job.key, previous))

    def _reopen(self, job: ModelJob, previous: str) -> None:
        """Its parent has it as an open child again."""
        parent = self.parent_of(job)
        if parent is None:
            return
        places: tuple[dict[Key, Any], ...] = (parent.processed,)
        if previous == "failed":
            places = (parent.unsuccessful, parent.failures)
        for place in places:
            if place.pop(job.key, None) is not None:
                parent.dependencies.add(job.key)

    def retry_all(self, queue: ModelQueue, state: str, *, reset: bool) -> int:
        ids = queue.sorted(state)
        for job_id in ids:
            self.retry(self.jobs[f"{queue.key}:{job_id}"], reset=reset)
        return len(ids)

    # Removing.

    def gone(self, job: ModelJob, cause: str) -> None:
        """Remove what is stored of a job."""
        self.out(job)
        del self.jobs[job.key]
        self.told.append(("removed", job.key, cause))

    def remove(self, job: ModelJob, *, children: bool) -> None:
        """A job, and on request all below it; refused if one of the open ones is locked."""
        tree = self._below(job, children=children)
        if any(exposed and below.token is not None for below, exposed in tree.items()):
            raise Refused("JobLocked")
        parents = {below: self.parent_of(below) for below in tree}
        for below in tree:
            self.gone(below, "operator" if below is job else "parent")
        for below, parent in parents.items():
            if parent is not None and below.key in parent.dependencies and parent not in tree:
                self._lose(parent, below)

    def _below(self, job: ModelJob, *, children: bool) -> dict[ModelJob, bool]:
        """The job and all below it, and whether they hang on it by open dependencies only."""
        tree = {job: True}
        pending = [job] if children else []
        while pending:
            parent = pending.pop(0)
            for places, exposed in (
                ((parent.dependencies,), tree[parent]),
                ((parent.processed, parent.failures, parent.unsuccessful), False),
            ):
                for child in (child for place in places for child in place if child in self.jobs):
                    below = self.jobs[child]
                    if below not in tree:
                        tree[below] = exposed
                        pending.append(below)
        return tree

    def _lose(self, parent: ModelJob, child: ModelJob) -> None:
        """The parent loses a child that is removed, and runs if that was the last open one."""
        parent.dependencies.discard(child.key)
        if not parent.dependencies and parent.state == "waiting-children":
            self.out(parent)
            self.to_list(parent, "wait", tail=True)

    def clean(self, queue: ModelQueue, state: str, before: int, limit: int) -> list[str]:
        """Old jobs of a state, but none that is locked or keeps a living parent waiting."""
        ids = queue.lists[state][::-1] if state in queue.lists else queue.sorted(state)
        cleaned: list[str] = []
        for job_id in ids:
            job = self.jobs[f"{queue.key}:{job_id}"]
            if state in ("completed", "failed"):
                since: int | None = job.finished_on
            else:
                since = None if state == "prioritized" else job.processed_on
            since = job.timestamp if since is None else since
            if limit and len(cleaned) == limit:
                break
            if since <= before and job.token is None and not self.blocks(job):
                self.gone(job, "clean")
                cleaned.append(job_id)
        return cleaned

    def blocks(self, job: ModelJob) -> bool:
        """Whether the job keeps a living parent waiting."""
        parent = self.parent_of(job)
        return parent is not None and job.key in parent.dependencies

    def drain(self, queue: ModelQueue, *, delayed: bool) -> list[str]:
        """What waits for its turn; a parent of the queue goes with its last open child."""
        ids = queue.lists["wait"][::-1] + queue.sorted("prioritized")
        ids += queue.sorted("delayed") if delayed else []
        drained: list[str] = []
        for job_id in ids:
            self._drain(self.jobs[f"{queue.key}:{job_id}"], drained)
        return drained

    def _drain(self, job: ModelJob, drained: list[str]) -> None:
        parent = self.parent_of(job)
        self.gone(job, "drain")
        drained.append(job.id)
        if parent is None or job.key not in parent.dependencies:
            return
        parent.dependencies.remove(job.key)
        if not parent.dependencies and parent.state == "waiting-children":
            if parent.queue is job.queue:
                self._drain(parent, drained)
            else:
                self.out(parent)
                self.to_list(parent, "wait", tail=True)


def flatten(node: NewModelJob) -> Iterable[NewModelJob]:
    """A flow's nodes, level by level."""
    nodes = [node]
    for each in nodes:
        nodes += each.children
    return nodes
