"""The steps of which rules are made: a turn of a worker, a stalled check, a sweep, …"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.model.base import Base, Held
from tests.model.model import Ending

from toril.protocol.finishing import Finish
from toril.protocol.locking import StalledReport, stalled_check
from toril_plugins import Retention

STALLED_MS = 60_000
"""The server lets the mark of a check go by real time, so it must not be short."""
MOST_STALLED = 1


class Steps(Base):
    """What rules do to the server and to the model."""

    def end(
        self, chosen: list[Held], kinds: list[Any], limit: int, delay: int = 1, *,
        flag: bool = False,
    ) -> None:  # fmt: skip
        endings: list[tuple[Ending, Finish]] = []
        for held, kind in zip(chosen, kinds, strict=False):
            job_id, token = held.job.id, held.token
            text = {"completed": f'"{token}"', "failed": "broken", "retry": "again"}.get(kind, "")
            wait, skip = (delay, flag) if kind == "delay" else (0, False)
            lifo = flag and kind == "retry"
            ending = Ending(job_id, token, kind, text, wait, skip, lifo)
            finish = Finish(
                held.job, token, kind, text, delay_ms=wait, skip_attempt=skip, lifo=lifo
            )
            endings.append((ending, finish))
        if endings:
            self.turn(chosen[0].worker, chosen[0].queue, endings, limit)

    def turn(
        self, worker: str, queue: str, endings: list[tuple[Ending, Finish]], limit: int
    ) -> None:
        place = self.model.queues[queue]
        token, reply = self.run(
            self.world.tick(queue, worker, [finish for _, finish in endings], limit)
        )
        codes, ids, blocked = self.model.tick(place, [e for e, _ in endings], limit, token)
        assert list(reply.codes) == codes
        assert [job.id for job in reply.jobs] == ids
        assert reply.blocked == blocked
        assert reply.dropped == ()
        for job in reply.jobs:
            known = self.model.jobs[f"{queue}:{job.id}"]
            assert (job.attempts_started, job.attempts_made) == (known.started, known.made)
            assert job.deferred_failure == known.deferred
            self.held.append(Held(worker, queue, token, job))
        due = None
        if limit > len(ids) and place.sets["delayed"]:
            due = min(place.sets["delayed"].values()) // 4096
        assert reply.next_due_ms == due
        if not reply.more and limit:
            assert blocked or not place.ready
        ended = [
            self.model.jobs[f"{queue}:{ending.id}"]
            for (ending, _), code in zip(endings, codes, strict=True)
            if code == 0 and ending.kind in ("completed", "failed")
        ]
        for one in ended:
            self.keeping.ended(one)
        self.keeping.look()
        at_once = self.keeping.due_at_once(ended)
        self.by_rules()
        late = [key for key in at_once if key in self.model.jobs]
        assert not late or queue in self.stale | self.changed, (
            f"kept although their number has come: {late}"
        )

    def look_for_stalled(self, queue: str, after: int = 0) -> None:
        self.advance(after)
        self.world.listener.stalled.clear()
        report: StalledReport = self.run(
            self.world.app.perform(
                stalled_check(
                    queue, now=self.model.now, interval_ms=STALLED_MS, max_stalled=MOST_STALLED,
                    wants=self.world.app.runtime.dispatcher.wants,
                )
            )
        )  # fmt: skip
        found = self.model.stalled_check(
            self.model.queues[queue], STALLED_MS, MOST_STALLED, self.world.listener.stalled
        )
        assert report.ran == (found is not None)
        assert sorted(self.world.listener.stalled) == (found or [])
        assert report.dropped == ()

    def advance(self, ms: int) -> None:
        self.model.now += ms
        self.world.clock.advance(timedelta(milliseconds=ms))

    def say_now(self, queue: str, keep: Retention | None, *, swept: bool) -> None:
        """Say something for a queue, and perhaps let the sweeper see to it at once."""
        self.changed.add(queue)
        place = self.world.app.queue(queue.rpartition(":")[2])
        if keep is None:
            self.run(place.unset(Retention))
            self.keeping.live.pop(queue, None)
        else:
            self.run(place.set(keep))
            self.keeping.live[queue] = keep
        if swept or not self.has("completed", "failed"):
            self.sweep_now(queue, fresh=True)

    def sweep_now(self, queue: str, *, fresh: bool) -> None:
        """One that is fresh looks at everything; one that goes on, at what may have changed."""
        place = self.model.queues[queue]
        if fresh:
            self.world.app.runtime.services.clear()
            self.stale.discard(queue)
        due = self.keeping.due(place)
        assert self.run(self.world.app.run_services(place.name))
        self.by_rules()
        left = [key for key in due if key in self.model.jobs]
        assert not left or queue in self.stale, f"a sweep left {left}"
        self.changed.discard(queue)
