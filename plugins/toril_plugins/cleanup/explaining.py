"""What holds for one job, who said it, what it overrode, and what stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from toril.plugins import (
    Fact,
    JobRef,
    JobSnapshot,
    Outcome,
    PluginContext,
    Said,
    as_datetime,
    duration_text,
)
from toril_plugins.retention.bullmq import OPTION
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.resolve import own_values, resolve, told_only
from toril_plugins.retention.values import OUTCOMES, Ceiling, Retention

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
_ENDS: Final = {"completed": "if it completes", "failed": "if it fails"}


async def explain(context: PluginContext, job: JobRef) -> Sequence[Fact]:
    """All facts about how long a job stays."""
    told = cast("dict[str, Any]", await context.run_script(job.queue, "explain", {"id": job.id}))
    (snapshot,) = await context.jobs(job.queue, [job.id])
    live = await context.live(job.queue, Retention)
    outcome: Outcome | None = told.get("outcome")
    facts: list[Fact] = []
    if outcome is None:
        facts.append(Fact("removal", "decided when it finishes"))
    else:
        facts += _decided(told, context.now_ms())
    for each in (outcome,) if outcome else OUTCOMES:
        facts += _said(each, snapshot, live, finished=outcome is not None)
        facts += _ceiling(each, await context.live(job.queue, Ceiling))
    facts += [_hold(hold) for hold in told.get("held") or ()]
    for required in await context.live(job.queue, Requires):
        text = f"nobody removes it without the plugin {required.value}"
        if told.get("missing"):
            text += f"; this process lacks {told['missing']}"
        facts.append(Fact("requires", text, required.since, required.level))
    if snapshot is not None:
        facts += _foreign(snapshot, outcome, await context.live(job.queue, Foreign))
    return facts


def _decided(told: dict[str, Any], now: int) -> Sequence[Fact]:
    """What the script told of a finished job, in words."""
    if told.get("out_of_reach"):
        return [Fact("removal", "not while it is held; when it is released, it is asked anew")]
    if "rule" not in told:
        return [Fact("rule", "kept, as nothing is said about it"), Fact("removal", "never")]
    at, left = told.get("at"), told.get("left")
    if not told["rule"]:
        could_not = f", as plugin {told['asked']} could not answer" if told.get("asked") else ""
        text = f"undecided{could_not}: the sweeper asks again {_when(int(at or now), now)}"
        return [Fact("removal", text, at=at)]
    level, _, keep = str(told["rule"]).partition(": ")
    facts = [Fact("rule", keep, level=level)]
    if at is None and left is None:
        return [*facts, Fact("removal", "never")]
    if told["awaited"]:
        return [*facts, Fact("removal", "not while its parent waits for it")]
    if told.get("why"):
        facts.append(Fact("removal", f"put off: {told['why']}"))
    if told.get("note"):
        facts.append(Fact("note", str(told["note"])))
    if at is not None:
        facts.append(Fact("removal", _when(int(at), now), at=int(at)))
    if left is not None:
        facts.append(Fact("removal", f"after {max(0, int(left))} more {told['outcome']} jobs"))
    return facts


def _said(
    outcome: Outcome, job: JobSnapshot | None, live: Sequence[Said[Retention]], *, finished: bool
) -> list[Fact]:
    """What people said about an outcome: what holds (unless a plugin decides), what it overrode."""
    own = () if job is None else own_values(job, outcome)
    resolution = resolve((*own, *live), outcome)
    winner = resolution.said
    if winner is None:
        return []
    facts = [_one("said" if finished else _ENDS[outcome], winner, outcome)]
    facts += [_one("overrode", each, outcome) for each in resolution.overrode]
    for each in (winner, *resolution.overrode):
        other = each.replaced
        if other is not None and other.value.of(outcome) not in (None, each.value.of(outcome)):
            facts.append(_one("disagreement", other, outcome))
    return facts


def _one(subject: str, said: Said[Retention], outcome: Outcome) -> Fact:
    return Fact(subject, f"{said.value.of(outcome)}, by {said.source}", said.since, said.level)


def _ceiling(outcome: Outcome, live: Sequence[Said[Ceiling]]) -> list[Fact]:
    for said in live:
        keep = said.value.of(outcome)
        if keep is not None:
            text = f"not beyond {keep}, by {said.source}"
            return [Fact("ceiling", text, said.since, said.level)]
    return []


def _hold(hold: dict[str, Any]) -> Fact:
    by = f" by {hold['who']}" if hold.get("who") else ""
    why = f": {hold['why']}" if hold.get("why") else ""
    until = hold.get("until")
    ends = f", until {as_datetime(int(until)):%Y-%m-%d %H:%M} UTC" if until else ""
    return Fact("hold", f"held ({hold['handle']}){by}{why}{ends}", at=until, level="queue")


def _foreign(
    job: JobSnapshot, outcome: Outcome | None, live: Sequence[Said[Foreign]]
) -> list[Fact]:
    """What the job tells workers of other libraries; what they are configured with is unknown."""
    facts: list[Fact] = []
    if live:
        facts.append(Fact("foreign", live[0].value.mode, live[0].since, live[0].level))
    for each in (outcome,) if outcome else OUTCOMES:
        option = job.opts.get(OPTION[each])
        if option is None:
            text = f"{each}: not told; what they do is unknown"
        else:
            only = ", for them only" if each in told_only(job) else ""
            text = f"{each}: told {OPTION[each]} = {option!r}{only}"
        facts.append(Fact("foreign", text))
    return facts


def _when(due: int, now: int) -> str:
    if due <= now:
        return "at the next sweep"
    left = due - now
    unit = next((unit for unit in (HOUR, MINUTE, SECOND) if left >= 24 * unit), SECOND)
    about = duration_text(max(unit, round(left / unit) * unit))
    return f"in {about} ({as_datetime(due):%Y-%m-%d %H:%M} UTC)"
