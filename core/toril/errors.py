"""The errors of Toril.

    TorilError
    ├── ConfigurationError      what was configured cannot work
    ├── ServerError             the server could not do it
    │   ├── ServerUnavailable   not reachable, loading, failing over: try again later
    │   ├── ServerFull          `maxmemory` is reached; nothing was written
    │   └── IndeterminateError  the reply was lost: it may have happened or not
    ├── JobError                about one job; has `.job_id` and `.queue`
    │   ├── JobNotFound         there is no such job
    │   ├── JobFailed           `result()` of a job that failed
    │   ├── JobRemoved          `result()` of a job that is gone without a trace of its outcome
    │   ├── InvalidResult       `result()` of a task's job is not of the task's type
    │   ├── JobStateError       the job is not in a state in which this can be done
    │   ├── JobLocked           a worker is running it
    │   ├── LockLost            this worker no longer owns the job
    │   ├── JobCancelled        its worker was told to end this run of the job
    │   ├── JobTimedOut         its handler ran for longer than it may
    │   └── ParentError         the parent is missing, or the job has another living parent
    ├── ProcessDied             the process in which a handler ran ended before the handler did
    ├── GiveWay                 raised by a service that another process is to run
    ├── InvalidJob              a job, option or payload that cannot be saved
    ├── Reject                  a plugin refuses a save or a removal
    └── PluginError             a plugin broke while a save or a removal was planned

Raised by handlers to steer their job (they are not failures of Toril):

    JobSignal
    ├── Unrecoverable           fail now, whatever attempts are left
    ├── RetryIn                 run again after a delay, without counting an attempt
    ├── WaitAgain               wait for a worker again, without counting an attempt
    ├── RateLimited             the same, and no job of the queue shall begin for a while
    └── WaitForChildren         run again when the children are done
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toril.removals import KeptJob


class TorilError(Exception):
    """The base of all errors of Toril."""

    def __reduce__(self) -> tuple[object, ...]:
        """As a pickle: most of these errors cannot be made of their message alone."""
        return _remade, (type(self), self.args, self.__dict__)


def _remade(
    kind: type[TorilError], arguments: tuple[object, ...], state: dict[str, object]
) -> TorilError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class ConfigurationError(TorilError):
    """What was configured cannot work; the message says what, where and what to do."""


class ServerError(TorilError):
    """The server refused or could not do what was asked."""


class ServerUnavailable(ServerError):
    """The server cannot be reached, is loading, or cannot be written to now; nothing was done."""


class ServerFull(ServerError):
    """The server has reached its `maxmemory`; nothing was written."""


class IndeterminateError(ServerError):
    """The reply was lost and nobody can say whether the operation happened.

    `job_ids` are the jobs concerned: look them up before doing it again.
    """

    def __init__(self, message: str, job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.job_ids = tuple(job_ids)


class JobError(TorilError):
    """An error about one job, named by `queue` and `job_id`."""

    def __init__(self, message: str, *, queue: str, job_id: str) -> None:
        super().__init__(message)
        self.queue = queue
        self.job_id = job_id


class JobNotFound(JobError):
    """There is no such job (any more)."""


class JobFailed(JobError):
    """The job whose result was asked for has failed; `reason` is its last error message."""

    def __init__(self, reason: str, *, queue: str, job_id: str) -> None:
        super().__init__(
            f"job {job_id!r} of queue {queue!r} failed: {reason}", queue=queue, job_id=job_id
        )
        self.reason = reason


class JobRemoved(JobError):
    """The job is gone and nothing tells how it ended; or its result has gone."""


class InvalidResult(JobError):
    """The result of a task's job is not what the task returns; the message says what it is."""


class JobStateError(JobError):
    """The job is not in a state in which this can be done."""


class JobLocked(JobError):
    """A worker is running the job (or one below it), so it cannot be removed now."""


class LockLost(JobError):
    """This worker no longer owns the job: its lock ran out or somebody else took the job."""


class JobCancelled(JobError):
    """The worker was told to end this run of the job (`worker.cancel`); a failed attempt."""


class JobTimedOut(JobError):
    """The handler ran for longer than the job's or the worker's `timeout`; a failed attempt."""


class ProcessDied(TorilError):
    """The process in which a handler ran ended, was killed, or could not be started."""


class ParentError(JobError):
    """The parent does not exist, or the job already belongs to another living parent."""


class InvalidJob(TorilError, ValueError):
    """A job, an option or a payload that cannot be saved; nothing was written."""


class Reject(TorilError):
    """Raised by a plugin to refuse a save or an operator's removal; nothing was written.

    `plugin` and `item` (the name or id of the job refused) are filled in by Toril; so is `kept`,
    the jobs that the Lua of plugins keeps, each with the reason.
    """

    plugin: str | None = None
    item: str | None = None
    kept: tuple[KeptJob, ...] = ()


class PluginError(TorilError):
    """A plugin broke while a save or a removal was planned; nothing was written."""

    def __init__(self, message: str, *, plugin: str, hook: str) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.hook = hook


class GiveWay(TorilError):
    """Raised by a leased service that this process cannot do: another one shall.

    The lease is given back, and this process does not ask for it during `seconds`.
    """

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.seconds = seconds


class JobSignal(Exception):
    """Base of what a handler raises to steer its own job."""


class Unrecoverable(JobSignal):
    """Fail the job now, whatever attempts are left. The message becomes its reason."""


class RetryIn(JobSignal):
    """Run the job again after `delay`, without counting an attempt.

    `delay`: a `timedelta` or a text such as `"30s"`.
    """

    def __init__(self, delay: timedelta | str) -> None:
        super().__init__(delay)
        self.delay = delay


class WaitAgain(JobSignal):
    """Give the job back: it waits again, before the others of its priority.

    Counts no attempt. Any worker of the queue may be the next to run it, at once.
    """


class RateLimited(JobSignal):
    """Give the job back as `WaitAgain` does; this worker begins no job for `delay`.

    Neither does any other worker of the queue for which a rate is limited, by the queue or by its
    own `limiter`. `delay`: a `timedelta` or a text such as `"30s"`.
    """

    def __init__(self, delay: timedelta | str) -> None:
        super().__init__(delay)
        self.delay = delay


class WaitForChildren(JobSignal):
    """Put the job aside until its children are done, then run it again.

    Counts no attempt. With no child open the job is run again at once.
    """
