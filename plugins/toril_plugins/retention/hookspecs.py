"""The cleanup plugin's own hook specifications, for strategies that are functions."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from toril.plugins import FinishedJob, hookspec
from toril_plugins.retention.keep import Keep
from toril_plugins.retention.reviewing import Details, Due, Flows, Verdicts


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


@hookspec
def toril_review_removal(due: Sequence[Due], flows: Flows) -> Awaitable[Verdicts] | Verdicts:
    """These jobs fall due: answer, by job id, for those that shall not go.

    Plain or `async def`, within 10 seconds, without effects. It runs in the sweeper, on up to 50
    jobs of one queue at a time. `Postpone("1d", "no removal on Fridays")` lets a job stay and come
    again; `Rewrite(keep=…, data=…, note=…)` lets it stay as something else. None, or an id that is
    not in the answer: it may go. Reviewers are asked in plugin order, and a job that one of them
    keeps is not shown to the next.

    `await flows(due.job)` tells how far the job's flow has got. It is read only if it is asked for.

    An error keeps all of them, and they come again. While a process has a reviewer, nothing is
    removed by a rule in the step that finishes a job.
    """
    raise NotImplementedError


@hookspec
def toril_before_removal(jobs: Sequence[FinishedJob], details: Details) -> Awaitable[None] | None:
    """These jobs go next: copy them to safety.

    Plain or `async def`, within 10 seconds, on up to 50 jobs of one queue at a time, after all
    reviewers. At least once: an error or a crash keeps them all, and they come again; a job is the
    same if its queue, its id and the time of its finish are. `details` holds log lines and
    children's values by job id; they are read only if somebody names it.

    Operators' removals (remove, clean, drain, obliterate) do not come here; see
    `toril_plan_remove`. Let a queue say `Requires("your-plugin")`, so that no process removes its
    jobs without you.
    """
