"""What is in the database, written so that two libraries that do the same write the same lines.

`dump` reads every key under a prefix and renders it as text lines, one per hash field, list
element, member or event. What differs between two runs of the same thing is replaced by what it
means:

- a job's id by its name in braces, `{mail}` (`{mail#2}` for the second job of that name), wherever
  an id or a job key stands, also inside texts;
- a time within the run by `<time>`; a delayed job's due time by `timestamp+DELAY`, exact, or by
  `event`, if it is what the job's last `delayed` event says;
- a `delayed` event's due time by `timestamp+DELAY`, exact, or `now+DELAY`, where DELAY is rounded
  up to a multiple of `GRAIN`, which is why scenarios use such multiples;
- a priority's score by priority and counter, a finished set's by `finishedOn` if it equals that;
- the delay of a scheduler's job by `<until due>`, if it leads to the time that its id names, and
  a scheduler's phase by `<phase>`;
- a lock's token by `<token>`, the text of a stack by `<stack>`;
- the order of members in JSON objects, of hash fields and of sets by the alphabet.

With a clock that the test moves, times need no meaning: `exact=True` writes them as they are.

Toril's own data is left out: keys `Q:toril:*`, fields `toril` of jobs and `toril.*` of `meta`, the
key `toril` in `opts`, events `toril:*`. What else may differ, and why, stands in
`tests.interop.differences`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from redis.client import Pipeline

GRAIN = 200  # ms

JOB_PARTS = ("lock", "logs", "dependencies", "processed", "failed", "unsuccessful")
QUEUE_KEYS = (
    *("wait", "paused", "active", "prioritized", "delayed", "waiting-children", "completed"),
    *("failed", "id", "pc", "meta", "events", "marker", "stalled", "stalled-check", "limiter"),
    *("repeat", "metrics", "de", "dn", "priority", "toril"),
)
JSON_FIELDS = ("data", "opts", "returnvalue", "progress", "parent")
TEXT_FIELDS = ("failedReason", "defa", "parentKey")
TIME_FIELDS = ("timestamp", "processedOn", "finishedOn", "startDate", "endDate", "prevTS")


@dataclass
class _Key:
    """One key as it is in the server."""

    type: str
    expires: bool
    value: Any


@dataclass
class _Database:
    """Everything under the prefix, and what the ids in it are called."""

    prefix: str
    since: int
    until: int
    exact: bool
    keys: dict[str, _Key] = field(default_factory=dict[str, _Key])
    labels: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def split(self, key: str) -> tuple[str, str]:
        """A key's queue and the rest of it."""
        queue, _, rest = key[len(self.prefix) + 1 :].partition(":")
        return queue, rest

    def job_of(self, rest: str) -> tuple[str, str] | None:
        """Id and part, if the key belongs to a job; part is empty for the hash itself."""
        pieces = rest.split(":")
        if pieces[0] == "repeat" and len(pieces) >= 3:
            pieces = [":".join(pieces[:3]), *pieces[3:]]
        elif pieces[0] in QUEUE_KEYS:
            return None
        if len(pieces) == 1:
            return pieces[0], ""
        return (pieces[0], pieces[1]) if pieces[1] in JOB_PARTS else None

    def label(self, queue: str, id: str) -> str:
        return "{" + self.labels.get((queue, id), id) + "}"

    def time(self, value: str | float) -> str:
        """`<time>` if it lies within the run, else the number."""
        try:
            number = float(value)
        except ValueError:
            return repr(value)
        within = not self.exact and self.since - 1 <= number <= self.until + 1
        if within and number == int(number):
            return "<time>"
        return f"{number:.0f}" if number == int(number) else repr(number)

    def text(self, queue: str, value: str) -> str:
        """A text with the job keys and ids in it replaced by names."""
        for (other, job), label in sorted(self.labels.items(), key=lambda each: -len(each[0][1])):
            pattern = re.escape(f"{self.prefix}:{other}:{job}") + r"(?![\w-])"
            value = re.sub(pattern, f"{other}:{{{label}}}", value)
            if other == queue:
                value = re.sub(rf"\b([Jj]ob) {re.escape(job)}(?![\w-])", rf"\1 {{{label}}}", value)
        return value

    def known(self, queue: str, value: Any) -> Any:
        """A JSON value with the ids in it replaced."""
        if isinstance(value, dict):
            object_ = cast("dict[str, Any]", value)
            return {name: self._member(queue, object_, name) for name in sorted(object_)}
        if isinstance(value, list):
            return [self.known(queue, each) for each in value]
        if isinstance(value, str):
            return self.text(queue, value)
        return value

    def _member(self, queue: str, object_: dict[str, Any], name: str) -> Any:
        value = object_[name]
        if name in {"id", "jobId"} and isinstance(value, str):
            of = object_.get("queue") or object_.get("queueKey") or f"{self.prefix}:{queue}"
            home = self.split(of)[0] if isinstance(of, str) else queue
            return self.label(home, value) if (home, value) in self.labels else value
        if name in {"timestamp", "prevMillis"} and isinstance(value, (int, float)):
            return self.time(value)
        if name == "offset" and "every" in object_ and isinstance(value, int) and not self.exact:
            return "<phase>" if 0 <= value < object_["every"] else value
        return self.known(queue, value)

    def json(self, queue: str, value: str) -> str:
        try:
            parsed = json.loads(value)
        except ValueError:
            return f"NOT JSON {value!r}"
        if isinstance(parsed, dict):
            cast("dict[str, Any]", parsed).pop("toril", None)
        return json.dumps(self.known(queue, parsed), ensure_ascii=False)


# -- reading ---------------------------------------------------------------------------------------


def _read(client: redis.Redis, prefix: str, since: int, *, exact: bool) -> _Database:
    found = _Database(prefix, since, int(time.time() * 1000), exact)
    scanned = cast("Iterable[str]", client.scan_iter(f"{prefix}:*", count=1000))
    keys = [key for key in sorted(scanned) if not found.split(key)[1].startswith("toril:")]
    about = client.pipeline(transaction=False)
    for key in keys:
        about.type(key)
        about.pttl(key)
    told = about.execute()
    kinds = {key: (str(told[2 * at]), told[2 * at + 1] > 0) for at, key in enumerate(keys)}
    values = client.pipeline(transaction=False)
    for key in keys:
        _ask(values, kinds[key][0], key)
    for key, value in zip(keys, values.execute(), strict=True):
        if value:  # else it has gone since the SCAN
            kind, expires = kinds[key]
            found.keys[key] = _Key(kind, expires, sorted(value) if kind == "set" else value)
    return found


def _ask(pipeline: Pipeline, kind: str, key: str) -> None:
    """Ask for all that is in a key; for nothing, if it is gone."""
    match kind:
        case "list":
            pipeline.lrange(key, 0, -1)
        case "set":
            pipeline.smembers(key)
        case "zset":
            pipeline.zrange(key, 0, -1, withscores=True)
        case "hash":
            pipeline.hgetall(key)
        case "stream":
            pipeline.xrange(key)
        case _:
            pipeline.get(key)


def _name_jobs(found: _Database) -> None:
    """Call every job by its name: in the order of `added` events, then of the hashes."""
    met: list[tuple[str, str, str]] = []
    for key, held in found.keys.items():
        queue, rest = found.split(key)
        if rest == "events":
            met += [
                (queue, fields["jobId"], fields["name"])
                for _, fields in held.value
                if fields.get("event") == "added"
            ]
    for key, held in found.keys.items():
        queue, rest = found.split(key)
        job = found.job_of(rest)
        if held.type == "hash" and job is not None and job[1] == "" and "name" in held.value:
            met.append((queue, job[0], held.value["name"]))
    used: defaultdict[tuple[str, str], int] = defaultdict(int)
    for queue, job_id, name in met:
        if (queue, job_id) not in found.labels:
            used[queue, name] += 1
            times = used[queue, name]
            found.labels[queue, job_id] = name if times == 1 else f"{name}#{times}"


# -- rendering -------------------------------------------------------------------------------------


def dump(
    client: redis.Redis,
    since: int,
    prefix: str = "bull",
    *,
    exact: bool = False,
    names: Mapping[tuple[str, str], str] | None = None,
) -> list[str]:
    """The database under `prefix` as lines.

    Args:
        client: A client that decodes replies.
        since: Milliseconds since the epoch when the run began.
        prefix: BullMQ's key prefix.
        exact: Write times as they are, not what they mean.
        names: What jobs are called, by queue and id; None: by what is found of them.
    """
    found = _read(client, prefix, since, exact=exact)
    if names is None:
        _name_jobs(found)
    else:
        found.labels.update(names)
    lines: list[str] = []
    for key, held in found.keys.items():
        queue, rest = found.split(key)
        job = found.job_of(rest)
        if rest == "stalled-check":
            continue
        if job is None:
            title = f"{queue}:{rest}"
            body = _queue_key(found, queue, rest, held)
        else:
            title = f"{queue}:{found.label(queue, job[0])}" + (f":{job[1]}" if job[1] else "")
            body = _job_key(found, queue, *job, held)
        if held.expires:
            title += " (expires)"
        lines += [f"{title} {line}" for line in body]
    return sorted(lines, key=lambda line: line.split(" ", 1)[0])  # stable: keeps a key's own order


def _queue_key(found: _Database, queue: str, rest: str, held: _Key) -> list[str]:
    match held.type:
        case "list" if not rest.startswith("metrics:"):
            lines = [found.label(queue, each) for each in held.value]
        case "set":
            lines = sorted(found.label(queue, each) for each in held.value)
        case "zset":
            lines = _scores(found, queue, rest, held.value)
        case "stream":
            lines = _events(found, queue, held.value)
        case "hash":
            lines = _settings(found, queue, held.value)
        case "string" if rest.startswith("de:"):
            lines = [f"= {found.label(queue, held.value)}"]
        case _:
            lines = [f"= {held.value}"]
    return lines


def _job_key(found: _Database, queue: str, id: str, part: str, held: _Key) -> list[str]:
    if part == "lock":
        return ["= <token>"]
    if part == "logs":
        return [json.dumps(line) for line in held.value]
    if part == "":
        return _job(found, queue, id, held.value) if held.type == "hash" else [f"= {held.value}"]
    if part == "unsuccessful":
        return sorted(f"{found.text(queue, m)} at {found.time(score)}" for m, score in held.value)
    if part == "dependencies":
        return sorted(found.text(queue, member) for member in held.value)
    inner = found.json if part == "processed" else found.text
    children = cast("dict[str, str]", held.value)
    return sorted(f"{found.text(queue, c)} = {inner(queue, v)}" for c, v in children.items())


def _job(found: _Database, queue: str, id: str, fields: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    known = id.startswith("repeat:") and not found.exact
    due = int(id.split(":")[2]) if known else None
    for name in sorted(fields):
        value = _without_waiting(name, fields, due)
        if name == "toril":
            continue
        if name in TIME_FIELDS:
            value = found.time(value)
        elif name in JSON_FIELDS:
            value = found.json(queue, value)
        elif name in TEXT_FIELDS:
            value = found.text(queue, value)
        elif name == "stacktrace":
            value = _stacks(value)
        elif name == "delay" and not found.exact and value.isdigit() and -int(value) % GRAIN < 50:
            value = str(math.ceil(int(value) / GRAIN) * GRAIN)  # "due then", some ms later
        lines.append(f".{name} = {value}")
    return lines


def _without_waiting(name: str, fields: Mapping[str, str], due: int | None) -> str:
    """A field; for the job of a scheduler without the milliseconds until its time."""
    value = fields[name]
    if due is None or name not in {"delay", "opts"}:
        return value
    now = int(fields["timestamp"])
    if name == "delay":
        return "<until due>" if int(value) and abs(now + int(value) - due) < 50 else value
    opts = json.loads(value)
    if opts.get("delay") and abs(now + opts["delay"] - due) < 50:
        opts["delay"] = "<until due>"
    return json.dumps(opts)


def _stacks(value: str) -> str:
    try:
        stacks = json.loads(value)
    except ValueError:
        return f"NOT JSON {value!r}"
    if not isinstance(stacks, list):
        return f"NOT A LIST {value!r}"
    return json.dumps(["<stack>" if isinstance(each, str) else each for each in stacks])


def _settings(found: _Database, queue: str, fields: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for name in sorted(fields):
        value = fields[name]
        if name.startswith("toril."):
            continue
        if name == "version":
            value = "<version>" if re.fullmatch(r"bullmq:[\w.-]+", value) else value
        elif name in TIME_FIELDS:
            value = found.time(value)
        elif name == "offset" and not found.exact and 0 <= int(value) < int(fields.get("every", 0)):
            value = "<phase>"
        elif name in {"opts", "data"}:
            value = found.json(queue, value)
        lines.append(f".{name} = {value}")
    return lines


def _scores(found: _Database, queue: str, rest: str, members: list[tuple[str, float]]) -> list[str]:
    if rest == "prioritized":
        return [
            f"{found.label(queue, job)} priority {score // 2**32:.0f} number {score % 2**32:.0f}"
            for job, score in members
        ]
    if rest == "delayed":
        return [_due(found, queue, job, score) for job, score in members]
    if rest == "marker":
        return sorted(_marker(found, queue, member, score) for member, score in members)
    if rest == "repeat":
        return sorted(f"{each} at {_turn(found, queue, each, at)}" for each, at in members)
    return sorted(
        f"{found.label(queue, job)} at {_when(found, queue, job, score)}" for job, score in members
    )


def _turn(found: _Database, queue: str, scheduler: str, score: float) -> str:
    """Which job of a scheduler it is that its score names."""
    return found.label(queue, f"repeat:{scheduler}:{score:.0f}")


def _fields(found: _Database, queue: str, id: str) -> dict[str, str]:
    held = found.keys.get(f"{found.prefix}:{queue}:{id}")
    return {} if held is None else cast("dict[str, str]", held.value)


def _when(found: _Database, queue: str, id: str, score: float) -> str:
    fields = _fields(found, queue, id)
    for name in ("finishedOn", "timestamp"):
        if fields.get(name) == f"{score:.0f}":
            return name
    return found.time(score)


def _stream(found: _Database, queue: str) -> list[tuple[str, dict[str, str]]]:
    held = found.keys.get(f"{found.prefix}:{queue}:events")
    return [] if held is None else cast("list[tuple[str, dict[str, str]]]", held.value)


def _due(found: _Database, queue: str, id: str, score: float) -> str:
    due, sequence = divmod(int(score), 4096)
    if found.exact:
        return f"{found.label(queue, id)} due {due} sequence {sequence}"
    fields = _fields(found, queue, id)
    told = [
        entry["delay"]
        for _, entry in _stream(found, queue)
        if entry.get("event") == "delayed" and entry.get("jobId") == id
    ]
    begun, delay = int(fields.get("timestamp", 0)), int(fields.get("delay", 0))
    if id.startswith("repeat:") and id.endswith(f":{due}"):
        meaning = "the time in its id"
    elif due == begun + delay:
        meaning = f"timestamp+{delay}"
    elif told and told[-1] == str(due):
        meaning = "event"
    else:
        meaning = f"began+{due - found.since}"
    return f"{found.label(queue, id)} due {meaning} sequence {sequence}"


def _marker(found: _Database, queue: str, member: str, score: float) -> str:
    delayed = found.keys.get(f"{found.prefix}:{queue}:delayed")
    if delayed is not None and int(score) == int(delayed.value[0][1]) // 4096:
        return f"{member} at the first due time"
    return f"{member} at {'0' if score == 0 else 'a due time that no job has'}"


def _events(found: _Database, queue: str, entries: list[tuple[str, dict[str, str]]]) -> list[str]:
    lines: list[str] = []
    for number, fields in entries:
        event = fields["event"]
        if event.startswith("toril:"):
            continue
        told: list[str] = [event]
        if "jobId" in fields:
            told.append(found.label(queue, fields["jobId"]))
        for name in sorted(set(fields) - {"event", "jobId"}):
            value = fields[name]
            if name in {"returnvalue", "data"}:
                value = found.json(queue, value)
            elif name == "delay":
                value = _promise(found, queue, fields["jobId"], int(number.split("-")[0]), value)
            elif name == "deduplicatedJobId":
                value = found.label(queue, value)
            else:
                value = found.text(queue, value)
            told.append(f"{name}={value}")
        lines.append(" ".join(told))
    return lines


def _promise(found: _Database, queue: str, id: str, written: int, value: str) -> str:
    """What a `delayed` event says about the due time, given when it was written."""
    if found.exact or not value.isdigit():
        return repr(value)
    fields = _fields(found, queue, id)
    if id.startswith("repeat:") and id.endswith(f":{value}"):
        return "the time in its id"
    try:
        asked = int(json.loads(fields["opts"]).get("delay", 0))
    except (KeyError, ValueError):
        asked = 0
    if asked and int(value) == int(fields["timestamp"]) + asked:
        return f"timestamp+{asked}"
    return f"now+{math.ceil((int(value) - written - 1) / GRAIN) * GRAIN}"


def difference(expected: list[str], found: list[str], names: tuple[str, str]) -> str:
    """A readable difference of two dumps; empty if there is none."""
    lines = difflib.unified_diff(expected, found, *names, n=2, lineterm="")
    return "\n".join(lines)
