from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.nouns.witness import Colour, Witness

import toril
from toril import App, ConfigurationError, Flow, hookimpl
from toril.connection.conversation import Patience
from toril.errors import ServerUnavailable
from toril.plugins import JobSaved, PluginContext, Registry

Q = "bull:mail"


class Lifecycle:
    """A plugin that counts its starts and stops, and notes on which loop they were."""

    toril_name = "lifecycle"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.loops: list[Any] = []

    @hookimpl
    async def toril_start(self, context: PluginContext) -> None:
        self.loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        self.log.append("start")

    @hookimpl
    async def toril_stop(self, context: PluginContext) -> None:
        self.log.append("stop")

    @hookimpl
    async def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        await asyncio.sleep(0.01)
        self.log.append("saved")


class TestConstruction:
    def test_does_nothing_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TORIL_URL", raising=False)
        broken = Lifecycle()
        app = App(plugins=[broken])
        app.queue("mail", attempts=3)
        assert app.sync.queue("mail").name == "mail"
        assert broken.log == []
        assert "?" in repr(app)

    async def test_no_url_names_the_ways_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TORIL_URL", raising=False)
        with pytest.raises(ConfigurationError, match="TORIL_URL"):
            await App(plugins=[]).queue("mail").add("x")

    async def test_the_url_of_the_environment(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = App(plugins=[])
        monkeypatch.setenv("TORIL_URL", redis_url)
        async with app:
            assert (await app.queue("mail").add("x")).id

    def test_a_wrong_url_is_told_at_once(self) -> None:
        with pytest.raises(ConfigurationError, match="unknown scheme"):
            App("mysql://localhost")

    def test_a_wrong_option(self) -> None:
        with pytest.raises(TypeError, match="did you mean 'prefix'"):
            App("redis://localhost", perfix="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    def test_a_password_is_never_shown(self) -> None:
        assert "secret" not in repr(App("redis://me:secret@localhost"))

    async def test_a_client_names_the_server(self, redis_url: str, raw: redis.Redis) -> None:
        client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
        async with App.from_client(client, plugins=[], prefix="mine") as app:
            job = await app.queue("mail").add("x")
        assert raw.exists(f"mine:mail:{job.id}")
        assert await client.ping()  # the client stays the caller's
        await client.aclose()

    async def test_a_server_that_is_not_there(self) -> None:
        app = App("redis://127.0.0.1:1", plugins=[])
        await app.runtime.start()
        app.runtime.executor._patience = Patience(total=0.05)
        with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1"):
            await app.queue("mail").counts()


class TestLifecycle:
    async def test_plugins_start_once_however_many_come_first(self, redis_url: str) -> None:
        plugin = Lifecycle()
        async with App(redis_url, plugins=[plugin]) as app:
            await asyncio.gather(*(app.queue("mail").counts() for _ in range(20)))
            assert plugin.log == ["start"]
        assert plugin.log == ["start", "stop"]

    async def test_the_first_operation_starts_them(self, redis_url: str) -> None:
        plugin = Lifecycle()
        app = App(redis_url, plugins=[plugin])
        assert not app.runtime.started
        await asyncio.gather(*(app.queue("mail").counts() for _ in range(20)))
        assert plugin.log == ["start"]
        await app.aclose()
        await app.aclose()
        assert plugin.log == ["start", "stop"]

    async def test_a_producer_waits_for_its_hooks(self, redis_url: str) -> None:
        plugin = Lifecycle()
        async with App(redis_url, plugins=[plugin]) as app:
            await app.queue("mail").add("x")
            assert plugin.log == ["start", "saved"]

    async def test_an_app_can_be_used_again(self, redis_url: str) -> None:
        plugin = Lifecycle()
        app = App(redis_url, plugins=[plugin])
        for _ in range(2):
            async with app:
                await app.queue("mail").counts()
        assert plugin.log == ["start", "stop"] * 2

    async def test_giving_up_the_first_operation_does_not_stop_the_start(
        self, redis_url: str
    ) -> None:
        plugin = Lifecycle()
        app = App(redis_url, plugins=[plugin])
        first = asyncio.create_task(app.queue("mail").counts())
        await asyncio.sleep(0.002)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await app.queue("mail").counts()
        assert plugin.log == ["start"]
        await app.aclose()

    async def test_a_start_that_failed_is_tried_again(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TORIL_URL", raising=False)
        app = App(plugins=[])
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                await app.queue("mail").counts()
        monkeypatch.setenv("TORIL_URL", redis_url)
        await app.queue("mail").counts()
        await app.aclose()

    async def test_an_application_setting_without_its_plugin(self, redis_url: str) -> None:
        app = App(redis_url, Colour("red"), plugins=[])
        with pytest.raises(ConfigurationError, match="Colour"):
            await app.queue("mail").counts()

    async def test_another_loop_is_refused(self, redis_url: str) -> None:
        async with App(redis_url, plugins=[]) as app:
            await app.queue("mail").counts()

            def elsewhere() -> None:
                asyncio.run(app.queue("mail").counts())

            with pytest.raises(ConfigurationError, match=r"app\.sync"):
                await asyncio.to_thread(elsewhere)

    def test_a_loop_that_was_closed_is_replaced(self, redis_url: str) -> None:
        plugin = Lifecycle()
        app = App(redis_url, plugins=[plugin])

        async def one(*, last: bool) -> None:
            await app.queue("mail").add("x")
            await app.runtime.executor.aclose()  # leaves no connection behind the closed loop
            if last:
                await app.aclose()

        asyncio.run(one(last=False))
        asyncio.run(one(last=True))
        assert plugin.log == ["start", "saved", "start", "saved", "stop"]
        assert plugin.loops[0] is not plugin.loops[1]


class TestDeclared:
    async def test_published_at_the_first_operation(
        self, redis_url: str, witness: Witness, raw: redis.Redis
    ) -> None:
        app = App(redis_url, plugins=[witness])
        queue = app.queue("mail", Colour("red"))
        app.queue("other", Colour("blue"))
        await queue.counts()
        assert raw.hget(f"{Q}:meta", "toril.colour.first") == "red"
        assert not raw.exists("bull:other:meta")
        said = await queue.said(Colour)
        assert said is not None
        assert (said.level, said.source) == ("queue", "app.queue('mail')")
        await app.aclose()

    async def test_a_flow_publishes_for_all_of_its_queues(
        self, redis_url: str, witness: Witness, raw: redis.Redis
    ) -> None:
        async with App(redis_url, plugins=[witness]) as app:
            app.queue("mail", Colour("red"))
            await app.add_flow(Flow("p", "root", children=[Flow("mail", "kid")]))
        assert raw.hget(f"{Q}:meta", "toril.colour.first") == "red"

    async def test_what_was_set_stands(
        self, redis_url: str, witness: Witness, raw: redis.Redis
    ) -> None:
        async with App(redis_url, plugins=[witness]) as app:
            await app.queue("mail").set(Colour("green"))
        async with App(redis_url, plugins=[Witness()]) as app:
            said = await app.queue("mail", Colour("red")).said(Colour)
            assert said is not None
            assert said.value == Colour("green")

    async def test_published_once(self, redis_url: str, witness: Witness, raw: redis.Redis) -> None:
        async with App(redis_url, plugins=[witness]) as app:
            queue = app.queue("mail", Colour("red"))
            await queue.counts()
            raw.hdel(f"{Q}:meta", "toril.said.colour")
            await queue.counts()
            assert raw.hget(f"{Q}:meta", "toril.said.colour") is None

    def test_two_values_for_one_queue(self) -> None:
        app = App("redis://localhost", plugins=[])
        app.queue("mail", Colour("red"))
        app.queue("mail", Colour("red"))
        app.queue("mail")
        with pytest.raises(ConfigurationError, match=r"red.*blue"):
            app.queue("mail", Colour("blue"))

    async def test_without_its_plugin(self, redis_url: str) -> None:
        async with App(redis_url, plugins=[]) as app:
            with pytest.raises(ConfigurationError, match="Colour"):
                await app.queue("mail", Colour("red")).counts()


class Strategies:
    toril_name = "strategies"

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.name("strategy", "hourly", "a strategy")

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        assert context.named("strategy", "hourly") == "a strategy"


class TestNamedObjects:
    async def test_of_a_plugin(self, redis_url: str) -> None:
        app = App(redis_url, plugins=[Strategies()])
        with pytest.raises(ConfigurationError, match=r"'hourly': .* when the App is first used"):
            app.named("strategy", "hourly")
        async with app:
            assert app.named("strategy", "hourly") == "a strategy"
            with pytest.raises(ConfigurationError, match="did you mean 'hourly'"):
                app.named("strategy", "hourli")

    def test_without_a_loop(self, redis_url: str) -> None:
        with App(redis_url, plugins=[Strategies()]).sync as app:
            assert app.named("strategy", "hourly") == "a strategy"


class TestConfiguration:
    async def test_of_a_plugin_that_is_not_installed(self, redis_url: str) -> None:
        with pytest.raises(ConfigurationError, match="'clenup' is installed; did you mean 'clean"):
            await App(redis_url, config={"clenup": {"period": "1s"}}).queue("q").pause()

    async def test_of_a_plugin_that_is_blocked(self, redis_url: str) -> None:
        async with App(redis_url, block=["cleanup"], config={"cleanup": {"period": "1s"}}):
            pass


class TestFork:
    async def test_a_child_opens_its_own_connections_and_starts_the_plugins_anew(
        self, redis_url: str
    ) -> None:
        plugin = Lifecycle()
        async with App(redis_url, plugins=[plugin]) as app:
            await app.queue("mail").add("parent")
            code = await asyncio.to_thread(forked, lambda: app.sync.queue("mail").add("child"))
            assert code == 0
            await app.queue("mail").add("parent again")
            names = [job.name async for job in app.queue("mail").jobs()]
        assert names == ["parent", "child", "parent again"]
        assert plugin.log == ["start", "saved", "saved", "stop"]

    def test_an_app_that_the_parent_has_not_used(self, redis_url: str) -> None:
        app = App(redis_url, plugins=[])
        assert forked(lambda: app.sync.queue("mail").add("child")) == 0
        assert forked(lambda: asyncio.run(app.queue("mail").pause())) == 0
        assert app.sync.queue("mail").counts()["waiting"] == 1
        app.sync.close()


def forked(act: Callable[[], object]) -> int:
    """Do something in a forked child; its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of the other threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class TestPublicNames:
    def test_all_can_be_imported(self) -> None:
        for name in toril.__all__:
            assert getattr(toril, name) is not None
        assert set(toril.__all__) <= set(dir(toril))

    def test_others_cannot(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'Retention'"):
            _ = toril.Retention  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
