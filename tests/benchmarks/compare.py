"""Toril beside BullMQ for Node and Python's other job queues, on one server, in one run.

    python -m tests.benchmarks.compare --output FOLDER          about 20 minutes
    python -m tests.benchmarks.compare --small --output FOLDER  less than 3
    python -m tests.benchmarks.compare --only drain-100 --peers toril node --runs 3

The first time it installs the peers, each into an environment of its own below `.peers/`. Each
figure is the median of runs that alternate between the peers; each run is a process of its own on
an emptied server. Where the machine has two processors or more, the server has one and the peers
have another. Only the ratios carry over to other machines. Prints the tables as Markdown; with
--output it also writes `compare.json`, `compare.md` and plots. With --page it measures nothing, and
writes the tables of a `compare.json` into docs/performance.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.comparison.libraries import CASES, cases
from tests.benchmarks.comparison.page import STORED, write_page
from tests.benchmarks.comparison.record import Record, compare
from tests.benchmarks.comparison.stage import Stage
from tests.benchmarks.comparison.subjects import BY_NAME, FULL, SMALL, SUBJECTS
from tests.benchmarks.comparison.tables import markdown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = " ".join(BY_NAME)
    parser.add_argument("--only", nargs="+", metavar="SUBJECT", choices=BY_NAME, help=names)
    peers = " ".join(case.name for case in CASES)
    parser.add_argument("--peers", nargs="+", metavar="PEER", default=[], help=peers)
    parser.add_argument("--small", action="store_true", help="one short run of each")
    parser.add_argument("--runs", type=int, help="runs of each peer")
    parser.add_argument(
        "--seconds", type=float, help="about how long a run of adds or drains takes"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where all of it is written")
    parser.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=STORED,
        metavar="JSON",
        help="write docs/performance.md",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 if some peer failed at something."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.page:
        write_page(given.page)
        return 0
    scale = SMALL if given.small else FULL
    scale = replace(scale, runs=given.runs or scale.runs, seconds=given.seconds or scale.seconds)
    subjects = [subject for subject in SUBJECTS if subject.name in (given.only or BY_NAME)]
    try:
        chosen = [
            case
            for case in cases(given.peers)
            if any(subject.name in case.paces for subject in subjects)
        ]
    except ValueError as error:
        parser.error(str(error))
    with Stage.open() as stage:
        record = Record.new(stage, chosen, scale)
        for subject in subjects:
            compare(record, stage, subject, chosen, scale)
            if given.output:  # also if somebody ends the run here
                _write(record, given.output)
    print(markdown(record), end="")
    return 1 if record.failures else 0


def _write(record: Record, folder: Path) -> None:
    from tests.benchmarks.comparison.plots import plot

    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / "compare.json")
    (folder / "compare.md").write_text(markdown(record))
    plot(record, folder)


if __name__ == "__main__":
    raise SystemExit(main())
