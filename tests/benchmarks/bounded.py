"""What it costs the others when a limit is lowered: a queue keeps a million jobs, and shall keep a
thousand from now on.

    python -m tests.benchmarks.bounded --jobs 1000000 --keep 1000 --peer-jobs 200000 --output FOLDER

With --preload LIBRARY Toril is watched once more, on a server that gets its memory from that
library, such as `libjemalloc.so.2`: most servers are built with jemalloc, that of the tests is not.

Toril's sweeper removes them in slices; BullMQ for Node removes them in the call that finishes the
next job. Measured on the server: how long its scripts took. Measured beside: how long a bystander's
reads and jobs took, in calm and meanwhile. What the machine does meets a script that always does
the same as well: the control, before. The server has a processor of its own where there are two.
Prints a Markdown table; with --output it also writes `bounded.json` and `bounded.md`.
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
from threading import Event, Thread
from typing import Any

import redis

from tests.benchmarks.output import write
from tests.support.driver import ROOT
from tests.support.node import install
from tests.support.server import Server

PEERS = Path(__file__).parent / "peers"
QUEUE = "kept"
CALM = 10.0
"""Seconds for which the bystander is watched in calm."""
SLOW_LOG = 20_000
"""So many of the last calls of 0.1 ms and more are looked at one by one."""
_CONTROL = "for n = 1, 100 do redis.call('EXISTS', KEYS[1]) end"
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
        least_two = [*durations, *durations] or [0.0, 0.0]
        cuts = statistics.quantiles(least_two, n=100, method="inclusive")
        return cls(len(durations), cuts[49], cuts[98], max(least_two))


@dataclass(frozen=True)
class Seen:
    """What was seen while one library brought a queue down to its limit."""

    who: str
    jobs: int
    gone: int
    seconds: float
    scripts: Quantiles
    """Of the last of its scripts."""
    longest_ms: float
    """The longest script of all, the bystander's too."""
    over: int
    """How many took longer than 4.2 ms."""
    calm: dict[str, Quantiles]
    meanwhile: dict[str, Quantiles]
    control: Quantiles
    """Of a script that always does the same."""
    beside_control: dict[str, Quantiles]


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
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


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


def scripts(client: redis.Redis) -> Quantiles:
    """How long the last scripts and transactions took that were about the queue."""
    entries: list[dict[str, Any]] = client.slowlog_get(SLOW_LOG)
    kinds, key = (b"EVALSHA", b"EVAL", b"EXEC"), f"bull:{QUEUE}".encode()
    calls = [each for each in entries if each["command"].upper().startswith(kinds)]
    return Quantiles.of([each["duration"] for each in calls if key in each["command"]])


def longest(client: redis.Redis) -> tuple[float, int]:
    """The longest of all scripts since the statistics were emptied, in ms, whoever ran it; and how
    many took longer than 4.2 ms."""
    info: dict[str, Any] = client.info("latencystats")
    most, over = 0.0, 0
    for command in ("evalsha", "eval"):
        cuts = info.get(f"latency_percentiles_usec_{command}", {})
        most = max(most, float(cuts.get("p100", 0)))
        execute: Any = client.execute_command
        for told in execute("LATENCY", "HISTOGRAM", command).values():
            calls, buckets = told["calls"], told["histogram_usec"]
            within = [count for us, count in buckets.items() if us <= 4300]
            over += calls - max(within, default=0)
    return most / 1000, over


@contextmanager
def control(server: Server) -> Generator[None]:
    """Meanwhile somebody runs a script that always does the same, for half of the time."""
    done = Event()

    def run() -> None:
        with server.client() as client:
            script = client.register_script(_CONTROL)
            while not done.is_set():
                started = time.perf_counter()
                script(keys=[f"bull:{QUEUE}:nothing"])
                time.sleep(time.perf_counter() - started)

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def preloaded(library: str | None) -> Generator[None]:
    """Servers that are started meanwhile get their memory from this library."""
    if library is None:
        yield
        return
    os.environ["LD_PRELOAD"] = library
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"]


def observe(
    who: str, jobs: int, keep: int, work: Callable[[Server], None], calm: float, part: bool = False
) -> Seen:
    """Fill a server's queue, watch in calm, then beside a script that always does the same, then
    while `work` is done. `part`: it may end before all is done."""
    settings = {"slowlog-log-slower-than": "100", "slowlog-max-len": str(SLOW_LOG)}
    settings["latency-tracking-info-percentiles"] = "50 99 100"
    server = Server.start(settings)
    try:
        undisturbed(server.pid, 0)
        with server.client() as client:
            fill(client, jobs)
            client.slowlog_reset()
            with bystander(server.url) as end:
                time.sleep(calm)
                before = end()
            client.slowlog_reset()
            with bystander(server.url) as end, control(server):
                time.sleep(calm)
                beside = end()
            always = scripts(client)
            with bystander(server.url) as end:
                client.config_resetstat()
                client.slowlog_reset()
                started = time.perf_counter()
                work(server)
                seconds = time.perf_counter() - started
                most, over = longest(client)
                meanwhile = end()
            took = scripts(client)
            left = client.zcard(f"bull:{QUEUE}:completed")
            assert left == keep or part, f"{left} are left, not {keep}"
    finally:
        server.stop()
    gone = jobs - left
    return Seen(who, jobs, gone, seconds, took, most, over, before, meanwhile, always, beside)


def toril(keep: int, most_seconds: float | None = None) -> Callable[[Server], None]:
    """A lower limit, and a sweep, or its first seconds."""

    def work(server: Server) -> None:
        for command in (
            ["retention", "set", QUEUE, "--completed", str(keep)],
            ["sweep", QUEUE],
        ):
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [sys.executable, "-m", "toril", *command, "--url", server.url],
                    cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=most_seconds,
                )  # fmt: skip

    return work


def audit(server: Server) -> None:
    """An audit of the queue as it stands."""
    command = [sys.executable, "-m", "toril", "audit", QUEUE, "--url", server.url]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    most = ""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        most = next((line for line in status.splitlines() if line.startswith("VmHWM")), most)
        time.sleep(0.2)
    assert process.returncode == 0, process.returncode
    print(f"the audit's process: {most}", file=sys.stderr)


def bullmq(keep: int) -> Callable[[Server], None]:
    """A worker with a lower limit finishes one job."""
    node = install()

    def work(server: Server) -> None:
        script = PEERS / "node_evict.mjs"
        command = [str(node.program), str(script), server.url, QUEUE, str(keep)]
        subprocess.run(command, cwd=node.home, check=True, timeout=300)

    return work


def ms(us: float) -> str:
    return f"{us / 1000:.2f} ms"


def table(seen: Sequence[Seen]) -> str:
    names = ["who", "jobs", "gone", "seconds", "a script: median, p99, most"]
    names += ["longest of all, over 4.2 ms", "p99 of a read", "p99 of a job", "longest wait"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for each in seen:
        for about, scripts, meanwhile in (
            (f"{each.jobs:,} | {each.gone:,} | {each.seconds:.1f}", each.scripts, each.meanwhile),
            ("control | |", each.control, each.beside_control),
        ):
            became = [
                f"{ms(each.calm[what].p99)}, then {ms(meanwhile[what].p99)} "
                f"({meanwhile[what].p99 / each.calm[what].p99:.1f} times)"
                for what in ("read", "job")
            ]
            of_all = f"{each.longest_ms:.1f} ms, {each.over}" if scripts is each.scripts else ""
            lines.append(
                f"| {each.who} | {about} | {ms(scripts.median)}, {ms(scripts.p99)}, "
                f"{ms(scripts.most)} | {of_all} | {' | '.join(became)} | "
                f"{ms(max(seen.most for seen in meanwhile.values()))} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Lower a limit, and watch the others.")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs that are kept at first")
    parser.add_argument("--keep", type=int, default=1000, help="jobs that are kept then")
    parser.add_argument("--peer-jobs", type=int, default=200_000, help="the same for BullMQ; 0: no")
    parser.add_argument("--calm", type=float, default=CALM, help="seconds of calm")
    parser.add_argument("--most-seconds", type=float, help="end the sweep then; default: do not")
    parser.add_argument("--preload", action="append", default=[], help="an allocator's library")
    parser.add_argument("--audit", action="store_true", help="watch an audit, too")
    parser.add_argument("--output", type=Path, help="folder for bounded.json and bounded.md")
    given = parser.parse_args()
    sweep = toril(given.keep, given.most_seconds)
    part = given.most_seconds is not None
    seen: list[Seen] = []
    for library in [None, *given.preload]:
        who = "toril" + (f", {Path(library).name}" if library else "")
        with preloaded(library):
            seen.append(observe(who, given.jobs, given.keep, sweep, given.calm, part))
    if given.audit:
        seen.append(observe("toril audit", given.jobs, given.jobs, audit, given.calm))
    if given.peer_jobs:
        work = bullmq(given.keep)
        seen.append(observe("bullmq (Node)", given.peer_jobs, given.keep, work, given.calm))
    text = table(seen)
    print(text)
    if given.output:
        write(given.output, "bounded", text, [asdict(each) for each in seen])


if __name__ == "__main__":
    main()
