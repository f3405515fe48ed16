"""The truth table: what is said, and what becomes of a job, whoever finishes it.

A row is one thing that is said, or several that compete. Three columns say what becomes of the job
when it is finished

- `toril`: by a worker of Toril, for whatever reason;
- `bullmq`: by a worker of BullMQ for Node or for Python, for whatever reason;
- `script`: by the script with which a child's worker of BullMQ before 5.49.2 fails its parent.

A cell says when the job goes and by which rule; `None`: there is no such row. The moments stand in
the order in which a scenario lets them come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tests.scenarios.impossible import HELD, OTHERS, STRICTER, Impossible
from toril import Setting
from toril_plugins import Foreign, Hold, Holds, Keep, Requires

Moment = Literal["finish", "sweep", "newer", "newer, swept", "59 minutes", "an hour", "3 years"]
"""When a job is found to be gone: as soon as it has finished; after a sweep; as soon as a newer job
of its queue and outcome has finished; after a sweep then; so much later, after a sweep."""


@dataclass(frozen=True, slots=True)
class Says:
    """Who says what about the outcome that the job is going to have."""

    job: Keep | None = None
    flow: Keep | None = None
    scheduled_by: Literal["toril", "node", "python"] | None = None
    """The job is a run of a schedule that this library has made."""
    template: Keep | None = None
    """What is said in that schedule's template."""
    queue: Keep | None = None
    workers: tuple[Keep, ...] = ()
    """What workers of Toril say that start one after the other."""
    application: Keep | None = None
    theirs: Keep | None = None
    """What the foreign worker was given as its own option; it runs on the queue or, when a script
    fails the parent, on the child's queue."""
    job_of_other: Keep | None = None
    """What the job says about the other outcome."""
    newer_job: Keep | None = None
    """What the newer job says for itself."""
    ceiling: Keep | None = None
    """What the queue's ceiling is."""
    guards: tuple[Setting, ...] = ()
    """What else is said for the queue."""


@dataclass(frozen=True, slots=True)
class End:
    """When the job goes (None: never), and under which rule it stood (None: none of Toril's).

    Of a held job, under which no rule counts: `held; ` and the rule that would.
    """

    moment: Moment | None
    rule: str | None
    impossible: Impossible | None = None
    """Set where something else was said, which cannot be had."""


def kept(rule: str | None = None) -> End:
    """It stays; `rule` is why (`level: value`), None: as nobody says anything."""
    return End(None, rule)


def at(moment: Moment, rule: str) -> End:
    """Toril removes it, and reports it with that rule."""
    return End(moment, rule)


def silently(moment: Moment, impossible: Impossible | None = None) -> End:
    """A worker of BullMQ removes it, and nobody tells of it."""
    return End(moment, None, impossible)


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `opts` is what the option of this outcome holds, `...`: it is not there."""

    said: str
    says: Says
    opts: object
    toril: End | None
    bullmq: End | None
    script: End | None


NOTHING: Final = Keep.nothing()
FOREVER: Final = Keep.forever()
LAST: Final = Keep(last=1)
HOUR: Final = Keep(age="1h")
BY_NAME: Final = Keep(last=1, key="name")
HOLD: Final = (Holds(Hold(name="job")),)
REQUIRE: Final = (Requires("ghost"),)
"""A plugin that nobody has."""
ISOLATE: Final = (Foreign("isolate"),)

# fmt: off
ROWS: Final = (
    Row("nobody says anything", Says(), ...,
        kept(), kept(), kept()),

    # said for the job itself
    Row("job: nothing", Says(job=NOTHING), True,
        at("finish", "job: nothing"), silently("finish"), silently("finish")),
    Row("job: for ever", Says(job=FOREVER), False,
        kept("job: for ever"), kept("job: for ever"), kept("job: for ever")),
    Row("job: last 1", Says(job=LAST), {"count": 1},
        at("newer", "job: last 1"), at("59 minutes", "job: last 1"), at("newer", "job: last 1")),
    Row("job: an hour", Says(job=HOUR), {"age": 3600},
        at("an hour", "job: 1h"), at("an hour", "job: 1h"), at("an hour", "job: 1h")),
    Row("job: an hour, last 1", Says(job=Keep(age="1h", last=1)), {"count": 1, "age": 3600},
        at("newer", "job: last 1, 1h"), at("59 minutes", "job: last 1, 1h"),
        at("newer", "job: last 1, 1h")),
    Row("job: last 1 per name", Says(job=BY_NAME, newer_job=BY_NAME), False,
        at("newer", "job: last 1 per name"), at("newer, swept", "job: last 1 per name"),
        at("newer", "job: last 1 per name")),
    Row("job, about the other outcome", Says(job_of_other=NOTHING), ...,
        kept(), kept(), kept()),

    # said for its flow
    Row("flow: nothing", Says(flow=NOTHING), True,
        at("finish", "flow: nothing"), silently("finish"), silently("finish")),
    Row("flow: an hour", Says(flow=HOUR), {"age": 3600},
        at("an hour", "flow: 1h"), at("an hour", "flow: 1h"), at("an hour", "flow: 1h")),
    Row("job: for ever, in a flow: nothing", Says(job=FOREVER, flow=NOTHING), False,
        kept("job: for ever"), kept("job: for ever"), kept("job: for ever")),

    # said in the template of its schedule
    Row("schedule", Says(scheduled_by="toril"), ...,
        kept(), kept(), None),
    Row("template: nothing", Says(scheduled_by="toril", template=NOTHING), True,
        at("finish", "template: nothing"), silently("finish"), None),
    Row("template: for ever, queue: nothing",
        Says(scheduled_by="toril", template=FOREVER, queue=NOTHING), False,
        kept("template: for ever"), kept("template: for ever"), None),
    Row("template: last 1", Says(scheduled_by="toril", template=LAST), {"count": 1},
        at("newer", "template: last 1"), at("59 minutes", "template: last 1"), None),
    Row("template: an hour, queue: for ever",
        Says(scheduled_by="toril", template=HOUR, queue=FOREVER), {"age": 3600},
        at("an hour", "template: 1h"), at("an hour", "template: 1h"), None),
    Row("template: last 1 per name",
        Says(scheduled_by="toril", template=BY_NAME, newer_job=BY_NAME), False,
        at("newer", "template: last 1 per name"),
        at("newer, swept", "template: last 1 per name"), None),
    Row("schedule, queue: nothing", Says(scheduled_by="toril", queue=NOTHING), ...,
        at("finish", "queue: nothing"), at("sweep", "queue: nothing"), None),
    Row("template: for ever, ceiling: an hour",
        Says(scheduled_by="toril", template=FOREVER, ceiling=HOUR), False,
        at("an hour", "ceiling of the queue: 1h"),
        at("an hour", "ceiling of the queue: 1h"), None),
    Row("template: an hour, held",
        Says(scheduled_by="toril", template=HOUR, guards=HOLD), {"age": 3600},
        kept("held; template: 1h"), kept("held; template: 1h"), None),
    Row("isolate, template: an hour",
        Says(scheduled_by="toril", template=HOUR, guards=ISOLATE), False,
        at("an hour", "template: 1h"), at("an hour", "template: 1h"), None),
    Row("isolate, schedule, queue: nothing",
        Says(scheduled_by="toril", queue=NOTHING, guards=ISOLATE), False,
        at("finish", "queue: nothing"), at("sweep", "queue: nothing"), None),

    # BullMQ has made the schedule: what its template says are options
    *(row for by in ("node", "python") for row in (
        Row(f"template of {by}: nothing", Says(scheduled_by=by, template=NOTHING), True,
            at("finish", "template: nothing"), silently("finish"), None),
        Row(f"template of {by}: for ever, queue: nothing",
            Says(scheduled_by=by, template=FOREVER, queue=NOTHING), False,
            kept("template: for ever"), kept("template: for ever"), None),
        Row(f"template of {by}: last 1", Says(scheduled_by=by, template=LAST), {"count": 1},
            at("newer", "template: last 1"), at("59 minutes", "template: last 1"), None),
        Row(f"template of {by}: an hour", Says(scheduled_by=by, template=HOUR), {"age": 3600},
            at("an hour", "template: 1h"), at("an hour", "template: 1h"), None),
        Row(f"schedule of {by}, queue: nothing", Says(scheduled_by=by, queue=NOTHING), ...,
            at("finish", "queue: nothing"), at("sweep", "queue: nothing"), None),
    )),

    # said for its queue
    Row("queue: nothing", Says(queue=NOTHING), ...,
        at("finish", "queue: nothing"), at("sweep", "queue: nothing"),
        at("sweep", "queue: nothing")),
    Row("queue: last 1", Says(queue=LAST), ...,
        at("newer", "queue: last 1"), at("newer, swept", "queue: last 1"),
        at("newer", "queue: last 1")),
    Row("queue: last 1 per name", Says(queue=BY_NAME), ...,
        at("newer", "queue: last 1 per name"), at("newer, swept", "queue: last 1 per name"),
        at("newer", "queue: last 1 per name")),
    Row("queue: an hour", Says(queue=HOUR), ...,
        at("an hour", "queue: 1h"), at("an hour", "queue: 1h"), at("an hour", "queue: 1h")),
    Row("queue: for ever", Says(queue=FOREVER), ...,
        kept("queue: for ever"), kept("queue: for ever"), kept("queue: for ever")),

    # said by a worker of Toril
    Row("worker: nothing", Says(workers=(NOTHING,)), ...,
        at("finish", "worker: nothing"), at("sweep", "worker: nothing"),
        at("sweep", "worker: nothing")),
    Row("worker: last 1", Says(workers=(LAST,)), ...,
        at("newer", "worker: last 1"), at("newer, swept", "worker: last 1"),
        at("newer", "worker: last 1")),
    Row("worker: nothing, a newer worker: for ever", Says(workers=(NOTHING, FOREVER)), ...,
        kept("worker: for ever"), kept("worker: for ever"), kept("worker: for ever")),
    Row("worker: for ever, a newer worker: nothing", Says(workers=(FOREVER, NOTHING)), ...,
        at("finish", "worker: nothing"), at("sweep", "worker: nothing"),
        at("sweep", "worker: nothing")),

    # said for the whole application
    Row("application: nothing", Says(application=NOTHING), ...,
        at("finish", "application: nothing"), at("sweep", "application: nothing"),
        at("sweep", "application: nothing")),
    Row("application: an hour", Says(application=HOUR), ...,
        at("an hour", "application: 1h"), at("an hour", "application: 1h"),
        at("an hour", "application: 1h")),

    # a conflict of levels
    Row("job: for ever, queue: nothing", Says(job=FOREVER, queue=NOTHING), False,
        kept("job: for ever"), kept("job: for ever"), kept("job: for ever")),
    Row("job: nothing, queue: for ever", Says(job=NOTHING, queue=FOREVER), True,
        at("finish", "job: nothing"), silently("finish"), silently("finish")),
    Row("job: an hour, queue: last 1", Says(job=HOUR, queue=LAST), {"age": 3600},
        at("an hour", "job: 1h"), at("an hour", "job: 1h"), at("an hour", "job: 1h")),
    Row("job about the other outcome, queue: nothing",
        Says(job_of_other=FOREVER, queue=NOTHING), ...,
        at("finish", "queue: nothing"), at("sweep", "queue: nothing"),
        at("sweep", "queue: nothing")),
    Row("flow: for ever, queue: nothing", Says(flow=FOREVER, queue=NOTHING), False,
        kept("flow: for ever"), kept("flow: for ever"), kept("flow: for ever")),
    Row("queue: for ever, worker: nothing", Says(queue=FOREVER, workers=(NOTHING,)), ...,
        kept("queue: for ever"), kept("queue: for ever"), kept("queue: for ever")),
    Row("queue: nothing, worker: for ever", Says(queue=NOTHING, workers=(FOREVER,)), ...,
        at("finish", "queue: nothing"), at("sweep", "queue: nothing"),
        at("sweep", "queue: nothing")),
    Row("worker: for ever, application: nothing",
        Says(workers=(FOREVER,), application=NOTHING), ...,
        kept("worker: for ever"), kept("worker: for ever"), kept("worker: for ever")),

    # workers of BullMQ have options of their own
    Row("theirs: nothing", Says(theirs=NOTHING), ...,
        None, silently("finish"), kept()),
    Row("theirs: nothing, job: for ever", Says(theirs=NOTHING, job=FOREVER), False,
        None, kept("job: for ever"), kept("job: for ever")),
    Row("theirs: last 1, job: for ever", Says(theirs=LAST, job=FOREVER), False,
        None, silently("newer", OTHERS), kept("job: for ever")),
    Row("theirs: for ever, job: nothing", Says(theirs=FOREVER, job=NOTHING), True,
        None, silently("finish"), silently("finish")),
    Row("theirs: for ever, queue: nothing", Says(theirs=FOREVER, queue=NOTHING), ...,
        None, at("sweep", "queue: nothing"), at("sweep", "queue: nothing")),
    Row("theirs: nothing, queue: an hour", Says(theirs=NOTHING, queue=HOUR), ...,
        None, silently("finish", STRICTER), at("an hour", "queue: 1h")),
    Row("theirs: nothing, worker: for ever", Says(theirs=NOTHING, workers=(FOREVER,)), ...,
        None, silently("finish", STRICTER), kept("worker: for ever")),

    # nobody keeps longer, or more
    Row("ceiling: an hour", Says(ceiling=HOUR), ...,
        at("an hour", "ceiling of the queue: 1h"), at("an hour", "ceiling of the queue: 1h"),
        at("an hour", "ceiling of the queue: 1h")),
    Row("ceiling: an hour, job: for ever", Says(ceiling=HOUR, job=FOREVER), False,
        at("an hour", "ceiling of the queue: 1h"), at("an hour", "ceiling of the queue: 1h"),
        at("an hour", "ceiling of the queue: 1h")),
    Row("ceiling: last 1, job: for ever", Says(ceiling=LAST, job=FOREVER), False,
        at("newer", "ceiling of the queue: last 1"),
        at("newer, swept", "ceiling of the queue: last 1"),
        at("newer", "ceiling of the queue: last 1")),
    Row("ceiling: an hour, job: nothing", Says(ceiling=HOUR, job=NOTHING), True,
        at("finish", "job: nothing"), silently("finish"), silently("finish")),

    # nobody removes it; while a job is held, no rule counts for it
    Row("held, queue: nothing", Says(guards=HOLD, queue=NOTHING), ...,
        kept("held; queue: nothing"), kept("held; queue: nothing"), kept("held; queue: nothing")),
    Row("held, job: an hour, ceiling: last 1",
        Says(guards=HOLD, job=HOUR, ceiling=LAST), {"age": 3600},
        kept("held; job: 1h"), kept("held; job: 1h"), kept("held; job: 1h")),
    Row("held, theirs: last 1", Says(guards=HOLD, theirs=LAST), ...,
        None, kept("held"), kept("held")),
    Row("held, job: nothing", Says(guards=HOLD, job=NOTHING), True,
        kept("held; job: nothing"), silently("finish", HELD), silently("finish", HELD)),
    Row("required plugin missing, job: nothing", Says(guards=REQUIRE, job=NOTHING), False,
        kept("job: nothing"), kept("job: nothing"), kept("job: nothing")),
    Row("required plugin missing, queue: an hour, ceiling: last 1",
        Says(guards=REQUIRE, queue=HOUR, ceiling=LAST), False,
        kept("queue: 1h"), kept("queue: 1h"), kept("queue: 1h")),
    Row("required plugin missing, theirs: nothing", Says(guards=REQUIRE, theirs=NOTHING), False,
        None, kept(), kept()),

    # workers of BullMQ are told to keep it
    Row("isolate, job: nothing", Says(guards=ISOLATE, job=NOTHING), True,
        at("finish", "job: nothing"), silently("finish"), silently("finish")),
    Row("isolate, job: an hour", Says(guards=ISOLATE, job=HOUR), False,
        at("an hour", "job: 1h"), at("an hour", "job: 1h"), at("an hour", "job: 1h")),
    Row("isolate, queue: nothing", Says(guards=ISOLATE, queue=NOTHING), False,
        at("finish", "queue: nothing"), at("sweep", "queue: nothing"),
        at("sweep", "queue: nothing")),
    Row("isolate, theirs: last 1, job: for ever",
        Says(guards=ISOLATE, theirs=LAST, job=FOREVER), False,
        None, kept("job: for ever"), kept("job: for ever")),
    Row("isolate, theirs: nothing, queue: an hour",
        Says(guards=ISOLATE, theirs=NOTHING, queue=HOUR), False,
        None, at("an hour", "queue: 1h"), at("an hour", "queue: 1h")),
)
# fmt: on
