"""Who takes part: each library as it is run, and in which subjects.

`paces` names the subjects, and about how many jobs a second the library does there: that decides
how many a run has, so that each takes about as long. `settings` says what differs from its
defaults, as its documentation advises for throughput.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.comparison import environments
from tests.support.driver import ROOT
from tests.support.node import install

PEERS: Final = "tests.benchmarks.peers"


@dataclass(frozen=True)
class Place:
    """How a library's process is started."""

    command: Sequence[str]
    folder: Path
    version: str


@dataclass(frozen=True)
class Library:
    """What is installed: `package` is its name where it comes from, `module` the peer's file."""

    name: str
    package: str
    module: str
    requirements: Sequence[str] = ()

    def place(self) -> Place:
        """Install it, if it is not there."""
        return _place(self)


@cache
def _place(library: Library) -> Place:
    if library.name == "node":
        node = install()
        script = ROOT / "tests" / "benchmarks" / "peers" / "node_peer.mjs"
        package = node.home / "node_modules" / "bullmq" / "package.json"
        command = [str(node.program), str(script)]
        return Place(command, node.home, json.loads(package.read_text())["version"])
    if not library.requirements:  # Toril itself
        command = [sys.executable, "-m", f"{PEERS}.{library.module}"]
        return Place(command, ROOT, version(library.package))
    python = environments.python(library.name, tuple(library.requirements))
    found = environments.version_in(python, library.package)
    return Place([str(python), "-m", f"{PEERS}.{library.module}"], ROOT, found)


@dataclass(frozen=True)
class Case:
    """A library with settings: a row of the tables."""

    name: str
    title: str
    library: Library
    settings: str
    paces: Mapping[str, float]
    uvloop: bool = False
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


TORIL: Final = Library("toril", "toril", "toril_peer")
NODE: Final = Library("node", "bullmq", "")
BULLMQ: Final = Library(
    "bullmq", "bullmq", "bullmq_peer", ("bullmq>=3.4,<4", "redis[hiredis]>=5", "uvloop>=0.21")
)

DRAMATIQ: Final = Library(
    "dramatiq", "dramatiq", "dramatiq_peer", ("dramatiq[redis]>=2,<3", "hiredis>=3")
)
HUEY: Final = Library("huey", "huey", "huey_peer", ("huey>=3,<4", "redis[hiredis]>=5"))
TASKIQ: Final = Library(
    "taskiq",
    "taskiq",
    "taskiq_peer",
    ("taskiq>=0.13,<1", "taskiq-redis>=1,<2", "hiredis>=3", "uvloop>=0.21"),
)
ARQ: Final = Library("arq", "arq", "arq_peer", ("arq>=0.28,<1", "hiredis>=3", "uvloop>=0.21"))
SAQ: Final = Library(
    "saq",
    "saq",
    "saq_peer",
    ("saq[redis,hiredis]>=0.26,<1", "typing-extensions>=4", "uvloop>=0.21"),
)
CELERY: Final = Library("celery", "celery", "celery_peer", ("celery[redis]>=5.5,<6", "hiredis>=3"))
STREAQ: Final = Library("streaq", "streaq", "streaq_peer", ("streaq>=7,<8", "uvloop>=0.21"))
RQ: Final = Library("rq", "rq", "rq_peer", ("rq>=3,<4", "hiredis>=3"))

_DEFAULTS: Final = (
    "all default plugins with the sweeper; locks, events and the stalled check are on; "
    "what finishes is kept"
)
_TORIL: Final[Mapping[str, float]] = {
    "drain-1": 3000,
    "drain-10": 16000,
    "drain-100": 33000,
    "add-one": 3000,
    "add-callers": 12000,
    "add-threads": 3000,
    "latency": 100,
    "memory": 1,
    "hold": 1,
    "flows": 1,
}


def _beside(name: str, title: str, **options: Any) -> Case:
    """Toril with something on, beside itself."""
    paces = {"beside": 33000.0}
    return Case(f"toril-{name}", title, TORIL, title, paces, options=options)


def _paces(
    single: float,
    ten: float | None = None,
    hundred: float | None = None,
    *,
    one: float,
    callers: float | None = None,
    threads: float | None = None,
    hold: float | None = None,
) -> Mapping[str, float]:
    """Drains with so many jobs at once, and adds; None: it takes no part."""
    given = {
        "drain-1": single,
        "drain-10": ten,
        "drain-100": hundred,
        "add-one": one,
        "add-callers": callers,
        "add-threads": threads,
        "hold": hold,
        "latency": 1.0,
        "memory": 1.0,
    }
    return {subject: pace for subject, pace in given.items() if pace}


CASES: Final = (
    Case("toril", "Toril", TORIL, f"nothing; {_DEFAULTS}", {**_TORIL, "growth": 1}),
    Case("toril-uvloop", "Toril with uvloop", TORIL, f"uvloop; {_DEFAULTS}", _TORIL, uvloop=True),
    Case(
        "node",
        "bullmq (Node)",
        NODE,
        "nothing; ioredis as its client; adds in bulks of 500",
        {
            "drain-1": 5500,
            "drain-10": 13000,
            "drain-100": 16000,
            "add-one": 7000,
            "add-callers": 13000,
            "latency": 100,
            "memory": 1,
            "hold": 1,
            "growth": 0.2,
            "flows": 1,
        },
    ),
    Case(
        "bullmq",
        "bullmq (Python)",
        BULLMQ,
        "uvloop, hiredis; adds in bulks of 500",
        {
            "drain-1": 2000,
            "drain-10": 2000,
            "drain-100": 2000,
            "add-one": 5000,
            "add-callers": 6000,
            "latency": 100,
            "memory": 1,
            "hold": 1,
        },
        uvloop=True,
    ),
    Case(
        "dramatiq",
        "dramatiq",
        DRAMATIQ,
        "hiredis; as many threads as jobs at once",
        _paces(150, 3500, 4000, one=4000, threads=3000),
    ),
    Case(
        "huey",
        "huey",
        HUEY,
        "hiredis; as many threads as jobs at once; no results, as None is not stored",
        _paces(2500, 3000, one=6000, threads=4000),
    ),
    Case(
        "taskiq-list",
        "taskiq (list)",
        TASKIQ,
        "uvloop, hiredis; ListQueueBroker, which forgets a job when it is fetched; no results; "
        "prefetches as many as run at once; bulk: 100 callers",
        _paces(2000, None, 2200, one=2500, callers=2800, hold=1),
        uvloop=True,
    ),
    Case(
        "taskiq-stream",
        "taskiq (stream)",
        TASKIQ,
        "uvloop, hiredis; RedisStreamBroker; no results; prefetches as many as run at once; bulk: "
        "100 callers",
        _paces(2000, None, 2200, one=2500, callers=2800, hold=1),
        uvloop=True,
        options={"stream": True},
    ),
    Case(
        "arq",
        "arq",
        ARQ,
        "uvloop, hiredis; poll_delay of 10 ms; bulk: 100 callers",
        _paces(300, None, 1300, one=2000, callers=3000, hold=1),
        uvloop=True,
    ),
    Case(
        "saq",
        "saq",
        SAQ,
        "uvloop, hiredis; bulk: 100 callers",
        _paces(800, 1200, None, one=3500, callers=5000, hold=1),
        uvloop=True,
    ),
    Case(
        "celery",
        "Celery",
        CELERY,
        "hiredis; pool solo, worker_prefetch_multiplier=128, no results, no gossip, mingle and "
        "heartbeat",
        _paces(800, one=1300, threads=1300),
    ),
    Case(
        "streaq",
        "streaQ",
        STREAQ,
        "uvloop, coredis; enqueue_many in bulks of 500",
        _paces(550, 700, None, one=2500, callers=3500, hold=1),
        uvloop=True,
    ),
    Case(
        "rq",
        "RQ",
        RQ,
        "hiredis; SimpleWorker, which forks no process for each job; enqueue_many in bulks of 500",
        _paces(250, one=1800, threads=1800),
    ),
    _beside("blocked", "without cleanup: the plugin is blocked", blocked=True),
    _beside("ruleless", "with cleanup, and no rule"),
    _beside("below", "with cleanup below its limit", limit="below"),
    _beside("at", "with cleanup at its limit of 1,000: each finish evicts one", limit="at"),
    _beside("hook", "with cleanup, no rule, and an asynchronous event hook", hook=True),
    _beside("timeout", "with cleanup, no rule, and a time-out", timeout="1m"),
)


def cases(names: Sequence[str] = ()) -> tuple[Case, ...]:
    """The cases of these names, or of these libraries; none means all.

    Raises:
        ValueError: Nobody is called that.
    """
    known = {case.name for case in CASES} | {case.library.name for case in CASES}
    if unknown := sorted(set(names) - known):
        raise ValueError(
            f"no peer is called {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return tuple(case for case in CASES if not names or {case.name, case.library.name} & set(names))
