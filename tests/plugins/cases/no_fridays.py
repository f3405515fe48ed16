"""Nothing is removed on Fridays, neither by a rule nor by a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from toril import Reject, hookimpl
from toril.plugins import PluginContext, Removal, as_datetime
from toril_plugins import Due, Postpone, Verdicts


def is_friday(now: datetime) -> bool:
    return now.weekday() == 4


class NoFridays:
    toril_name = "no_fridays"

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.now = context.now  # UTC

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        if not is_friday(self.now()):
            return None
        return {each.job.id: Postpone("1d", "no removal on Fridays") for each in due}

    @hookimpl
    def toril_plan_remove(self, removal: Removal) -> None:
        if is_friday(as_datetime(removal.now)):
            raise Reject("no removal on Fridays")
