"""All that a plugin is written with.

    from toril.plugins import FinishedJob, hookimpl

The hooks themselves are in `toril.hooks.hookspecs`. A plugin needs nothing of `toril` but this
module and what `toril` itself offers.
"""

from __future__ import annotations

from toril.clock import Clock, ManualClock, as_datetime
from toril.duration import duration_text, milliseconds
from toril.errors import (
    ConfigurationError,
    GiveWay,
    JobStateError,
    PluginError,
    Reject,
    ServerError,
    TorilError,
)
from toril.hooks.configuration import did_you_mean
from toril.hooks.context import Fact, PluginContext, Service, ServiceContext, WorkerInfo
from toril.hooks.findings import Audit, AuditReport, Finding, Repair, Severity
from toril.hooks.function import HookFunction
from toril.hooks.markers import hookimpl, hookspec, only_for, only_when_said
from toril.hooks.plugin_set import PluginInfo
from toril.hooks.registry import Registry
from toril.job_events import (
    JobAttemptFailed,
    JobCompleted,
    JobEvent,
    JobRemoved,
    JobRetried,
    JobSaved,
    JobStalled,
)
from toril.metrics import MetricKind, Sample
from toril.protocol.codec import encode_json
from toril.protocol.plugin_call import lua_bytes
from toril.protocol.reading import FinishedCursor, FinishedPage
from toril.protocol.settings_log import SettingEntry
from toril.setting import LEVELS, LIVE_LEVELS, OWN_LEVELS, Level, Said, Setting
from toril.settings import by_this_user, on_this_host
from toril.snapshots import (
    Draft,
    FinishedJob,
    JobParts,
    JobRef,
    JobSnapshot,
    ParentRef,
    Recalled,
    Removal,
    SavePlan,
    SettingsView,
)
from toril.types import (
    STATES,
    FinishCause,
    Json,
    JsonObject,
    Outcome,
    RemovalCause,
    State,
)

__all__ = [
    "LEVELS",
    "LIVE_LEVELS",
    "OWN_LEVELS",
    "STATES",
    "Audit",
    "AuditReport",
    "Clock",
    "ConfigurationError",
    "Draft",
    "Fact",
    "Finding",
    "FinishCause",
    "FinishedCursor",
    "FinishedJob",
    "FinishedPage",
    "GiveWay",
    "HookFunction",
    "JobAttemptFailed",
    "JobCompleted",
    "JobEvent",
    "JobParts",
    "JobRef",
    "JobRemoved",
    "JobRetried",
    "JobSaved",
    "JobSnapshot",
    "JobStalled",
    "JobStateError",
    "Json",
    "JsonObject",
    "Level",
    "ManualClock",
    "MetricKind",
    "Outcome",
    "ParentRef",
    "PluginContext",
    "PluginError",
    "PluginInfo",
    "Recalled",
    "Registry",
    "Reject",
    "Removal",
    "RemovalCause",
    "Repair",
    "Said",
    "Sample",
    "SavePlan",
    "ServerError",
    "Service",
    "ServiceContext",
    "Setting",
    "SettingEntry",
    "SettingsView",
    "Severity",
    "State",
    "TorilError",
    "WorkerInfo",
    "as_datetime",
    "by_this_user",
    "did_you_mean",
    "duration_text",
    "encode_json",
    "hookimpl",
    "hookspec",
    "lua_bytes",
    "milliseconds",
    "on_this_host",
    "only_for",
    "only_when_said",
]
