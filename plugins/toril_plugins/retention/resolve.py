"""The one place where levels are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from toril.plugins import LEVELS, JobSnapshot, Level, Outcome, Said
from toril_plugins.retention.bullmq import OPTION, from_option
from toril_plugins.retention.values import Keep, Retention

PERSISTENCE: Final = "persistence"
"""The plugin that stores what was said with a job."""
TOLD: Final = "told"
"""In its own field of a job: outcomes whose options are for foreign workers only."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What holds for one outcome: `keep`, who said it (None: nobody), and what it overrode."""

    keep: Keep
    said: Said[Retention] | None
    overrode: tuple[Said[Retention], ...]


def resolve(said: Iterable[Said[Retention]], outcome: Outcome) -> Resolution:
    """The most specific value that speaks about `outcome`; nobody spoke: keep for ever.

    Within a level the first one given wins.
    """
    speaking = sorted(
        (each for each in said if each.value.of(outcome) is not None),
        key=lambda each: LEVELS.index(each.level),
    )
    if not speaking:
        return Resolution(Keep.forever(), None, ())
    winner = speaking[0]
    return Resolution(winner.value.of(outcome) or Keep.forever(), winner, tuple(speaking[1:]))


def own_values(job: JobSnapshot, outcome: Outcome) -> tuple[Said[Retention], ...]:
    """What was said for this job itself about `outcome`, most specific first.

    Settings stored by Toril are exact; a job that another library added carries BullMQ's options
    only, which then are what was said: for it or, if it is a run of a schedule, in the template.
    """
    stored = tuple(
        said for said in job.settings.said(Retention) if said.value.of(outcome) is not None
    )
    if stored or outcome in told_only(job):
        return stored
    keep = from_option(job.opts.get(OPTION[outcome]))
    if keep is None:
        return ()
    value = Retention(completed=keep) if outcome == "completed" else Retention(failed=keep)
    level: Level = "template" if b"rjk" in job.fields else "job"
    return (Said(value, level, f"option {OPTION[outcome]}", job.created),)


def told_only(job: JobSnapshot) -> tuple[str, ...]:
    """The outcomes of which the job's options tell foreign workers something that nobody said."""
    stored = job.plugin_field(PERSISTENCE)
    told = stored.get(TOLD) if isinstance(stored, dict) else None
    return tuple(map(str, told)) if isinstance(told, list) else ()


def may_have_own_value(job: JobSnapshot) -> bool:
    """Whether `own_values` can find anything; a look at the raw fields, without decoding."""
    return b"toril" in job.fields or b"removeOn" in job.fields.get(b"opts", b"")
