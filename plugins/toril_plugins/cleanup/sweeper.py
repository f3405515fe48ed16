"""The sweeper: does what has fallen due, on idle queues too, and asks where nobody could ask.

One per queue, led by lease. Its scripts carry the lease's token and are idempotent, as a lease can
be lost during any pause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from toril.plugins import FinishedJob, Json, Outcome, ServiceContext
from toril_plugins.cleanup.deciding import Decider
from toril_plugins.retention.values import OUTCOMES

log = logging.getLogger("toril.cleanup")

RECENT_MS: Final = 10 * 60_000
"""How far behind its cursor adoption re-reads: foreign clocks write behind it."""
FULL_PASS_MS: Final = 24 * 3_600_000
PAGES_A_SWEEP: Final = 50

Asked = Sequence[tuple[str, Outcome, int]]
"""Jobs to decide about: id, outcome, when it finished (ms)."""


class _Adoption:
    """Where adoption of one outcome's finished set has got to."""

    def __init__(self) -> None:
        self.after = "-inf"
        self.skip = 0
        self.newest = 0.0
        self._recent_at = 0
        self._full_at = 0

    def begin(self, now: int) -> None:
        """Go back for the jobs that appeared behind the cursor."""
        if now - self._full_at >= FULL_PASS_MS:
            self.after, self.skip = "-inf", 0
            self._full_at = self._recent_at = now
        elif now - self._recent_at >= RECENT_MS:
            self.after, self.skip = f"{self.newest - RECENT_MS:.0f}", 0
            self._recent_at = now

    @property
    def seen(self) -> float:
        """Every job that finished until then was asked about (ms)."""
        return 0 if self.after == "-inf" else float(self.after)

    def move(self, page: dict[str, Any]) -> bool:
        """Note what a page said; returns whether another one follows."""
        last = page.get("last")
        if last is not None:
            self.after, self.skip = str(last), int(page["skip"])
            self.newest = max(self.newest, float(last))
        return page.get("next") is not None


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
        self._rules: dict[str, str] = {}

    async def run_once(self, context: ServiceContext) -> float:
        """Do everything that is due now, in slices, at most half of the time."""
        for outcome in OUTCOMES:
            await self._adopt(context, outcome)
        args: dict[str, Json] = {}
        if self._decider.ask is not None:
            args["upto"] = {outcome: self._adoption[outcome].seen for outcome in OUTCOMES}
        args["buckets"] = {}
        more = True
        while more:
            started = time.perf_counter()
            slice_ = cast("dict[str, Any]", await context.run_script("sweep", args))
            if slice_.get("lost"):
                break
            await self._decide(context, slice_.get("ask") or ())
            self._note_rules(slice_["rules"])
            args["buckets"] = slice_["buckets"]
            more = bool(slice_["more"])
            if more:
                await asyncio.sleep(time.perf_counter() - started)
        return self._period

    def _note_rules(self, rules: Mapping[str, str]) -> None:
        """Start adoption anew when a live rule has changed: it may count by another key."""
        for outcome in OUTCOMES:
            if self._rules.get(outcome, rules[outcome]) != rules[outcome]:
                self._adoption[outcome] = _Adoption()
        self._rules = dict(rules)

    async def _adopt(self, context: ServiceContext, outcome: Outcome) -> None:
        """Find jobs that other workers finished and for which something else was said."""
        adoption = self._adoption[outcome]
        adoption.begin(context.now_ms())
        for _ in range(PAGES_A_SWEEP):
            args: dict[str, Json] = {
                "outcome": outcome,
                "after": adoption.after,
                "skip": adoption.skip,
                "all": self._decider.ask is not None,
            }
            page = cast("dict[str, Any]", await context.run_script("adopt", args))
            if page.get("lost"):
                return
            await self._decide(context, page.get("ask") or ())
            if not adoption.move(page):
                return

    async def _decide(self, context: ServiceContext, asked: Asked) -> None:
        """Ask the plugins, as the finishing process would have, and store their answers."""
        if not asked:
            return
        snapshots = await context.jobs([job_id for job_id, _, _ in asked])
        decided: list[Json] = []
        for (job_id, outcome, finished_on), snapshot in zip(asked, snapshots, strict=True):
            if snapshot is None:
                continue
            job = FinishedJob(context.queue, job_id, snapshot.fields, outcome, "foreign")
            try:
                decision = self._decider.decide(job)
            except Exception:
                # Kept, and asked about again at a later sweep.
                log.exception("no decision about job %s of queue %s", job_id, context.queue)
                continue
            encoded = False if decision is None else decision.encode()
            decided.append([job_id, outcome, int(finished_on), encoded])
        if decided:
            await context.run_script("decide", {"jobs": decided})
