"""Nothing is removed; what would be is logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from toril import hookimpl
from toril_plugins import Due, Postpone, Verdicts

log = logging.getLogger(__name__)


@hookimpl(trylast=True)
def toril_review_removal(due: Sequence[Due]) -> Verdicts:
    for each in due:
        log.info("would remove %s/%s: %s", each.job.queue, each.job.id, each.rule)
    return {each.job.id: Postpone("1d", "report only") for each in due}
