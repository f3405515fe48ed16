"""Reading how far flows have got, for those who review removals."""

from __future__ import annotations

from typing import Any, Final, cast

from toril.plugins import FinishedJob, JobRef, Json, ServiceContext
from toril_plugins.retention.reviewing import FlowState

MOST: Final = 5_000
"""Jobs of one flow that are looked at."""
AT_ONCE: Final = 50


class FlowReader:
    """Reads flows, each of them once. One per batch, as flows go on."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._root: dict[str, str] = {}
        self._read: dict[str, FlowState] = {}

    async def __call__(self, job: FinishedJob) -> FlowState:
        """The flow that a job belongs to."""
        near = job.id if job.parent is None else f"{job.parent.queue_key}:{job.parent.id}"
        root = self._root.get(near)
        if root is None:
            found = await self._context.run_script("flow", {"climb": job.id})
            root = self._root[near] = cast("list[str]", found)[0]
        if root not in self._read:
            self._read[root] = await self._look(root)
        return self._read[root]

    async def _look(self, root: str) -> FlowState:
        """The state of the flow below a root, read level by level."""
        failed: list[str] = []
        settled = whole = True
        seen: dict[str, None] = {root: None}
        left = [root]
        while left:
            now, left = left[:AT_ONCE], left[AT_ONCE:]
            keys = cast("list[Json]", now)
            nodes = cast("list[Any]", await self._context.run_script("flow", {"keys": keys}))
            for key, (exists, outcome, waits, complete, children) in zip(now, nodes, strict=True):
                settled &= not exists or bool(outcome)
                whole &= complete
                settled &= complete or not waits
                if outcome == "failed":
                    failed.append(_named(key))
                new = [child for child in children if child not in seen]
                whole &= len(seen) + len(new) <= MOST
                new = new[: MOST - len(seen)]
                seen.update(dict.fromkeys(new))
                left += new
        queue_key, _, job_id = root.rpartition(":")
        return FlowState(
            JobRef(queue_key.rpartition(":")[2], job_id), settled, tuple(failed), whole
        )


def _named(key: str) -> str:
    queue_key, _, job_id = key.rpartition(":")
    return f"{queue_key.rpartition(':')[2]}/{job_id}"
