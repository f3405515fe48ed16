"""What a plugin that reviews removals keeps to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from toril.plugins import FinishedJob, JobRef, ServiceContext
from toril.testing import DrivenApp, ServerClock
from toril_plugins.cleanup.flows import FlowReader
from toril_plugins.retention.keep import Keep
from toril_plugins.retention.reviewing import Due, Flows, FlowState, Postpone, Rewrite, Verdict
from toril_plugins.retention.values import OUTCOMES
from toril_plugins.testing.base import RetentionContract

HOOK = "toril_review_removal"


async def _no_flows(job: FinishedJob) -> FlowState:
    """The flow of a job without relatives that ended well."""
    return FlowState(JobRef(job.queue, job.id), settled=True, failed=())


class ReviewContract(RetentionContract):
    """What a plugin that reviews removals (`toril_review_removal`) keeps to.

        class TestNoFridays(ReviewContract):
            plugin = NoFridays

    It answers with verdicts on jobs that it was shown, whatever they are, without effects; and a
    job that it keeps stays, and comes before it again.
    """

    @pytest.mark.asyncio
    async def test_it_answers_with_verdicts(self, toril_app: DrivenApp) -> None:
        due = [Due(job, Keep(age="1d"), "queue: 1d") for job in self.finished()]
        assert not await self._ask(toril_app, []), "there is nothing to be kept"
        await self._ask(toril_app, due)

    @pytest.mark.asyncio
    async def test_it_has_no_effects(self, toril_app: DrivenApp) -> None:
        due = [Due(job, Keep(age="1d"), "queue: 1d") for job in self.finished()]
        before = [(dict(each.job.fields), repr(each.job.data)) for each in due]
        answers = [await self._ask(toril_app, due) for _ in range(2)]
        assert answers[0] == answers[1], "asked again at the same time it answers alike"
        after = [(dict(each.job.fields), repr(each.job.data)) for each in due]
        assert after == before, "it changed a job that it was shown"

    @pytest.mark.asyncio
    async def test_what_it_keeps_stays_and_comes_again(
        self, toril_app: DrivenApp, clock: ServerClock
    ) -> None:
        await self.finish_all(toril_app)
        (function,) = await self.functions(toril_app, HOOK)
        clock.advance("1d")
        for _ in range(3):
            asked = function.counts.calls
            kept = await self._verdicts_of_due(toril_app)
            await toril_app.sweep(self.queue)
            assert function.counts.calls > asked, "it was not asked"
            left = await self.left(toril_app)
            assert left == set(kept), "what it lets go goes, and nothing else"
            self.assert_no_errors(toril_app)
            waits = [verdict.ms for verdict in kept.values() if isinstance(verdict, Postpone)]
            if not waits:
                return
            clock.advance(f"{max(waits)}ms")

    async def _verdicts_of_due(self, app: DrivenApp) -> Mapping[str, Verdict]:
        """What it says about the finished jobs that are there."""
        queue = app.queue(self.queue)
        due: list[Due] = []
        for outcome in OUTCOMES:
            async for job in queue.jobs(outcome):
                finished = FinishedJob(job.queue, job.id, job.snapshot.fields, outcome, "foreign")
                due.append(Due(finished, Keep(age="1d"), "queue: 1d"))
        cleanup = app.runtime.lifecycle.context("cleanup")
        flows = FlowReader(ServiceContext(cleanup, "sweep", self.queue, ""))
        return await self._ask(app, due, flows)

    async def _ask(
        self, app: DrivenApp, due: Sequence[Due], flows: Flows = _no_flows
    ) -> Mapping[str, Verdict]:
        """Its verdicts, which are looked at."""
        (function,) = await self.functions(app, HOOK)
        answer = await function.ask_async(due=tuple(due), flows=flows)
        assert answer is None or isinstance(answer, Mapping), f"no verdicts: {answer!r}"
        verdicts = cast("Mapping[str, Any]", answer or {})
        strangers = verdicts.keys() - {each.job.id for each in due}
        assert not strangers, f"verdicts on jobs that it was not shown: {strangers}"
        for verdict in verdicts.values():
            assert isinstance(verdict, Postpone | Rewrite), f"no verdict: {verdict!r}"
        return verdicts
