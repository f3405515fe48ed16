"""What becomes of a finished job, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from toril.plugins import Fact, JobRef, PluginContext, as_datetime, duration_text
from toril_plugins.retention.keep import Keep

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
TIERS: Final = {
    "logs": "its log lines and stack traces",
    "data": "its data, its result and what its children returned",
}
_WHY: Final = {
    "blocked": "its parent waited for it",
    "locked": "a worker held a lock on it",
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What `explain.lua` told of a job that has finished.

    `unasked`: something was said for it alone, and nobody has looked at that yet.
    """

    told: Mapping[str, Any]
    now: int
    unasked: bool = False

    @property
    def level(self) -> str | None:
        """Who says the rule that it goes by: a level, `plugin acme`; None: nothing is decided."""
        return None if self.unasked else str(self.told.get("rule") or "").partition(": ")[0] or None

    @property
    def rule(self) -> str | None:
        """That rule in words; None: nothing is decided."""
        if self.unasked or self.told.get("out_of_reach"):
            return None
        if "rule" not in self.told:
            return "kept, as nothing is said about it"
        return str(self.told["rule"]).partition(": ")[2] or None

    def removal(self) -> Iterator[Fact]:
        """When it goes, and what stands in the way."""
        told = self.told
        again = told.get("again")
        come = f"; it comes again {when(int(again), self.now)}" if again else ""
        if told.get("out_of_reach"):
            text = "not while it is held; when it is released, it is asked anew"
            yield Fact("removal", text)
        elif self.unasked:
            text = "undecided: nobody was asked when it finished; the sweeper decides"
            yield Fact("removal", text)
        elif told.get("rule") == "":
            could_not = f", as plugin {told['asked']} could not answer" if told.get("asked") else ""
            at = int(again or self.now)
            yield Fact(
                "removal", f"undecided{could_not}: the sweeper asks again {when(at, self.now)}", at
            )
        elif told.get("parent"):
            yield Fact(
                "removal", f"not while its parent {named(told['parent'])} waits for it{come}"
            )
        else:
            if told.get("why"):
                why = _WHY.get(told["why"], told["why"])
                yield Fact("removal", f"put off: {why}{come}", again)
            if told.get("note"):
                yield Fact("note", str(told["note"]))
            if not told.get("flow"):
                yield from self._end()

    def _end(self) -> Iterator[Fact]:
        found = list(self.goes())
        if self.told.get("first"):
            text = "not by number: it is one of the first that are counted together"
            found.append(Fact("removal", text))
        yield from found or [Fact("removal", "never")]

    def goes(self) -> Iterator[Fact]:
        """By time and by number; at the first of both."""
        told = self.told
        by = f", by a process that runs {told['missing']}" if told.get("missing") else ""
        at, left, again = (told.get(name) for name in ("at", "left", "again"))
        if at is not None:
            at = max(int(at), int(again or 0))
            yield Fact("removal", when(at, self.now) + by, at)
        if left is not None and left <= 0:
            yield Fact("removal", when(int(again or 0), self.now) + by, again)
        elif left is not None:
            yield Fact("removal", f"after {int(left)} more {told['outcome']} jobs{by}")

    def tiers(self, finished: int | None) -> Iterator[Fact]:
        """What of it has gone, what goes before it does, and what stays of it then."""
        try:
            keep = Keep.parse(self.rule or "")
        except ValueError:
            return
        for tier, words in TIERS.items():
            ms = keep.ms(tier)
            if ms is None or finished is None:
                continue
            done = cast("Mapping[str, bool]", self.told.get("done") or {}).get(tier)
            after = f"have gone, {duration_text(ms)} after it finished"
            text = after if done else f"go {when(finished + ms, self.now)}"
            yield Fact("tier", f"{words} {text}", finished + ms)
        ms = keep.ms("tombstone")
        if ms is not None and finished is not None:
            text = f"what is left of it when it has gone is kept until {moment(finished + ms)}"
            yield Fact("tombstone", text, finished + ms)


async def whole_flow(context: PluginContext, job: JobRef, fate: Fate) -> Sequence[Fact]:
    """When the flow goes with which a job is kept."""
    climbed = await context.run_script(job.queue, "flow", {"climb": job.id})
    root = cast("list[str]", climbed)[0]
    queue_key, _, root_id = root.rpartition(":")
    queue = queue_key.rpartition(":")[2]
    (top,) = await context.jobs(queue, [root_id])
    age = Keep.parse(fate.rule or "").age_ms or 0
    if top is None or top.finished is None:
        text = f"when its root {named(root)} has ended, and {duration_text(age)} have passed since"
        return [Fact("removal", f"with its flow, {text}")]
    goes = max(top.finished + age, int(fate.told.get("again") or 0))
    rest = f"whose root {named(root)} ended on {moment(top.finished)}: {when(goes, fate.now)}"
    return [Fact("removal", f"with its flow, {rest}, if all of it has ended", goes)]


def named(key: str) -> str:
    """A job for people, by its key."""
    queue_key, _, job_id = key.rpartition(":")
    return f"{job_id!r} in queue {queue_key.rpartition(':')[2]!r}"


def moment(ms: int) -> str:
    """A time, to the minute."""
    return f"{as_datetime(ms):%Y-%m-%d %H:%M} UTC"


def when(due: int, now: int) -> str:
    """A time to come, as a distance and as a date."""
    if due <= now:
        return "at the next sweep"
    left = due - now
    unit = next((unit for unit in (HOUR, MINUTE, SECOND) if left >= 24 * unit), SECOND)
    about = duration_text(max(unit, round(left / unit) * unit))
    return f"in {about} ({moment(due)})"
