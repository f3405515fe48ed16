"""Call records: what makes a call safe to send again after its reply was lost."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from toril.connection.call import Resend
from toril.connection.lanes import CallRecord
from toril.errors import IndeterminateError

__all__ = ["CallRecord", "pack_record", "refuse_late", "resend_for"]

PRODUCER_TTL_MS: Final = 120_000
"""How long the record of a producer's call is kept."""

PackedRecord: TypeAlias = tuple[str, int, int]

_LATE: Final = -20


def pack_record(record: CallRecord | None, ttl_ms: int = PRODUCER_TTL_MS) -> PackedRecord | None:
    """The record as scripts get it."""
    return None if record is None else (f"{record.who}:{record.lane}", record.n, ttl_ms)


def resend_for(record: CallRecord | None) -> Resend:
    """What may be done with the call when its reply is lost."""
    return Resend.NEVER if record is None else Resend.RECORDED


def refuse_late(reply: Any) -> None:
    """Raise `IndeterminateError` if a later call of the same lane came before this one."""
    if reply == _LATE:
        raise IndeterminateError("the call reached the server after a later one of its lane")
