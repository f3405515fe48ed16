"""The Markdown of a comparison: what was aimed at, and all figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.comparison.libraries import CASES
from tests.benchmarks.comparison.record import Record

BEST: Final = "best drain"
"""Stands for the subject in which a case drains fastest."""
OURS: Final = ("toril", "toril-uvloop")
DRAINS: Final = ("drain-1", "drain-10", "drain-100")


def value(record: Record, subject: str, case: str, name: str) -> float | None:
    """The median of a figure; see `BEST`."""
    if subject == BEST:
        rates = [(record.median(drain, case, "rate") or 0.0, drain) for drain in DRAINS]
        subject = max(rates)[1]
    return record.median(subject, case, name)


@dataclass(frozen=True)
class Column:
    heading: str
    subject: str
    name: str
    digits: int = 0

    def cell(self, record: Record, case: str) -> str:
        found = value(record, self.subject, case, self.name)
        return "" if found is None else f"{found:,.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[Column]

    def lines(self, record: Record) -> Iterable[str]:
        """Its lines: a row for each case that has figures here."""
        rows = [
            (case, [column.cell(record, case) for column in self.columns])
            for case in _order(record)
        ]
        filled = [(case, cells) for case, cells in rows if any(cells)]
        if not filled:
            return
        shown = [n for n in range(len(self.columns)) if any(cells[n] for _, cells in filled)]
        yield f"### {self.title}"
        yield ""
        yield "| | " + " | ".join(self.columns[n].heading for n in shown) + " |"
        yield "|---|" + "---|" * len(shown)
        for case, cells in filled:
            title = record.cases[case]["title"]
            yield f"| {title} | " + " | ".join(cells[n] for n in shown) + " |"
        yield ""


TABLES: Final = (
    Table(
        "Drains: jobs a second of one process",
        [
            Column("concurrency 1", "drain-1", "rate"),
            Column("10", "drain-10", "rate"),
            Column("100", "drain-100", "rate"),
            Column("worker's processor, µs a job", BEST, "cpu_us"),
            Column("server's processor, µs a job", BEST, "server_us"),
            Column("of it in scripts", BEST, "script_us"),
            Column("commands a job", BEST, "commands", 1),
        ],
    ),
    Table(
        "Adds: jobs a second of one process",
        [
            Column("one at a time", "add-one", "rate"),
            Column("100 callers", "add-callers", "rate"),
            Column("8 threads", "add-threads", "rate"),
            Column("in bulk", BEST, "add_rate"),
            Column("producer's processor, µs a job, in bulk", BEST, "add_cpu_us"),
            Column("server's processor, µs a job, in bulk", BEST, "add_server_us"),
            Column("add and process, server's µs", BEST, "total_server_us"),
        ],
    ),
    Table(
        "From add to handler, in milliseconds, with an idle worker",
        [Column("p50", "latency", "p50", 2), Column("p99", "latency", "p99", 2)],
    ),
    Table(
        "Memory",
        [
            Column("bytes on the server, a waiting job", "memory", "waiting_bytes"),
            Column("a kept job", "memory", "kept_bytes"),
            Column("worker idle, MiB", "latency", "idle_mib", 1),
            Column("with 1,000 jobs at once", "hold", "held_mib", 1),
            Column("after a tenth of many jobs", "growth", "early_mib", 1),
            Column("after nine tenths", "growth", "late_mib", 1),
        ],
    ),
    Table(
        "Flows: parents a second",
        [
            Column("added", "flows", "add_rate"),
            Column("worked off", "flows", "rate"),
            Column("server's processor, µs a flow", "flows", "total_server_us"),
        ],
    ),
    Table(
        "Toril beside itself, concurrency 100",
        [
            Column("jobs a second", "beside", "rate"),
            Column("worker's processor, µs a job", "beside", "cpu_us"),
            Column("server's processor, µs a job", "beside", "server_us"),
            Column("commands a job", "beside", "commands", 1),
        ],
    ),
)

Others = Callable[[Record], Sequence[str]]


def _only(name: str) -> Others:
    return lambda record: [name]


def _python_queues(record: Record) -> Sequence[str]:
    apart = {*OURS, "node", "bullmq"}
    return [case for case in _order(record) if case not in apart and "toril" not in case]


def _all_peers(record: Record) -> Sequence[str]:
    return [case for case in _order(record) if "toril" not in case]


def _order(record: Record) -> list[str]:
    """The cases in the order of `CASES`; those that it does not know any more, at the end."""
    known = [case.name for case in CASES if case.name in record.cases]
    return [*known, *(case for case in record.cases if case not in known)]


@dataclass(frozen=True)
class Goal:
    """A ratio that is aimed at. `most`: less is better, and the ratio is at most that."""

    what: str
    subject: str
    name: str
    against: Others
    least: float | None = None
    most: float | None = None
    ours: Sequence[str] = OURS

    def line(self, record: Record) -> str | None:
        """Its row; None: it was not measured."""
        theirs = [
            (found, case)
            for case in self.against(record)
            if (found := value(record, self.subject, case, self.name)) is not None
        ]
        if not theirs:
            return None
        base, who = min(theirs) if self.most else max(theirs)
        cells = []
        for case in self.ours:
            found = value(record, self.subject, case, self.name)
            ratio = None if found is None else found / base
            cells.append("" if ratio is None else self._cell(ratio))
        if not any(cells):
            return None
        bound = f"≥ {self.least:g}" if self.least else f"≤ {self.most:g}"
        cells += [""] * (2 - len(cells))
        peer = record.cases[who]["title"]
        return f"| {self.what} | {peer}: {_short(base)} | {bound} | " + " | ".join(cells) + " |"

    def _cell(self, ratio: float) -> str:
        reached = ratio >= self.least if self.least else ratio <= (self.most or 0.0)
        return f"{ratio:.2f}" if reached else f"**{ratio:.2f}**"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


_NODE: Final = _only("node")
_BARE: Final = _only("toril-blocked")
_RULELESS: Final = _only("toril-ruleless")

GOALS: Final = (
    Goal("drain, concurrency 100, jobs/s", "drain-100", "rate", _NODE, least=2),
    Goal("the same", "drain-100", "rate", _only("bullmq"), least=12),
    Goal("the same, fastest other Python queue", BEST, "rate", _python_queues, least=5),
    Goal("drain, concurrency 1, jobs/s", "drain-1", "rate", _NODE, least=1.1),
    Goal(
        "drain, cleanup below its limit", "beside", "rate", _BARE, least=0.95, ours=["toril-below"]
    ),
    Goal("drain, cleanup at its limit", "beside", "rate", _BARE, least=0.8, ours=["toril-at"]),
    Goal("drain, an event hook", "beside", "rate", _RULELESS, least=0.9, ours=["toril-hook"]),
    Goal("drain, a time-out", "beside", "rate", _RULELESS, least=0.9, ours=["toril-timeout"]),
    Goal("flows worked off, parents/s", "flows", "rate", _NODE, least=2),
    Goal("flows added, parents/s", "flows", "add_rate", _NODE, least=2),
    Goal("add one at a time, jobs/s", "add-one", "rate", _NODE, least=1),
    Goal("add by 100 callers, jobs/s", "add-callers", "rate", _NODE, least=2),
    Goal("add in bulk, jobs/s", BEST, "add_rate", _NODE, least=2.5),
    Goal("latency p50, ms", "latency", "p50", _NODE, most=0.5),
    Goal("latency p50, best of all", "latency", "p50", _all_peers, most=1),
    Goal("latency p99, best of all", "latency", "p99", _all_peers, most=1),
    Goal("server's processor, add and process, µs/job", BEST, "total_server_us", _NODE, most=0.6),
    Goal("the same, only scripts", BEST, "total_script_us", _NODE, most=0.6),
    Goal("memory of a waiting job, bytes", "memory", "waiting_bytes", _NODE, most=1.1),
    Goal("memory of a kept job, bytes", "memory", "kept_bytes", _NODE, most=1.1),
    Goal("add from 8 threads, jobs/s", "add-threads", "rate", _only("rq"), least=2),
    Goal("the same", "add-threads", "rate", _only("celery"), least=2),
    Goal("idle worker, MiB", "latency", "idle_mib", _NODE, most=1),
    Goal("worker with 1,000 jobs at once, MiB", "hold", "held_mib", _NODE, most=1),
)


def goals(record: Record) -> str:
    """The ratios that are aimed at; a ratio in bold misses its bound."""
    lines = [line for goal in GOALS if (line := goal.line(record))]
    if not lines:
        return ""
    head = [
        "### Toril's figure divided by the peer's",
        "",
        "| | beside | bound | Toril | with uvloop |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def settings(record: Record) -> str:
    """Who took part, and how."""
    lines = ["### Settings", "", "| | package | settings beyond the defaults |", "|---|---|---|"]
    for case in _order(record):
        told = record.cases[case]
        if not case.startswith("toril-") or case in OURS:
            lines.append(f"| {told['title']} | {told['package']} | {told['settings']} |")
    return "\n".join([*lines, ""])


def _summary(failure: str) -> str:
    lines = failure.splitlines()
    return f"{lines[0].rpartition(': ')[0]}: {lines[-1]}"


def markdown(record: Record) -> str:
    """All of it."""
    scale = record.scale
    begin = (
        f"Medians of {scale['runs']} runs of {record.date}; {record.machine}, {record.server}.\n"
    )
    failed = "".join(f"Failed: {_summary(text)}\n" for text in record.failures)
    parts = [begin, failed, goals(record)]
    parts += ["\n".join(table.lines(record)) for table in TABLES]
    parts.append(settings(record))
    return "\n".join(part for part in parts if part).rstrip() + "\n"
