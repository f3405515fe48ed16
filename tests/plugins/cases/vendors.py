"""Two vendors' strategies in one program; neither knows the other."""

from __future__ import annotations

from toril import hookimpl
from toril.plugins import FinishedJob
from toril_plugins import Keep


class VendorA:
    toril_name = "vendor_a"

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return Keep(age="1d")


class VendorB:
    toril_name = "vendor_b"

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return Keep(age="30d") if job.outcome == "failed" else None
