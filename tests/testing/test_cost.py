"""What the kit costs those who do not use it: next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOADED = """
import sys
import pytest
before = set(sys.modules)
import toril.testing.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""


def test_pytest_loads_only_names_of_fixtures() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60
    )
    ours = {name for name in done.stdout.split() if name.split(".")[0].startswith("toril")}
    assert ours == {"toril", "toril.testing", "toril.testing.pytest_plugin"}
    assert not {"redis", "msgspec", "click"} & set(done.stdout.split())


def test_a_run_without_it_starts_no_server_and_loads_no_plugin(tmp_path: Path) -> None:
    """Also where nothing runs asynchronous tests."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n"
        "def test_other():\n"
        "    assert not {'toril.app', 'toril_plugins', 'redis'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--strict-markers", "-W", "error", "-c", "/dev/null", "test_other.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
