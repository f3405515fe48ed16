"""Whether a server has what a model has."""

from __future__ import annotations

from tests.model.model import Model
from tests.model.places import PICTURED, ModelQueue
from tests.support.invariants import Stored, StoredQueue


def equal(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}: the server has {found!r}, the model {expected!r}"


def same(model: Model, queue: ModelQueue, stored: Stored) -> None:
    """Everything that the model knows of a queue is stored so."""
    found = stored.queues.get(queue.key) or StoredQueue(queue.key)
    for name, ids in queue.lists.items():
        equal(f"{queue.key}:{name}", found.ids(name), ids)
    for name, members in queue.sets.items():
        scores = {job_id: int(score) for job_id, score in found.keys.get(name, {}).items()}
        equal(f"{queue.key}:{name}", scores, members)
    equal(f"{queue.key}:stalled", set(found.keys.get("stalled", ())), queue.suspects)
    equal(f"{queue.key}:pc", int(found.keys.get("pc", 0)), queue.sequence)
    equal(f"{queue.key} is paused", "paused" in found.keys.get("meta", {}), queue.paused)
    if queue.ready and not queue.blocked:
        assert "0" in found.keys.get("marker", {}), f"{queue.key}: nobody is woken"
    jobs = {job.id: job for job in model.jobs.values() if job.queue is queue}
    equal(f"jobs of {queue.key}", found.jobs.keys(), jobs.keys())
    for job_id, job in jobs.items():
        fields = {name: text for name, text in found.jobs[job_id].items() if name in PICTURED}
        equal(job.key, fields, job.picture())
        parts = {
            "lock": job.token,
            "logs": ["a line"] * job.lines,
            "dependencies": job.dependencies,
            "processed": job.processed,
            "failed": job.failures,
            "unsuccessful": {key: float(score) for key, score in job.unsuccessful.items()},
        }
        parts = {name: part for name, part in parts.items() if part}
        equal(f"further keys of {job.key}", found.parts.get(job_id, {}), parts)
