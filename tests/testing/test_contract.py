"""The contract of every plugin: our own keep to it, and what breaks it is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from toril import hookimpl
from toril.plugins import FinishedJob, Json
from toril.testing import PluginContract

BROKEN = """
import time, pathlib, socket, threading
from toril import hookimpl
from toril.testing import PluginContract


class TestTypo(PluginContract):
    class plugin:
        @hookimpl
        def toril_jobs_complete(self, events): ...


class TestMutates(PluginContract):
    class plugin:
        @hookimpl
        def toril_plan_finish(self, job):
            if isinstance(job.data, dict):
                job.data["seen"] = True


class TestWrites(PluginContract):
    class plugin:
        @hookimpl
        def toril_plan_finish(self, job):
            pathlib.Path("written").write_text(job.name)


class TestConnects(PluginContract):
    class plugin:
        @hookimpl
        def toril_plan_save(self, draft):
            socket.socket().connect_ex(("127.0.0.1", 9))


class TestCounts(PluginContract):
    class plugin:
        calls = 0

        @hookimpl
        def toril_plan_finish(self, job):
            self.calls += 1
            return self.calls


class TestHopes(PluginContract):
    class plugin:
        @hookimpl
        def toril_jobs_completed(self, events):
            for event in events:
                event.job.data["customer"]["tier"]


class TestNeverEnds(PluginContract):
    class plugin:
        @hookimpl
        def toril_start(self, context):
            self.stopped = threading.Event()
            self.thread = threading.Thread(target=self.stopped.wait, args=(3,))
            self.thread.start()


class TestKeepsIds(PluginContract):
    class plugin:
        @hookimpl
        def toril_register(self, registry):
            registry.lua("finished", "redis.call('SADD', ctx.own('seen'), ctx.id)")
"""

EXPECTED = {
    "TestTypo": "test_it_is_in_use",
    "TestMutates": "test_its_plan_hooks_are_pure",
    "TestWrites": "test_its_plan_hooks_are_pure",
    "TestConnects": "test_its_plan_hooks_are_pure",
    "TestCounts": "test_its_plan_hooks_are_pure",
    "TestHopes": "test_it_takes_any_job",
    "TestNeverEnds": "test_it_starts_and_stops_again_and_again",
    "TestKeepsIds": "test_it_takes_any_job",
}


def test_what_breaks_the_contract_is_found(tmp_path: Path) -> None:
    """Run as its author would: with nothing configured, so pytest-asyncio is in its strict mode."""
    (tmp_path / "test_broken.py").write_text(BROKEN)
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:randomly", "--strict-markers"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-c", "/dev/null", "test_broken.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    failed = set(re.findall(r"^FAILED test_broken.py::(\w+)::(\w+)", done.stdout, re.MULTILINE))
    assert set(EXPECTED.items()) <= failed, done.stdout
    # A typo puts the plugin out of use, so that it fails in everything; the others in one thing.
    assert {name for name, _ in failed} == set(EXPECTED)
    assert len([name for name, _ in failed if name != "TestTypo"]) == len(EXPECTED) - 1


class Quiet:
    @hookimpl
    def toril_plan_finish(self, job: FinishedJob) -> Json:
        return {"name": job.name}


class TestAnObject(PluginContract):
    plugin = Quiet
