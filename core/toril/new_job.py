"""What can be said about a job when it is added."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Protocol, TypedDict, Unpack, cast

import msgspec

from toril.backoff import Backoff
from toril.deduplication import Deduplication
from toril.duration import milliseconds
from toril.errors import InvalidJob
from toril.ids import new_id
from toril.options import POLICY_OPTION, TIMEOUT_OPTION
from toril.protocol.adding import NewNode
from toril.protocol.codec import encode_json
from toril.protocol.keys import KEYS_OF_A_QUEUE
from toril.setting import Said, Setting
from toril.snapshots import JobRef, ParentRef
from toril.types import ChildFailurePolicy, Json, JsonObject

HIGHEST_PRIORITY: Final = 2**21 - 1


class HasRef(Protocol):
    """A job: a `Job`, a `SyncJob`, or the `ActiveJob` that a handler is running."""

    @property
    def ref(self) -> JobRef:
        """Its name."""
        ...


class JobOptions(TypedDict, total=False):
    """The options of a job, all optional; a value of None counts as not given."""

    id: str | None
    """An id of your own: adding it again while it exists changes nothing. No colon, no integer."""
    delay: timedelta | str | datetime | None
    """How long it has to wait (`"5m"`), or the moment from which it may run."""
    priority: int | None
    """1 is the most urgent, 2097151 the least; without one it goes before all that have one."""
    lifo: bool | None
    """Run it before the jobs that are already waiting."""
    attempts: int | None
    """How many times it may be tried in all."""
    backoff: Backoff | None
    """How long it waits before the next attempt."""
    size_limit: int | None
    """Refuse it if its data is longer than this many bytes as JSON."""
    keep_logs: int | None
    """How many of its log lines are kept."""
    stack_trace_limit: int | None
    """How many of its stack traces are kept; 0: none."""
    timestamp: datetime | None
    """When it counts as created (default: now)."""
    deduplication: Deduplication | str | None
    """Do not add it while another job with that id stands for it; see `Deduplication`."""
    parent: HasRef | JobRef | None
    """A job that shall wait for this one."""
    timeout: timedelta | str | None
    """How long its handler may run in a worker of Toril; goes before the worker's own."""
    on_failure: ChildFailurePolicy | None
    """What its parent does if it fails for good."""


class QueueDefaults(TypedDict, total=False):
    """What a queue gives to its jobs, unless they say otherwise; all optional."""

    attempts: int | None
    """How many times they may be tried in all (1)."""
    backoff: Backoff | None
    """How long they wait before the next attempt (not at all)."""
    counter_ids: bool
    """Number them, as BullMQ does, instead of making their ids here; not for jobs of flows."""


@dataclass(frozen=True, slots=True, init=False)
class NewJob:
    """A job for `Queue.add_many`; the arguments are those of `Queue.add`."""

    name: str
    data: Json
    settings: tuple[Setting, ...]
    options: JobOptions

    def __init__(
        self,
        name: str,
        data: Json = None,
        /,
        *settings: Setting,
        **options: Unpack[JobOptions],
    ) -> None:
        check_options("NewJob", options)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "options", options)


def check_options(where: str, options: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an option that a job has not, naming the nearest that it has."""
    check_names(where, options, JobOptions)


def check_names(where: str, options: Mapping[str, Any], known: type) -> None:
    """Raise `TypeError` for an option that the TypedDict `known` has not."""
    names = known.__annotations__
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise TypeError(f"{where}() has no option {name!r}; {hint}")


def job_id(given: str) -> str:
    """The id a caller gave, checked.

    Raises:
        InvalidJob: The id is empty, contains a colon, reads as an integer, or names a key that
            every queue has.
    """
    if not isinstance(cast(object, given), str):
        raise TypeError(f"a job id is a text, not {given!r}")
    if not given or ":" in given:
        raise InvalidJob(f"a job id must not be empty or contain a colon: {given!r}")
    if str.isdecimal(given.removeprefix("-")) and str(int(given)) == given:
        raise InvalidJob(f"a job id must not be an integer (counters use those): {given!r}")
    if given in KEYS_OF_A_QUEUE:
        raise InvalidJob(f"{given!r} is a key that every queue has; a job cannot be called that")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InvalidJob(f"a job id must be valid Unicode: {given!r}") from None
    return given


class Drafted(msgspec.Struct, frozen=True, gc=False):
    """A job to be added, checked, before the plugins are asked.

    `data` is the payload as the caller gave it, `said` what was said for this job, most specific
    first.
    """

    node: NewNode
    data: Json
    said: tuple[Said[Any], ...]


def draft(
    queue_key: str,
    name: object,
    data: Json | Setting,
    options: JobOptions,
    checked: CheckedOptions,
    *,
    now: int,
    said: tuple[Said[Any], ...] = (),
    counter: bool = False,
    parent: ParentRef | None = None,
    has_children: bool = False,
    prefix: str | None = None,
) -> Drafted:
    """The job with everything checked, its payload as JSON, its options under BullMQ's names.

    Args:
        queue_key: The queue's key prefix.
        name: The job's name.
        data: The payload.
        options: What the caller gave.
        checked: Checks the options; knows the queue's.
        now: Milliseconds since the epoch.
        said: What was said for this job, most specific first.
        counter: Without an id of its own it gets the next number of the queue; the id is '' here.
        parent: Its parent in a flow.
        has_children: It is a parent in a flow.
        prefix: That of its queue, if it is not the App's.

    Raises:
        TypeError: A value of the wrong type; a number where a duration is wanted.
        ValueError: A value out of range (`InvalidJob` for what could not be saved).
    """
    if not isinstance(name, str):
        raise TypeError(f"a job's name is a text, not {name!r}")
    if isinstance(data, Setting):
        raise TypeError(
            f"{data!r} stands where the data of job {name!r} should be; settings come "
            "after the data, which may be None"
        )
    if parent is None and options:
        parent = _parent(queue_key, options.get("parent"))
    opts = checked.of(options, parent, now)
    given: str | None = opts.get("jobId")
    node = NewNode(
        queue_key,
        given or ("" if counter else new_id()),
        name,
        encode_json(data, f"data of job {name!r}", most_bytes=opts.get("sizeLimit")),
        opts,
        opts.get("timestamp", now),
        parent,
        is_parent=has_children,
        counter=counter and not given,
        given=given is not None,
        prefix=prefix,
    )
    return Drafted(node, data, said)


class CheckedOptions:
    """The options of jobs, checked, under BullMQ's names; jobs that say the same share them.

    `defaults`: the queue's options, for those that a job does not give.
    """

    _MOST: Final = 256
    _OF_ONE_JOB: Final = frozenset({"id", "timestamp", "parent", "deduplication"})

    def __init__(self, defaults: QueueDefaults | None = None) -> None:
        self._defaults: Mapping[str, object] = defaults or {}
        self._known: dict[Hashable, Mapping[str, Any]] = {}

    def of(self, options: JobOptions, parent: ParentRef | None, now: int) -> Mapping[str, Any]:
        """The options of one job; `parent` is its parent, `now` in milliseconds since the epoch.

        Raises what `draft` raises.
        """
        said: Hashable = parent
        if options:
            said = (parent, *((name, type(value), value) for name, value in options.items()))
        if options and (
            not self._OF_ONE_JOB.isdisjoint(options)
            or isinstance(options.get("delay"), datetime)
            or not _is_hashable(said)
        ):
            return self._check(options, parent, now)
        known = self._known.get(said)
        if known is None:
            if len(self._known) >= self._MOST:
                self._known.clear()
            known = self._known[said] = self._check(options, parent, now)
        return known

    def _check(self, given: JobOptions, parent: ParentRef | None, now: int) -> Mapping[str, Any]:
        options: dict[str, Any] = {**self._defaults}
        options |= {name: value for name, value in given.items() if value is not None}
        options = {name: value for name, value in options.items() if value is not None}
        opts: JsonObject = {"attempts": 1}
        for option, stored, lowest, highest in _COUNTS:
            if option in options:
                opts[stored] = _count(options, option, lowest, highest)
        if "timestamp" in options:
            opts["timestamp"] = _moment("timestamp", options["timestamp"])
        if "delay" in options:
            opts["delay"] = delay_after(options["delay"], cast(int, opts.get("timestamp", now)))
        if options.get("lifo"):
            opts["lifo"] = True
        for option, stored, encode in _ENCODED:
            if option in options:
                opts[stored] = encode(options[option])
        if parent is not None:
            opts["parent"] = {"id": parent.id, "queue": parent.queue_key}
        _add_policy(opts, options.get("on_failure", "wait"), has_parent=parent is not None)
        if "id" in options:
            opts["jobId"] = job_id(options["id"])
        return MappingProxyType(opts)


def _is_hashable(value: Hashable) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


_COUNTS: Final = (
    ("attempts", "attempts", 1, None),
    ("priority", "priority", 0, HIGHEST_PRIORITY),
    ("size_limit", "sizeLimit", 0, None),
    ("keep_logs", "keepLogs", 0, None),
    ("stack_trace_limit", "stackTraceLimit", 0, None),
)


def _count(
    options: Mapping[str, Any], option: str, lowest: int = 0, highest: int | None = None
) -> int:
    value = options[option]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{option} is a whole number, not {value!r}")
    if value < lowest or (highest is not None and value > highest):
        bound = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
        raise InvalidJob(f"{option} must be {bound}, not {value}")
    return value


def _moment(option: str, value: Any) -> int:
    if not isinstance(value, datetime):
        raise TypeError(f"{option} is a datetime, not {value!r}")
    if value.tzinfo is None:
        raise InvalidJob(f"{option} must know its time zone: {value!r}")
    return round(value.timestamp() * 1000)


def delay_after(value: timedelta | str | datetime, start: int) -> int:
    """How many milliseconds a job waits from `start` (ms since the epoch) on.

    Raises `TypeError`, `ValueError`: no duration, or a moment without a time zone.
    """
    if isinstance(value, datetime):
        return max(0, _moment("delay", value) - start)
    return milliseconds(value, "delay")


def _backoff(value: object) -> Json:
    if not isinstance(value, Backoff):
        raise TypeError(f"backoff is a Backoff, such as Backoff.fixed('5s'), not {value!r}")
    return value.encode()


def _timeout(value: timedelta | str) -> Json:
    ms = milliseconds(value, "timeout")
    if not ms:
        raise InvalidJob("timeout must be longer than nothing")
    return ms


def _window(given: Any) -> JsonObject:
    window = Deduplication(given) if isinstance(given, str) else given
    if not isinstance(window, Deduplication):
        raise TypeError(f"deduplication is an id or a Deduplication(…), not {given!r}")
    return window.encode()


_ENCODED: Final[tuple[tuple[str, str, Callable[[Any], Json]], ...]] = (
    ("backoff", "backoff", _backoff),
    ("timeout", TIMEOUT_OPTION, _timeout),
    ("deduplication", "deduplication", _window),
)


def checked_priority(value: int) -> int:
    """A priority that a job can have. Raises `TypeError`, `InvalidJob`."""
    return _count({"priority": value}, "priority", 0, HIGHEST_PRIORITY)


def _parent(queue_key: str, parent: Any) -> ParentRef | None:
    if parent is None:
        return None
    ref = ref_of(parent)
    return ParentRef(f"{ref.prefix or queue_key.rpartition(':')[0]}:{ref.queue}", ref.id)


def ref_of(job: HasRef | JobRef, of: str = "parent") -> JobRef:
    """The name of a job that somebody gave. `of`: for what. Raises `TypeError`."""
    ref = job if isinstance(job, JobRef) else getattr(job, "ref", None)
    if not isinstance(ref, JobRef):
        raise TypeError(f"{of} is a Job or a JobRef, not {job!r}")
    return ref


def check_policy(option: str, policy: object) -> None:
    """Raise `InvalidJob` if it is no policy for failed children. `option` is its name."""
    if policy != "wait" and policy not in POLICY_OPTION:
        known = ", ".join(map(repr, ("wait", *POLICY_OPTION)))
        raise InvalidJob(f"{option} is one of {known}, not {policy!r}")


def _add_policy(opts: JsonObject, policy: ChildFailurePolicy, *, has_parent: bool) -> None:
    check_policy("on_failure", policy)
    if policy == "wait":
        return
    if not has_parent:
        raise InvalidJob("on_failure says what a parent does, and this job has none")
    opts[POLICY_OPTION[policy]] = True
