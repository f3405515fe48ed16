"""Of failures that look alike the first one is kept; numbers and addresses in them differ."""

from __future__ import annotations

import re

from toril import hookimpl
from toril.plugins import FinishedJob
from toril_plugins import Keep

VARIES = re.compile(r"0x[0-9a-f]+|\d+")


@hookimpl
def toril_plan_retention(job: FinishedJob) -> Keep | None:
    if job.outcome != "failed":
        return None
    return Keep(first=1, group=VARIES.sub("N", job.reason or "no reason"))
