"""Reading what is stored of jobs beside their hashes, for those who copy them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from toril.plugins import JobParts, Json, ServiceContext
from toril_plugins.retention.reviewing import Details, JobDetails


async def read_details(context: ServiceContext, rules: Mapping[str, str]) -> Details:
    """The details of jobs of one queue. `rules`: by job id, why it goes."""
    found = await context.parts(tuple(rules))
    return {
        job_id: _details(rule, parts)
        for (job_id, rule), parts in zip(rules.items(), found, strict=True)
    }


def _details(rule: str, parts: JobParts) -> JobDetails:
    return JobDetails(
        tuple(_text(line) for line in parts.logs),
        {_text(child): _value(raw) for child, raw in parts.processed.items()},
        {_text(child): _text(reason) for child, reason in parts.failed.items()},
        rule,
        parts,
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _value(raw: bytes) -> Json:
    """A child's result. Text that is not JSON is given as it is."""
    try:
        return cast(Json, msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _text(raw)
