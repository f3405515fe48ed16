r"""One archived job, and the form in which every store keeps it.

A record is one JSON object, UTF-8, on one line:

    {"v": 1, "queue": "mail", "id": "0193…", "name": "welcome", "outcome": "completed",
     "finished_on": 1790000000000, "archived_on": 1790000060000, "rule": "queue: 7d",
     "fields": {"name": "welcome", "data": "{\"to\":\"ada\"}", …},
     "logs": ["sent", …],
     "children": {"processed": {"bull:mail:1": "true"}, …}}

`fields` is the job's hash, every field as the text that is stored, so that no number and no key
order is lost. `children` holds what the children left with their parent: hashes `processed` and
`failed` (child → value), and the sorted set `unsuccessful` (child → score). Times are milliseconds
since the epoch. Bytes that are not UTF-8 become `{"base64": "…"}`; a mapping with such a key is a
list of pairs. `v` changes only if a reader of the earlier form would misread the new one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import msgspec

from toril.plugins import FinishedJob, Outcome

FORMAT: Final = 1

Key: TypeAlias = tuple[str, str, int]
"""What names a record: queue, id, when the job finished. A job that ran again finished anew."""

Children: TypeAlias = Mapping[str, Mapping[bytes, bytes]]


class UnreadableRecord(ValueError):
    """A record that is none, or of a form that this version does not know."""


@dataclass(frozen=True, slots=True)
class ArchivedJob:
    """A finished job as it was when it was archived.

    `rule` says why it went; `fields` is its hash, `logs` its log lines, oldest first; `children`
    what its children left: `processed`, `failed`, `unsuccessful`, each child → value.
    """

    queue: str
    id: str
    name: str
    outcome: Outcome
    finished_on: int
    archived_on: int
    rule: str
    fields: Mapping[bytes, bytes]
    logs: Sequence[bytes] = ()
    children: Children = field(default_factory=dict[str, Mapping[bytes, bytes]])

    @property
    def key(self) -> Key:
        """What names it: archived twice, it is one record."""
        return (self.queue, self.id, self.finished_on)

    @property
    def job(self) -> FinishedJob:
        """The job, readable: `job.data`, `job.result`, `job.reason` and so on."""
        return FinishedJob(self.queue, self.id, self.fields, self.outcome)

    def encode(self) -> bytes:
        """The record, without a line end."""
        return msgspec.json.encode(
            {
                "v": FORMAT,
                "queue": self.queue,
                "id": self.id,
                "name": self.name,
                "outcome": self.outcome,
                "finished_on": self.finished_on,
                "archived_on": self.archived_on,
                "rule": self.rule,
                "fields": _mapping(self.fields),
                "logs": [_text(line) for line in self.logs],
                "children": {kind: _mapping(values) for kind, values in self.children.items()},
            }
        )

    @classmethod
    def decode(cls, record: bytes) -> ArchivedJob:
        """The job that `encode` wrote. Raises `UnreadableRecord`."""
        try:
            stored = cast("dict[str, Any]", msgspec.json.decode(record))
            version = stored["v"]
            if version == FORMAT:
                return _decoded(stored)
        except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableRecord(f"not a record of an archived job: {error}") from error
        raise UnreadableRecord(
            f"a record of version {version!r}, which was made by a newer Toril; "
            f"this one reads version {FORMAT}"
        )


def _decoded(stored: Mapping[str, Any]) -> ArchivedJob:
    outcome = stored["outcome"]
    if outcome not in ("completed", "failed"):
        raise ValueError(f"an outcome {outcome!r}")
    return ArchivedJob(
        queue=str(stored["queue"]),
        id=str(stored["id"]),
        name=str(stored["name"]),
        outcome=outcome,
        finished_on=int(stored["finished_on"]),
        archived_on=int(stored["archived_on"]),
        rule=str(stored["rule"]),
        fields=_bytes_mapping(stored["fields"]),
        logs=tuple(_bytes(line) for line in stored["logs"]),
        children={kind: _bytes_mapping(values) for kind, values in stored["children"].items()},
    )


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _bytes(stored: Any) -> bytes:
    if isinstance(stored, str):
        return stored.encode()
    return base64.b64decode(stored["base64"], validate=True)


def _mapping(values: Mapping[bytes, bytes]) -> Any:
    pairs = [(_text(key), _text(value)) for key, value in values.items()]
    if all(isinstance(key, str) for key, _ in pairs):
        return dict(cast("list[tuple[str, Any]]", pairs))
    return pairs


def _bytes_mapping(stored: Any) -> dict[bytes, bytes]:
    if isinstance(stored, dict):
        stored = cast("dict[str, Any]", stored).items()
    return {_bytes(key): _bytes(value) for key, value in cast("Iterable[tuple[Any, Any]]", stored)}
