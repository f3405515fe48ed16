"""Counters for `tests.benchmarks.counts`: of a server, this thread, Lua, a processor."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol, Self

import redis

import toril
import toril_plugins
from tests.support.server import Server
from toril_lua import catalogue, compose, compose_plugin_script

OURS: Final = tuple(str(Path(str(package.__file__)).parent) for package in (toril, toril_plugins))

Numbers = dict[str, float]


class Counter(Protocol):
    """Makes servers, and counts what is done within a `counting()`."""

    def server(self) -> Server: ...
    @contextmanager
    def counting(self, client: redis.Redis, into: Numbers) -> Generator[None]: ...


class Work:
    """Counts what the server is asked, and what the calling thread does in Python.

    One server is enough; whatever is counted does not depend on its speed.
    """

    def __init__(self) -> None:
        self._calls = self._opcodes = 0

    def server(self) -> Server:
        return Server.start()

    @contextmanager
    def counting(self, client: redis.Redis, into: Numbers) -> Generator[None]:
        client.config_resetstat()
        self._calls = self._opcodes = 0
        before, trace = sys.getprofile(), sys.gettrace()
        sys.setprofile(self._called)
        sys.settrace(self._entered)
        try:
            yield
        finally:
            sys.settrace(trace)
            sys.setprofile(before)
        into.update(_asked(client), calls=self._calls, opcodes=self._opcodes)

    def _called(self, _frame: FrameType, event: str, _about: object) -> None:
        if event in ("call", "c_call"):
            self._calls += 1

    def _entered(self, frame: FrameType, _event: str, _about: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._traced

    def _traced(self, _frame: FrameType, event: str, _about: object) -> Any:
        self._opcodes += event == "opcode"
        return self._traced


def _asked(client: redis.Redis) -> Numbers:
    """What the server has done since its statistics were reset. A command counts with its name."""
    stats: Any = client.info("commandstats")
    traffic: Any = client.info("stats")
    made = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return {
        "scripts": made.get("evalsha", 0) + made.get("eval", 0),
        "commands": sum(made.values()),
        "reads": traffic["total_reads_processed"],
        "bytes in": traffic["total_net_input_bytes"],
        "bytes out": traffic["total_net_output_bytes"],
        **{f"command {name}": calls for name, calls in sorted(made.items())},
    }


class LuaMemory:
    """Counts what scripts allocate in Lua, while scripts are composed within it.

    Each script begins with nothing to collect, and nothing is collected until it ends, so that the
    numbers are the same in every run. A server collects as much as is made, so a part of a script's
    time grows with them.
    """

    KEY: Final = "lua bytes"
    COUNTED: Final = f"""\
collectgarbage('collect')
collectgarbage('stop')
local before = collectgarbage('count')
local function script()
%s
end
local reply = script()
redis.call('INCRBY', '{KEY}', 1024 * (collectgarbage('count') - before))
collectgarbage('restart')
return reply
"""

    def __enter__(self) -> Self:
        self._composed = catalogue._script
        self._compose(lambda name, text: self._composed(name, self.COUNTED % text))
        return self

    def __exit__(self, *error: object) -> None:
        self._compose(self._composed)

    def _compose(self, how: Callable[[str, str], catalogue.Script]) -> None:
        catalogue._script = how  # type: ignore[assignment]
        compose.cache_clear()
        compose_plugin_script.cache_clear()

    def server(self) -> Server:
        return Server.start()

    @contextmanager
    def counting(self, client: redis.Redis, into: Numbers) -> Generator[None]:
        client.delete(self.KEY)
        yield
        made: Any = client.get(self.KEY)
        into[self.KEY] = float(made or 0)


class Processor:
    """Counts instructions: a server under callgrind, which makes it some 50 times slower.

    Callgrind writes down what it has counted when the server enters a function of its own that is
    called for the command `DEBUG` alone.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="toril-callgrind-")
        self._written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def server(self) -> Server:
        out = f"--callgrind-out-file={self._folder.name}/out"
        valgrind = ("valgrind", "--tool=callgrind", "--dump-before=debugCommand", out)
        return Server.start({"hz": "1"}, under=valgrind)

    @contextmanager
    def counting(self, client: redis.Redis, into: Numbers) -> Generator[None]:
        self._instructions(client)
        yield
        into["instructions"] = self._instructions(client)

    def _instructions(self, client: redis.Redis) -> int:
        """Instructions since this was last asked."""
        client.execute_command("DEBUG", "SLEEP", "0")  # type: ignore[no-untyped-call]
        self._written += 1
        lines = Path(self._folder.name, f"out.{self._written}").read_text().splitlines()
        (total,) = (line for line in lines if line.startswith("totals:"))
        return int(total.partition(":")[2])
