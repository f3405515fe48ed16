"""Two workers that say different things: neither applies its own, both apply the newest."""

from __future__ import annotations

import logging

import pytest

from tests.scenarios.stage import Stage, handle, steps, until
from toril_plugins import Keep, Retention

NOTHING, FOREVER = Keep.nothing(), Keep.forever()


@pytest.mark.parametrize(("older", "newer"), [(NOTHING, FOREVER), (FOREVER, NOTHING)], ids=str)
async def test_the_worker_that_started_last_counts(
    stage: Stage, caplog: pytest.LogCaptureFixture, older: Keep, newer: Keep
) -> None:
    caplog.set_level(logging.WARNING)
    one, other = stage.app(), stage.app()
    finishes = one.worker("q", handle, Retention(completed=older))
    only_speaks = other.worker("q", handle, Retention(completed=newer))
    async with finishes, only_speaks:
        only_speaks.quiet()
        job = await stage.away.queue("q").add("job", steps("completed"))
        await until("it has finished", lambda: stage.state("q", job.id) in ("completed", "gone"))
    assert stage.state("q", job.id) == ("gone" if newer.is_nothing else "completed")
    assert "no longer counts" in caplog.text
    if newer.is_nothing:
        assert stage.removals.rules[job.id] == "worker: nothing"
    else:
        assert await stage.explained("q", job.id) == "worker: for ever"
