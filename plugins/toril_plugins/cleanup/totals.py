"""What a plan says of the jobs that were looked at, and of all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from toril.plugins import Outcome
from toril_plugins.cleanup.forecast import Fate, Forecast
from toril_plugins.retention.keep import Keep
from toril_plugins.retention.planning import Going, Staying, Stripping

SAMPLE: Final = 20
"""Ids that are named for each rule."""
OWN: Final = "decisions of their own"


def summed(outcome: Outcome, forecast: Forecast, fates: Sequence[Fate]) -> list[Going]:
    """The jobs that were looked at and go, by rule."""
    now: Counter[str] = Counter()
    day: Counter[str] = Counter()
    sample: defaultdict[str, list[str]] = defaultdict(list)
    for fate in fates:
        if fate.at is None or fate.at > forecast.day or fate.why_not:
            continue
        day[fate.rule] += 1
        now[fate.rule] += fate.at <= forecast.now
        if fate.at <= forecast.now and len(sample[fate.rule]) < SAMPLE:
            sample[fate.rule].append(fate.job.id)
    return [
        Going(outcome, rule, now[rule], within, 0, exact=True, sample=tuple(sample[rule]))
        for rule, within in day.items()
    ]


def beyond_the_sample(
    found: Sequence[Going],
    forecast: Forecast,
    fates: Sequence[Fate],
    now: Mapping[str, Any],
    later: Mapping[str, Any],
    *,
    asking: bool,
) -> list[Going]:
    """The counts for all jobs, of which the oldest were looked at, by what the indexes say."""
    words = {rule[1] for rule in (forecast.live, forecast.ceiling) if rule is not None}
    going = [each for each in found if each.rule in words or each.rule.startswith("plugin ")]
    totals: dict[str, tuple[int, int]] = {}
    if forecast.live is not None:
        totals[forecast.live[1]] = (_total(now), _total(later))
    if forecast.ceiling is not None:
        crowded = now.get("crowded", 0)
        totals[forecast.ceiling[1]] = (
            max(now.get("capped", 0), crowded), max(later.get("capped", 0), crowded),
        )  # fmt: skip
    return [
        _extended(each, forecast, fates, totals.get(each.rule), asking=asking) for each in going
    ]


def _total(figures: Mapping[str, Any]) -> int:
    return int(max(figures["aged"], figures["excess"]))


def _extended(
    each: Going,
    forecast: Forecast,
    fates: Sequence[Fate],
    total: tuple[int, int] | None,
    *,
    asking: bool,
) -> Going:
    """One rule's count, for all jobs; `total`: of now and of a day from now, by the indexes."""
    live = forecast.live[0] if forecast.live else Keep.forever()
    if total is None or live.key is not None or live.first is not None:
        share = forecast.finished / max(1, len(fates))
        return replace(
            each,
            now=round(each.now * share),
            within_day=round(each.within_day * share),
            exact=False,
        )
    mine = [fate for fate in fates if fate.rule == each.rule and fate.at is not None]
    due = sum(1 for fate in mine if fate.at is not None and fate.at <= forecast.now)
    soon = sum(1 for fate in mine if fate.at is not None and fate.at <= forecast.day)
    exact = not asking and each.now == due and each.within_day == soon
    return replace(
        each,
        now=each.now if due == total[0] else round(total[0] * each.now / max(1, due)),
        within_day=(
            each.within_day
            if soon == total[1]
            else round(total[1] * each.within_day / max(1, soon))
        ),
        exact=exact or (due == total[0] and soon == total[1]),
    )


def of_their_own(outcome: Outcome, now: Mapping[str, Any], later: Mapping[str, Any]) -> list[Going]:
    """Jobs with a decision of their own, whichever it is: what the indexes by time say."""
    due, soon = now["at"] + now["nth"], later["at"] + later["nth"]
    if not soon:
        return []
    return [Going(outcome, OWN, due, soon, 0, exact=False)]


def standing_in_the_way(
    outcome: Outcome, forecast: Forecast, fates: Sequence[Fate], held: Mapping[str, int]
) -> list[Staying]:
    """Why jobs stay that would go. `held`: those that are held already, by what."""
    reasons = Counter(
        fate.why_not
        for fate in fates
        if fate.why_not and fate.at is not None and fate.at <= forecast.day
    )
    undecided = sum(1 for fate in fates if fate.job.undecided)
    if undecided:
        reasons["a plugin broke when it was asked"] = undecided
    reasons.update(held)
    return [Staying(outcome, why, count) for why, count in sorted(reasons.items())]


def stripped(
    outcome: Outcome, forecast: Forecast, fates: Sequence[Fate], *, whole: bool
) -> list[Stripping]:
    """The tiers that go, by rule. Beyond the jobs that were looked at none are counted."""
    now: Counter[tuple[str, str]] = Counter()
    day: Counter[tuple[str, str]] = Counter()
    for tier, rule, at in forecast.tiers(fates):
        now[tier, rule] += at <= forecast.now
        day[tier, rule] += at <= forecast.day
    return [
        Stripping(outcome, tier, rule, now[tier, rule], within, exact=whole)
        for (tier, rule), within in day.items()
        if within
    ]
