"""Jobs of paying customers are kept longer."""

from __future__ import annotations

from toril import hookimpl
from toril.plugins import FinishedJob
from toril_plugins import Keep

TIERS = {"gold": Keep(age="365d"), "free": Keep(age="1d")}


@hookimpl
def toril_plan_retention(job: FinishedJob) -> Keep | None:
    return TIERS.get(job.get("customer.tier", str) or "")
