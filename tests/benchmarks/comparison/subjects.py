"""What is compared: each subject measures one case once, and returns its figures by name."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.benchmarks.comparison.libraries import Case
from tests.benchmarks.comparison.stage import Ran, Stage
from tests.benchmarks.peers.roles import WARM_UP

Figures = Mapping[str, float]
CHILDREN: Final = 10


@dataclass(frozen=True)
class Scale:
    """How large a comparison is."""

    runs: int
    seconds: float
    """About how long one run of adds or of a drain takes."""
    latencies: int
    """Jobs of a latency run, one at a time."""
    memory: int
    """Jobs whose memory on the server is weighed; a quarter where only waiting ones are."""
    hold: int
    """Jobs that run at the same time while a worker's memory is looked at."""
    growth: int
    """Jobs of one worker whose memory is looked at from time to time."""
    flows: int
    """Parents with `CHILDREN` children each."""

    def jobs(self, case: Case, subject: str, least: int = 100) -> int:
        """How many a run of this subject has."""
        return max(least, round(case.paces[subject] * self.seconds / 100) * 100)


FULL: Final = Scale(
    runs=5, seconds=0.8, latencies=150, memory=20_000, hold=1000, growth=1_000_000, flows=1000
)
SMALL: Final = Scale(
    runs=1, seconds=0.2, latencies=40, memory=2000, hold=1000, growth=10_000, flows=100
)


@dataclass(frozen=True)
class Subject:
    """One subject. `most_runs`: more would tell nothing new."""

    name: str
    title: str
    measure: Callable[[Stage, Case, Scale], Figures]
    most_runs: int | None = None


def _costs(ran: Ran, prefix: str = "") -> dict[str, float]:
    """Jobs per second, and what one costs: microseconds of the server and of the process."""
    jobs = ran.jobs
    return {
        f"{prefix}rate": jobs / ran.result["seconds"],
        f"{prefix}cpu_us": ran.result["cpu"] / jobs * 1e6,
        f"{prefix}server_us": ran.server.cpu / jobs * 1e6,
        f"{prefix}script_us": ran.server.scripts / jobs * 1e6,
        f"{prefix}commands": ran.server.commands / jobs,
    }


def _both(added: Ran, drained: Ran) -> Figures:
    figures = _costs(drained) | _costs(added, "add_")
    for cost in ("server_us", "script_us", "commands"):
        figures[f"total_{cost}"] = figures[cost] + figures[f"add_{cost}"]
    return figures


def _drain(subject: str, concurrency: int, stage: Stage, case: Case, scale: Scale) -> Figures:
    jobs = scale.jobs(case, subject)
    added = stage.play(case, "add_many", jobs)
    return _both(added, stage.play(case, "drain", jobs, concurrency=concurrency))


def _add(subject: str, role: str, stage: Stage, case: Case, scale: Scale) -> Figures:
    return _costs(stage.play(case, role, scale.jobs(case, subject, least=200)))


def _flows(stage: Stage, case: Case, scale: Scale) -> Figures:
    children = {"children": CHILDREN}
    added = stage.play(case, "add_flows", scale.flows, options=children)
    return _both(added, stage.play(case, "drain_flows", scale.flows, concurrency=100))


def _latency(stage: Stage, case: Case, scale: Scale) -> Figures:
    """Milliseconds from `add` in one process to the handler in another; an idle worker's memory."""
    jobs = scale.latencies + WARM_UP
    with stage.process(case, "serve", jobs=jobs, concurrency=10) as worker:
        while worker.line().get("at") != "ready":
            pass
        stage.play(case, "send", jobs)
        taken = worker.result()["ms"]
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {"p50": statistics.median(taken), "p99": cuts[98], "idle_mib": _mib(worker.rss["ready"])}


def _memory(stage: Stage, case: Case, scale: Scale) -> Figures:
    """Bytes on the server for a job that waits, and for one that has finished."""
    keeping = case.library.name in KEEPING
    if keeping:
        stage.play(case, "add_many", 100)  # loads the scripts, which an emptied server keeps
        stage.play(case, "drain", 100, concurrency=10)
        stage.empty()
    # An emptied server keeps something of what was there, until somebody has written anew.
    stage.play(case, "add_many", 100)
    stage.empty()
    nothing = stage.memory()
    if not keeping:
        return {"waiting_bytes": _weigh(stage, case, scale.memory // 4, nothing)}
    waiting = _weigh(stage, case, scale.memory, nothing)
    stage.play(case, "drain", scale.memory, concurrency=100)
    kept = (stage.memory() - nothing) / scale.memory
    return {"waiting_bytes": waiting, "kept_bytes": kept}


def _weigh(stage: Stage, case: Case, jobs: int, nothing: int) -> float:
    stage.play(case, "add_many", jobs)
    return (stage.memory() - nothing) / jobs


KEEPING: Final = ("toril", "node", "bullmq")
"""Who keeps finished jobs for ever unless told otherwise."""


def _hold(stage: Stage, case: Case, scale: Scale) -> Figures:
    stage.play(case, "add_many", scale.hold)
    ran = stage.play(case, "hold", scale.hold, concurrency=scale.hold)
    return {"held_mib": _mib(ran.rss["full"])}


def _growth(stage: Stage, case: Case, scale: Scale) -> Figures:
    """A worker's memory after a tenth of the jobs and after nine tenths of them."""
    jobs = round(scale.growth * case.paces["growth"])
    marks = jobs // 10
    for _ in range(10):
        stage.play(case, "add_many", marks)
    ran = stage.play(case, "drain", jobs, concurrency=100, marks=marks)
    return {"early_mib": _mib(ran.rss[str(marks)]), "late_mib": _mib(ran.rss[str(9 * marks)])}


def _mib(size: int) -> float:
    return size / 2**20


def _drains() -> Sequence[Subject]:
    return [
        Subject(
            f"drain-{concurrency}",
            f"drain, concurrency {concurrency}",
            partial(_drain, f"drain-{concurrency}", concurrency),
        )
        for concurrency in (1, 10, 100)
    ]


SUBJECTS: Final = (
    *_drains(),
    Subject("beside", "drain with something on", partial(_drain, "beside", 100)),
    Subject("flows", f"flows, {CHILDREN} children each", _flows),
    Subject("add-one", "add one at a time", partial(_add, "add-one", "add_one")),
    Subject("add-callers", "add by 100 callers", partial(_add, "add-callers", "add_callers")),
    Subject("add-threads", "add from 8 threads", partial(_add, "add-threads", "add_threads")),
    Subject("latency", "latency", _latency),
    Subject("memory", "memory on the server", _memory, most_runs=1),
    Subject("hold", "worker with many running jobs", _hold, most_runs=1),
    Subject("growth", "worker after many jobs", _growth, most_runs=1),
)
BY_NAME: Final = {subject.name: subject for subject in SUBJECTS}
