"""When an order's time is over its personal data goes, and what remains is kept ten years."""

from __future__ import annotations

from collections.abc import Sequence

from toril import hookimpl
from toril_plugins import Due, Keep, Rewrite, Verdicts

ERASED = "erased"


@hookimpl
def toril_review_removal(due: Sequence[Due]) -> Verdicts:
    return {
        each.job.id: Rewrite(
            data={"order": each.job.get("order", str)}, keep=Keep(age="3650d"), note=ERASED
        )
        for each in due
        if each.job.queue == "orders" and each.note != ERASED
    }
