"""Reading what is stored of jobs beside their hashes, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Resend
from toril.protocol.replies import text
from toril.snapshots import JobParts

_PARTS: Final = ("logs", "processed", "failed", "unsuccessful")


def parts(queue: str, ids: Sequence[str]) -> Procedure[list[JobParts]]:
    """What is stored of these jobs beside their hashes, read in pages; nothing of what is garbled.

    This is not one moment's picture, unless the jobs have ended.
    """
    found: dict[tuple[str, str], list[bytes]] = {(id, part): [] for id in ids for part in _PARTS}
    wanted = [(id, part, "0") for id, part in found]
    while wanted:
        arguments = (msgspec.msgpack.encode({"wanted": wanted[:100]}),)
        pages: list[Any] = yield Call("parts", (queue,), arguments, list, Resend.ALWAYS)
        behind = wanted[len(pages) :]
        further: list[tuple[str, str, str]] = []
        for (id, part, _), (values, cursor) in zip(wanted, pages, strict=False):
            found[id, part] += values
            if cursor:
                further.append((id, part, text(cursor)))
        wanted = further + behind
    return [
        JobParts(
            tuple(found[id, "logs"]),
            *(_pairs(found[id, part]) for part in ("processed", "failed", "unsuccessful")),
        )
        for id in ids
    ]


def _pairs(values: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(values[::2], values[1::2], strict=True))
