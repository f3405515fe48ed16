"""How long it takes until Toril is there: imports, `toril --help`, and a worker that is ready.

    python -m tests.benchmarks.starts --runs 9 --output FOLDER

Each run is a process of its own; the programs take turns. Times are in milliseconds, medians: of
the processor (user and system) and of the wall. For an import what `import redis.asyncio` takes is
told apart. A worker is ready when it picks up jobs. Prints a Markdown table; with --output it also
writes `starts.json`. What holds these times is a test that counts modules.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.server import Server

TORIL: Final = str(Path(sys.executable).with_name("toril"))
BASE: Final = "import redis.asyncio"
WORKER: Final = """
import asyncio, sys
from toril import App

async def noop(job): ...

async def main():
    async with App(sys.argv[1]) as app, app.worker("q", noop):
        print("ready", flush=True)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Program:
    """A command; it is timed until it writes its first line, or ends."""

    name: str
    command: Sequence[str]
    over: str | None = None
    """The program whose time is taken off."""


@dataclass(frozen=True)
class Took:
    """Milliseconds of the processor until its end, and of the wall until its first line."""

    processor: float
    wall: float


def programs(url: str) -> list[Program]:
    python = (sys.executable, "-c")
    return [
        Program(BASE, (*python, BASE)),
        Program("import toril", (*python, f"{BASE}; import toril"), BASE),
        Program(
            "from toril import App, Worker",
            (*python, f"{BASE}; from toril import App, Worker"),
            BASE,
        ),
        Program("toril --help", (TORIL, "--help")),
        Program("worker ready", (*python, WORKER, url)),
    ]


def run(program: Program) -> Took:
    started = time.perf_counter()
    process = subprocess.Popen(program.command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        output.readline()
        wall = time.perf_counter() - started
        output.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{program.name}: exit code {process.returncode}")
    return Took((used.ru_utime + used.ru_stime) * 1000, wall * 1000)


def measure(url: str, runs: int) -> dict[str, Took]:
    """The medians, by program."""
    every = programs(url)
    made: dict[str, list[Took]] = {program.name: [] for program in every}
    for number in range(runs + 1):
        for program in every:
            took = run(program)
            if number:  # in the first one Python may have compiled what it imports
                made[program.name].append(took)
    whole = {
        name: Took(
            statistics.median(took.processor for took in each),
            statistics.median(took.wall for took in each),
        )
        for name, each in made.items()
    }
    return {program.name: _over(whole, program) for program in every}


def _over(whole: Mapping[str, Took], program: Program) -> Took:
    took = whole[program.name]
    if program.over is None:
        return took
    base = whole[program.over]
    return Took(took.processor - base.processor, took.wall - base.wall)


def table(figures: Mapping[str, Took], url: str) -> str:
    over = {program.name: program.over for program in programs(url)}
    lines = ["| what | processor, ms | wall, ms |", "|---|---|---|"]
    for name, took in figures.items():
        what = f"{name}, over `{over[name]}`" if over[name] else name
        lines.append(f"| {what} | {took.processor:.0f} | {took.wall:.0f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    server = Server.start()
    try:
        figures = measure(server.url, options.runs)
    finally:
        server.stop()
    print(table(figures, server.url))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        stored = {name: [took.processor, took.wall] for name, took in figures.items()}
        (options.output / "starts.json").write_text(json.dumps(stored, indent=1))


if __name__ == "__main__":
    main()
