"""Of completed jobs one an hour and name is kept, for a month."""

from __future__ import annotations

from toril import hookimpl
from toril.plugins import FinishedJob, as_datetime
from toril_plugins import Keep


@hookimpl
def toril_plan_retention(job: FinishedJob) -> Keep | None:
    if job.outcome != "completed":
        return None
    hour = as_datetime(job.finished or job.created).strftime("%Y-%m-%d %H")
    return Keep(first=1, group=f"{job.name} {hour}", age="30d")
