"""The fixtures that need an event loop; pytest-asyncio runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from toril.app_options import AppOptions
    from toril.queue import Queue
    from toril.setting import Setting
    from toril.testing.app import DrivenApp
    from toril.testing.clock import ServerClock
    from toril.testing.recorder import HookRecorder
    from toril.testing.server import EmbeddedServer
    from toril.worker import Handler, Worker, WorkerOptions


class WorkerFactory(Protocol):
    """Starts a worker that works meanwhile, and is stopped at the end of the test."""

    async def __call__(
        self,
        queue: str | Queue,
        handler: Handler,
        /,
        *settings: Setting,
        **options: Unpack[WorkerOptions],
    ) -> Worker:
        """The arguments are those of `App.worker`."""
        ...


@pytest_asyncio.fixture
async def toril_app(  # noqa: PLR0917 - fixtures are asked for by name
    request: pytest.FixtureRequest,
    toril_url: str,  # noqa: ARG001 - the server has been emptied
    toril_server: EmbeddedServer,
    clock: ServerClock,
    toril_options: AppOptions,
    record_hooks: HookRecorder,
) -> AsyncIterator[DrivenApp]:
    """An App on an empty server, with the test's clock: `drain` and `sweep` run what is due.

    `@pytest.mark.toril(Retain("7d"), plugins=[mine, "*"])` says what it is made with; so does the
    fixture `toril_options`. Without `plugins` all that are installed are used. Nothing is started
    before its first operation; at the end it is closed.
    """
    from toril.testing.app import DrivenApp

    settings: tuple[Setting, ...] = ()
    options: dict[str, Any] = dict(toril_options)
    # From the module's to the function's own.
    for mark in reversed(list(request.node.iter_markers("toril"))):
        settings = mark.args or settings
        options |= mark.kwargs
    plugins = options.get("plugins")
    options["plugins"] = [record_hooks, *(["*"] if plugins is None else plugins)]
    options.setdefault("clock", clock)
    app = DrivenApp(toril_server, *settings, **cast("AppOptions", options))
    yield app
    await app.aclose()


@pytest.fixture
def toril_queue(toril_app: DrivenApp) -> Queue:
    """The queue `jobs` of `toril_app`."""
    return toril_app.queue("jobs")


@pytest_asyncio.fixture
async def toril_worker(toril_app: DrivenApp) -> AsyncIterator[WorkerFactory]:
    """Start workers that work meanwhile.

        await toril_worker("emails", send, concurrency=5)

    They are stopped at the end of the test. Where `toril_app.drain()` is enough, a worker made by
    `toril_app.worker(…)` need not be started.
    """
    async with AsyncExitStack() as stack:

        async def start(queue: str | Queue, handler: Handler, /, *args: Any, **kwargs: Any) -> Any:
            return await stack.enter_async_context(
                toril_app.worker(queue, handler, *args, **kwargs)
            )

        yield cast("WorkerFactory", start)
