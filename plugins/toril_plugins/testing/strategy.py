"""What a plugin with a strategy keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

import pytest

from toril.plugins import FinishedJob
from toril.testing import DrivenApp, HookRecorder, ServerClock, ask_purely
from toril_plugins.retention.keep import Keep
from toril_plugins.testing.base import RetentionContract, finish

HOOK = "toril_plan_retention"
TEN_YEARS = timedelta(days=3650)
A_SECOND = timedelta(seconds=1)

Example: TypeAlias = tuple[FinishedJob, Keep | None]
"""A finished job, and what the strategy is to answer for it."""


class StrategyContract(RetentionContract):
    """What a plugin with a strategy (`toril_plan_retention`) keeps to.

        class TestTiers(StrategyContract):
            plugin = acme_tiers
            examples = (
                (finished_job("bills", "bill", {"customer": {"tier": "gold"}}), Keep(age="365d")),
                (finished_job("bills", "bill", {}), None),
            )

    It answers a `Keep` or nothing for whatever job there is, always the same, without looking
    elsewhere; and what it answers is what happens, whoever finished the job.
    """

    examples: Sequence[Example]
    """Jobs, and what is to be answered. Queue, name, payload, outcome, result and reason are used
    to finish such a job on a server as well."""

    def finished(self) -> list[FinishedJob]:
        return [*(job for job, _ in self.examples), *super().finished()]

    @pytest.mark.asyncio
    async def test_it_answers_as_in_the_examples(self, toril_app: DrivenApp) -> None:
        assert self.examples, "an example says what the strategy is for"
        for job, keep in self.examples:
            answers = [ask_purely(each, job=job) for each in await self.functions(toril_app, HOOK)]
            assert answers == [keep], f"{job!r} of {job.data!r}"

    @pytest.mark.asyncio
    async def test_it_answers_a_keep_or_nothing(self, toril_app: DrivenApp) -> None:
        for function in await self.functions(toril_app, HOOK):
            for job in self.finished():
                answer = ask_purely(function, job=job)
                assert answer is None or isinstance(answer, Keep), f"{job!r}: {answer!r}"

    @pytest.mark.asyncio
    async def test_what_it_answers_is_what_happens(
        self, toril_app: DrivenApp, clock: ServerClock, record_hooks: HookRecorder
    ) -> None:
        for example, _ in self.examples:
            job = await finish(toril_app, example, record_hooks)
            keep = await self._answer(toril_app, job)
            await toril_app.sweep(job.queue)
            await self._assert_rule(toril_app, job, keep)
            await self._assert_it_goes_in_time(toril_app, clock, job, keep)
            self.assert_no_errors(toril_app)
            for event in record_hooks.removed:
                if event.job.id == job.id:
                    assert self.info(toril_app).name in (event.rule or ""), event.rule

    @pytest.mark.asyncio
    async def test_it_answers_for_jobs_that_others_finished(
        self, toril_app: DrivenApp, clock: ServerClock, record_hooks: HookRecorder
    ) -> None:
        """A worker without the plugin finished them; the sweeper asks then."""
        await toril_app.runtime.start()
        for example, _ in self.examples:
            plugins = [record_hooks, "persistence", "cleanup"]
            async with DrivenApp(toril_app.server, plugins=plugins, clock=clock) as other:
                job = await finish(other, example, record_hooks)
            keep = await self._answer(
                toril_app, FinishedJob(job.queue, job.id, job.fields, job.outcome, "foreign")
            )
            await toril_app.sweep(job.queue)
            await self._assert_rule(toril_app, job, keep)

    async def _answer(self, app: DrivenApp, job: FinishedJob) -> Keep | None:
        for function in await self.functions(app, HOOK):
            answer: Keep | None = ask_purely(function, job=job)
            return answer
        raise AssertionError(f"the plugin does not implement {HOOK}")

    async def _assert_rule(self, app: DrivenApp, job: FinishedJob, keep: Keep | None) -> None:
        """Assert that the decision about a job is this, and the plugin's."""
        found = await app.queue(job.queue).get(job.id)
        if keep is not None and keep.is_nothing:
            assert found is None, f"{job!r} was to be removed at once"
            return
        assert found is not None, f"{job!r} was to be kept: {keep}"
        name = self.info(app).name
        rules = [fact for fact in await found.explain() if fact.subject == "rule"]
        ours = [fact for fact in rules if name in f"{fact.level} {fact.text}"]
        assert bool(ours) == (keep is not None), f"{job!r} is to be kept {keep}, but: {rules}"
        assert all(str(keep) in fact.text for fact in ours), f"{keep}, but: {ours}"

    async def _assert_it_goes_in_time(
        self, app: DrivenApp, clock: ServerClock, job: FinishedJob, keep: Keep | None
    ) -> None:
        """Assert that the job goes when its age has passed, neither earlier nor later."""
        if keep is None or keep.is_nothing or keep.flow or keep.last or keep.first:
            return
        queue = app.queue(job.queue)
        age = None if keep.age_ms is None else timedelta(milliseconds=keep.age_ms)
        clock.advance(TEN_YEARS if age is None else max(age - A_SECOND, timedelta()))
        await app.sweep(queue)
        assert await queue.get(job.id), f"{job!r} went before its time: {keep}"
        if age is not None:
            clock.advance(2 * A_SECOND)
            await app.sweep(queue)
            assert not await queue.get(job.id), f"{job!r} did not go in time: {keep}"
