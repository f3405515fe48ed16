"""The benchmark of finishes runs: a small one, whose figures say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.benchmarks.cleanup_cost import VARIANTS, main


def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--finishes", "100", "--runs", "1", "--batches", "50", "--output", str(tmp_path)])
    stored = json.loads((tmp_path / "cleanup_cost.json").read_text())
    figures = stored["us_per_job"]["50"]
    assert list(figures) == [variant.name for variant in VARIANTS]
    assert all(us > 0 for us in figures.values())
    assert (tmp_path / "cleanup_cost.md").read_text().strip() == capsys.readouterr().out.strip()
