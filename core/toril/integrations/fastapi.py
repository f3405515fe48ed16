"""FastAPI: the lifespan of Starlette, and dependencies.

web = FastAPI(lifespan=lifespan(app))

@web.post("/orders")
async def order(orders: Annotated[Queue, queue("orders")]) -> str:
return (await orders.add("charge", {"customer": "ada"})).id
"""

from __future__ import annotations

from typing import Any, Unpack

from fastapi import Depends
from fastapi.requests import HTTPConnection

from toril.app import App
from toril.integrations.starlette import app_of, lifespan
from toril.new_job import QueueDefaults
from toril.queue import Queue
from toril.setting import Setting

__all__ = ["get_app", "lifespan", "queue"]


def get_app(connection: HTTPConnection) -> App:
    """The App: `Annotated[App, Depends(get_app)]`."""
    return app_of(connection)


def queue(name: str, /, *settings: Setting, **defaults: Unpack[QueueDefaults]) -> Any:
    """The dependency that gives a queue of the App; the arguments are those of `App.queue`."""

    def get_queue(connection: HTTPConnection) -> Queue:
        return get_app(connection).queue(name, *settings, **defaults)

    return Depends(get_queue)
