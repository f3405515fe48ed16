"""Tries an installed wheel: its files, its plugins, and one job from `add` to its result.

Called with an empty folder for the server. Run it from outside the source tree.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib import resources
from importlib.metadata import distribution
from pathlib import Path

import toril
from toril import ActiveJob, App


def check_files() -> None:
    source = Path(os.environ["TORIL_SOURCE_TREE"]).resolve()
    where = Path(toril.__file__).resolve()
    assert source not in where.parents, f"the source tree was imported: {where}"
    for package in ("toril", "toril_plugins", "toril_lua"):
        assert resources.files(package).joinpath("py.typed").is_file(), f"{package}: no py.typed"
    scripts = list(Path(str(resources.files("toril_lua"))).rglob("*.lua"))
    assert scripts, "the wheel has no scripts"
    print(f"{where.parent.name} {toril.__version__}: typed, {len(scripts)} scripts")


def check_entry_points() -> None:
    entries = [e for e in distribution("toril").entry_points if e.group.startswith("toril.")]
    for entry in entries:
        entry.load()
    assert entries, "the wheel declares no plugins"
    print("loaded:", ", ".join(sorted(entry.name for entry in entries)))


async def greet(job: ActiveJob) -> str:
    return f"hello {job.data}"


async def run_a_job(folder: str) -> None:
    async with App(f"embedded:{folder}") as app:
        job = await app.queue("greetings").add("greet", "world")
        async with app.worker("greetings", greet):
            result = await job.result(timeout="10s")
    assert result == "hello world", result
    print("result:", result)


if __name__ == "__main__":
    check_files()
    check_entry_points()
    asyncio.run(run_a_job(sys.argv[1]))
