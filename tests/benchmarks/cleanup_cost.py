"""What a finish costs with a retention rule, beside a finish without one, on one server in one run.

    python -m tests.benchmarks.cleanup_cost --finishes 20000 --runs 5 --output FOLDER

Each figure is the server's own time (SLOWLOG) for one finished job, in calls that finish K jobs and
pick up K others, as a worker's do. The variants take turns, a few calls each, and the lower decile
of a variant's calls counts, so that what else the machine does meets all of them and none of them
for good. Only the ratios carry over to other machines.
With --instructions each figure is instead the instructions of the server for one finished job, with
valgrind, which does not depend on what else the machine does: --finishes 1000 --runs 1 is enough.
Prints a Markdown table; with --output it also writes `cleanup_cost.json` and `cleanup_cost.md`.

    without plugin   `cleanup` is blocked
    no rule          nobody has said anything
    below            a live count that is not reached
    at the limit     a live count of 1000: each finish evicts one job
    at, with own     the same while 1000 other jobs have a decision of their own
    nothing          Keep.nothing() for the queue: each job goes when it finishes
    own age          each job has an age of its own
    a hold           a job is held that does not finish
    1000 holds       a thousand are, by their ids
    by hand          at a live count of 1000, by the least that removes a job: a chunk of ten lines
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import redis

from tests.benchmarks.counting import Numbers, Processor
from tests.benchmarks.output import write
from tests.support.server import Server
from toril.hooks.loader import load_plugins
from toril.plugins import JobSnapshot, Said
from toril.protocol.finishing import Fetch, Finish, tick
from toril_lua import Chunk, compose
from toril_plugins import Hold, Holds, Keep, Retention
from toril_plugins.cleanup.deciding import Decision

BATCHES: Final = (1, 10, 50)
LIMIT: Final = 1000
START: Final = 1_700_000_000_000
TURN: Final = 100
"""Finishes of one variant before it is the next one's turn."""


BY_HAND: Final = f"""
local set = ctx.q .. ':completed'
local count = redis.call('ZCARD', set) - {LIMIT}
if count <= 0 then return end
local keys, gone = {{}}, redis.call('ZPOPMIN', set, count)
local suffixes = {{'', ':logs', ':dependencies', ':processed', ':failed', ':unsuccessful'}}
for n = 1, count do
  local key = ctx.q .. ':' .. gone[2 * n - 1]
  for _, suffix in ipairs(suffixes) do keys[#keys + 1] = key .. suffix end
end
redis.call('UNLINK', unpack(keys))
ctx.emit('toril:evicted', {{outcome = 'completed', count = count}})
"""


@dataclass(frozen=True)
class Variant:
    """A queue under one rule. `own`: what is decided about each of its jobs."""

    name: str
    said: Retention | None = None
    own: Decision | None = None
    plugin: bool = True
    decided: int = 0
    """So many kept jobs have a decision of their own."""
    holds: int = 0
    """So many jobs that are not there are held."""
    chunk: str | None = None
    """Lua of a plugin that stands in for `cleanup`."""
    kept: int | None = None
    """So many jobs are there at any time; None: as many as have finished."""


VARIANTS: Final = (
    Variant("without plugin", plugin=False),
    Variant("no rule"),
    Variant("below", Retention(completed=10_000_000)),
    Variant("at the limit", Retention(completed=LIMIT), kept=LIMIT),
    Variant("at, with own", Retention(completed=LIMIT), decided=LIMIT, kept=2 * LIMIT),
    Variant("nothing", Retention(completed=Keep.nothing()), kept=0),
    Variant("own age", own=Decision(Keep(age="7d"), "job: 7d")),
    Variant("a hold", holds=1),
    Variant("1000 holds", holds=1000),
    Variant("by hand", chunk=BY_HAND, kept=LIMIT),
)


class Queue:
    """One variant's queue, driven by the script of a worker's tick."""

    def __init__(self, client: redis.Redis, variant: Variant, batch: int) -> None:
        self._client = client
        self._key = f"bull:{variant.name.replace(' ', '-').replace(',', '')}-{batch}"
        self._variant = variant
        self._batch = batch
        chunks = load_plugins(["persistence", "cleanup"]).chunks if variant.plugin else ()
        if variant.chunk:
            chunks = (Chunk("cleanup", "finished_batch", variant.chunk),)
        self._script = client.register_script(compose("tick", chunks).text)
        self._tokens = count()
        self._ids = count()
        self._now = START
        self._running: tuple[str, ...] = ()
        self._token = ""
        if variant.said:
            said = [Said(variant.said, "queue", "benchmark", START)]
            for field, value in Retention.project(said).items():
                client.hset(f"{self._key}:meta", f"toril.retention.{field}", value)

        if variant.holds:
            listed = Holds(*(Hold(id=f"held-{n:011d}", why="audit") for n in range(variant.holds)))
            held = [Said(listed, "queue", "benchmark", START)]
            for field, text in Holds.project(held).items():
                client.hset(f"{self._key}:meta", f"toril.holds.{field}", text)

    def fill(self, jobs: int) -> None:
        """Add jobs."""
        pipe = self._client.pipeline(transaction=False)
        for _ in range(jobs):
            job_id = f"{next(self._ids):016d}"
            fields: dict[Any, Any] = {
                "name": "send",
                "data": '{"to":"ada@example.org","n":1}',
                "opts": "{}",
                "timestamp": START,
                "delay": 0,
                "priority": 0,
            }
            pipe.hset(f"{self._key}:{job_id}", mapping=fields)
            pipe.lpush(f"{self._key}:wait", job_id)
        pipe.execute()

    def decide(self, jobs: int) -> None:
        """Let that many of the oldest kept jobs have a decision of their own."""
        if not jobs:
            return
        oldest: Any = self._client.zrange(f"{self._key}:completed", 0, jobs - 1, withscores=True)
        self._client.zadd(f"{self._key}:toril:cleanup:own:completed", dict(oldest))
        state = {"own.completed": 1, "floor.completed": int(oldest[-1][1])}
        stored: dict[Any, Any] = {f"toril.cleanup.{field}": value for field, value in state.items()}
        self._client.hset(f"{self._key}:meta", mapping=stored)

    def check(self) -> None:
        """The rule has been followed."""
        kept: Any = self._client.zcard(f"{self._key}:completed")
        if self._variant.kept is not None and kept != self._variant.kept:
            raise AssertionError(f"{self._key}: {kept} jobs are kept, not {self._variant.kept}")

    def run(self, jobs: int) -> None:
        """Finish that many jobs; they are there."""
        for _ in range(jobs // self._batch):
            self._tick()

    def _tick(self) -> None:
        self._now += 10
        token = f"t{next(self._tokens)}"
        own = self._variant.own
        plans: Mapping[str, Any] | None = {"cleanup": {"decision": own.encode()}} if own else None
        finishes = [
            Finish(JobSnapshot("q", job_id, {}), self._token, "completed", '"ok"', plans=plans)
            for job_id in self._running
        ]
        call = tick(self._key, now=self._now, finishes=finishes,
                    fetch=Fetch(token, 600_000, self._batch))  # fmt: skip
        effects = call.parse(self._script(keys=list(call.keys), args=list(call.args)))
        reply = effects.value
        if any(reply.codes) or effects.chunk_errors:
            raise AssertionError(f"{reply.codes} {effects.chunk_errors}")
        self._running, self._token = tuple(job.id for job in reply.jobs), token


def spent(client: redis.Redis) -> list[int]:
    """Microseconds that the server spent on each script since the log was emptied; empties it."""
    log: Any = client.slowlog_get(10 * TURN)
    client.slowlog_reset()
    return [entry["duration"] for entry in log if entry["command"].startswith(b"EVALSHA")]


def prepared(client: redis.Redis, batch: int) -> dict[str, Queue]:
    """The queue of each variant, by its name, on an empty server; its limit is reached."""
    client.flushall()
    queues: dict[str, Queue] = {}
    for variant in VARIANTS:
        queue = queues[variant.name] = Queue(client, variant, batch)
        queue.fill(variant.decided + LIMIT + 2 * batch)
        queue.run(variant.decided + batch)
        queue.decide(variant.decided)
        queue.run(LIMIT)
    return queues


def measure(client: redis.Redis, batch: int, finishes: int) -> dict[str, float]:
    """Microseconds per finished job, by variant."""
    client.config_set("slowlog-log-slower-than", 0)
    client.config_set("slowlog-max-len", 10 * TURN)
    queues = prepared(client, batch)
    times: dict[str, list[int]] = {name: [] for name in queues}
    for _ in range(finishes // TURN):
        for name, queue in queues.items():
            queue.fill(TURN)
            client.slowlog_reset()
            queue.run(TURN)
            times[name] += spent(client)
            queue.check()
    return {
        name: statistics.quantiles(each, n=10, method="inclusive")[0] / batch
        for name, each in times.items()
    }


def instructions(processor: Processor, batch: int, finishes: int) -> dict[str, float]:
    """Instructions of the server per finished job, by variant."""
    found: dict[str, float] = {}
    server = processor.server()
    try:
        with redis.Redis.from_url(server.url) as client:
            for name, queue in prepared(client, batch).items():
                queue.fill(finishes)
                counted: Numbers = {}
                with processor.counting(client, counted):
                    queue.run(finishes)
                queue.check()
                found[name] = counted["instructions"] / (finishes // batch * batch)
    finally:
        server.stop()
    return found


def table(figures: Mapping[int, Mapping[str, float]], unit: str) -> Iterable[str]:
    """The figures as Markdown: `unit` per job, and times a finish without a rule."""
    batches = list(figures)
    yield "| | " + " | ".join(f"K = {batch}" for batch in batches) + " |"
    yield "|---" * (len(batches) + 1) + "|"
    for variant in VARIANTS:
        cells = [
            f"{figures[batch][variant.name]:.1f} {unit}, "
            f"{figures[batch][variant.name] / figures[batch]['no rule']:.2f}"
            for batch in batches
        ]
        yield f"| {variant.name} | " + " | ".join(cells) + " |"


def _run(batch: int, finishes: int, *, counted: bool) -> dict[str, float]:
    if counted:
        with Processor() as processor:
            return instructions(processor, batch, finishes)
    server = Server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            return measure(client, batch, finishes)
    finally:
        server.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--finishes", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    runs: dict[int, list[dict[str, float]]] = {batch: [] for batch in options.batches}
    for _ in range(options.runs):
        for batch in options.batches:
            runs[batch].append(_run(batch, options.finishes, counted=options.instructions))
    figures = {
        batch: {name: statistics.median(run[name] for run in made) for name in made[0]}
        for batch, made in runs.items()
    }
    unit = "instructions" if options.instructions else "µs"
    lines = "\n".join(table(figures, unit))
    print(lines)
    if options.output:
        stored = {"finishes": options.finishes, "runs": options.runs, f"{unit} per job": figures}
        write(options.output, "cleanup_cost", lines, stored)


if __name__ == "__main__":
    main()
