"""While a job of a flow has failed, or may yet fail, all of the flow stays."""

from __future__ import annotations

from collections.abc import Sequence

from toril import hookimpl
from toril_plugins import Due, Flows, Postpone, Verdicts


@hookimpl
async def toril_review_removal(due: Sequence[Due], flows: Flows) -> Verdicts:
    verdicts: dict[str, Postpone] = {}
    for each in due:
        flow = await flows(each.job)
        if not flow.settled:
            verdicts[each.job.id] = Postpone("10m", "the flow still runs")
        elif flow.failed:
            verdicts[each.job.id] = Postpone("30d", f"{flow.failed[0]} failed")
    return verdicts
