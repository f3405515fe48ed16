"""Asking those who review removals, and those who copy jobs before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from toril.plugins import (
    FinishedJob,
    HookFunction,
    Json,
    Outcome,
    PluginError,
    ServiceContext,
    encode_json,
)
from toril_plugins.cleanup.deciding import Decision
from toril_plugins.cleanup.details import read_details
from toril_plugins.cleanup.flows import FlowReader
from toril_plugins.retention.reviewing import Due, Postpone, Rewrite, Verdict

REVIEW = "toril_review_removal"
COPY = "toril_before_removal"
HOUR = 3_600_000

Handed: TypeAlias = tuple[str, Outcome, int, str, Json, bool]
"""What a script hands over: id, outcome, when it finished (ms), the rule it goes by, its decision
or the live rule as the scripts hold it, whether that decision is its own."""


@dataclass(frozen=True, slots=True)
class Careful:
    """Those who have a say before a job goes; without any of them it goes in the scripts."""

    reviewers: tuple[HookFunction, ...] = ()
    copiers: tuple[HookFunction, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reviewers or self.copiers)

    async def settle(self, context: ServiceContext, handed: Sequence[Handed]) -> Json:
        """What is to become of the jobs that a script handed over, as `settle` reads it.

        Raises:
            PluginError: a reviewer or a copier broke; it is logged already. All of them stay.
        """
        snapshots = await context.jobs([each[0] for each in handed])
        verdicts: dict[str, Json] = {}
        due: list[Due] = []
        for each, snapshot in zip(handed, snapshots, strict=True):
            job_id, outcome, finished_on, rule, stored, _ = each
            if snapshot is None:
                continue  # an id without a job: there is nothing to look at
            if snapshot.finished != finished_on:
                why = "its fields and the list of finished jobs disagree about when it finished"
                verdicts[job_id] = {"until_ms": context.now_ms() + HOUR, "why": why}
                continue
            job = FinishedJob(snapshot.queue, job_id, snapshot.fields, outcome, "foreign")
            decision = Decision.decode(stored, rule)
            due.append(Due(job, decision.keep, rule, decision.note))
        verdicts |= await self._review(context, due)
        await self._copy(context, [each for each in due if each.job.id not in verdicts])
        return [[*each[:4], each[5], verdicts.get(each[0], {"go": True})] for each in handed]

    async def _review(self, context: ServiceContext, due: Sequence[Due]) -> dict[str, Json]:
        """Verdicts on the jobs that stay, as `settle` reads them."""
        kept: dict[str, Json] = {}
        flows = FlowReader(context)
        for reviewer in self.reviewers:
            left = tuple(each for each in due if each.job.id not in kept)
            if not left:
                break
            answer = await reviewer.ask_async(due=left, flows=flows)
            now = context.now_ms()
            for job_id, verdict in _checked(reviewer, answer, left).items():
                kept[job_id] = _encoded(reviewer, verdict, now)
        return kept

    async def _copy(self, context: ServiceContext, going: Sequence[Due]) -> None:
        if not going:
            return
        jobs, details = tuple(each.job for each in going), None
        if any(copier.names("details") for copier in self.copiers):
            details = await read_details(context, {each.job.id: each.rule for each in going})
        for copier in self.copiers:
            await copier.ask_async(jobs=jobs, details=details)


def _checked(reviewer: HookFunction, answer: object, shown: Sequence[Due]) -> Mapping[str, Verdict]:
    """The answer of a reviewer. Raises `PluginError` for what is none."""
    if answer is None:
        return {}
    ids = {each.job.id for each in shown}
    if not isinstance(answer, Mapping):
        raise _wrong(reviewer, f"{answer!r}, not with a mapping of job ids to verdicts")
    for job_id, verdict in cast("Mapping[object, object]", answer).items():
        if not isinstance(verdict, Postpone | Rewrite):
            raise _wrong(reviewer, f"{verdict!r} for {job_id!r}, not with Postpone or Rewrite")
        if job_id not in ids:
            raise _wrong(reviewer, f"a verdict for {job_id!r}, which it was not shown")
    return cast("Mapping[str, Verdict]", answer)


def _wrong(reviewer: HookFunction, what: str) -> PluginError:
    return reviewer.failed(TypeError(f"answered with {what}"), lambda: "")


def _encoded(reviewer: HookFunction, verdict: Verdict, now: int) -> Json:
    """A verdict as `settle` reads it. Raises `PluginError` for data that cannot be stored."""
    who = f"plugin {reviewer.plugin}"
    if isinstance(verdict, Postpone):
        return {"until_ms": now + verdict.ms, "why": f"{who}: {verdict.why}"}
    decision = Decision(verdict.keep, f"{who}: {verdict.keep}", verdict.note)
    encoded: dict[str, Json] = {"decision": decision.encode()}
    if verdict.data is not ...:
        try:
            encoded["data"] = encode_json(verdict.data)
        except (TypeError, ValueError) as error:
            raise reviewer.failed(error, lambda: "") from error
    return encoded
