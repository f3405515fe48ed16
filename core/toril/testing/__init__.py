"""A testing kit for programs that use Toril and for plugins: fixtures, helpers, contracts.

`pip install 'toril[testing]'` is all that it needs; pytest finds the fixtures by itself. See
`docs/plugins/testing.md`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "HOSTILE_DATA",
    "AppOptions",
    "DrivenApp",
    "EmbeddedServer",
    "EnqueuedCheck",
    "HookRecorder",
    "LeakCheck",
    "PluginContract",
    "Removed",
    "ServerClock",
    "WorkerFactory",
    "ask_purely",
    "finished_job",
    "hostile_jobs",
    "job_snapshot",
    "plainly",
]

if TYPE_CHECKING:
    from toril.app_options import AppOptions
    from toril.testing.app import DrivenApp
    from toril.testing.checks import EnqueuedCheck, LeakCheck
    from toril.testing.clock import ServerClock
    from toril.testing.contract import PluginContract, ask_purely
    from toril.testing.fixtures import WorkerFactory
    from toril.testing.jobs import HOSTILE_DATA, finished_job, hostile_jobs, job_snapshot
    from toril.testing.purity import plainly
    from toril.testing.recorder import HookRecorder, Removed
    from toril.testing.server import EmbeddedServer
else:
    # pytest imports this package at every start, also where nobody tests anything of Toril: it must
    # bring nothing along.
    _HOMES = {
        "AppOptions": ".app_options",
        "DrivenApp": "app",
        "EmbeddedServer": "server",
        "EnqueuedCheck": "checks",
        "HOSTILE_DATA": "jobs",
        "HookRecorder": "recorder",
        "LeakCheck": "checks",
        "PluginContract": "contract",
        "Removed": "recorder",
        "ServerClock": "clock",
        "WorkerFactory": "fixtures",
        "ask_purely": "contract",
        "finished_job": "jobs",
        "hostile_jobs": "jobs",
        "job_snapshot": "jobs",
        "plainly": "purity",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
