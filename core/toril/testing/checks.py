"""Assertions about what is stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Any, Final

from toril.app import App
from toril.queue import Queue
from toril.snapshots import JobSnapshot
from toril.testing.recorder import HookRecorder
from toril.testing.server import EmbeddedServer
from toril.types import Json, State

_NOT_STARTED: Final[tuple[State, ...]] = ("waiting", "prioritized", "delayed", "waiting-children")
_NO_END: Final = -1
_MEMBERS: Final[Mapping[str, tuple[Any, ...]]] = {
    "list": ("LRANGE", 0, -1),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", 0, -1),
    "hash": ("HKEYS",),
    "string": ("GET",),
}
_LINKS: Final = ("processed", "failed", "unsuccessful")
"""Keys of a parent in which a child that is gone is rightly named."""


class EnqueuedCheck:
    """Asserts that jobs were added, and have not started yet. Called like a function.

    `url` is the server, `prefix` what the names of all keys begin with. It reads with connections
    of its own, so that it works in plain and in asynchronous tests.
    """

    def __init__(self, url: str, prefix: str = "bull") -> None:
        # Without plugins nothing of it runs on a loop, and the loop of a test may call it.
        self._app = App(url, prefix=prefix, plugins=[])

    def __call__(
        self,
        queue: str | Queue,
        name: str,
        *,
        data: Json | EllipsisType = ...,
        delay: int | None = None,
        times: int = 1,
    ) -> list[JobSnapshot]:
        """Assert that exactly `times` such jobs wait in a queue, and return them.

        Args:
            queue: The queue, or its name.
            name: Their name.
            data: Their payload; not given: any.
            delay: The delay they were added with, in milliseconds; None: any.
            times: How many there are; 0: none.

        Raises:
            AssertionError: There are more or fewer; it lists what waits there.
        """
        queue_name = queue if isinstance(queue, str) else queue.name
        waiting = [job.snapshot for job in self._app.sync.queue(queue_name).jobs(*_NOT_STARTED)]
        found = [
            job
            for job in waiting
            if job.name == name and (data is ... or job.data == data) and delay in (None, job.delay)
        ]
        if len(found) != times:
            lines = "".join(f"\n  {job.name} {job.data!r:.200}" for job in waiting)
            wanted = name if data is ... else f"{name} {data!r}"
            raise AssertionError(
                f"{len(found)}, not {times}, of {wanted} in {queue_name!r}, where there wait:"
                + (lines or " none")
            )
        return found

    def close(self) -> None:
        """Close its connections."""
        self._app.sync.close()


class LeakCheck:
    """Asserts that of jobs that were removed nothing is left. Called like a function.

    Args:
        server: Where to look.
        hooks: Whose removed jobs are looked for, unless others are named.
        prefix: What the names of all keys begin with.
    """

    def __init__(self, server: EmbeddedServer, hooks: HookRecorder, prefix: str = "bull") -> None:
        self._server = server
        self._hooks = hooks
        self._app = App(server.url, prefix=prefix, plugins=[])

    def __call__(self, *ids: str) -> None:
        """Assert that of these jobs (default: of all that were removed) nothing is left.

        Nothing is: a key of theirs, or an entry of theirs in any list, set, sorted set or hash of
        Toril or of a plugin. Keys that expire count as nothing, as they go by themselves (advance
        the clock); so do streams, which are capped; and so does what a living parent knows of its
        children. What is left must agree with itself: an audit of every queue finds no problem.

        Raises:
            AssertionError: Something is left; it names the keys.
        """
        wanted = set(ids) or {event.job.id for event in self._hooks.removed}
        left = sorted(_traces(self._server.client, wanted))
        if left:
            lines = "".join(f"\n  {each}" for each in left)
            raise AssertionError(f"of removed jobs there is left:{lines}")
        face = self._app.sync
        for queue in face.queues():
            found = face.audit(queue).findings
            wrong = [f"\n  {each.key}: {each.what}" for each in found if each.severity == "problem"]
            if wrong:
                raise AssertionError(f"an audit of queue {queue!r} finds:{''.join(wrong)}")

    def close(self) -> None:
        """Close its connections."""
        self._app.sync.close()


def _traces(client: Any, ids: Iterable[str]) -> Iterator[str]:
    """Where any of these ids is still named."""
    words = "|".join(map(re.escape, ids))
    if not words:
        return
    # In a key an id stands between colons, in an entry also behind one ("bull:mail:17").
    in_key, in_entry = (
        re.compile(rf"[:@](?:{words})(?::|$)"),
        re.compile(rf"(?:^|[:@])(?:{words})$"),
    )
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        if client.pttl(key) != _NO_END or kind in ("stream", "none"):
            continue
        if in_key.search(key):
            yield f"the key {key}"
        elif key.rpartition(":")[2] not in _LINKS:
            command, *more = _MEMBERS[kind]
            entries = client.execute_command(command, key, *more)
            named = [entries] if isinstance(entries, str) else entries
            yield from (f"{entry} in {key}" for entry in named if in_entry.search(entry))
