"""A state machine for the rules about keeping jobs alone, which meet many finished jobs here."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.model.model import NewModelJob
from tests.model.steps import Steps
from tests.model.strategies import endings, retentions, said, some

from toril import NewJob
from toril_plugins import Retention

Q = "bull:a"


class KeepingMachine(Steps):
    """Jobs of one queue end, and go."""

    @rule(
        kinds=endings(5, "completed", "completed", "failed"), names=st.text("xy", min_size=5),
        keep=said,
    )  # fmt: skip
    def finish(self, kinds: list[str], names: str, keep: Retention | None) -> None:
        """Add some jobs, and end them in one call."""
        queue = self.model.queues[Q]
        new = [NewModelJob(Q, self.new_id(), name) for name in names[: len(kinds)]]
        settings = () if keep is None else (keep,)
        added = [NewJob(one.name, None, *settings, id=one.id) for one in new]
        self.run(self.world.app.queue("a").add_many(added))
        for one in new:
            self.model.add(one)
            if keep is not None:
                self.keeping.own[f"{Q}:{one.id}"] = keep
        self.turn("w1", Q, [], len(queue.lists["wait"]))
        taken, self.held = self.held, []
        self.end(taken, [*kinds, *(["completed"] * len(taken))], 0)

    @precondition(lambda self: self.has("completed", "failed"))
    @rule(number=some, reset=st.booleans())
    def retry(self, number: int, reset: bool) -> None:
        job = self.pick(number, "completed", "failed")
        assert job is not None
        self.stale.add(Q)

        async def real() -> None:
            await (await self.job(job)).retry(reset_attempts=reset)

        self.both(lambda: self.model.retry(job, reset=reset), real)

    @precondition(lambda self: self.model.jobs)
    @rule(number=some)
    def remove(self, number: int) -> None:
        job = self.pick(number)
        assert job is not None

        def model() -> bool:
            self.model.remove(job, children=True)
            return True

        self.both(model, lambda: self.world.app.queue("a").remove(job.id))

    @precondition(lambda self: self.has("completed", "failed"))
    @rule(state=st.sampled_from(("completed", "failed")), limit=st.integers(1, 3))
    def clean(self, state: Any, limit: int) -> None:
        queue = self.model.queues[Q]
        self.both(
            lambda: self.model.clean(queue, state, self.model.now, limit),
            lambda: self.world.app.queue("a").clean(state, older_than="0s", limit=limit),
        )

    @rule(keep=retentions(), swept=st.booleans())
    def say(self, keep: Retention | None, swept: bool) -> None:
        self.say_now(Q, keep, swept=swept)

    @rule(fresh=st.booleans())
    def sweep(self, fresh: bool) -> None:
        self.sweep_now(Q, fresh=fresh)

    @rule(ms=st.sampled_from((1, 2500, 4999, 5000, 7_200_000)))
    def wait(self, ms: int) -> None:
        self.advance(ms)
