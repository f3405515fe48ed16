"""The comparison runs: a small one, whose figures say nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_comparison_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.compare", "--jobs", "200", "--runs", "1"]
    done = subprocess.run(
        [*command, "--concurrency", "10", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "compare.json").read_text())["figures"]
    assert figures.keys() == {"bulk add", "drain, concurrency 10"}
    for by_library in figures.values():
        assert [name.split()[0] for name in by_library] == ["toril", "bullmq", "bullmq"]
        assert all(runs[0] > 0 and server > 0 for runs, server in by_library.values())
    assert (tmp_path / "compare.md").read_text().strip() == done.stdout.strip()
