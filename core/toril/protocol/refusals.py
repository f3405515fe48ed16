"""The codes with which scripts refuse to act on a job, as errors."""

from __future__ import annotations

from typing import Final

from toril.errors import JobError, JobLocked, JobNotFound, JobStateError, LockLost, ParentError
from toril.protocol.keys import queue_name

_NO_DATA: Final = "cannot run again: a rule has taken its data; `update` it, or add a new job"


def refusal(code: int, queue: str, id: str, wrong_state: str = "is in another state") -> JobError:
    """The error for a negative code about a job; `queue` is the queue's key.

    `wrong_state` completes "job 'x' of queue 'q' …" where the code says that its state is wrong.
    """
    kind, what = {
        -1: (JobNotFound, "does not exist"),
        -2: (LockLost, "is not locked: its lock ran out"),
        -3: (JobStateError, wrong_state),
        -4: (JobStateError, "has children that have not ended"),
        -5: (ParentError, "has no living parent"),
        -6: (LockLost, "is another worker's now"),
        -7: (ParentError, "has another living parent"),
        -8: (JobStateError, "is the pending iteration of a schedule; remove the schedule"),
        -9: (JobStateError, "has children that have failed"),
        -10: (JobStateError, _NO_DATA),
        -21: (JobLocked, "is being run by a worker, or an open job below it is"),
    }.get(code, (JobError, f"was refused with code {code}"))
    name = queue_name(queue)
    return kind(f"job {id!r} of queue {name!r} {what}", queue=name, job_id=id)
