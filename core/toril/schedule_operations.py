"""What can be done with the schedules of a queue, as procedures."""

from __future__ import annotations

from typing import Final, cast

from toril.arguments import text
from toril.clock import as_datetime
from toril.connection.call import Procedure
from toril.context import Context
from toril.errors import InvalidJob, JobError, JobNotFound
from toril.ids import new_id
from toril.new_job import CheckedOptions, Drafted, NewJob, QueueDefaults, draft
from toril.operations import QueueOperations
from toril.options import long_names
from toril.protocol import scheduling
from toril.protocol.adding import NewNode
from toril.protocol.codec import decode_json, encode_json
from toril.protocol.replies import json_or_text
from toril.protocol.scheduling import StoredSchedule, Template
from toril.schedule import Cron, Every, Pace, Schedule, due_after, pace_of, schedule_id
from toril.settings import say
from toril.snapshots import JobSnapshot
from toril.types import JsonObject

_NOT_IN_A_TEMPLATE: Final = ("id", "delay", "timestamp", "parent", "on_failure")


class ScheduleOperations:
    """The operations of one queue's schedules."""

    def __init__(self, context: Context, name: str, defaults: QueueDefaults) -> None:
        self._context = context
        self._queue = QueueOperations(context, name, defaults)
        self._defaults = defaults
        self.name = name
        self.key = context.key(name)

    def upsert(self, id: str, pace: Pace, job: NewJob) -> Procedure[Schedule]:
        """Create or replace a schedule whose runs are like `job`."""
        schedule_id(id)
        if not isinstance(pace, Every | Cron):
            raise TypeError(f"a schedule runs Every(…) or by Cron(…), not {pace!r}")
        for option in _NOT_IN_A_TEMPLATE:
            if job.options.get(option) is not None:
                raise InvalidJob(f"schedule {id!r}: its runs have no {option!r} of their own")
        now = self._context.clock.now_ms()
        said = say("template", job.settings, "Queue.schedule", now)
        checked = CheckedOptions(self._defaults)
        drafted = draft(self.key, job.name, job.data, job.options, checked, now=now, said=said)
        given = {**self._defaults, **job.options}
        return self._planned_upsert(id, pace, drafted, attempts="attempts" in given)

    def _planned_upsert(
        self, id: str, pace: Pace, drafted: Drafted, *, attempts: bool
    ) -> Procedure[Schedule]:
        (node,) = yield from self._context.planned((drafted,))
        opts = {name: value for name, value in node.opts.items() if name not in scheduling.OF_A_RUN}
        if not attempts:
            del opts["attempts"]
        own = None if node.own is None else encode_json(node.own, "what plugins store")
        yield from self._put(id, pace, Template(node.name, node.data, opts, own))
        found = yield from self.get(id)
        if found is None:
            raise self._gone(id)
        return found

    def _put(self, id: str, pace: Pace, template: Template) -> Procedure[int]:
        context, now, due = self._context, self._context.clock.now_ms(), None
        repetition = pace.repetition()
        over = pace.end is not None and pace.end <= as_datetime(now)
        if not over and not isinstance(pace, Every):
            due = now if pace.immediately else due_after(repetition, None, now)
            over = due is None
        if over:
            raise InvalidJob(
                f"schedule {id!r} has no run to come: its end is {pace.end:%Y-%m-%d %H:%M:%S %Z}"
            )
        when: int = yield scheduling.upsert(
            self.key, id, repetition, template, due=due, now=now, wants=context.plugins.wants
        )
        return when

    def get(self, id: str) -> Procedure[Schedule | None]:
        """The schedule with that id, or None."""
        found: StoredSchedule | None = yield scheduling.read(
            self.key, text(id, "the id of a schedule")
        )
        return None if found is None else self._schedule(found)

    def all(self) -> Procedure[list[Schedule]]:
        """All schedules, by the time of their next run."""
        found = yield from scheduling.read_all(self.key)
        return [self._schedule(each) for each in found]

    def remove(self, id: str) -> Procedure[bool]:
        """Remove a schedule with its next run; False if there is none."""
        return self._end(id, pause=False)

    def pause(self, id: str) -> Procedure[None]:
        """Take the next run away, and add no more."""
        if not (yield from self._end(id, pause=True)):
            raise self._gone(id)

    def _end(self, id: str, *, pause: bool) -> Procedure[bool]:
        context = self._context
        text(id, "the id of a schedule")
        ended: bool = yield scheduling.unschedule(
            self.key, id, pause=pause, now=context.clock.now_ms(), wants=context.plugins.wants
        )
        return ended

    def resume(self, id: str) -> Procedure[Schedule]:
        """Undo `pause`: its next run is at the next of its times."""
        found = yield from self.get(id)
        if found is None:
            raise self._gone(id)
        if found.pace is None:
            raise InvalidJob(f"schedule {id!r}: its pace cannot be read")
        if found.paused:
            yield from self._put(id, found.pace, _template(found.stored))
            found = yield from self.get(id)
        return cast(Schedule, found)

    def run_now(self, id: str) -> Procedure[JobSnapshot]:
        """Add one job like its runs, beside them."""
        found = yield from self.get(id)
        if found is None:
            raise self._gone(id)
        template, now = _template(found.stored), self._context.clock.now_ms()
        node = NewNode(
            queue=self.key,
            id=new_id(),
            name=template.name,
            data=template.data,
            opts={"attempts": 1, **template.opts},
            timestamp=now,
            own=cast("JsonObject | None", decode_json(template.own or "null")),
        )
        (saved,) = yield from self._queue.save([node])
        if isinstance(saved, JobError):
            raise saved
        return saved

    def _gone(self, id: str) -> JobNotFound:
        return JobNotFound(
            f"there is no schedule {id!r} in queue {self.name!r}", queue=self.name, job_id=id
        )

    def _schedule(self, stored: StoredSchedule) -> Schedule:
        paused = stored.get("toril.paused") is not None
        template = _template(stored)
        return Schedule(
            queue=self.name,
            id=stored.id,
            name=template.name,
            data=json_or_text(template.data.encode()),
            pace=pace_of(stored),
            next_run=None if paused or stored.due is None else as_datetime(stored.due),
            runs=stored.number("ic") or 0,
            paused=paused,
            stored=stored,
        )


def _template(stored: StoredSchedule) -> Template:
    """What the runs of a stored schedule are made from."""
    opts = json_or_text((stored.get("opts") or "{}").encode())
    return Template(
        stored.get("name") or "",
        stored.get("data") or "{}",
        long_names(opts) if isinstance(opts, dict) else {},
        stored.get("toril"),
    )
