"""What it costs the others when a limit is lowered: a queue keeps a million jobs, and shall keep a
thousand from now on.

    python -m tests.benchmarks.bounded --jobs 1000000 --keep 1000 --peer-jobs 200000 --output FOLDER

Toril's sweeper removes them in slices; BullMQ for Node removes them in the call that finishes the
next job. Measured on the server: how long its scripts took. Measured beside: how long a bystander's
reads and jobs took, in calm and meanwhile. The server has a processor of its own where there are
two. Prints a Markdown table; with --output it also writes `bounded.json` and `bounded.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.compare import PEERS, ROOT
from tests.support.node import install
from tests.support.server import Server

QUEUE = "kept"
CALM = 10.0
"""Seconds for which the bystander is watched in calm."""
_FILL = """
for n = ARGV[1], ARGV[2] do
  local id = string.format('j%08d', n)
  redis.call('HSET', KEYS[1] .. ':' .. id, 'name', 'send', 'data', ARGV[3], 'opts', '{}',
    'timestamp', ARGV[4], 'processedOn', ARGV[4], 'finishedOn', ARGV[4] + n, 'atm', 1, 'ats', 1,
    'returnvalue', 'null')
  redis.call('ZADD', KEYS[1] .. ':completed', ARGV[4] + n, id)
end
"""


@dataclass(frozen=True)
class Quantiles:
    """Of some durations, in microseconds."""

    count: int
    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, durations: Sequence[float]) -> Quantiles:
        cuts = statistics.quantiles(durations, n=100, method="inclusive")
        return cls(len(durations), statistics.median(durations), cuts[98], max(durations))


@dataclass(frozen=True)
class Seen:
    """What was seen while one library brought a queue down to its limit."""

    who: str
    jobs: int
    seconds: float
    scripts: int
    script_mean_ms: float
    script_longest_ms: float
    calm: dict[str, Quantiles]
    meanwhile: dict[str, Quantiles]

    def times(self, what: str) -> float:
        """How many times as long the bystander's p99 became."""
        return self.meanwhile[what].p99 / self.calm[what].p99


def fill(client: redis.Redis, jobs: int, queue: str = QUEUE) -> None:
    """Completed jobs without any rule, as every library leaves them, a millisecond apart."""
    data = json.dumps({"to": "ada@example.org", "text": "x" * 64})
    began = time.time_ns() // 1_000_000 - jobs - 60_000
    for first in range(1, jobs + 1, 2000):
        last = min(first + 1999, jobs)
        client.eval(_FILL, 1, f"bull:{queue}", first, last, data, began)


def undisturbed(pid: int, processor: int) -> None:
    """What is measured is not to wait for whatever else the machine does, as far as that can be."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(pid, {processors[processor]})
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, -20)


@contextmanager
def bystander(url: str) -> Generator[Callable[[], dict[str, Quantiles]]]:
    """Gives what tells how the bystander fared, and ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.peers.bystander", url],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    undisturbed(process.pid, -1)

    def end() -> dict[str, Quantiles]:
        out, _ = process.communicate(timeout=60)
        told = json.loads(out)
        return {what: Quantiles.of(durations) for what, durations in told.items()}

    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield end
    finally:
        process.kill()
        process.wait()


def longest_script_ms(client: redis.Redis) -> float:
    """The longest script or transaction since the slow log was emptied."""
    entries: list[dict[str, Any]] = client.slowlog_get(100_000)
    names = (b"EVALSHA", b"EVAL", b"EXEC")
    took = [e["duration"] for e in entries if e["command"].upper().startswith(names)]
    return max(took, default=0) / 1000


def observe(who: str, jobs: int, keep: int, work: Callable[[Server], None], calm: float) -> Seen:
    """Fill a server's queue, watch in calm, then watch while `work` is done."""
    server = Server.start({"slowlog-log-slower-than": "300", "slowlog-max-len": "100000"})
    try:
        undisturbed(server.pid, 0)
        with server.client() as client:
            fill(client, jobs)
            with bystander(server.url) as end:
                time.sleep(calm)
                before = end()
            with bystander(server.url) as end:
                client.config_resetstat()
                client.slowlog_reset()
                started = time.perf_counter()
                work(server)
                seconds = time.perf_counter() - started
                longest = longest_script_ms(client)
                info: dict[str, Any] = client.info("commandstats")
                stats = info["cmdstat_evalsha"]
                meanwhile = end()
            left = client.zcard(f"bull:{QUEUE}:completed")
            assert left == keep, f"{left} are left, not {keep}"
    finally:
        server.stop()
    mean = stats["usec"] / stats["calls"] / 1000
    return Seen(who, jobs, seconds, stats["calls"], mean, longest, before, meanwhile)


def toril(keep: int) -> Callable[[Server], None]:
    """A lower limit, and a sweep."""

    def work(server: Server) -> None:
        for command in (
            ["retention", "set", QUEUE, "--completed", str(keep)],
            ["sweep", QUEUE],
        ):
            subprocess.run(
                [sys.executable, "-m", "toril", *command, "--url", server.url],
                cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    return work


def bullmq(keep: int) -> Callable[[Server], None]:
    """A worker with a lower limit finishes one job."""
    node = install()

    def work(server: Server) -> None:
        script = PEERS / "node_evict.mjs"
        command = [str(node.program), str(script), server.url, QUEUE, str(keep)]
        subprocess.run(command, cwd=node.home, check=True, timeout=300)

    return work


def table(seen: Sequence[Seen]) -> str:
    names = ["who", "jobs", "seconds", "scripts", "longest script"]
    names += ["p99 of a read", "p99 of a job", "longest wait"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for each in seen:
        became = [
            f"{each.calm[what].p99 / 1000:.2f} ms, then {each.meanwhile[what].p99 / 1000:.2f} ms "
            f"({each.times(what):.1f} times)"
            for what in ("read", "job")
        ]
        lines.append(
            f"| {each.who} | {each.jobs:,} | {each.seconds:.1f} | {each.scripts:,} | "
            f"{each.script_longest_ms:.1f} ms | {' | '.join(became)} | "
            f"{max(seen.most for seen in each.meanwhile.values()) / 1000:.1f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Lower a limit, and watch the others.")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs that are kept at first")
    parser.add_argument("--keep", type=int, default=1000, help="jobs that are kept then")
    parser.add_argument("--peer-jobs", type=int, default=200_000, help="the same for BullMQ; 0: no")
    parser.add_argument("--calm", type=float, default=CALM, help="seconds of calm")
    parser.add_argument("--output", type=Path, help="folder for bounded.json and bounded.md")
    given = parser.parse_args()
    seen = [observe("toril", given.jobs, given.keep, toril(given.keep), given.calm)]
    if given.peer_jobs:
        work = bullmq(given.keep)
        seen.append(observe("bullmq (Node)", given.peer_jobs, given.keep, work, given.calm))
    text = table(seen)
    print(text)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "bounded.md").write_text(text + "\n")
        record = [asdict(each) for each in seen]
        (given.output / "bounded.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
