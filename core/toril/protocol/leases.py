"""Leases: one process at a time runs a service of a queue.

A lease is `Q:toril:lease:<service>`, holding the token of its holder, and runs out by itself.
Because a holder can be paused for longer than its lease lives, every script that a service runs
checks the token as well (`lease_held` of the Lua seam).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from toril.connection.call import Call, Resend


def take_lease(queue: str, service: str, token: str, ms: int) -> Call[bool]:
    """Take the lease for `ms` milliseconds; False if somebody else holds it.

    Taking a lease that one holds already is renewing it.
    """
    return _lease("take", queue, service, token, ms)


def renew_lease(queue: str, service: str, token: str, ms: int) -> Call[bool]:
    """Hold the lease for another `ms` milliseconds from now; False if it was lost."""
    return _lease("renew", queue, service, token, ms)


def release_lease(queue: str, service: str, token: str) -> Call[bool]:
    """Give the lease back; False if it was no longer held."""
    return _lease("release", queue, service, token, 0)


def _lease(
    action: Literal["take", "renew", "release"], queue: str, service: str, token: str, ms: int
) -> Call[bool]:
    request = {"action": action, "service": service, "token": token, "ms": ms}
    arguments = (msgspec.msgpack.encode(request),)
    return Call("lease", (queue,), arguments, bool, Resend.ALWAYS)
