"""Flask: the synchronous face, in a server of threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
from flask import Flask
from werkzeug.serving import make_server

from toril import App, ConfigurationError
from toril.integrations.flask import Toril


def twice(number: int) -> int:
    return 2 * number


@contextmanager
def served(web: Flask) -> Generator[Callable[[str], str]]:
    """A server of threads; yields what gets a path from it."""
    server = make_server("127.0.0.1", 0, web, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def get(path: str) -> str:
        with urlopen(f"http://127.0.0.1:{server.port}{path}") as answer:
            text: str = answer.read().decode()
            return text

    try:
        yield get
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def app(redis_url: str) -> Iterator[App]:
    made = App(redis_url, plugins=[])
    yield made
    made.sync.close()


def test_a_server_of_threads(app: App) -> None:
    task = app.queue("sums").task(twice)
    toril = Toril(app=app)
    web = Flask(__name__)
    toril.init_app(web)

    @web.get("/<int:number>")
    def add(number: int) -> str:
        return task.sync.add(number).id

    @web.get("/raw/<int:number>")
    def raw(number: int) -> str:
        return toril.queue("raw", attempts=2).add("n", number).id

    with served(web) as get, ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(get, [f"/{number}" for number in range(40)]))
        raw_ids = list(threads.map(get, [f"/raw/{number}" for number in range(10)]))
    jobs = [task.sync.get(id) for id in ids]
    assert [job and job.data for job in jobs] == [{"number": number} for number in range(40)]
    assert len(set(raw_ids)) == 10
    assert app.sync.queue("raw").counts()["waiting"] == 10


def test_results_in_a_request(app: App) -> None:
    task = app.queue("sums").task(twice)
    web = Flask(__name__)
    Toril(web, app=app)

    @web.get("/<int:number>")
    def add(number: int) -> str:
        return str(task.sync.add(number).result(timeout="10s"))

    async def work() -> None:
        other = App(app.runtime.endpoint, plugins=[])
        other.queue("sums").task(twice)
        async with other, other.worker("sums"):
            assert await asyncio.to_thread(get, "/21") == "42"

    with served(web) as get:
        asyncio.run(work())


def test_an_app_for_each_flask_application(redis_url: str) -> None:
    toril = Toril()
    webs = [Flask(f"web{number}") for number in range(2)]
    for number, web in enumerate(webs):
        web.config |= {"TORIL_URL": redis_url, "TORIL_PREFIX": f"shop{number}"}
        toril.init_app(web)
    for number, web in enumerate(webs):
        with web.app_context():
            assert toril.queue("mail").add("n").queue == "mail"
            assert toril.queue("mail").key == f"shop{number}:mail"
            assert toril.sync.queues() == ["mail"]
            toril.sync.close()


def test_without_init_app() -> None:
    with (
        Flask(__name__).app_context(),
        pytest.raises(ConfigurationError, match="call init_app"),
    ):
        Toril().queue("mail")
