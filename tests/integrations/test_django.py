"""A project of Django on SQLite, in processes of its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "django_project"


def checks() -> list[str]:
    """The names of the functions with `@check`: nobody imports the project here."""
    tree = ast.parse((PROJECT / "checks.py").read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        if any(isinstance(mark, ast.Name) and mark.id == "check" for mark in node.decorator_list)
    ]


@pytest.mark.parametrize("name", checks())
def test_django(name: str, redis_url: str, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "TORIL_URL": redis_url,
        "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
        "PYTHONWARNINGS": "error::DeprecationWarning:toril",
    }
    ended = subprocess.run(
        [sys.executable, "checks.py", name],
        cwd=PROJECT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
