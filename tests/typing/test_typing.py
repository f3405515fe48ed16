"""What users write is checked by both checkers in strict mode."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[2]
SOURCES = [str(ROOT / name) for name in ("core", "plugins", "lua")]


Check = Callable[[Path], dict[int, str]]
"""Checks a file of a user's: line → error."""


def copied(name: str, scratch: Path) -> Path:
    """The user's file, where no configuration of ours holds."""
    code = scratch / "user.py"
    code.write_text((HERE / name).read_text())
    return code


def marked(code: Path) -> set[int]:
    lines = code.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def run(*command: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False
    ).stdout


def mypy(code: Path) -> dict[int, str]:
    config = code.with_name("mypy.ini")
    config.write_text(f"[mypy]\nmypy_path = {':'.join(SOURCES)}\nstrict = True\n")
    cache = str(code.with_name("cache"))
    said = run(
        "mypy", "--config-file", str(config), "--cache-dir", cache, str(code), cwd=code.parent
    )
    found = re.findall(r"^(.*?):(\d+): error: (.*)$", said, re.MULTILINE)
    assert all(Path(where).name == code.name for where, _, _ in found), said
    assert "Success" in said or found, said
    return {int(line): message for _, line, message in found}


def pyright(code: Path) -> dict[int, str]:
    config = code.with_name("pyrightconfig.json")
    options = {"include": [code.name], "typeCheckingMode": "strict", "extraPaths": SOURCES}
    config.write_text(json.dumps(options))
    said = run(
        "pyright",
        "-p",
        str(config),
        "--pythonpath",
        sys.executable,
        "--outputjson",
        cwd=code.parent,
    )
    report = json.loads(said)
    assert report["summary"]["filesAnalyzed"] == 1
    return {
        found["range"]["start"]["line"] + 1: found["message"]
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }


CHECKS = pytest.mark.parametrize("check", [mypy, pyright])


@CHECKS
def test_what_is_right_is_accepted(check: Check, tmp_path: Path) -> None:
    assert check(copied("accepted.py", tmp_path)) == {}


@CHECKS
def test_what_is_wrong_is_found(check: Check, tmp_path: Path) -> None:
    code = copied("refused.txt", tmp_path)
    found = check(code)
    assert set(found) == marked(code), found
    assert len(found) > 25
