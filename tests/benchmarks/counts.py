"""What a job costs in commands, bytes and instructions, and whether that has grown.

    python -m tests.benchmarks.counts                        # exit code 1: something has grown
    python -m tests.benchmarks.counts --accept               # what it is now is the new reference
    python -m tests.benchmarks.counts --only drain
    python -m tests.benchmarks.counts --instructions         # those of the server, with valgrind

Nothing is timed, everything is counted, so that a busy machine does not matter. Each subject is
done in two sizes, and what the greater one takes more is divided by the jobs that it has more:
starting and stopping do not count. The reference is `counts.json`.

    scripts       script calls
    commands      all commands that the server carried out, inside scripts too
    reads         times the server read from a socket: round trips
    bytes in      what the server got
    bytes out     what the server sent
    lua bytes     what scripts allocated in Lua, by a run of its own with scripts that count that
    calls         functions called in Python, also those written in C
    opcodes       bytecode instructions of Toril's own modules
    instructions  of the server's processor

The numbers of Python are those of one thread and hold for one minor version of Python; in another
they are not compared. What has shrunk is told and is no failure: whoever saves something in passing
need not touch the reference, and whoever works on speed accepts it, so that it cannot grow back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from tests.benchmarks.count_subjects import SUBJECTS, Bench, Subject
from tests.benchmarks.counting import Counter, LuaMemory, Numbers, Processor, Work
from toril import App
from toril.plugins import ManualClock
from toril_lua import names

REFERENCE: Final = Path(__file__).with_name("counts.json")
START: Final = 1_700_000_000_000
SHOWN: Final = (
    *("scripts", "commands", "reads", "bytes in", "bytes out", "lua bytes", "calls", "opcodes"),
)
PYTHON: Final = frozenset({"calls", "opcodes"})
ALLOWED: Final[Mapping[str, float]] = {
    "scripts": 0.05,
    "commands": 0.03,
    "reads": 0.30,  # what comes while the server is held up is read at once
    "bytes in": 0.02,
    "bytes out": 0.02,
    "lua bytes": 0.03,
    "calls": 0.10,  # those of other libraries are among them, in whatever version
    "opcodes": 0.04,  # on a busy machine a batch holds a job more or less
    "instructions": 0.08,
}
"""The part by which a number may differ from its reference before anything is told."""
IN_BATCHES: Final[Mapping[str, float]] = {"lua bytes": 0.10}
"""The same where jobs share calls: how many do is not the same in every run."""
LEAST: Final[Mapping[str, float]] = {"bytes in": 1.0, "bytes out": 1.0, "lua bytes": 16.0}
"""Differences that are never told; 0.002 for the others."""
BY_NAME: Final = "command "
HOW_TO_ACCEPT: Final = """
If that is worth what it brings, say why in the commit message, and make it the new reference:
    python -m tests.benchmarks.counts --accept
"""


@dataclass(frozen=True)
class Reference:
    """What jobs cost when somebody last looked, by subject, and with which Python."""

    python: str
    subjects: Mapping[str, Numbers]

    @classmethod
    def read(cls, path: Path) -> Reference:
        stored = json.loads(path.read_text())
        return cls(stored["python"], stored["subjects"])

    def write(self, path: Path) -> None:
        """One line for the numbers of a subject, and one for its commands by their names."""
        blocks: list[str] = []
        for subject, numbers in self.subjects.items():
            shown = [name for name in numbers if not name.startswith(BY_NAME)]
            named = [name for name in numbers if name.startswith(BY_NAME)]
            rows = [
                "   " + ", ".join(f'"{name}": {numbers[name]:g}' for name in row)
                for row in (shown, named)
                if row
            ]
            blocks.append(f'  "{subject}": {{\n' + ",\n".join(rows) + "\n  }")
        path.write_text(
            f'{{\n "python": "{self.python}",\n "subjects": {{\n' + ",\n".join(blocks) + "\n }\n}\n"
        )


@dataclass(frozen=True)
class Change:
    """A number that is not what it was."""

    subject: str
    name: str
    was: float
    now: float
    detail: str = ""

    @property
    def grown(self) -> bool:
        return self.now > self.was

    def __str__(self) -> str:
        part = f" ({self.now / self.was - 1:+.0%})" if self.was else ""
        return (
            f"{self.subject}: {self.name} a job {'grew' if self.grown else 'shrank'} from "
            f"{self.was:g} to {self.now:g}{part}{self.detail}"
        )


async def count_once(url: str, counter: Counter, subject: Subject, size: int) -> Numbers:
    """What the subject takes for so many jobs on the emptied server."""
    numbers: Numbers = {}
    clock = ManualClock(START)
    with redis.Redis.from_url(url) as client:
        client.flushall()
        async with App(url, clock=clock) as app:
            bench = Bench(app, client, clock, lambda: counter.counting(client, numbers))
            await subject.work(bench, size)
    return numbers


async def load_scripts(url: str) -> None:
    """Load all that a server can be asked: which of them a short run comes to is left to chance."""
    with redis.Redis.from_url(url) as client:
        async with App(url) as app:
            runtime = app.runtime
            of_plugins = [f"plugin:{plugin}:{name}" for plugin, name in runtime.plugins.scripts]
            for name in (*names(), *of_plugins):
                client.script_load(runtime.scripts[name].text)


def count(url: str, counter: Counter, subject: Subject) -> Numbers:
    """What one job of the subject takes."""

    def once(size: int) -> Numbers:
        # uvloop would do in C what is counted in Python.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(count_once(url, counter, subject, size))

    small, great = subject.sizes
    once(small)  # Python has seen the code then
    less, more = once(small), once(great)
    each = {name: round((more[name] - less.get(name, 0)) / subject.jobs, 3) for name in more}
    return {name: number for name, number in each.items() if number or name in SHOWN}


def count_all(counter: Counter, subjects: Iterable[Subject]) -> Iterator[tuple[str, Numbers]]:
    server = counter.server()
    try:
        asyncio.run(load_scripts(server.url))
        for subject in subjects:
            yield subject.name, count(server.url, counter, subject)
    finally:
        server.stop()


def changes(subject: str, was: Numbers, now: Numbers, *, python: bool) -> Iterator[Change]:
    """What differs by more than is allowed; `python`: the numbers of Python count."""
    for name, number in now.items():
        if name not in ALLOWED or (name in PYTHON and not python):
            continue
        before = was.get(name, 0.0)
        allowed = IN_BATCHES.get(name, 0.0) if now.get("scripts", 1.0) < 0.9 else 0.0
        if abs(number - before) > max(allowed, ALLOWED[name]) * before + LEAST.get(name, 0.002):
            detail = by_name(was, now) if name == "commands" else ""
            yield Change(subject, name, before, number, detail)


def by_name(was: Numbers, now: Numbers) -> str:
    """Which commands are not as many as they were."""
    names = sorted(name for name in {*was, *now} if name.startswith(BY_NAME))
    differ = [
        f"{name.removeprefix(BY_NAME)} {was.get(name, 0.0):g} to {now.get(name, 0.0):g}"
        for name in names
        if abs(was.get(name, 0.0) - now.get(name, 0.0)) > 0.05
    ]
    return f" [{', '.join(differ)}]" if differ else ""


def table(subjects: Mapping[str, Numbers]) -> Iterator[str]:
    """The numbers as Markdown."""
    names = [name for name in ALLOWED if any(name in numbers for numbers in subjects.values())]
    yield "| | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for subject, numbers in subjects.items():
        yield f"| {subject} | " + " | ".join(f"{numbers[name]:,.5g}" for name in names) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print, compare or accept. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="subjects with this text in their names")
    parser.add_argument("--accept", action="store_true", help="rewrite the reference")
    parser.add_argument("--instructions", action="store_true", help="count the server's instead")
    parser.add_argument("--reference", type=Path, default=REFERENCE)
    options = parser.parse_args(arguments)
    chosen = [subject for subject in SUBJECTS if options.only in subject.name]
    if options.instructions:
        with Processor() as processor:
            found = dict(count_all(processor, chosen))
    else:
        found = dict(count_all(Work(), chosen))
        with LuaMemory() as memory:
            for name, numbers in count_all(memory, chosen):
                found[name].update(numbers)
    print("\n".join(table(found)))
    python = ".".join(platform.python_version_tuple()[:2])
    known = Reference.read(options.reference) if options.reference.exists() else None
    if options.accept:
        subjects = dict(accepted(known.subjects if known else {}, found))
        Reference(python, subjects).write(options.reference)
        return 0
    if known is None:
        parser.error(f"there is no reference in {options.reference}; --accept makes it")
    told = [
        change
        for subject, numbers in found.items()
        for change in changes(
            subject, known.subjects.get(subject, {}), numbers, python=python == known.python
        )
    ]
    grown = [change for change in told if change.grown]
    print("", *told, sep="\n", file=sys.stderr)
    if told:
        print(HOW_TO_ACCEPT, file=sys.stderr)
    return 1 if grown else 0


def accepted(
    known: Mapping[str, Numbers], found: Mapping[str, Numbers]
) -> Iterator[tuple[str, Numbers]]:
    """What was found, in place of what was known of it; the rest stays."""
    for subject in (each.name for each in SUBJECTS):
        was, now = known.get(subject, {}), found.get(subject, {})
        kept = {
            name: number
            for name, number in was.items()
            if not (name.startswith(BY_NAME) and "commands" in now)
        }
        if kept or now:
            yield subject, {**kept, **now}


if __name__ == "__main__":
    sys.exit(main())
