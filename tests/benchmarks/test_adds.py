"""The measurement of adds runs: a small one, whose figures say nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.adds import SUBJECTS

ROOT = Path(__file__).parents[2]


def test_the_measurement_runs() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.adds", "--jobs", "220", "--runs", "1"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == list(SUBJECTS)
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in rows)
