"""`toril demo` as a newcomer runs it: on a server of its own, and on one that is given."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two directories with files that can be processed, and one with a file that cannot."""
    root = tmp_path / "files"
    for name, content in {
        "good/one.py": "x = 1\n",
        "good/two.txt": "two\nlines\n",
        "plain/three.txt": "",
        "bad/four.py": "def (:\n",
        "bad/five.py": "y = 2\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it with a temporary directory of its own, so that what it leaves can be seen."""
    with tempfile.TemporaryDirectory() as temporary:  # short: the path of a socket has to be
        done = subprocess.run(
            [sys.executable, "-P", "-m", "toril", "demo", *map(str, arguments)],
            cwd=temporary,
            env={**os.environ, "TMPDIR": temporary},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        assert list(Path(temporary).iterdir()) == [], "it left files behind"
        assert processes_with(temporary) == [], "it left a process behind"
        return done


def processes_with(text: str) -> list[str]:
    """The command lines of running processes that hold `text`."""
    lines: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            lines.append(line)
    return lines


def test_it_says_what_ran_what_failed_and_which_rule_holds(files: Path) -> None:
    said = demo(files).stdout
    assert "3 flows · 8 jobs" in said
    assert "failed   1 of files, and with them 1 of directories:" in said
    assert "SyntaxError in bad/four.py" in said
    assert "kept     4 completed of files: last 100, said by the worker" in said
    assert "kept     1 failed of files: 30d, said by the queue; goes in 30d" in said
    assert "kept     2 completed of directories: 90d, said by the job; goes in 90d" in said
    assert len(said.splitlines()) < 24, "one screen"


def test_where_nothing_fails_a_flow_that_must_is_added(files: Path) -> None:
    (files / "bad" / "four.py").write_text("y = 1\n")
    done = demo(files)
    assert "one flow with a missing file is added" in done.stderr
    assert "FileNotFoundError in missing/no-such-file.py" in done.stdout
    assert "4 flows · 10 jobs" in done.stdout


def test_more_jobs_than_a_worker_keeps_are_removed_by_its_rule(files: Path) -> None:
    for number in range(120):
        (files / "good" / f"{number}.txt").write_text("text")
    said = demo(files).stdout
    assert "removed  24 completed of files: last 100, said by the worker" in said
    assert "kept     100 completed of files" in said


def test_on_a_given_server_it_leaves_no_key(files: Path, redis_url: str, raw: redis.Redis) -> None:
    assert "3 flows" in demo(files, "--redis", redis_url).stdout
    assert raw.keys("*") == []


def test_without_a_directory_to_look_into_it_still_shows_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = demo(tmp_path / "empty").stdout
    assert "1 flows · 2 jobs" in said


def test_names_that_are_not_utf8_are_files_like_others(files: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(files) + b"/na\xefve"))
    odd.mkdir()
    (odd / os.fsdecode(b"one\xff.txt")).write_text("text")
    (odd / os.fsdecode(b"two \xfe%41.py")).write_text("def (:")
    said = demo(files).stdout
    assert "4 flows · 11 jobs" in said
    assert "failed   2 of files" in said
    assert "SyntaxError in na\ufffdve/two \ufffd%41.py" in said
