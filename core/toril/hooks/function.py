"""One plugin's function for one hook, and the guard around it.

A plugin never harms a job: what its function raises is logged, counted and told to nobody else; an
asynchronous one has a deadline; and one that keeps failing is left alone for a while.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol, TypeVar

from toril.errors import PluginError, Reject
from toril.hooks.markers import ONLY_FOR, ONLY_WHEN_SAID
from toril.snapshots import JobSnapshot

T = TypeVar("T")

log: Final = logging.getLogger("toril.hooks")

DEADLINE: Final = 10.0
"""Seconds that an asynchronous function may take for one call."""

SLOW: Final = 0.1
"""Seconds after which a plain function, which cannot be interrupted, is reported as slow."""

_REPORT_SLOW_EVERY: Final = 60.0


class Settle(Protocol):
    """How to wait for what an asynchronous function returned, for at most `deadline` seconds."""

    def __call__(self, awaitable: Awaitable[T], deadline: float, /) -> Coroutine[Any, Any, T]:
        """The result of `awaitable`; raises `TimeoutError`."""
        ...


Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on a loop in another thread and waits for its result: the synchronous face."""


async def settle(awaitable: Awaitable[T], deadline: float, /) -> T:
    """Wait on this loop; what ignores its cancellation is left behind, not waited for."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait((task,), timeout=deadline)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not task.done():
        task.cancel()
        task.add_done_callback(_take_notice)
        raise TimeoutError(f"no answer within {deadline:g} s")
    return task.result()


def _take_notice(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def settle_on(run: Run) -> Settle:
    """Wait in this thread, which has no loop, while `run` does it on one."""

    async def settle_there(awaitable: Awaitable[T], deadline: float, /) -> T:
        result: T = run(settle(awaitable, deadline))
        return result

    return settle_there


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends, as with `settle_on`; needs no loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("a coroutine that should not suspend did")


@dataclass(slots=True)
class Breaker:
    """Opens after `LIMIT` failures in a row, and lets one more through after a pause.

    While it is open, a function that may be left alone is not called, and failures of one that may
    not are not logged. Each failure after a pause doubles it.
    """

    LIMIT: ClassVar = 5
    FIRST_PAUSE: ClassVar = 30.0
    LONGEST_PAUSE: ClassVar = 600.0

    now: Callable[[], float] = time.monotonic
    failures: int = 0
    pause: float = 0.0
    until: float = 0.0

    def open(self) -> bool:
        """Whether the function is left alone now."""
        return self.failures >= self.LIMIT and self.now() < self.until

    def failed(self) -> bool:
        """Count a failure; True if the function is left alone from now on."""
        self.failures += 1
        if self.failures < self.LIMIT:
            return False
        self.pause = min(self.pause * 2 or self.FIRST_PAUSE, self.LONGEST_PAUSE)
        self.until = self.now() + self.pause
        return True

    def succeeded(self) -> bool:
        """Count a success; True if the function had been left alone before."""
        was_open = self.failures >= self.LIMIT
        self.failures = 0
        self.pause = 0.0
        return was_open


@dataclass(slots=True)
class Counts:
    """What became of the calls of one function. `left_alone`: not made, as it kept failing."""

    calls: int = 0
    errors: int = 0
    timeouts: int = 0
    left_alone: int = 0


@dataclass(frozen=True, slots=True)
class HookFunction:
    """One plugin's function for one hook.

    `plugin` is its name and `version` what it comes from (`toril-archive 1.2`); `argnames` are the
    arguments it names, and only those are passed.
    """

    plugin: str
    version: str
    hook: str
    function: Callable[..., object]
    argnames: tuple[str, ...]
    breaker: Breaker = field(default_factory=Breaker, compare=False, repr=False)
    counts: Counts = field(default_factory=Counts, compare=False, repr=False)
    _slow_reported: list[float] = field(default_factory=list[float], compare=False, repr=False)

    @property
    def only_when_said(self) -> bool:
        """Whether it has nothing to say about a job for which nobody has said anything."""
        return getattr(self.function, ONLY_WHEN_SAID, False)

    def may_concern(self, job: JobSnapshot) -> bool:
        """Whether it is to be asked about the job, by the condition that `only_for` has set."""
        condition = getattr(self.function, ONLY_FOR, None)
        if condition is None:
            return True
        owner = getattr(self.function, "__self__", None)
        try:
            return bool(condition(job) if owner is None else condition(owner, job))
        except Exception as error:  # noqa: BLE001 - a guard
            self.failed(error, lambda: f"{job.queue}/{job.id}")
            return True

    def names(self, argument: str) -> bool:
        """Whether it names this argument; one that is costly is made only if somebody does."""
        return argument in self.argnames

    def ask(self, **arguments: object) -> Any:
        """The answer of a plain function.

        Raises:
            PluginError: it raised, or returned an awaitable; logged and counted already.
            Reject: it raised that.
        """
        return self.plain(arguments, _nothing)

    async def ask_async(self, **arguments: object) -> Any:
        """The answer of a plain or asynchronous function, within 10 seconds.

        Raises:
            PluginError: it raised, took too long, or is left alone since it kept failing; logged
                and counted already.
        """
        return await self.guarded(arguments, settle, _nothing)

    def plain(self, arguments: Mapping[str, object], about: Callable[[], str]) -> Any:
        """`ask`; `about` names the jobs concerned, for the log.

        Never left alone: not asking would refuse saves, or leave jobs undecided, that the plugin
        has no trouble with.
        """
        self.counts.calls += 1
        started = time.perf_counter()
        try:
            result = self.function(*[arguments[name] for name in self.argnames])
            if result is not None and inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError("it is called without a loop and must be a plain function")  # noqa: TRY301
        except Reject:
            raise
        # Nobody can have cancelled a plain function from outside.
        except (Exception, asyncio.CancelledError) as error:
            raise self.failed(error, about) from error
        self._succeeded(started)
        return result

    async def guarded(
        self, arguments: Mapping[str, object], wait: Settle, about: Callable[[], str]
    ) -> Any:
        """`ask_async`; `wait` is how to wait, `about` names the jobs concerned, for the log."""
        if self.breaker.failures and self.breaker.open():
            self.counts.left_alone += 1
            raise PluginError(
                f"plugin {self.plugin!r} is left alone for a while, as {self.hook} kept failing",
                plugin=self.plugin,
                hook=self.hook,
            )
        self.counts.calls += 1
        started = time.perf_counter()
        try:
            result = self.function(*[arguments[name] for name in self.argnames])
            self._report_if_slow(started)
            if result is not None and inspect.isawaitable(result):
                result = await wait(result, DEADLINE)
        except asyncio.CancelledError as error:
            # Ours if somebody cancels this task; else the plugin cancelled something of its own.
            task = _current_task()
            if task is not None and task.cancelling():
                raise
            raise self.failed(error, about) from error
        except Exception as error:
            raise self.failed(error, about) from error
        self._succeeded(None)
        return result

    def failed(self, error: BaseException, about: Callable[[], str]) -> PluginError:
        """Count and log a failure; returns what to raise instead of it."""
        if isinstance(error, PluginError) and error.plugin != self.plugin:
            return error  # another plugin's, which this one has asked: counted and logged there
        self.counts.errors += 1
        if isinstance(error, TimeoutError):
            self.counts.timeouts += 1
        if not self.breaker.open():
            jobs = about()
            log.error(
                "plugin %r (%s) failed in %s%s: %s",
                self.plugin,
                self.version,
                self.hook,
                f" for {jobs}" if jobs else "",
                describe(error),
                exc_info=error,
            )
            if self.breaker.failed():
                log.error(
                    "plugin %r (%s): %s failed %d times in a row; quiet for %.0f s",
                    self.plugin,
                    self.version,
                    self.hook,
                    self.breaker.failures,
                    self.breaker.pause,
                )
        return PluginError(
            f"plugin {self.plugin!r} ({self.version}) failed in {self.hook}: {describe(error)}",
            plugin=self.plugin,
            hook=self.hook,
        )

    def _succeeded(self, started: float | None) -> None:
        if started is not None:
            self._report_if_slow(started)
        if self.breaker.failures and self.breaker.succeeded():
            log.warning("plugin %r (%s): %s works again", self.plugin, self.version, self.hook)

    def _report_if_slow(self, started: float) -> None:
        now = time.perf_counter()
        if now - started < SLOW:
            return
        if self._slow_reported and now - self._slow_reported[0] < _REPORT_SLOW_EVERY:
            return
        self._slow_reported[:] = [now]
        log.warning(
            "plugin %r (%s): %s held everything up for %.2f s; use `async def` for I/O",
            self.plugin,
            self.version,
            self.hook,
            now - started,
        )


def _nothing() -> str:
    return ""


def describe(error: BaseException) -> str:
    """The error in one line, with its type."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
