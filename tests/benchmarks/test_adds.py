"""The measurement of adds runs: a small one, whose figures say nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType

import toril
from tests.benchmarks.adds import PAYLOAD, SUBJECTS
from toril import App

ROOT = Path(__file__).parents[2]
MOST_CALLED: int = 96
"""Functions of Toril that a lone add calls, with those that read the reply; there are 92."""


def test_the_measurement_runs() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.adds", "--jobs", "220", "--runs", "1"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == list(SUBJECTS)
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in rows)


async def test_a_lone_add_calls_few_functions(redis_url: str) -> None:
    """Each costs most where adds come once in a while, as nothing of it is in the caches then."""
    package = str(Path(toril.__file__).parent)
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            called.append(frame.f_code.co_qualname)

    async with App(redis_url) as app:
        queue = app.queue("bench")
        await queue.add("send", PAYLOAD)
        sys.setprofile(note)
        try:
            await queue.add("send", PAYLOAD)
        finally:
            sys.setprofile(None)
    assert len(called) <= MOST_CALLED, called
