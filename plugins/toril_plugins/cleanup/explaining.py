"""What holds for one job, who said it, what it overrode, and what stands in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast

from toril import Setting
from toril.plugins import (
    LEVELS,
    OWN_LEVELS,
    Fact,
    JobRef,
    JobSnapshot,
    Outcome,
    PluginContext,
    Said,
)
from toril_plugins.cleanup.carrier import UNSWEPT_MS, QueueCarrier
from toril_plugins.cleanup.fate import Fate, moment, whole_flow
from toril_plugins.cleanup.recall import GONE
from toril_plugins.retention.bullmq import OPTION, from_option
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.resolve import Resolution, own_values, resolve, told_only
from toril_plugins.retention.values import OUTCOMES, Ceiling, IdWindow, Keep, Retention

S = TypeVar("S", bound=Setting)

_ENDS: Final = {"completed": "if it completes", "failed": "if it fails"}
_DECIDING: Final = ("toril_plan_retention", "toril_review_removal")


async def explain(context: PluginContext, job: JobRef) -> Sequence[Fact]:
    """All facts about how long a job stays; about one that is gone, what its tombstone tells."""
    (snapshot,) = await context.jobs(job.queue, [job.id])
    if snapshot is None:
        return await _gone(context, job)
    told = cast("dict[str, Any]", await context.run_script(job.queue, "explain", {"id": job.id}))
    live = await context.live(job.queue, Retention)
    ceilings = await context.live(job.queue, Ceiling)
    outcome: Outcome | None = told.get("outcome")
    facts: list[Fact] = []
    if outcome is None:
        facts.append(Fact("removal", "decided when it finishes"))
        for each in OUTCOMES:
            resolution = resolve((*own_values(snapshot, each), *live), each)
            facts += [*_said(_ENDS[each], resolution, each), *_ceiling(each, ceilings)]
    else:
        facts += await _finished(context, snapshot, outcome, told, live)
        facts += _ceiling(outcome, ceilings, told.get("ceiling"), context.now_ms())
    facts += [_hold(hold) for hold in told.get("held") or ()]
    for required in await context.live(job.queue, Requires):
        text = f"nobody removes it without the plugin {required.value}, by {required.source}"
        if told.get("missing"):
            text += f"; this process lacks {told['missing']}"
        facts.append(Fact("requires", text, required.since, required.level))
    facts += _id_window(await context.live(job.queue, IdWindow))
    return [*facts, *_foreign(snapshot, outcome, await context.live(job.queue, Foreign))]


async def _finished(
    context: PluginContext,
    job: JobSnapshot,
    outcome: Outcome,
    told: dict[str, Any],
    live: Sequence[Said[Retention]],
) -> Sequence[Fact]:
    own = own_values(job, outcome)
    resolution = resolve((*own, *live), outcome)
    # Something was said for it alone, and nothing is noted: nobody was asked when it finished.
    unasked = bool(own) and not told.get("own") and not told.get("out_of_reach")
    fate = Fate(told, context.now_ms(), unasked=unasked)
    by_other = fate.level is not None and fate.level not in LEVELS
    facts: list[Fact] = []
    if fate.rule is not None:
        said = None if by_other else resolution.said
        since = said.since if said and said.level == fate.level else None
        facts.append(Fact("rule", fate.rule, since, fate.level))
    if by_other:
        decided = told.get("since")
        at = None if decided is None else int(decided)
        facts.append(Fact("decided", _decided_by(context, str(fate.level)), at, fate.level))
    facts += fate.removal()
    if told.get("flow"):
        facts += await whole_flow(context, JobRef(job.queue, job.id), fate)
    facts += fate.tiers(job.finished)
    waited = context.now_ms() - (job.finished or 0)
    if fate.rule is not None and waited > UNSWEPT_MS and not told.get("missing"):
        carried = await QueueCarrier(lambda: context).carrying_out(job.queue)
        if carried.obstacle:
            facts.append(Fact("sweeping", carried.obstacle, carried.last))
    return [*facts, *_said("overrode" if by_other else "said", resolution, outcome)]


def _decided_by(context: PluginContext, level: str) -> str:
    """Who decided instead of a level: a plugin, or somebody who put the job back."""
    plugin = level.removeprefix("plugin ")
    if plugin == level:
        return "when it was put back; it stays that long"
    versions = [
        each.version
        for hook in _DECIDING
        for each in context.implementations(hook)
        if each.plugin == plugin
    ]
    return f"by the plugin {plugin} ({versions[0] if versions else 'not in use here'})"


async def _gone(context: PluginContext, job: JobRef) -> Sequence[Fact]:
    facts: list[Fact] = []
    tomb = await context.run_script(job.queue, "recall", {"id": job.id})
    taken = cast(
        "int", await context.run_script(job.queue, "recall", {"id": job.id, "taken": True})
    )
    if isinstance(tomb, dict):
        facts += _by_tombstone(
            cast("dict[str, str]", tomb), await context.live(job.queue, Retention)
        )
    elif taken > 0:
        facts.append(Fact("state", "gone: a rule removed it, and only its id is left"))
    if taken > 0:
        until = context.now_ms() + taken
        text = f"taken until {moment(until)}: a job with it is not added before"
        facts.append(Fact("id", text, until))
    return facts


def _by_tombstone(tomb: dict[str, str], live: Sequence[Said[Retention]]) -> Iterator[Fact]:
    """The rule by which a job went, and what was said then.

    Of what was said for the queue only that is known which stands still.
    """
    level, _, keep = tomb.get("rule", "").partition(": ")
    if keep:
        yield Fact("rule", keep, level=level)
    if GONE not in tomb:
        return
    gone = int(float(tomb[GONE]))
    yield Fact("removal", f"it was removed by that rule on {moment(gone)}", gone)
    outcome = cast("Outcome", tomb["outcome"])
    own = _said_for_it(tomb, outcome, keep)
    resolution = resolve((*own, *(said for said in live if said.since <= gone)), outcome)
    said = resolution.said
    by_it = said is not None and (said.level, str(said.value.of(outcome))) == (level, keep)
    yield from _said("said" if by_it else "overrode", resolution, outcome)


def _said_for_it(tomb: dict[str, str], outcome: Outcome, rule: str) -> Iterator[Said[Retention]]:
    """What was said for the job itself; that which is not in the tombstone is its rule."""
    for level in OWN_LEVELS:
        if level in tomb:
            stored = json.loads(tomb[level])
            if "o" in stored:
                keep = from_option(stored["o"])
            else:
                keep = Keep.decode(stored["v"]) if "v" in stored else Keep.parse(rule)
            value = Retention(completed=keep) if outcome == "completed" else Retention(failed=keep)
            yield Said(value, level, stored["s"], int(stored["t"]))


def _said(subject: str, resolution: Resolution, outcome: Outcome) -> Iterator[Fact]:
    """What people said about an outcome: what holds (unless a plugin decides), what it overrode."""
    if resolution.said is None:
        return
    yield _one(subject, resolution.said, outcome)
    for each in resolution.overrode:
        yield _one("overrode", each, outcome)
    said = (resolution.said, *resolution.overrode)
    yield from _disagreements(said, lambda value: value.of(outcome), "{}")


def _disagreements(live: Iterable[Said[S]], of: Callable[[S], object], text: str) -> Iterator[Fact]:
    """What other processes declare at the same levels, where it is different; `text`: in words."""
    for said in live:
        other = said.replaced
        if other is not None and of(other.value) not in (None, of(said.value)):
            words = f"{text.format(of(other.value))}, by {other.source}"
            yield Fact("disagreement", words, other.since, other.level)


def _one(subject: str, said: Said[Retention], outcome: Outcome) -> Fact:
    return Fact(subject, f"{said.value.of(outcome)}, by {said.source}", said.since, said.level)


def _ceiling(
    outcome: Outcome,
    live: Sequence[Said[Ceiling]],
    told: dict[str, Any] | None = None,
    now: int = 0,
) -> Iterator[Fact]:
    """The ceiling and what it overrode; `told`: when the job goes by it."""
    speaking = [said for said in live if said.value.of(outcome) is not None]
    for place, said in enumerate(speaking):
        text = f"not beyond {said.value.of(outcome)}, by {said.source}"
        if place:
            yield Fact("overrode", f"a ceiling: {text}", said.since, said.level)
            continue
        goes = list(Fate(told | {"outcome": outcome}, now).goes()) if told else []
        text += "".join(f"; by it the job goes {each.text}" for each in goes)
        yield Fact("ceiling", text, said.since, said.level)
    yield from _disagreements(live, lambda value: value.of(outcome), "a ceiling: not beyond {}")


def _id_window(live: Sequence[Said[IdWindow]]) -> Iterator[Fact]:
    """For how long its id stays taken, and what that overrode."""
    for place, said in enumerate(live):
        text = f"taken for {said.value} when a rule has removed it, by {said.source}"
        if place:
            yield Fact("overrode", f"its id: {text}", said.since, said.level)
        else:
            yield Fact("id", text, said.since, said.level)
    yield from _disagreements(live, str, "its id: taken for {}")


def _hold(hold: dict[str, Any]) -> Fact:
    by = f" by {hold['who']}" if hold.get("who") else ""
    since, until = hold.get("since"), hold.get("until")
    by += f" since {moment(int(since))}" if since else ""
    why = f": {hold['why']}" if hold.get("why") else ""
    ends = f", until {moment(int(until))}" if until else ""
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
