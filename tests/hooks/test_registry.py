"""What plugins bring beside hooks, and what happens when two bring the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.hooks.conftest import Load

from toril.errors import ConfigurationError
from toril.event_values import EventValues
from toril.hooks.context import ServiceContext
from toril.plugins import Registry, Setting, hookimpl
from toril_lua import Chunk


class Quota(Setting):
    name = "quota"


class OtherQuota(Setting):
    name = "quota"


class Sweep:
    async def run_once(self, context: ServiceContext) -> float | None:
        del context
        return None


def plugin(name: str, register: Callable[[Registry], Any]) -> object:
    class Plugin:
        toril_name = name

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            register(registry)

    return Plugin()


def test_everything_a_plugin_can_bring(load: Load) -> None:
    strategy = object()

    def register(registry: Registry) -> None:
        registry.setting(Quota)
        registry.lua("finished", "return", meta=("toril.quota.n",))
        registry.lua("removed", "return")
        registry.script("slice", "return 1")
        registry.service("sweep", Sweep)
        registry.name("strategy", "hourly", strategy)

    plugins = load([plugin("a", register)])
    assert plugins.settings == {"events": EventValues, "quota": Quota}
    assert plugins.chunks == (
        Chunk("a", "finished", "return", ("toril.quota.n",)),
        Chunk("a", "removed", "return"),
    )
    assert plugins.scripts == {("a", "slice"): "return 1"}
    (service,) = plugins.services
    assert (service.plugin, service.name, service.factory) == ("a", "sweep", Sweep)
    assert plugins.named("strategy", "hourly") is strategy
    with pytest.raises(ConfigurationError, match="strategy 'hourlyy'; did you mean 'hourly'"):
        plugins.named("strategy", "hourlyy")
    with pytest.raises(ConfigurationError, match=r"'monthly' \(known: hourly\)"):
        plugins.named("strategy", "monthly")
    with pytest.raises(ConfigurationError, match=r"codec 'zip' \(nor any other codec\)"):
        plugins.named("codec", "zip")


def test_chunks_come_in_plugin_order(load: Load) -> None:
    plugins = load([plugin(name, lambda r: r.lua("saved", "return")) for name in "bca"])
    assert [chunk.plugin for chunk in plugins.chunks] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("method", "arguments", "others", "what"),
    [
        ("setting", (Quota,), (OtherQuota,), "setting 'quota'"),
        ("service", ("x", Sweep), ("x", Quota), "service 'x'"),
        ("name", ("codec", "x", 1), ("codec", "x", 2), "codec 'x'"),
    ],
)
def test_a_name_taken_twice_names_both(
    method: str, arguments: tuple[Any, ...], others: tuple[Any, ...], what: str, load: Load
) -> None:
    plugins = load(
        [
            plugin("a", lambda registry: getattr(registry, method)(*arguments)),
            plugin("b", lambda registry: getattr(registry, method)(*others)),
        ]
    )
    info = plugins.info("b")
    assert info is not None
    assert info.status == "conflict"
    assert what in (info.error or "")
    assert (info.error or "").count("given in code") == 2
    assert plugins.active == {"a"}


def test_two_plugins_may_bring_the_same_thing(load: Load) -> None:
    plugins = load([plugin(name, lambda r: r.setting(Quota)) for name in "ab"])
    assert plugins.active == {"a", "b"}
    plugins.withdraw("a", "gone")
    assert plugins.settings == {"events": EventValues, "quota": Quota}


def test_scripts_are_each_plugins_own(load: Load) -> None:
    plugins = load([plugin(name, lambda r: r.script("slice", r.plugin)) for name in "ab"])
    assert plugins.scripts == {("a", "slice"): "a", ("b", "slice"): "b"}


@pytest.mark.parametrize("name", ["quota", "other"])
def test_a_setting_may_not_have_the_name_of_a_plugin(name: str, load: Load) -> None:
    plugins = load([plugin(name, lambda r: r.setting(Quota)), plugin("quotas", lambda _: None)])
    info = plugins.info(name)
    assert info is not None
    assert info.status == ("conflict" if name == "quota" else "active")


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        ([("setting", object)], "not a subclass of toril.Setting"),
        ([("setting", Setting)], "a name is a letter"),
        ([("script", "a:b", "")], "a name is a letter"),
        ([("script", "a", None)], "the script 'a' is not a text of Lua: None"),
        ([("lua", "saved", "", ("a'",))], 'not a field of meta: "a\'"'),
        ([("name", "script", "a", "1")], "registry.script()"),
        ([("lua", "removd", "")], "did you mean 'removed'"),
        ([("script", "a", "1"), ("script", "a", "2")], "registered twice"),
    ],
)
def test_what_cannot_be_registered(calls: list[tuple[Any, ...]], error: str, load: Load) -> None:
    def register(registry: Registry) -> None:
        for method, *arguments in calls:
            getattr(registry, method)(*arguments)

    info = load([plugin("a", register)]).info("a")
    assert info is not None
    assert info.status == "broken"
    assert error in (info.error or "")
