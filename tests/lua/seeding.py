"""Writes jobs as BullMQ's format has them, without any script."""

from __future__ import annotations

import json
from typing import Any

import redis

Q = "bull:mail"
OTHER = "bull:other"
NOW = 1_790_000_000_000

SETS = ("completed", "failed", "delayed", "prioritized", "waiting-children")


class Seed:
    """Puts jobs into states. A queue is named by its key."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def job(
        self,
        id: str,
        state: str | None = "wait",
        *,
        queue: str = Q,
        score: float = NOW,
        parent: str | None = None,
        policy: str | None = None,
        **fields: Any,
    ) -> str:
        """Write a job and put its id into a set or list; its key. `parent`: the parent's key, to
        which it is linked as an open child.
        """
        key = f"{queue}:{id}"
        stored: dict[Any, Any] = {
            "name": "send",
            "data": "{}",
            "opts": '{"attempts":0}',
            "timestamp": NOW,
            "delay": 0,
            "priority": 0,
            **fields,
        }
        if parent is not None:
            parent_queue, _, parent_id = parent.rpartition(":")
            link = {"id": parent_id, "queueKey": parent_queue} | ({policy: True} if policy else {})
            stored |= {"parentKey": parent, "parent": json.dumps(link)}
            self._client.sadd(f"{parent}:dependencies", key)
        self._client.hset(key, mapping=stored)
        if state is not None:
            self.put(id, state, queue=queue, score=score)
        return key

    def put(self, id: str, state: str, *, queue: str = Q, score: float = NOW) -> None:
        """Put an id into a state."""
        if state in SETS:
            self._client.zadd(f"{queue}:{state}", {id: score})
        else:
            self._client.lpush(f"{queue}:{state}", id)
