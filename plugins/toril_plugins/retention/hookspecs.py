"""The cleanup plugin's own hook specifications, for strategies that are functions."""

from __future__ import annotations

from toril.plugins import FinishedJob, hookspec
from toril_plugins.retention.values import Keep


@hookspec
def toril_plan_retention(job: FinishedJob) -> Keep | None:
    """How long this finished job is kept; None: no opinion.

    A plain function and pure: no I/O, no waiting. It runs in the process that finishes the job,
    just before the finishing script, and once more in the sweeper for jobs that were finished by
    somebody who could not ask (another library's worker, a worker without this plugin). Its answer
    beats everything that people said for the job, its flow, its queue, the worker or the
    application; `job.settings.get(Retention)` is what was said for the job. It is stored with the
    job in the same atomic step and stands even when the strategy changes later.

    Every plugin is asked. When several answer, the option `combine` of the cleanup plugin chooses:
    `first` in plugin order (default), `longest` or `shortest`.

    An error is logged and counted and leaves the job *undecided*: it is kept, and the sweeper asks
    again.

    ```python
    from toril import hookimpl
    from toril.plugins import FinishedJob
    from toril_plugins import Keep

    TIERS = {"gold": Keep(age="365d"), "free": Keep(age="1d")}


    @hookimpl
    def toril_plan_retention(job: FinishedJob) -> Keep | None:
        return TIERS.get(job.get("customer.tier", str) or "")
    ```
    """
    raise NotImplementedError
