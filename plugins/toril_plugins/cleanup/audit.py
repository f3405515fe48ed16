"""What an audit looks for in retention: that what was said is what happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, cast

from toril.plugins import (
    Audit,
    Finding,
    Json,
    Outcome,
    PluginContext,
    Repair,
    Severity,
    as_datetime,
)
from toril_plugins.cleanup.carrier import UNSWEPT_MS, is_reporting, is_swept
from toril_plugins.cleanup.slices import rest
from toril_plugins.retention.carrying_out import REPORTING
from toril_plugins.retention.values import OUTCOMES, Ceiling, IdWindow, Retention

GRACE_MS: Final = 60_000
"""So much later than said, and two sweeps more, a job may go before it counts as overdue."""
INDEXES: Final = ("own", "at", "nth", "due", "rule")
KNOWN: Final = frozenset({*INDEXES, "bucket", "buckets", "over", "tomb", "taken", "journal"})
"""What follows `Q:toril:cleanup:` in the plugin's keys."""
ENDING: Final = ("tomb:", "taken:")
SOME: Final = 500
"""Names in one call."""
MOST_WRONG: Final = 10_000
"""Jobs of which one index says what is true no more: the sweeper sees to all of them."""

Wrong: TypeAlias = Mapping[str, int | None]
"""Jobs of which an index says what is true no more; those that went early, and when they were due
(ms)."""


@dataclass(frozen=True, slots=True)
class QueueAudit:
    """An audit of the retention of one queue.

    Args:
        context: the plugin's.
        audit: what is audited.
        period: milliseconds between two sweeps.
    """

    context: PluginContext
    audit: Audit
    period: int

    async def run(self) -> Sequence[Finding]:
        """Everything that is not as it was said. Raises `ServerError`."""
        figures = await self._run("figures", slack=GRACE_MS + 2 * self.period)
        found = list(self._of_figures(figures))
        for outcome in OUTCOMES:
            for index in self._indexes(outcome):
                found += self._of_index(outcome, index, await self._wrong(outcome, index))
        found += await self._disagreements()
        return [*found, *await self._endless(), *self._leftovers()]

    async def _run(self, script: str, **args: Json) -> Any:
        started = time.perf_counter()
        reply = await self.context.run_script(self.audit.queue, script, dict(args))
        await rest(started)
        return reply

    async def _sweep(self) -> bool:
        return await self.context.run_services(self.audit.queue)

    def _own_keys(self) -> Sequence[str]:
        return self.audit.keys.get(self.context.name, ())

    # Late, or not at all.

    def _of_figures(self, figures: Mapping[str, Any]) -> Iterator[Finding]:
        swept = is_swept(figures, self.audit.now)
        lately = self.audit.now - (figures.get("reported") or 0) <= UNSWEPT_MS
        reporting = is_reporting(figures) and (swept or lately)
        for outcome in OUTCOMES:
            found = figures[outcome]
            if figures.get("missing"):
                if found.get("rule") or found["own"]:
                    lacks = f"the queue requires {figures['missing']}, which this process lacks"
                    yield self._about(outcome, "requires", f"{lacks}: it removes nothing", "note")
                continue
            if reporting:
                yield from self._reporting(outcome, found)
                continue
            if not swept:
                yield from self._unswept(outcome, found)
            for why, count in self._late(found, swept=swept):
                what = f"{count} jobs are overdue {why}"
                yield self._about(outcome, "overdue", what, count=count, sweep=True)

    def _unswept(self, outcome: Outcome, found: Mapping[str, Any]) -> Iterator[Finding]:
        said_long_ago = self.audit.now - (found.get("since") or 0) > UNSWEPT_MS
        if found["own"] or (found.get("rule") and said_long_ago):
            rule = found.get("rule") or "what is decided about single jobs"
            what = f"nobody carries out {rule}: run a worker of Toril, or `toril sweep`"
            yield self._about(outcome, "unswept", what, sweep=True)

    def _reporting(self, outcome: Outcome, found: Mapping[str, Any]) -> Iterator[Finding]:
        """Nothing goes, and that is what somebody wants."""
        late = self._late(found, swept=False)
        told = "".join(f"; {count} jobs are overdue {why}" for why, count in late)
        if told or found.get("rule") or found["own"]:
            yield self._about(outcome, "report-only", REPORTING + told, "note")

    @staticmethod
    def _late(found: Mapping[str, Any], *, swept: bool) -> Iterator[tuple[str, int]]:
        late = {
            f"by age, under the rule {found.get('rule')}": found["aged"],
            f"by age, under the ceiling of the {found.get('ceiling')}": found.get("capped", 0),
            "by a time of their own": found["at"],
            "to be asked about": found["parked"],
        }
        if not swept:  # a number is seen to with the next sweep
            late["by their number"] = found["excess"] + found["nth"] + found.get("crowded", 0)
            late["in groups of which too many are kept"] = found["over"]
        yield from ((why, count) for why, count in late.items() if count)

    def _about(
        self,
        outcome: Outcome,
        kind: str,
        what: str,
        severity: Severity = "problem",
        *,
        count: int = 1,
        sweep: bool = False,
    ) -> Finding:
        repair = Repair("sweep the queue", self._sweep) if sweep else None
        key = f"{self.audit.key}:{outcome}"
        return Finding(kind, self.audit.queue, key, what, severity, count, repair)

    async def _disagreements(self) -> Sequence[Finding]:
        """Two processes declare different things: the one that started last counts."""
        return [
            Finding(
                "disagreement",
                self.audit.queue,
                f"{self.audit.key}:meta",
                f"{said.source} says {said.value}; {said.replaced.source} said "
                f"{said.replaced.value}, which counts no more",
                "note",
            )
            for kind in (Retention, Ceiling, IdWindow)
            for said in await self.context.live(self.audit.queue, kind)
            if said.replaced is not None
        ]

    # What is written down, and is true no more.

    def _indexes(self, outcome: Outcome) -> Sequence[str]:
        begin = f"bucket:{outcome}:"
        buckets = [name for name in self._own_keys() if name.startswith(begin)]
        return [*INDEXES, *(f"bucket:{name.removeprefix(begin)}" for name in buckets)]

    async def _wrong(self, outcome: Outcome, index: str) -> Wrong:
        wrong: dict[str, int | None] = {}
        looked, cursor = 0, "0"
        while looked < self.audit.most and len(wrong) < MOST_WRONG:
            page = await self._run("drift", outcome=outcome, index=index, cursor=cursor)
            wrong |= {job_id: due[0] if due else None for job_id, *due in page["wrong"]}
            looked, cursor = looked + page["looked"], page["cursor"]
            if cursor == "0":
                break
        return wrong

    def _of_index(self, outcome: Outcome, index: str, wrong: Wrong) -> Iterator[Finding]:
        queue = self.audit.queue
        for job_id, at in wrong.items():
            if at is not None:
                until = f"{as_datetime(at):%Y-%m-%d %H:%M} UTC"
                what = f"was to be kept until {until}; somebody other than Toril removed it"
                repair = self._forgetting(outcome, index, [job_id])
                yield Finding("early", queue, f"{self.audit.key}:{job_id}", what, repair=repair)
        ids = [job_id for job_id, at in wrong.items() if at is None]
        if ids:
            what = (
                f"{len(ids)} jobs are noted that were retried, removed or finished again, "
                f"{', '.join(ids[:3])} among them; the sweeper forgets them, too"
            )
            key = f"{self.audit.key}:toril:{self.context.name}:{index}:{outcome}"
            repair = self._forgetting(outcome, index, ids)
            yield Finding("drift", queue, key, what, "note", len(ids), repair)

    def _forgetting(self, outcome: Outcome, index: str, ids: Sequence[str]) -> Repair:
        async def forget() -> bool:
            count = 0
            for some in _chunks(ids):
                count += cast(
                    "int",
                    await self._run("drift", outcome=outcome, index=index, forget=list(some)),
                )
            return count > 0

        return Repair("forget what is noted about it", forget)

    # Keys.

    async def _endless(self) -> Sequence[Finding]:
        """Tombstones and taken ids are to end by themselves."""
        endless: list[str] = []
        for some in _chunks([name for name in self._own_keys() if name.startswith(ENDING)]):
            endless += cast("list[str]", await self._run("drift", endless=list(some)) or [])
        return [
            Finding(
                "endless",
                self.audit.queue,
                f"{self.audit.key}:toril:{self.context.name}:{name}",
                "outlives every window, as it has no end",
                repair=Repair("remove it", partial(self._drop, name)),
            )
            for name in endless
        ]

    async def _drop(self, name: str) -> bool:
        return bool(await self._run("drift", endless=[name], drop=True))

    def _leftovers(self) -> Iterator[Finding]:
        for name in self._own_keys():
            if name.partition(":")[0] not in KNOWN:
                key = f"{self.audit.key}:toril:{self.context.name}:{name}"
                yield Finding("leftover", self.audit.queue, key, "belongs to nothing", "note")


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), SOME):
        yield names[start : start + SOME]
