"""Flows that are kept whole: the jobs of a tree go together, leaves first, over queues.

A job that was decided to be kept with its flow waits as long as its parent is there. A job without
one is the top of a flow: when its age has come, the tree below it is looked at, level by level, and
if all of it has ended it goes in slices, the deepest first. Nothing is noted in between: after a
crash the top is still there, and what is left of its tree is looked at again. A job whose parent
was removed in some other way is a top itself, with its own age.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from toril.plugins import Json, Outcome, PluginError, ServiceContext
from toril_plugins.cleanup.reviewing import Careful, Handed
from toril_plugins.cleanup.slices import LeaseLost, LongestScript, rest

LOOKS: Final = 100
REMOVALS: Final = 50


Run: TypeAlias = Callable[[str, str, Mapping[str, Json]], Awaitable[dict[str, Any]]]
"""Runs a script, the second, with these arguments on a queue, the first."""


class Waits(Exception):
    """The flow cannot go now; the message says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """A job that goes with its flow."""

    queue: str
    id: str
    outcome: Outcome
    finished_on: int


@dataclass(frozen=True, slots=True)
class _Question:
    """A job to look at. `parent` is the key of the job that named it; None for the top."""

    queue: str
    id: str
    parent: str | None
    place: int = 1
    cursor: str = "0"


class _InQueue(Protocol):
    @property
    def queue(self) -> str: ...


J = TypeVar("J", bound=_InQueue)


def _by_queue(jobs: Iterable[J]) -> Iterable[tuple[str, list[J]]]:
    queues: dict[str, list[J]] = {}
    for job in jobs:
        queues.setdefault(job.queue, []).append(job)
    return queues.items()


class _Tree:
    """What has been seen of a flow: the level that is looked at, and the one below it."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.below: list[_Question] = []
        self._seen: set[str] = set()

    def note(self, asked: list[_Question], reply: Mapping[str, Any]) -> list[_Question]:
        """Note what was told about jobs of one queue; returns about which to ask on.

        Raises:
            Waits: one of them has to stay.
        """
        queue_key: str = reply["queue"]
        prefix = queue_key.removesuffix(asked[0].queue)
        more: list[_Question] = []
        for job, told in zip(asked, reply["jobs"], strict=False):
            if job.parent is not None and told["parent"] != job.parent:
                continue  # it has another parent by now
            status = told["status"]
            if status in ("open", "held"):
                raise Waits(f"job {job.id} of queue {job.queue}: {status}")
            if status == "whole" and (job.place, job.cursor) == (1, "0"):
                self.members.append(Member(job.queue, job.id, told["outcome"], told["finished_on"]))
            self._note_children(f"{queue_key}:{job.id}", told["children"], prefix)
            if told.get("place"):
                more.append(_Question(job.queue, job.id, job.parent, told["place"], told["cursor"]))
        return more + asked[len(reply["jobs"]) :]

    def _note_children(self, parent: str, keys: Iterable[str], prefix: str) -> None:
        for key in keys:
            queue_key, _, child = key.rpartition(":")
            # Another prefix is another application's: nothing of it goes by a rule of ours.
            if key not in self._seen and queue_key.startswith(prefix):
                self._seen.add(key)
                self.below.append(_Question(queue_key.removeprefix(prefix), child, parent))


async def look(run: Run, queue: str, top: str) -> list[list[Member]]:
    """The members of a flow, level by level from the top. Raises `Waits`."""
    tree = _Tree()
    level = [_Question(queue, top, None)]
    levels: list[list[Member]] = []
    while level:
        tree.members, tree.below = [], []
        for of, questions in _by_queue(level):
            left = questions
            while left:
                started = time.perf_counter()
                asked: list[Json] = [[q.id, q.place, q.cursor] for q in left[:LOOKS]]
                reply = await run(of, "tree_look", {"jobs": asked})
                left = tree.note(left, reply)
                await rest(started)
        levels.append(tree.members)
        level = tree.below
    return levels


class Trees:
    """Lets flows go whose age has come.

    Args:
        careful: those who have a say before a job goes. One that stays keeps the whole flow.
        longest: where the time is noted that scripts take.
        report_only: nothing goes.
    """

    def __init__(self, careful: Careful, longest: LongestScript, *, report_only: bool) -> None:
        self._careful = careful
        self._longest = longest
        self._report_only = report_only

    async def take(self, context: ServiceContext, tops: Iterable[tuple[str, Outcome]]) -> None:
        """Let the flows with these tops go, or put them off. Raises `LeaseLost`."""
        for top, outcome in tops:
            try:
                blocked: list[Member] = []
                for level in reversed(await look(partial(self._run, context), context.queue, top)):
                    for queue, members in _by_queue(level):
                        blocked += await self._remove(context, queue, members)
                # They stood in the way of parents that had ended without them.
                for queue, members in _by_queue(blocked):
                    await self._remove(context, queue, members)
            except Waits as wait:
                put_off: list[Json] = [top, outcome, str(wait)]
                await self._run(
                    context, context.queue, "tree_remove", {"jobs": [], "put_off": put_off}
                )

    async def _run(
        self, context: ServiceContext, queue: str, script: str, args: Mapping[str, Json]
    ) -> dict[str, Any]:
        """Run a script on a queue.

        Only the queue of the top is led by this process; elsewhere what the scripts check is
        enough. Raises `LeaseLost`.
        """
        told = {"report_only": self._report_only, **args}
        with self._longest.timed(context):
            if queue == context.queue:
                reply = cast("dict[str, Any]", await context.run_script(script, told))
            else:
                reply = cast("dict[str, Any]", await context.plugin.run_script(queue, script, told))
        if reply.get("lost"):
            raise LeaseLost
        return reply

    async def _remove(
        self, context: ServiceContext, queue: str, members: list[Member]
    ) -> list[Member]:
        """Remove members of one level; returns those that still stand in their parents' way.

        Raises:
            Waits: one of them has to stay.
        """
        blocked: set[str] = set()
        left = members
        while left:
            started = time.perf_counter()
            later: set[str] = set()
            for job_id, why in await self._remove_slice(context, queue, left[:REMOVALS]):
                if why == "blocked":
                    blocked.add(job_id)
                elif why == "budget":
                    later.add(job_id)
                else:
                    raise Waits(f"job {job_id} of queue {queue}: {why}")
            left = [member for member in left if member.id in later] + left[REMOVALS:]
            await rest(started)
        return [member for member in members if member.id in blocked]

    async def _remove_slice(
        self, context: ServiceContext, queue: str, members: Sequence[Member]
    ) -> Sequence[tuple[str, str]]:
        """Returns which are still there, and why."""
        jobs: list[Json] = [[m.id, m.outcome, m.finished_on] for m in members]
        careful = bool(self._careful)
        reply = await self._run(context, queue, "tree_remove", {"jobs": jobs, "careful": careful})
        if reply["due"]:
            await self._ask(context, queue, reply["due"])
            reply = await self._run(context, queue, "tree_remove", {"jobs": jobs, "careful": False})
        return cast("Sequence[tuple[str, str]]", reply["staying"])

    async def _ask(self, context: ServiceContext, queue: str, handed: Sequence[Handed]) -> None:
        """Let the plugins review and copy jobs; rewrite those that are to be. Raises `Waits`."""
        try:
            verdicts = await self._careful.settle(replace(context, queue=queue), handed)
        except PluginError as error:
            context.count("toril_retention_errors_total", plugin=error.plugin, hook=error.hook)
            raise Waits(str(error)) from error
        told = cast("list[list[Any]]", verdicts)
        rewritten: list[Json] = [each for each in told if "decision" in each[-1]]
        if rewritten:
            await self._run(context, queue, "settle", {"jobs": rewritten})
        for job_id, *_, verdict in told:
            if verdict != {"go": True}:
                why = verdict.get("why", "a plugin has rewritten it")
                raise Waits(f"job {job_id} of queue {queue}: {why}")
