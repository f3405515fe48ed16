"""Starlette and FastAPI: the App lives as long as the web application."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.nouns.test_app import Lifecycle

from toril import App, ConfigurationError, Queue
from toril.integrations import fastapi, starlette


async def double(number: int) -> int:
    return 2 * number


async def add(request: Request) -> JSONResponse:
    app = starlette.app_of(request)
    job = await app.queue("sums").add("double", {"number": 4})
    return JSONResponse({"id": job.id, "same": app is request.state.toril})


@pytest.fixture
def plugin() -> Lifecycle:
    return Lifecycle()


@pytest.fixture
def app(redis_url: str, plugin: Lifecycle) -> App:
    return App(redis_url, plugins=[plugin])


def test_the_app_is_opened_and_closed(app: App, plugin: Lifecycle) -> None:
    web = Starlette(routes=[Route("/add", add)], lifespan=starlette.lifespan(app))
    assert plugin.log == []
    with TestClient(web) as client:
        assert plugin.log == ["start"]
        found = client.get("/add").json()
        assert found["same"]
    assert plugin.log == ["start", "saved", "stop"]
    assert app.sync.queue("sums").state(found["id"]) == "waiting"
    app.sync.close()


def test_a_lifespan_of_ones_own_runs_within(app: App, plugin: Lifecycle) -> None:
    @asynccontextmanager
    async def own(web: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        await app.queue("sums").add("first")
        yield {"mine": 5}
        await app.queue("sums").add("last")

    async def mine(request: Request) -> JSONResponse:
        return JSONResponse([request.state.mine, request.state.toril is app])

    web = Starlette(routes=[Route("/", mine)], lifespan=starlette.lifespan(app, own))
    with TestClient(web) as client:
        assert client.get("/").json() == [5, True]
    assert plugin.log == ["start", "saved", "saved", "stop"]


def test_without_a_lifespan(app: App) -> None:
    with (
        TestClient(Starlette(routes=[Route("/add", add)])) as client,
        pytest.raises(ConfigurationError, match="make it with lifespan=lifespan"),
    ):
        client.get("/add")


@pytest.fixture
def client(app: App) -> Iterator[TestClient]:
    web = FastAPI(lifespan=fastapi.lifespan(app, work=True))
    task = app.queue("sums").task(double)

    @web.get("/raw")
    async def raw(sums: Annotated[Queue, fastapi.queue("sums", attempts=3)]) -> list[Any]:
        job = await sums.add("double", {"number": 4})
        return [await job.result(timeout="10s"), job.snapshot.attempts]

    @web.get("/task/{number}")
    async def typed(number: int, found: Annotated[App, Depends(fastapi.get_app)]) -> list[Any]:
        return [await (await task.add(number)).result(timeout="10s"), found is app]

    with TestClient(web) as made:
        yield made


def test_dependencies_and_workers_in_the_web_process(client: TestClient, app: App) -> None:
    assert client.get("/raw").json() == [8, 3]
    assert client.get("/task/5").json() == [10, True]
    assert [worker.is_running for worker in app.workers] == [True]


def test_workers_end_with_the_web_application(app: App) -> None:
    app.queue("sums").task(double)
    with TestClient(Starlette(lifespan=starlette.lifespan(app, work=True))):
        assert [worker.is_running for worker in app.workers] == [True]
    assert [worker.is_running for worker in app.workers] == [False]
