"""Reading what is stored of jobs beside their hashes, for those who copy them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from toril.plugins import Json, ServiceContext
from toril_plugins.retention.reviewing import Details, JobDetails

PARTS = ("logs", "processed", "failed")


async def read_details(context: ServiceContext, ids: Sequence[str]) -> Details:
    """Log lines and children's values of jobs of one queue, read in pages."""
    found: dict[str, dict[str, list[str]]] = {job_id: {part: [] for part in PARTS} for job_id in ids}
    wanted: list[list[str]] = [[job_id, part, "0"] for job_id in ids for part in PARTS]
    while wanted:
        request = cast("list[Json]", wanted[:100])
        answers = cast("list[Any]", await context.run_script("details", {"wanted": request}))
        rest: list[list[str]] = []
        for (job_id, part, _), (values, cursor) in zip(wanted, answers, strict=False):
            found[job_id][part] += values
            if cursor:
                rest.append([job_id, part, cursor])
        wanted = rest + wanted[len(answers) :]
    return {job_id: _details(parts) for job_id, parts in found.items()}


def _details(parts: dict[str, list[str]]) -> JobDetails:
    processed, failed = parts["processed"], parts["failed"]
    return JobDetails(
        tuple(parts["logs"]),
        {key: _value(raw) for key, raw in zip(processed[::2], processed[1::2], strict=True)},
        dict(zip(failed[::2], failed[1::2], strict=True)),
    )


def _value(raw: str) -> Json:
    """A child's result. Text that is not JSON is given as it is."""
    try:
        return cast(Json, msgspec.json.decode(raw))
    except msgspec.DecodeError:
        return raw
