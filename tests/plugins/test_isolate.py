"""Foreign("isolate"): foreign workers are told to keep; the sweeper does what was really said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis
from tests.conftest import Library
from tests.scenarios.stage import until
from tests.support.place import place

from toril_plugins import Foreign, Keep, Retention


def test_values() -> None:
    assert [Foreign.decode(Foreign(mode).encode()).mode for mode in ("native", "isolate")] == [
        "native", "isolate",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="say 'native'"):
        Foreign("other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="stored"):
        Foreign.decode("other")


@pytest.mark.parametrize(
    ("said", "option"),
    [(None, False), ("1h", False), (5, False), (Keep.nothing(), True), (Keep.forever(), False)],
)
async def test_what_is_stored(redis_url: str, said: Any, option: bool) -> None:
    async with place(redis_url) as here:
        await here.queue.set(Foreign("isolate"))
        settings = [] if said is None else [Retention(completed=said)]
        job = await here.queue.add("do", None, *settings)
        assert job.snapshot.opts["removeOnComplete"] is option
        assert job.snapshot.opts["removeOnFail"] is False


async def test_a_change_is_known_within_ten_seconds(redis_url: str) -> None:
    async with place(redis_url) as here:
        await here.queue.add("do")
        await here.queue.set(Foreign("isolate"))
        assert "removeOnFail" not in (await here.queue.add("do")).snapshot.opts
        here.clock.advance("10s")
        assert (await here.queue.add("do")).snapshot.opts["removeOnFail"] is False
        await here.queue.set(Foreign("native"))
        here.clock.advance("10s")
        assert "removeOnFail" not in (await here.queue.add("do")).snapshot.opts


@pytest.mark.parametrize("name", ["node", "python"])
async def test_a_foreign_worker_keeps_and_the_sweeper_applies_the_rule(
    redis_url: str, raw: redis.Redis, library: Library, name: str
) -> None:
    async with place(redis_url) as here:
        await here.queue.set(Foreign("isolate"))
        await here.queue.set(Retention(completed=1))
        driver = library(name)
        await driver.worker("q", removeOnComplete={"count": 0})
        for id in ("a", "b"):
            await here.queue.add("do", {"do": [["return", 1]]}, id=id)
            await until(
                "it has ended", lambda: raw.llen("bull:q:wait") + raw.llen("bull:q:active") == 0
            )
        assert await here.kept() == {"a", "b"}
        await driver.reset()
        await here.sweep()
        assert len(await here.kept()) == 1


async def test_it_warns_where_nobody_sweeps(
    redis_url: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "toril.persistence")
    async with place(redis_url) as here:
        await here.queue.set(Foreign("isolate"))
        await here.queue.add("do")
        await here.queue.add("do")
        await until("it warns", lambda: bool(caplog.records))
        assert len(caplog.records) == 1
        raw.set("bull:q:toril:lease:sweep", "somebody")
        here.clock.advance("10m")
        await here.queue.add("do")
        await here.app.aclose()
    assert len(caplog.records) == 1
