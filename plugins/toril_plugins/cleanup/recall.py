"""What is left of removed jobs: telling it, and erasing it."""

from __future__ import annotations

import json
from typing import Any, cast

from toril import hookimpl
from toril.plugins import JobRef, Json, Outcome, ParentRef, PluginContext, Recalled, by_this_user

GONE = "gone"
"""The field of a tombstone that tells when the job went."""


class Recalling:
    """The hooks about jobs that are gone. Part of the plugin `cleanup`."""

    _context: PluginContext

    @hookimpl
    async def toril_recall_job(self, job: JobRef) -> Recalled | None:
        tomb = await self._context.run_script(job.queue, "recall", {"id": job.id})
        return None if tomb is None else recalled(cast("dict[str, str]", tomb))

    @hookimpl
    async def toril_erase_job(self, job: JobRef) -> str | None:
        who = by_this_user("erase")
        found = await self._context.run_script(job.queue, "erase", {"id": job.id, "who": who})
        return ", ".join(cast("list[str]", found)) or None


def recalled(tomb: dict[str, str]) -> Recalled:
    """What a tombstone tells. Its fields: see `removed.lua`."""
    result = tomb.get("result")
    parent_queue, _, parent_id = tomb.get("parent", "").rpartition(":")
    return Recalled(
        outcome=cast("Outcome", tomb["outcome"]),
        finished=int(float(tomb["finishedOn"])),
        name=tomb.get("name", ""),
        result=None if result is None else _json(result),
        reason=tomb.get("reason"),
        has_result=tomb["outcome"] == "failed" or result is not None,
        parent=ParentRef(parent_queue, parent_id) if parent_id else None,
    )


def _json(text: str) -> Json:
    """The value, or the text itself, as a job's own result is read."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return text
    return cast("Json", value)
