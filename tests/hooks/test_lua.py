"""Plugins whose Lua does not compile, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from toril import App, ConfigurationError, hookimpl
from toril.connection.execute import Executor
from toril.errors import ServerUnavailable
from toril.hooks.plugin_set import PluginInfo
from toril.plugins import PluginContext, Registry
from toril.worker import ActiveJob

WRONG = {
    "syntax": "x y",
    "not Lua": "ctx.report(1) // 2",
    "younger Lua": "local a <const> = 1",
    "open string": "ctx.report('a)",
    "open comment": "ctx.report(1) --[[ never ends",
    "open block": "if ctx.id then",
    "ends its function": "ctx.report(1) end",
    "ends it and begins a statement": "end local another = function()",
    "ends it and begins an argument": "return 1 end, function(ctx)",
    "ends it and begins an operator": "end and error('out') or function(ctx)",
    "ends the table it stands in": "end}, {'other', function(ctx)",
    "ends it all": "end}}} do local a = {{{function(ctx)",
    "names what a function has not": "return ...",
    "too many locals": "\n".join(f"local a{n}" for n in range(201)),
}
RIGHT = {
    "nothing": "",
    "a comment last": "ctx.report(1) -- as it should be",
    "a value": "return 1",
    "words in texts": "ctx.report('end function(ctx) ]]') --[==[ end ]] ]==]",
    "a function within": "local f = function() end f()",
}


class Plugin:
    """A plugin with a chunk, a script and a hook; notes whether it was started."""

    def __init__(self, name: str, chunk: str = " ", script: str = "return 7") -> None:
        self.toril_name = name
        self._chunk = chunk
        self._script = script
        self.context: PluginContext | None = None

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.lua("saved", self._chunk)
        registry.script("own", self._script)

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.context = context


def infos(app: App) -> Sequence[PluginInfo]:
    return [info for info in app.runtime.plugins.infos if info.status != "blocked"]


@pytest.mark.parametrize("what", WRONG)
async def test_a_chunk_that_does_not_compile_breaks_its_plugin_alone(
    redis_url: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    good, bad = Plugin("good", "ctx.emit('toril:seen', {})"), Plugin("bad", WRONG[what])
    async with App(redis_url, plugins=[bad, good]) as app:
        await app.queue("q").add("n")
        assert [(info.name, info.status) for info in infos(app)] == [
            ("bad", "broken"),
            ("good", "active"),
        ]
        assert "chunk 'saved':" in str(infos(app)[0].error)
        assert bad.context is None, "it is not started"
    assert "plugin 'bad'" in caplog.text
    stream: Any = raw.xrange("bull:q:events")
    assert "toril:seen" in [fields["event"] for _, fields in stream], "the other's Lua runs"


@pytest.mark.parametrize("what", WRONG)
async def test_a_script_that_does_not_compile_breaks_its_plugin_alone(
    redis_url: str, what: str
) -> None:
    good, bad = Plugin("good"), Plugin("bad", script=WRONG[what])
    async with App(redis_url, plugins=[bad, good]) as app:
        assert [info.status for info in infos(app)] == ["broken", "active"]
        assert "script 'own':" in str(infos(app)[0].error)
        assert good.context is not None
        assert await good.context.run_script("q", "own") == 7


@pytest.mark.parametrize("what", RIGHT)
async def test_lua_that_compiles_is_used(redis_url: str, what: str) -> None:
    plugin = Plugin("plugin", RIGHT[what], RIGHT[what])
    async with App(redis_url, plugins=[plugin]) as app:
        await app.queue("q").add("n")
        assert infos(app)[0].status == "active"
        assert plugin.context is not None
        await plugin.context.run_script("q", "own")


def test_the_synchronous_face(redis_url: str) -> None:
    good, bad = Plugin("good"), Plugin("bad", "x y")
    app = App(redis_url, plugins=[bad, good])
    with app.sync:
        app.sync.queue("q").add("n")
        assert [info.status for info in infos(app)] == ["broken", "active"]


def test_a_required_one_stops_the_app(redis_url: str) -> None:
    app = App(redis_url, plugins=[Plugin("bad", "x y")], config={"required": ["bad"]})
    why = r"'bad', which .* requires, is broken: .*'y'"
    with pytest.raises(ConfigurationError, match=why):
        app.sync.queue("q").add("n")
    with pytest.raises(ConfigurationError, match=why):
        asyncio.run(app.queue("q").pause())


async def test_a_worker_works_without_it(redis_url: str) -> None:
    async def handler(job: ActiveJob) -> str:
        return job.name

    async with App(redis_url, plugins=[Plugin("bad", "end")]) as app, app.worker("q", handler):
        job = await app.queue("q").add("n")
        assert await job.result(timeout="5s") == "n"


async def test_without_lua_of_others_no_server_is_needed_to_start() -> None:
    async with App("redis://127.0.0.1:1") as app:
        assert {info.status for info in infos(app)} <= {"active", "off"}


async def test_the_server_is_needed_to_compile(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> None:
        raise ServerUnavailable("gone")

    plugin = Plugin("good")
    app = App(redis_url, plugins=[plugin])
    with monkeypatch.context() as patched:
        patched.setattr(Executor, "converse", unavailable)
        with pytest.raises(ServerUnavailable):
            await app.queue("q").pause()
    assert plugin.context is None
    async with app:
        assert plugin.context is not None, "the next start asks again"


@pytest.mark.parametrize("source", [None, b"return 1", "\ud800"])
async def test_what_is_no_text_at_all(redis_url: str, source: str) -> None:
    for plugin in (Plugin("bad", chunk=source), Plugin("bad", script=source)):
        async with App(redis_url, plugins=[plugin]) as app:
            assert infos(app)[0].status == "broken"
            assert "is not a text of Lua" in str(infos(app)[0].error)
            await app.queue("q").add("n")


async def test_a_field_of_meta_that_is_none(redis_url: str) -> None:
    class Fields:
        toril_name = "fields"

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            registry.lua("saved", "return 1", meta=("x'} error() --",))

    async with App(redis_url, plugins=[Fields()]) as app:
        assert "not a field of meta" in str(infos(app)[0].error)
        await app.queue("q").add("n")
