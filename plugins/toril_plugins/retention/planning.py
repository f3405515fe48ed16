"""A plan: what retention would remove, if it were to do so now and if something else were said.

Made by `plan`, which only reads; carried out by `apply`, which refuses if the world has moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, TypeVar

import msgspec

from toril import Queue, Reject, Setting
from toril.plugins import Json, Outcome, did_you_mean, duration_text
from toril_plugins.retention import journal
from toril_plugins.retention.values import OUTCOMES, Ceiling, Keep, Retention

S = TypeVar("S", Retention, Ceiling)

VERSION: Final = 1
DAY_MS: Final = 86_400_000
"""How far a plan looks ahead, and how long it can be applied."""
MORE: Final = (0.1, 10)
"""So much more than planned, as a share and in jobs, is not yet clearly more."""
KINDS: Final[Mapping[str, type[Retention | Ceiling]]] = {
    "retention": Retention,
    "ceiling": Ceiling,
}


@dataclass(frozen=True, slots=True)
class Going:
    """Jobs that go by one rule.

    `now`: with the next sweep; `within_day`: until a day from now, those of now among them, if no
    other job finishes. `exact`: counted; else estimated from the jobs that were looked at. `bytes`:
    what those of `now` take, from a sample. `sample`: some of their ids, oldest first.
    """

    outcome: Outcome
    rule: str
    now: int
    within_day: int
    bytes: int
    exact: bool
    sample: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stripping:
    """Jobs of which a tier goes while they stay: `logs` or `data`. Else as `Going`."""

    outcome: Outcome
    tier: str
    rule: str
    now: int
    within_day: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Staying:
    """Jobs that would go, and do not. `why` says what stands in the way."""

    outcome: Outcome
    why: str
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go from a queue.

    `made`: when, in milliseconds since the epoch. `sets`: what it is to be set, by setting and
    outcome, as people write it. `finished`: how many jobs have finished; `looked`: how many of them
    were looked at one by one. `requires`: plugins that the queue requires; `missing`: those of them
    that were not in use where the plan was made. `world`: what it rests on, by name.
    `only_reported`: why nothing of it happens at present, as a process runs with `report_only`; ''
    if none does that is known.
    """

    queue: str
    made: int
    sets: Mapping[str, Mapping[Outcome, str]]
    finished: Mapping[Outcome, int]
    looked: int
    going: tuple[Going, ...]
    stripping: tuple[Stripping, ...]
    staying: tuple[Staying, ...]
    requires: str
    missing: str
    world: Mapping[str, str]
    only_reported: str = ""
    v: int = VERSION

    def encode(self) -> dict[str, Any]:
        """The plan as JSON; `decode` reads it back."""
        return asdict(self)

    @classmethod
    def decode(cls, value: object) -> Plan:
        """Read what `encode` wrote. Raises `ValueError` for anything else."""
        try:
            plan = msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a plan: {error}") from error
        if plan.v != VERSION:
            raise ValueError(f"a plan of version {plan.v}; this is version {VERSION}")
        return plan

    def total(self, outcome: Outcome, *, within_day: bool = False) -> int:
        """How many jobs go."""
        found = [each for each in self.going if each.outcome == outcome]
        return sum(each.within_day if within_day else each.now for each in found)


class Planner(Protocol):
    """The cleanup plugin's planning, of any queue by its name."""

    async def plan(self, queue: str, settings: Sequence[Retention | Ceiling], most: int, /) -> Plan:
        """Make a plan."""
        ...


def settings_from(texts: Sequence[str]) -> list[Retention | Ceiling]:
    """What people type: `completed=7d`, `failed=1000`, `ceiling.completed=30d`.

    Raises `ValueError` for anything else.
    """
    said: dict[str, dict[str, Keep]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        kind, _, outcome = name.strip().rpartition(".")
        names = [f"{prefix}{each}" for prefix in ("", "ceiling.") for each in OUTCOMES]
        if not sign or name.strip() not in names:
            raise ValueError(f"{text!r}: say {names[0]}=7d{did_you_mean(name, names)}")
        place = said.setdefault(kind or "retention", {})
        if outcome in place:
            raise ValueError(f"{name} is said twice")
        place[outcome] = Keep.parse(value.strip())
    return [KINDS[kind](**keeps) for kind, keeps in said.items()]


async def plan(queue: Queue, *settings: Retention | Ceiling, most: int = 10_000) -> Plan:
    """What would go now and within a day; with `settings`, if the queue said these, too.

    It only reads, in small steps. The counts of jobs under a rule by age or number are exact; where
    somebody has to be asked about single jobs, the oldest `most` of each outcome are looked at.

    Args:
        queue: The queue.
        settings: What it would say; an outcome that they do not name stays as it is said.
        most: So many jobs of each outcome are looked at one by one.

    Raises `ConfigurationError` if the plugin `cleanup` is not in use.
    """
    await queue.counts()  # its plugins run from now on
    planner: Planner = queue.app.named("retention", "planner")
    return await planner.plan(queue.name, settings, most)


async def apply(queue: Queue, planned: Plan, *, who: str) -> Plan:
    """Say for the queue what a plan sets. Returns a plan made just before.

    Refused with `Reject`, and nothing is changed, if the world has moved:

    - the plan is older than a day, or for another queue, or sets nothing;
    - what is said for the queue (retention, ceilings, holds, required plugins, foreign workers, the
      window of ids), the strategies or the options of `cleanup` are not those that the plan saw;
    - of one outcome, more jobs would go now than the plan said would go within a day, by more than
      a tenth and by more than 10.

    What is said is compared once more in the step that sets it.

    Args:
        queue: The queue.
        planned: The plan.
        who: Who applies it; it is noted in the journal, and as the source of the settings.
    """
    settings = _settings(planned)
    looked = max(planned.looked, 1_000)
    now = await plan(queue, *settings, most=looked)
    _check(queue.name, planned, now)
    for setting in settings:
        await _set(queue, setting, planned, who)
    said = "; ".join(f"{kind} {keeps}" for kind, keeps in _texts(planned).items())
    goes = sum(now.total(outcome) for outcome in OUTCOMES)
    await journal.note(queue, "apply", who, sets=said, goes=str(goes), planned=str(planned.made))
    return now


def _settings(planned: Plan) -> list[Retention | Ceiling]:
    texts = [
        f"{'ceiling.' if kind == 'ceiling' else ''}{outcome}={keep}"
        for kind, keeps in planned.sets.items()
        for outcome, keep in keeps.items()
    ]
    if not texts:
        raise Reject("the plan sets nothing: there is nothing to apply")
    return settings_from(texts)


def _texts(planned: Plan) -> dict[str, str]:
    return {
        kind: ", ".join(f"{outcome} {keep}" for outcome, keep in keeps.items())
        for kind, keeps in planned.sets.items()
    }


def _check(queue: str, planned: Plan, now: Plan) -> None:
    """Raises `Reject` if the world has moved."""
    if planned.queue != queue:
        raise Reject(f"the plan is for queue {planned.queue!r}, not {queue!r}")
    age = now.made - planned.made
    if not -DAY_MS <= age <= DAY_MS:
        raise Reject(f"the plan is {duration_text(abs(age))} old; make a new one")
    names = {*planned.world, *now.world}
    moved = sorted(name for name in names if planned.world.get(name) != now.world.get(name))
    if moved:
        raise Reject(f"the world has moved since the plan was made: {', '.join(moved)}")
    share, jobs = MORE
    for outcome in OUTCOMES:
        before, after = planned.total(outcome, within_day=True), now.total(outcome)
        if after > before * (1 + share) and after > before + jobs:
            raise Reject(
                f"{after} {outcome} jobs would go now; the plan said {before} within a day"
            )


async def _set(queue: Queue, setting: Retention | Ceiling, planned: Plan, who: str) -> None:
    said: Any = setting
    kind: type[Any] = type(setting)

    def merged(before: Any) -> Any:
        if world_of(before) != planned.world[f"{kind.name} of the queue"]:
            raise Reject(f"the world has moved since the plan was made: {kind.name} of the queue")
        return merge(said, before)

    await queue.change(kind, merged, source=who)


def merge(setting: S, before: S | None) -> S:
    """What `setting` says, and where it says nothing about an outcome, what was said before."""
    keeps = {
        outcome: setting.of(outcome) or (before.of(outcome) if before else None)
        for outcome in OUTCOMES
    }
    return type(setting)(**keeps)


def world_of(setting: Setting | None) -> str:
    """A setting as a plan compares it."""
    encoded: Json = None if setting is None else setting.encode()
    return msgspec.json.encode(encoded, order="sorted").decode()
