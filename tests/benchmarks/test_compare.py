"""The comparison runs, with figures that say nothing; and its page shows what is stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.comparison.libraries import CASES, cases
from tests.benchmarks.comparison.page import BEGIN, END, PAGE, STORED, page
from tests.benchmarks.comparison.record import Record
from tests.benchmarks.comparison.subjects import BY_NAME
from tests.benchmarks.comparison.tables import DRAINS, markdown

ROOT = Path(__file__).parents[2]


def test_the_comparison_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.compare", "--small", "--seconds", "0.01"]
    subjects = ["drain-10", "add-callers", "add-threads"]
    done = subprocess.run(
        [
            *command,
            "--only",
            *subjects,
            "--peers",
            "toril-uvloop",
            "node",
            "--output",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    record = Record.read(tmp_path / "compare.json")
    assert not record.failures
    assert list(record.figures) == [name for name in BY_NAME if name in subjects]
    for subject, by_case in record.figures.items():
        assert list(by_case) == [
            case.name for case in cases(["toril-uvloop", "node"]) if subject in case.paces
        ]
        for figures in by_case.values():
            assert all(len(values) == 1 and values[0] > 0 for values in figures.values()), figures
    text = (tmp_path / "compare.md").read_text()
    assert text == done.stdout
    assert "| Toril with uvloop | " in text
    assert (tmp_path / "drain.svg").stat().st_size > 0


def test_latency_is_measured_between_processes(tmp_path: Path) -> None:
    from tests.benchmarks.comparison.stage import Stage
    from tests.benchmarks.comparison.subjects import Scale

    scale = Scale(runs=1, seconds=0, latencies=20, memory=1000, hold=10, growth=200, flows=1)
    (toril,) = cases(["toril-uvloop"])
    with Stage.open() as stage:
        latency = BY_NAME["latency"].measure(stage, toril, scale)
        assert 0 < latency["p50"] <= latency["p99"] < 10_000
        assert latency["idle_mib"] > 10
        stage.empty()
        memory = BY_NAME["memory"].measure(stage, toril, scale)
        assert 200 < memory["waiting_bytes"] < memory["kept_bytes"] < 10_000


def record() -> Record:
    """Figures that are easily divided."""
    titles = {
        case.name: {"title": case.title, "package": "p 1", "settings": "none"} for case in CASES
    }
    figures = {
        drain: {"toril": {"rate": [10.0, 20.0, 90.0]}, "node": {"rate": [5.0, 10.0, 10.0]}}
        for drain in DRAINS
    }
    return Record("2026-11-23", "x, 2 processors", "Valkey 9", {"runs": 3}, titles, figures)


def test_ratios_are_of_medians_and_a_missed_bound_stands_out() -> None:
    text = markdown(record())
    assert "| drain, concurrency 100, jobs/s | bullmq (Node): 10 | ≥ 2 | 2.00 |  |" in text
    slow = record()
    slow.figures["drain-1"]["toril"] = {"rate": [9.0]}
    assert "| drain, concurrency 1, jobs/s | bullmq (Node): 10 | ≥ 1.1 | **0.90** |  |" in markdown(
        slow
    )


def test_a_failure_is_told() -> None:
    found = record()
    found.failures.append("drain-1: node, drain: Traceback\n  somewhere\nError: gone")
    assert "Failed: drain-1: node, drain: Error: gone" in markdown(found)


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(ValueError, match="no peer is called nobody; there are "):
        cases(["toril", "nobody"])


def test_the_page_shows_what_is_stored() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert page(text, Record.read(STORED)) == text


def test_what_is_stored_names_no_place() -> None:
    told = json.loads(STORED.read_text())
    assert "/" not in told["machine"] + told["server"]
