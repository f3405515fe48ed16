"""Starlette: an App that lives as long as the web application."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

from starlette.requests import HTTPConnection

from toril.app import App
from toril.errors import ConfigurationError

A = TypeVar("A")

STATE: Final = "toril"
"""The name of the App in `request.state`."""

Lifespan: TypeAlias = "Callable[[A], AbstractAsyncContextManager[Mapping[str, Any] | None]]"
"""What Starlette and FastAPI take as `lifespan`."""


def lifespan(
    app: App, inner: Lifespan[A] | None = None, *, work: bool = False
) -> Callable[[A], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """A lifespan that opens the App, and closes it when the web application ends.

        web = Starlette(routes=[…], lifespan=lifespan(app))

    Args:
        app: The App; in requests it is `request.state.toril`.
        inner: A lifespan of your own; it runs while the App is open.
        work: Run the App's workers and tasks as well, in the web process. They stop, within their
            grace time, before the App is closed.
    """

    @asynccontextmanager
    async def living(web: A) -> AsyncGenerator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(app)
            state: dict[str, Any] = {STATE: app}
            if inner is not None:
                own = await stack.enter_async_context(inner(web))
                state.update(own or {})
            if work:
                for worker in app.serve_tasks():
                    await stack.enter_async_context(worker)
            yield state

    return living


def app_of(connection: HTTPConnection) -> App:
    """The App of a request or a WebSocket. Raises `ConfigurationError` without `lifespan`."""
    found = getattr(connection.state, STATE, None)
    if not isinstance(found, App):
        raise ConfigurationError(
            "this web application has no App of Toril; make it with lifespan=lifespan(app)"
        )
    return found
