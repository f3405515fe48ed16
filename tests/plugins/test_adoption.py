"""Where adoption goes on from: nobody is passed over because others have gone meanwhile."""

from __future__ import annotations

import redis
from tests.support.place import foreign_finish, place

from toril_plugins import Retention


async def test_those_who_went_take_nobodys_place(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url) as here:
        await here.queue.set(Retention(completed=1))
        now = here.clock.now_ms()
        foreign_finish(raw, "a", "b", at=now)
        await here.sweep("1s")
        assert await here.kept() == {"b"}
        await here.finish("c")  # b goes, at whose place the next page begins
        assert await here.kept() == {"c"}
        option = {"removeOnComplete": True}
        foreign_finish(raw, "d", at=here.clock.now_ms() + 1, opts=option)
        await here.sweep("1s")
        assert await here.kept() == {"c"}
