"""Deciding how long one finished job is kept, and the form in which the scripts get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from toril.plugins import FinishedJob, Json, JsonObject
from toril_plugins.retention.keep import Keep
from toril_plugins.retention.resolve import may_have_own_value, own_values, resolve

Combine = Literal["first", "longest", "shortest"]
Answers: TypeAlias = Sequence[tuple[str, Keep]]
"""What strategies answered: plugin name and value, in plugin order."""

BESIDE: Final = frozenset({"rule", "since", "bucket", "note", "why", "asked", "over"})
"""What a stored decision holds beside the `Keep`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A job does not follow its queue's live rule, but this.

    `rule` says why, for people; `note` is what a reviewer left with it.
    """

    keep: Keep
    rule: str
    note: str | None = None

    def encode(self) -> JsonObject:
        """As the scripts read and store it: the fields of the `Keep`, and `rule`, `note`."""
        encoded = self.keep.encode()
        encoded["rule"] = self.rule
        if self.note is not None:
            encoded["note"] = self.note
        return encoded

    @classmethod
    def decode(cls, value: Json, rule: str) -> Decision:
        """Read what the scripts hand over; what somebody has garbled says nothing."""
        stored = value if isinstance(value, dict) else {}
        try:
            keep = Keep.decode({name: each for name, each in stored.items() if name not in BESIDE})
        except ValueError:
            keep = Keep.forever()
        note = stored.get("note")
        return cls(keep, rule, note if isinstance(note, str) else None)


def _length(keep: Keep) -> tuple[float, float]:
    """Orders values by how long they keep: by age first, then by count."""
    if keep.is_nothing:
        return (0, 0)
    age = float("inf") if keep.age_ms is None else keep.age_ms
    unlimited = keep.last is None and keep.first is None
    return (age, float("inf") if unlimited else (keep.last or 0) + (keep.first or 0))


def choose(answers: Answers, combine: Combine) -> tuple[str, Keep]:
    """The answer that holds when several strategies have an opinion."""
    if combine == "longest":
        return max(answers, key=lambda answer: _length(answer[1]))
    if combine == "shortest":
        return min(answers, key=lambda answer: _length(answer[1]))
    return answers[0]


@dataclass(frozen=True, slots=True)
class Decider:
    """Asks the strategies, then what was said for the job itself.

    `ask` is None when no plugin has a strategy, so that a job without a value of its own is
    decided without a look into its fields.
    """

    ask: Callable[[FinishedJob], Answers] | None
    combine: Combine

    def decide(self, job: FinishedJob) -> Decision | None:
        """What holds for this job; None: the live rule of its queue."""
        if self.ask is not None:
            answers = self.ask(job)
            if answers:
                plugin, keep = choose(answers, self.combine)
                return Decision(keep, f"plugin {plugin}: {keep}")
        if not may_have_own_value(job):
            return None
        resolution = resolve(own_values(job, job.outcome), job.outcome)
        if resolution.said is None:
            return None
        return Decision(resolution.keep, f"{resolution.said.level}: {resolution.keep}")
