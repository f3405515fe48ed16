"""The sweeper: does what has fallen due, on idle queues too, and asks where nobody could ask.

One per queue, led by lease. Its scripts carry the lease's token and are idempotent, as a lease can
be lost during any pause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from toril.plugins import FinishedJob, JobSnapshot, Json, Outcome, ServiceContext
from toril_plugins.cleanup.deciding import Decider
from toril_plugins.retention.values import OUTCOMES

log = logging.getLogger("toril.cleanup")

RECENT_MS: Final = 10 * 60_000
"""How far behind its cursor adoption re-reads, and how often: foreign clocks write behind it."""
FULL_PASS_MS: Final = 24 * 3_600_000
PAGES_A_SWEEP: Final = 50
DECISIONS_A_CALL: Final = 100

Asked: TypeAlias = Sequence[tuple[str, Outcome, int, bool]]
"""Jobs to decide about: id, outcome, when it finished (ms), whether the live rule lets it go."""


class LeaseLost(Exception):
    """Another process sweeps this queue now."""


class _Adoption:
    """Where adoption of one outcome's finished set has got to."""

    def __init__(self) -> None:
        self.after = "-inf"
        self.skip = 0
        self._recent_at = 0
        self._full_at = 0

    def begin(self, now: int) -> None:
        """Go back for the jobs that appeared behind the cursor."""
        if now - self._full_at >= FULL_PASS_MS:
            self.after, self.skip = "-inf", 0
            self._full_at = self._recent_at = now
        elif now - self._recent_at >= RECENT_MS:
            self.after, self.skip = f"{float(self.after) - RECENT_MS}", 0
            self._recent_at = now

    def end(self, now: int) -> None:
        """The end of the set was reached. Somebody's clock may be ahead: new jobs come before."""
        if float(self.after) > now:
            self.after, self.skip = str(now), 0


class _Check:
    """Where a check of what cleanup has written down against the finished set has got to."""

    def __init__(self) -> None:
        self.cursor = "0"
        self._next_at = 0

    def begin(self, now: int) -> bool:
        """Whether there is anything to do: it is under way, or time for the next one."""
        if self.cursor == "0":
            if now < self._next_at:
                return False
            self._next_at = now + RECENT_MS
        return True


class Sweeper:
    """Sweeps one queue. `run_once` is one sweep; it returns the seconds until the next.

    Args:
        decider: decides about jobs that nobody has asked about yet.
        period: seconds between two sweeps.
    """

    def __init__(self, decider: Decider, period: float) -> None:
        self._decider = decider
        self._period = period
        self._adoption = {outcome: _Adoption() for outcome in OUTCOMES}
        self._decisions = {outcome: _Check() for outcome in OUTCOMES}
        self._buckets = {outcome: _Check() for outcome in OUTCOMES}
        self._rules: dict[Outcome, list[str]] = {}

    async def run_once(self, context: ServiceContext) -> float:
        """Do everything that is due now, in slices, at most half of the time.

        Returns 0 if jobs are left that nobody has looked at since they finished, or since a live
        rule changed.
        """
        whole = True
        try:
            for outcome in OUTCOMES:
                decisions, buckets = self._decisions[outcome], self._buckets[outcome]
                whole &= await self._check(context, "reconcile", outcome, decisions)
                whole &= await self._check(context, "buckets", outcome, buckets)
                whole &= await self._adopt(context, outcome)
            whole &= await self._sweep(context)
        except LeaseLost:
            return self._period
        return self._period if whole else 0

    async def _slice(
        self, context: ServiceContext, script: str, args: Mapping[str, Json]
    ) -> dict[str, Any]:
        """Run one slice. Raises `LeaseLost`."""
        reply = cast("dict[str, Any]", await context.run_script(script, args))
        if reply.get("lost"):
            raise LeaseLost
        return reply

    async def _sweep(self, context: ServiceContext) -> bool:
        """Do what has fallen due. Returns whether that was by the rules known before."""
        places: Json = {}
        more = known = True
        while more:
            started = time.perf_counter()
            args: dict[str, Json] = {"places": places, "all": self._decider.ask is not None}
            reply = await self._slice(context, "sweep", args)
            await self._decide(context, reply["ask"])
            known &= self._note_rules(reply["rules"])
            places, more = reply["places"], reply["more"]
            if more:
                await _rest(started)
        return known

    def _note_rules(self, rules: Mapping[Outcome, list[str]]) -> bool:
        """Note the live rules; False if one has changed, so that jobs must be counted anew."""
        changed: list[Outcome] = [
            outcome
            for outcome in OUTCOMES
            if self._rules.get(outcome, rules[outcome]) != rules[outcome]
        ]
        for outcome in changed:
            self._buckets[outcome] = _Check()
            if self._rules[outcome][1] != rules[outcome][1]:  # by another key
                self._adoption[outcome] = _Adoption()
        self._rules = dict(rules)
        return not changed

    async def _check(
        self, context: ServiceContext, script: str, outcome: Outcome, check: _Check
    ) -> bool:
        """Forget jobs that somebody retried or removed without telling, some pages of them."""
        if not check.begin(context.now_ms()):
            return True
        for _ in range(PAGES_A_SWEEP):
            started = time.perf_counter()
            args: dict[str, Json] = {"outcome": outcome, "cursor": check.cursor}
            check.cursor = (await self._slice(context, script, args))["cursor"]
            if check.cursor == "0":
                return True
            await _rest(started)
        return False

    async def _adopt(self, context: ServiceContext, outcome: Outcome) -> bool:
        """Find jobs that other workers finished and for which something else was said."""
        place = self._adoption[outcome]
        place.begin(context.now_ms())
        for _ in range(PAGES_A_SWEEP):
            started = time.perf_counter()
            args: dict[str, Json] = {
                "outcome": outcome,
                "after": place.after,
                "skip": place.skip,
                "all": self._decider.ask is not None,
            }
            page = await self._slice(context, "adopt", args)
            ask: Asked = [
                (job_id, outcome, finished_on, False) for job_id, finished_on in page["ask"]
            ]
            await self._decide(context, ask)
            place.after, place.skip = page["after"], page["skip"]
            if not page["more"]:
                place.end(context.now_ms())
                return True
            await _rest(started)
        return False

    async def _decide(self, context: ServiceContext, asked: Asked) -> None:
        """Ask the plugins, as the finishing process would have, and store their answers."""
        for start in range(0, len(asked), DECISIONS_A_CALL):
            part = asked[start : start + DECISIONS_A_CALL]
            snapshots = await context.jobs([each[0] for each in part])
            jobs: list[Json] = []
            failures: list[Exception] = []
            for (job_id, outcome, finished_on, beyond), snapshot in zip(
                part, snapshots, strict=True
            ):
                try:
                    plan = self._plan(snapshot, outcome)
                except Exception as error:  # noqa: BLE001 - kept, and asked about again later
                    failures.append(error)
                    plan = "undecided"
                jobs.append([job_id, outcome, finished_on, plan, beyond])
            if failures:
                log.error(
                    "no decision about %d jobs of queue %s; the first error:",
                    len(failures), context.queue, exc_info=failures[0],
                )  # fmt: skip
            if await context.run_script("decide", {"jobs": jobs}) is False:
                raise LeaseLost

    def _plan(self, snapshot: JobSnapshot | None, outcome: Outcome) -> Json:
        """The decision as the scripts read it; False: the live rule. Raises what plugins raise."""
        if snapshot is None:  # nobody can say anything about an id without a job
            return False
        job = FinishedJob(snapshot.queue, snapshot.id, snapshot.fields, outcome, "foreign")
        decision = self._decider.decide(job)
        return False if decision is None else decision.encode()


async def _rest(started: float) -> None:
    """Leave the server alone for as long as it was kept busy."""
    await asyncio.sleep(time.perf_counter() - started)
