"""One trace, played on both sides, and the comparison after each step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import redis

from tests.differential.exceptions import apart_from_known
from tests.differential.sides import Refusal, Side
from tests.support.dump import difference, dump

QUEUES: Final = ("p", "q")
START: Final = 1_800_000_000_000
"""When every trace begins: milliseconds since the epoch."""


@dataclass(frozen=True)
class Known:
    """A job that the trace has met: its queue, its name, and its id on either side."""

    queue: str
    name: str
    ids: tuple[str, str]


class Different(AssertionError):
    """The sides have parted; the text says after which step, and in what."""


@dataclass
class Duel:
    """Both sides, and what the trace knows of its jobs."""

    sides: tuple[Side, Side]
    jobs: list[Known] = field(default_factory=list[Known])
    held: list[Known] = field(default_factory=list[Known])
    now: int = START
    serial: int = 0
    watched: set[str] = field(default_factory=set[str])
    obliterated: set[str] = field(default_factory=set[str])
    told: list[str] = field(default_factory=list[str])

    async def begin(self) -> None:
        """Empty both databases and set both clocks."""
        for side in self.sides:
            await side.reset()
            side.client.flushdb()
            await side.set_time(self.now)

    async def advance(self, ms: int) -> None:
        """Let time pass on both sides."""
        self.now += ms
        for side in self.sides:
            await side.set_time(self.now)

    async def both(
        self,
        method: str,
        /,
        *,
        new: Sequence[str] = (),
        silent: bool = False,
        any_order: bool = False,
        mend: Callable[[redis.Redis], None] | None = None,
        **params: Any,
    ) -> tuple[Any, Any]:
        """Call both; a `Known` among the parameters stands for its id on that side.

        Args:
            method: The method of both.
            new: The names of the jobs whose ids they answer, one or a list.
            silent: What they answer is a matter of taste; only refusals are compared.
            any_order: The order of the list that they answer is a matter of taste, too.
            mend: Makes Node's database what Toril's is, where a known difference would show.
            params: Its parameters.

        Raises:
            Different: The replies differ in more than the ids.
        """
        self.told.append(f"{method} {_shown(params)}")
        replies = [
            await side.call(method, {name: _own(value, at) for name, value in params.items()})
            for at, side in enumerate(self.sides)
        ]
        if new and not any(isinstance(reply, Refusal) for reply in replies):
            ids = ([one] if isinstance(one, str) else one for one in replies)
            for name, *both in zip(new, *ids, strict=True):
                self.add(params["queue"], name, (both[0], both[1]))
        self.meet(replies)
        node, toril = (
            self._named(reply, at, params.get("queue")) for at, reply in enumerate(replies)
        )
        if silent:
            node, toril = (one if isinstance(one, Refusal) else None for one in (node, toril))
        if any_order and isinstance(node, list) and isinstance(toril, list):
            node, toril = sorted(node), sorted(toril)
        if node != toril:
            raise Different(f"{self.story()}\n  node answers:  {node}\n  toril answers: {toril}")
        if mend is not None:
            mend(self.sides[0].client)
        self._compare()
        return replies[0], replies[1]

    def add(self, queue: str, name: str, ids: tuple[str, str]) -> None:
        """Take down a job; once, however often it is met."""
        known = Known(queue, name, ids)
        if all((one.queue, one.ids) != (queue, ids) for one in self.jobs):
            self.jobs.append(known)

    def meet(self, replies: Sequence[Any]) -> None:
        """Take down the jobs of replies that are jobs or flows."""
        node, toril = replies
        if isinstance(node, dict) and isinstance(toril, dict) and "id" in node and "id" in toril:
            if "queue" in node and "name" in node:
                self.add(node["queue"], node["name"], (node["id"], toril["id"]))
            pairs = zip(node.get("children", ()), toril.get("children", ()), strict=False)
            for below in pairs:
                self.meet(below)

    @property
    def node(self) -> redis.Redis:
        """Node's database."""
        return self.sides[0].client

    def obliterate(self, queue: str) -> None:
        """The queue is gone with all its jobs, and Node begins to count ids anew."""
        self.held = [job for job in self.held if job.queue != queue]
        self.obliterated.add(queue)

    def parents(self) -> set[tuple[str, str]]:
        """Queue and id of the jobs that wait for children, as Node has them."""
        return {
            (queue, id)
            for queue in QUEUES
            for id in cast("list[str]", self.node.zrange(f"bull:{queue}:waiting-children", 0, -1))
        }

    def child_elsewhere(self, queue: str) -> bool:
        """Whether a job of the queue has a parent in another one."""
        keys = (f"bull:{queue}:{job.ids[0]}" for job in self.jobs if job.queue == queue)
        parents = (cast("str | None", self.node.hget(key, "parentKey")) for key in keys)
        return any(key and not key.startswith(f"bull:{queue}:") for key in parents)

    def decided(self, queue: str) -> bool:
        """Whether a parent waits to be failed, and another job is due later."""
        waiting = cast("list[str]", self.node.lrange(f"bull:{queue}:wait", 0, -1))
        waiting += cast("list[str]", self.node.zrange(f"bull:{queue}:prioritized", 0, -1))
        defa = any(self.node.hexists(f"bull:{queue}:{id}", "defa") for id in waiting)
        return defa and bool(self.node.exists(f"bull:{queue}:delayed"))

    def children_keep(self, job: Known) -> bool:
        """Whether children of a job are open, or have failed."""
        key = f"bull:{job.queue}:{job.ids[0]}"
        return any(self.node.exists(f"{key}:{part}") for part in ("dependencies", "unsuccessful"))

    def children_in(self, queue: str, state: str) -> bool:
        """Whether a job of that state has a parent."""
        key = f"bull:{queue}:{state}"
        listed = state == "wait"
        ids = self.node.lrange(key, 0, -1) if listed else self.node.zrange(key, 0, -1)
        return any(
            self.node.hexists(f"bull:{queue}:{id}", "parentKey") for id in cast("list[str]", ids)
        )

    def prioritised(self, queue: str, state: str) -> bool:
        """Whether a job of that state, a sorted set, has a priority."""
        ids = cast("list[str]", self.node.zrange(f"bull:{queue}:{state}", 0, -1))
        return any(self.node.hget(f"bull:{queue}:{id}", "priority") != "0" for id in ids)

    def find(self, queue: str, id: str, at: int) -> Known | None:
        """The job with that id on side `at`."""
        for job in self.jobs:
            if job.queue == queue and job.ids[at] == id:
                return job
        return None

    def _named(self, reply: Any, at: int, queue: str | None) -> Any:
        """A reply with ids replaced by names, and sets of keys in one order."""
        if isinstance(reply, dict):
            members = cast("dict[str, Any]", reply)
            named = {
                self._text(name, at, queue): self._named(value, at, queue)
                for name, value in members.items()
            }
            if "unprocessed" in named:  # a set's members
                named["unprocessed"] = sorted(named["unprocessed"])
            return dict(sorted(named.items()))
        if isinstance(reply, list):
            return [self._named(one, at, queue) for one in reply]
        return self._text(reply, at, queue) if isinstance(reply, str) else reply

    def _text(self, text: str, at: int, queue: str | None) -> str:
        for job in self.jobs:
            if text == job.ids[at] and queue in {None, job.queue}:
                return "{" + job.name + "}"
            if re.fullmatch(rf"bull:{job.queue}:{re.escape(job.ids[at])}", text):
                return f"{job.queue}:{{{job.name}}}"
        return text

    def _compare(self) -> None:
        names = [{(job.queue, job.ids[at]): job.name for job in self.jobs} for at in (0, 1)]
        node, toril = (
            apart_from_known(dump(side.client, 0, exact=True, names=names[at]), self.watched)
            for at, side in enumerate(self.sides)
        )
        if node != toril:
            shown = difference(node, toril, ("node", "toril"))
            raise Different(f"{self.story()}\n{shown}")

    def story(self) -> str:
        """The steps so far, one per line."""
        return "\n".join(self.told)


def _own(value: Any, at: int) -> Any:
    if isinstance(value, Known):
        return value.ids[at]
    if isinstance(value, dict):
        return {name: _own(one, at) for name, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_own(one, at) for one in value]
    return value


def _shown(params: dict[str, Any]) -> str:
    told = {name: value for name, value in params.items() if value is not None}
    return ", ".join(
        f"{name}={value.name if isinstance(value, Known) else value!r}"
        for name, value in told.items()
    )


def refused(replies: tuple[Any, Any]) -> bool:
    """Whether both have refused."""
    return isinstance(replies[0], Refusal)
