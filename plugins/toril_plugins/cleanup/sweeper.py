"""The sweeper: does what has fallen due, on idle queues too, and asks where nobody could ask.

One per queue, led by lease. Its scripts carry the lease's token and are idempotent, as a lease can
be lost during any pause.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, cast

from toril.plugins import (
    FinishedJob,
    GiveWay,
    JobSnapshot,
    Json,
    Outcome,
    PluginError,
    ServiceContext,
)
from toril_plugins.cleanup.deciding import Decider
from toril_plugins.cleanup.holding import QueueHolds
from toril_plugins.cleanup.reviewing import Careful, Handed
from toril_plugins.cleanup.slices import DEFAULT_PACE, LeaseLost, LongestScript, Pace, Rests
from toril_plugins.cleanup.trees import Trees
from toril_plugins.retention.values import OUTCOMES

log = logging.getLogger("toril.cleanup")

RECENT_MS: Final = 10 * 60_000
"""How far behind its cursor adoption re-reads, and how often: foreign clocks write behind it."""
FULL_PASS_MS: Final = 24 * 3_600_000
PAGES_A_SWEEP: Final = 100
SHORTEST_PAUSE_MS: Final = 60_000
LONGEST_PAUSE_MS: Final = 3_600_000
DECISIONS_A_CALL: Final = 100
GIVE_WAY: Final = 20.0
"""Seconds for which a process without a required plugin leaves the queue to others. They look for
the lease every 15."""
BATCH: Final = 50
"""The most jobs that are handed over to those who review and copy."""

WOULD_GO: Final[Mapping[str, Sequence[str]]] = {
    "the queue's rule": ("aged", "excess"),
    "rules of their own": ("at", "nth"),
    "the ceiling": ("capped", "crowded"),
}
"""What figures of a queue count the jobs that would go. A job may be counted under two."""

Asked: TypeAlias = Sequence[tuple[str, Outcome, int, bool]]
"""Jobs to decide about: id, outcome, when it finished (ms), whether the live rule lets it go."""


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
        """The end of the set was reached. Somebody's clock may be ahead: new jobs come before.

        Those that were skipped may be gone when the next sweep comes, and must not take others'
        places: the last moment is read once more.
        """
        self.skip = 0
        if float(self.after) > now:
            self.after = str(now)


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
        careful: those who have a say before a job goes.
        period: seconds between two sweeps.
        say_missing: tells people which plugins a queue requires and this process lacks.
        report_only: nothing goes; what would is counted.
        pace: how large its slices are, and how long it rests.
    """

    def __init__(
        self,
        decider: Decider,
        careful: Careful,
        period: float,
        say_missing: Callable[[str, str], None],
        *,
        report_only: bool = False,
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        self._decider = decider
        self._careful = careful
        self._period = period
        self._say_missing = say_missing
        self._report_only = report_only
        self._largest = BATCH if careful else pace.slice
        self._rests = Rests(pace)
        self._most = self._largest
        self._missing = ""
        self._broken = False
        self._longest = LongestScript()
        self._reported: dict[str, int] | None = None
        self._holds = QueueHolds()
        self._adoption = {outcome: _Adoption() for outcome in OUTCOMES}
        self._decisions = {outcome: _Check() for outcome in OUTCOMES}
        self._buckets = {outcome: _Check() for outcome in OUTCOMES}
        self._rules: dict[Outcome, list[str]] = {}
        self._trees = Trees(careful, self._longest, report_only=report_only)

    async def run_once(self, context: ServiceContext) -> float:
        """Do everything that is due now, in slices, with rests between them.

        Returns 0 if jobs are left that nobody has looked at since they finished, or since a live
        rule changed. Raises `GiveWay` if the queue requires plugins that are missing here.
        """
        whole, self._broken = True, False
        try:
            for outcome in OUTCOMES:
                decisions, buckets = self._decisions[outcome], self._buckets[outcome]
                whole &= await self._check(context, "reconcile", outcome, decisions)
                whole &= await self._check(context, "buckets", outcome, buckets)
                whole &= await self._adopt(context, outcome)
            whole &= await self._sweep(context)
        except LeaseLost:
            return self._period
        if self._missing:
            context.count("toril_sweeps_without_required_plugins_total")
            raise GiveWay(
                GIVE_WAY,
                f"queue {context.queue!r} requires the plugin {self._missing}, which this process "
                "does not run: it removes no finished job of the queue",
            )
        return self._period if whole or self._broken else 0

    async def _slice(
        self, context: ServiceContext, script: str, args: Mapping[str, Json]
    ) -> dict[str, Any]:
        """Run one slice, and settle what it hands over. Raises `LeaseLost`."""
        manner: dict[str, Json] = {
            "careful": bool(self._careful),
            "report_only": self._report_only or self._broken,
            "most": self._most,
        }
        reply = await self._run(context, script, {**manner, **args})
        if reply.get("due"):
            await self._settle(context, reply["due"])
        return reply

    async def _run(
        self, context: ServiceContext, script: str, args: Mapping[str, Json]
    ) -> dict[str, Any]:
        """Run a script, and note how long that took. Raises `LeaseLost`."""
        with self._longest.timed(context):
            reply = cast("dict[str, Any]", await context.run_script(script, args))
        if reply.get("lost"):
            raise LeaseLost
        return reply

    async def _settle(self, context: ServiceContext, handed: Sequence[Handed]) -> None:
        """Let the plugins review and copy, then do what came out.

        After an error nothing more goes in this sweep. The next batch is half as large, until a
        job that breaks a plugin comes alone; it is put off for a while, so that it does not keep
        all others.
        """
        try:
            jobs = await self._careful.settle(context, handed)
        except PluginError as error:
            context.count("toril_retention_errors_total", plugin=error.plugin, hook=error.hook)
            if len(handed) > 1:
                self._most = max(1, len(handed) // 2)
            else:
                job_id, outcome, finished_on, rule, _, own = handed[0]
                now = context.now_ms()
                pause = min(max(now - finished_on, SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS)
                verdict: Json = {"until_ms": now + pause, "why": str(error)}
                put_off: list[Json] = [job_id, outcome, finished_on, rule, own, verdict]
                await self._run(context, "settle", {"jobs": [put_off]})
            self._broken = True
            return
        self._most = min(self._most * 2, self._largest)
        await self._run(context, "settle", {"jobs": jobs})

    async def _sweep(self, context: ServiceContext) -> bool:
        """Do what has fallen due. Returns whether that was by the rules known before."""
        places: Json = {}
        numbers: Mapping[Outcome, tuple[int, int]] = {}
        more = known = True
        lag = 0
        while more:
            started = time.perf_counter()
            args: dict[str, Json] = {
                "places": places,
                "all": self._decider.ask is not None,
                "only_reports": self._report_only,
            }
            reply = await self._slice(context, "sweep", args)
            await self._decide(context, reply["ask"])
            known &= self._note_rules(reply["rules"])
            self._missing = reply.get("missing") or ""
            self._say_missing(context.queue, self._missing)
            lag = max(lag, reply["lag"])
            self._rests.note(sum(finished for finished, _ in reply["kept"].values()))
            await self._trees.take(context, reply["flows"])
            run = partial(self._run, context)
            known &= await self._holds.follow(context, reply["holds"], run)
            places, more, numbers = reply["places"], reply["more"], reply["kept"]
            if more:
                await self._rests.after(started)
        context.gauge("toril_sweep_lag_seconds", lag / 1000)
        for outcome, (kept, held) in numbers.items():
            context.gauge("toril_kept", kept, outcome=outcome)
            context.gauge("toril_held", held, outcome=outcome)
        if self._report_only:
            await self._report(context)
        return known

    async def _report(self, context: ServiceContext) -> None:
        """Count and log what would go now if it were not for `report_only`."""
        figures = cast("dict[str, Any]", await context.run_script("figures", {"slack": 0}))
        due: dict[str, int] = {}
        for outcome in OUTCOMES:
            for what, fields in WOULD_GO.items():
                count = sum(figures[outcome].get(field) or 0 for field in fields)
                context.gauge("toril_would_remove", count, outcome=outcome, by=what)
                if count:
                    due[f"{outcome} by {what}"] = count
        if due != self._reported:
            told = ", ".join(f"{count} {what}" for what, count in due.items()) or "nothing"
            log.info("queue %s, report_only: would remove now: %s", context.queue, told)
        self._reported = due

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
            await self._rests.after(started)
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
            await self._rests.after(started)
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
                    plan = _broken(error)
                jobs.append([job_id, outcome, finished_on, plan, beyond])
            if failures:
                for plugin, count in Counter(map(_broken, failures)).items():
                    name = "toril_retention_errors_total"
                    context.count(name, count, plugin=plugin, hook="toril_plan_retention")
                log.error(
                    "no decision about %d jobs of queue %s; the first error:",
                    len(failures), context.queue, exc_info=failures[0],
                )  # fmt: skip
            await self._slice(context, "decide", {"jobs": jobs})

    def _plan(self, snapshot: JobSnapshot | None, outcome: Outcome) -> Json:
        """The decision as the scripts read it; False: the live rule. Raises what plugins raise."""
        if snapshot is None:  # nobody can say anything about an id without a job
            return False
        job = FinishedJob(snapshot.queue, snapshot.id, snapshot.fields, outcome, "foreign")
        decision = self._decider.decide(job)
        return False if decision is None else decision.encode()


def _broken(error: Exception) -> str:
    """The plugin that could not decide; `cleanup` itself where what was said cannot be read."""
    return error.plugin if isinstance(error, PluginError) else "cleanup"
