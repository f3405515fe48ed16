"""Requires: nothing goes where a plugin is missing; who has it leads."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis
from tests.support.place import place

from toril import Reject
from toril.plugins import GiveWay
from toril_plugins import Keep, Requires, Retention

AN_HOUR = Retention(completed="1h")


class Safe:
    """The plugin that is required."""

    toril_name = "safe"


@pytest.mark.parametrize("nothing", [[""], ["a b"], []])
def test_what_it_refuses(nothing: Any) -> None:
    with pytest.raises(ValueError, match="Requires"):
        Requires(*nothing)


def test_it_reads_back() -> None:
    value = Requires("archive", "safe", "archive")
    assert Requires.decode(value.encode()) == value == Requires("archive", "safe")
    with pytest.raises(ValueError, match="stored"):
        Requires.decode(7)


@pytest.mark.parametrize("keep", [Keep.nothing(), 1, "1h"])
async def test_a_process_without_it_keeps_everything_and_gives_way(
    redis_url: str, keep: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(redis_url) as lacking:
        await lacking.queue.set(Requires("safe"))
        await lacking.queue.set(Retention(completed=keep))
        await lacking.finish("a", "b")
        lacking.clock.advance("2h")
        caplog.set_level(logging.WARNING)
        for _ in range(2):
            with pytest.raises(GiveWay, match="safe"):
                await lacking.app.run_services("q")
        assert caplog.text.count("requires the plugin safe") == 1
        assert await lacking.kept() == {"a", "b"}
        async with place(redis_url, plugins=[Safe()]) as capable:
            await capable.sweep("3h")
            await capable.sweep()
            assert await capable.kept() == ({"b"} if keep == 1 else set())


async def test_operators_are_refused_where_it_is_missing(redis_url: str) -> None:
    async with place(redis_url) as lacking:
        await lacking.queue.set(Requires("safe"))
        await lacking.finish("a")
        await lacking.queue.add("do", None, id="waits")
        with pytest.raises(Reject, match="safe"):
            await lacking.queue.remove("a")
        assert await lacking.queue.clean("completed", older_than="0s") == []
        assert await lacking.queue.remove("waits")  # it has not finished
        async with place(redis_url, plugins=[Safe()]) as capable:
            assert await capable.queue.remove("a")


async def test_foreign_workers_are_told_to_keep(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url, plugins=[Safe()]) as here:
        await here.queue.set(Requires("safe"))
        job = await here.queue.add("do", None, Retention(completed=Keep.nothing()))
        assert job.snapshot.opts["removeOnComplete"] is False
        assert job.snapshot.opts["removeOnFail"] is False
        await here.run()
        assert await here.kept() == set()  # ours does what was said
