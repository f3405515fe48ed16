"""Console blocks: commands and what they print."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 60.0  # seconds for one command
INTERRUPT = "^C"


@dataclass(frozen=True)
class Step:
    """A command, and what is shown of its output.

    `...` alone on a line stands for any lines, within a line for any text. A line `^C` stands for
    the interrupt: what stands before it is waited for. Moments may differ, see `comparable`.
    """

    command: str
    before: str
    interrupted: bool
    after: str


def steps(text: str) -> Iterator[Step]:
    """The steps of a console block.

    Raises:
        ValueError: It does not begin with a command.
    """
    if not text.startswith("$ "):
        raise ValueError("a console block begins with a command: '$ …'")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        command = [lines.pop(0)]
        while command[-1].endswith("\\"):
            command.append(lines.pop(0))
        interrupted = INTERRUPT in lines
        cut = lines.index(INTERRUPT) if interrupted else len(lines)
        yield Step("\n".join(command), _text(lines[:cut]), interrupted, _text(lines[cut + 1 :]))


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def pattern(expected: str) -> str:
    """The regular expression that an expected output stands for."""
    parts: list[str] = []
    for line in expected.splitlines():
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            # Every part of a line is found as early as possible, so that nothing backtracks far.
            words = (re.escape(word) for word in line.rstrip().split("..."))
            parts.append(r"[^\n]*?".join(words) + r"\n")
    return "".join(parts)


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d([.,]\d+)?)?")
_UNTIL = re.compile(r"\bin \d+(ms|[smhd])( \d+(ms|[smhd]))*\b")


def comparable(output: str) -> str:
    """An output without what differs between runs: moments, the time left, widths of columns."""
    return re.sub(" +", " ", _UNTIL.sub("in 0s", _MOMENT.sub("0000-00-00 00:00", output)))


def matches(expected: str, actual: str) -> bool:
    """Whether an output is the expected one."""
    return re.fullmatch(pattern(comparable(expected)), comparable(actual)) is not None


def difference(expected: str, actual: str) -> str:
    """Both outputs side by side, for people."""
    lines = difflib.unified_diff(
        expected.splitlines(), actual.splitlines(), "documented", "printed", lineterm=""
    )
    return "\n".join(lines) + f"\n--- printed in full ---\n{actual}"


def normal(output: str) -> str:
    """An output without spaces at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


class Shell:
    """Runs the steps of one page in one folder; `export` and `cd` hold for the steps after."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.code = 0

    def run(self, step: Step) -> str:
        """Run a step and return what it printed, both streams together.

        Raises:
            AssertionError: It did not end, or did not print what an interrupt waits for.
        """
        if step.command.startswith("export "):
            name, _, value = step.command.removeprefix("export ").partition("=")
            self.environment[name] = value.strip("'\"")
            return ""
        if step.command.startswith("cd "):
            self.folder /= step.command.removeprefix("cd ")
            return ""
        command = step.command
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                # Whoever was started in the background ignores the interrupt, and so would bash.
                # `$?` of the step before is what it would be in one shell.
                ["env", "--default-signal=INT", "bash", "-c", f"(exit {self.code}); {command}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if step.interrupted:
                    self._await(step, process, output.fileno())
                    os.killpg(process.pid, signal.SIGINT)
                self.code = process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    f"{step.command!r} did not end; it printed:\n{_printed(output.fileno())}"
                ) from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            return _printed(output.fileno())

    def _await(self, step: Step, process: subprocess.Popen[bytes], output: int) -> None:
        wanted = re.compile(pattern(comparable(step.before)))
        until = time.monotonic() + DEADLINE
        while not wanted.match(comparable(printed := _printed(output))):
            assert process.poll() is None, f"{step.command!r} ended early:\n{printed}"
            assert time.monotonic() < until, f"{step.command!r} printed only:\n{printed}"
            time.sleep(0.05)


def _printed(output: int) -> str:
    return normal(os.pread(output, 1 << 24, 0).decode(errors="replace"))
