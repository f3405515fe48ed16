"""Names of keys.

A queue is named by its key, `prefix:name` ("bull:mail"); all of its keys begin with that and a
colon. Names are checked where they come in; the rest of Toril passes the key around.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final, cast

from toril.errors import ConfigurationError

KEYS_OF_A_QUEUE: Final = frozenset(
    (
        *("wait", "paused", "active", "prioritized", "delayed", "waiting-children"),
        *("completed", "failed", "id", "pc", "meta", "events", "marker", "stalled"),
        *("stalled-check", "limiter", "repeat", "priority", "delay", "metrics", "de", "dn"),
        "toril",
    )
)
"""What follows the queue's key in its other keys, and so cannot be a job's id."""

_KEYS_OF_A_JOB: Final = ("lock", "logs", "dependencies", "processed", "failed", "unsuccessful")

SLOTS: Final = 16384
"""Hash slots of a cluster."""


def queue_key(prefix: str, name: str) -> str:
    """The key of a queue: what the names of all its keys begin with.

    Braces in prefix or name are a cluster's hash tag: queues with the same tag share a slot.

    Raises:
        ConfigurationError: The prefix or the name is empty or not valid Unicode, or the name
            contains a colon.
        TypeError: One of them is no text.
    """
    for what, given in (("prefix", prefix), ("queue's name", name)):
        if not isinstance(cast(object, given), str):
            raise TypeError(f"a {what} is a text, not {given!r}")
        if not given:
            raise ConfigurationError(f"a {what} must not be empty")
        try:
            given.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"a {what} must be valid Unicode: {given!r}") from None
    if ":" in name:
        raise ConfigurationError(f"a queue's name must not contain a colon: {name!r}")
    return f"{prefix}:{name}"


def queue_name(queue: str) -> str:
    """The plain name of the queue with that key: `bull:mail` → `mail`."""
    return queue.rpartition(":")[2]


def split_job_key(key: str, prefix: str) -> tuple[str, str]:
    """Queue key and id of the job with that key: `bull:mail:42` → `bull:mail`, `42`.

    A queue's name has no colon, an id may have some. If the key begins with another prefix, which
    nobody knows the length of, the id is taken to have none.
    """
    if not key.startswith(f"{prefix}:"):
        queue, _, id = key.rpartition(":")
        return queue, id
    name, _, id = key[len(prefix) + 1 :].partition(":")
    return f"{prefix}:{name}", id


def can_be_job(id: str) -> bool:
    """Whether a job can have that id: its hash is none of the other keys of queue and jobs.

    What reads or removes a job by an id that somebody gave has to ask, or `wait` names a list.
    """
    first, colon, rest = id.partition(":")
    if not colon:
        return id != "" and id not in KEYS_OF_A_QUEUE
    last = rest.rpartition(":")[2]
    if first == "repeat":  # an iteration of a schedule is a job, the schedule itself is not
        return ":" in rest and last.isdecimal()
    return first not in KEYS_OF_A_QUEUE and last not in _KEYS_OF_A_JOB


def slot(key: str | bytes) -> int:
    """The hash slot of a key in a cluster: CRC16 of the first non-empty `{tag}`, else of the key.

    Source: the Redis cluster specification.
    """
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    end = raw.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        raw = raw[start + 1 : end]
    return crc_hqx(raw, 0) % SLOTS
