"""Error messages and stack traces as they are stored with a job."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

from toril.protocol.codec import encode_stacktrace, valid_text
from toril.snapshots import JobSnapshot
from toril.types import Json

_LONGEST: Final = 16_384
"""Characters kept of one message, and of one trace, whose end tells most."""
_MOST_TRACES: Final = 100
"""Traces kept when the job itself names no limit."""

_OUR_FRAMES: Final = f"{Path(__file__).parent.parent}{os.sep}"
"""Not the worker's only: between it and a task's function there are others of ours."""


class TraceText(Exception):
    """The cause of an error that was raised in another process: its trace there, as text."""


def reason_of(error: BaseException) -> str:
    """The message of an error, or its class if it has none."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a guard: an error that cannot be written is one all the same
        text = ""
    return valid_text(text[:_LONGEST] or type(error).__name__)


def with_trace(job: JobSnapshot, error: BaseException, limit: Json) -> str:
    """The job's stored list of traces with that of `error` added, cut to the last `limit`."""
    most = limit if isinstance(limit, int) and 0 <= limit < _MOST_TRACES else _MOST_TRACES
    traces = (*job.stacktrace, _trace(error)) if most else ()
    return encode_stacktrace(traces[-most:])


def _trace(error: BaseException) -> str:
    """The traceback of `error`, from the handler's first frame on."""
    if isinstance(error.__cause__, TraceText):
        return str(error.__cause__)[-_LONGEST:]
    frames = error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, _beyond_ours(frames))
    except Exception:  # noqa: BLE001 - a guard: see above
        lines = traceback.format_tb(frames)
    return "".join(lines)[-_LONGEST:]


def _beyond_ours(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OUR_FRAMES):
        frames = frames.tb_next
    return frames
