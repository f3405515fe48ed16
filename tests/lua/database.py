"""Everything in a database, for comparing what an operation changed."""

from __future__ import annotations

from typing import Any

import redis


def contents(client: redis.Redis, pattern: str = "*") -> dict[str, Any]:
    """Key → value in Python's terms: hash → dict, list → list, set → set, sorted set → dict of
    scores, string → text, stream → list of dicts of fields.
    """
    return {key: _value(client, key) for key in client.scan_iter(pattern, count=1000)}


def _value(redis_client: redis.Redis, key: str) -> Any:
    client: Any = redis_client
    kind = client.type(key)
    if kind == "hash":
        return client.hgetall(key)
    if kind == "list":
        return client.lrange(key, 0, -1)
    if kind == "set":
        return client.smembers(key)
    if kind == "zset":
        return dict(client.zrange(key, 0, -1, withscores=True))
    if kind == "stream":
        return [fields for _, fields in client.xrange(key)]
    return client.get(key)


def events(client: redis.Redis, queue: str) -> list[dict[str, str]]:
    """The fields of the entries of a queue's event stream."""
    found: list[dict[str, str]] = _value(client, f"{queue}:events") or []
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Key → its value now, for the keys whose value changed; None for those that are gone."""
    return {
        key: after.get(key)
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }
