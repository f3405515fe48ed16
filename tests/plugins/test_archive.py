"""The archive on a real server: what goes has been copied, and comes back exactly."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.place import Place, Removed, foreign_finish, keys_of, work

from toril import App, ConfigurationError, NewJob, hookimpl
from toril.plugins import FinishedJob, JobStateError, ManualClock
from toril_plugins import Keep, Retention
from toril_plugins.archive import Archive, ArchivedJob, Wanted
from toril_plugins.testing.base import WITHOUT_RESTS

STORES = ("sqlite", "jsonl")
BINARY = bytes(range(256))


@pytest.fixture(params=STORES)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, Any]:
    return {request.param: str(tmp_path / "archive")}


@asynccontextmanager
async def archiving(
    url: str, table: Mapping[str, Any], *plugins: object, clock: ManualClock | None = None
) -> AsyncGenerator[Place]:
    clock, removed = clock or ManualClock(), Removed()
    config = {**WITHOUT_RESTS, "archive": table}
    app = App(url, plugins=[removed, *plugins, "*"], clock=clock, config=config)
    async with app:
        yield Place(app, clock, removed)


@pytest.fixture
async def here(redis_url: str, table: Mapping[str, Any]) -> AsyncIterator[Place]:
    async with archiving(redis_url, table) as there:
        yield there


@pytest.fixture
def bytes_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def dump(client: redis.Redis, id: str) -> dict[bytes, Any]:
    """All keys of a job, byte for byte, and where it is."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter(f"bull:q:{id}*"):
        kind = client.type(key)
        if kind == b"hash":
            found[key] = client.hgetall(key)
        elif kind == b"list":
            found[key] = client.lrange(key, 0, -1)
        else:
            found[key] = client.zrange(key, 0, -1, withscores=True)
    for outcome in ("completed", "failed"):
        found[outcome.encode()] = client.zscore(f"bull:q:{outcome}", id)
    return found


async def archived(place: Place, **wanted: Any) -> list[ArchivedJob]:
    page = await Archive.of(place.app).find(Wanted(**wanted))
    assert page.after is None
    return list(page.jobs)


async def test_what_goes_has_been_copied(here: Place) -> None:
    await here.queue.set(Retention(completed="1h", failed=Keep.nothing()))
    await here.finish("a", "b")
    await here.finish("f", name="fail")
    assert await archived(here) == []
    await here.sweep()
    assert [job.id for job in await archived(here)] == ["f"]
    await here.sweep("1h")
    assert not await here.kept()
    copies = {job.id: job for job in await archived(here)}
    assert copies.keys() == {"a", "b", "f"}
    a, f = copies["a"], copies["f"]
    assert (a.outcome, a.rule, a.job.data, a.job.result) == (
        "completed", "queue: 1h", {"c": "a"}, {"c": "a"},
    )  # fmt: skip
    assert (f.outcome, f.rule, f.job.reason) == ("failed", "queue: nothing", "as asked")
    assert {job.id: job.finished for job in here.removed.snapshots} == {
        id: copy.finished_on for id, copy in copies.items()
    }
    samples = {
        (sample.labels["store"]): sample.value
        for sample in here.app.metrics()
        if sample.name == "toril_archived_total"
    }
    assert list(samples.values()) == [3]


async def test_it_is_off_until_it_is_configured(redis_url: str) -> None:
    async with App(redis_url) as app:
        (info,) = (i for i in app.runtime.plugins.infos if i.name == "archive")
        assert (info.status, info.error) == ("off", "it has no table in the configuration")
        with pytest.raises(ConfigurationError, match="there is no archive: say where"):
            Archive.of(app)
        await app.queue("q").set(Retention(completed=1))
        for id in "ab":
            await app.queue("q").add("do", None, id=id)
            await app.worker("q", work).run(burst=True)
        assert await app.queue("q").get("a") is None, "nobody is careful: it goes at once"


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({}, "say where jobs are archived"),
        ({"sqlite": "/no/such/folder/a.db"}, "cannot be opened"),
        ({"jsonl": "/dev/null/x"}, "cannot be opened"),
        ({"sqlight": "x"}, "did you mean 'sqlite'"),
        ({"store": "moon"}, "no plugin in use offers the archive-store 'moon'"),
        ({"sqlite": "x", "stay": "soon"}, "soon"),
    ],
)
async def test_what_cannot_work_stops_the_app(
    redis_url: str, table: Mapping[str, Any], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match=error):
        async with App(redis_url, config={"archive": table}):
            pass
    assert not caplog.records, "that is all that has to be said"


async def test_several_places_get_every_job(redis_url: str, tmp_path: Path) -> None:
    table = {"sqlite": str(tmp_path / "a.db"), "jsonl": str(tmp_path / "lines")}
    async with archiving(redis_url, table) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("a")
        await here.sweep()
        archive = Archive.of(here.app)
        found = [await archive.get("q", "a", store=store) for store in STORES]
        assert found[0] is not None
        assert found[0] == found[1]
        with pytest.raises(ConfigurationError, match="no store 'moon'; it has: sqlite, jsonl"):
            await archive.get("q", "a", store="moon")


async def test_a_place_that_cannot_be_written_keeps_them_all(
    redis_url: str, tmp_path: Path
) -> None:
    table = {"jsonl": str(tmp_path / "lines")}
    async with archiving(redis_url, table) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("a")
        moved = (tmp_path / "lines").rename(tmp_path / "elsewhere")
        await here.sweep()
        assert await here.kept() == {"a"}
        moved.rename(tmp_path / "lines")
        await here.sweep("1h")
        await here.sweep()
        assert not await here.kept()
        assert [job.id for job in await archived(here)] == ["a"]


class TestRoundTrip:
    async def test_of_any_job_there_is(self, here: Place, bytes_client: redis.Redis) -> None:
        raw = bytes_client
        await here.queue.set(Retention(failed="1h"))
        at = here.clock.now_ms() - 4_000_000
        fields: Any = {
            "name": "ж\u0000", "data": b'{"n":9007199254740993,"x":1.10,"s":"\\ud800"}',
            "opts": b'{"attempts":3,"tm":"\xff"}', "timestamp": at, "finishedOn": at,
            "failedReason": BINARY, "stacktrace": b'["a"]', b"\xff\xfe": BINARY, "unknown": b"",
        }  # fmt: skip
        raw.hset("bull:q:a", mapping=fields)
        raw.zadd("bull:q:failed", {"a": at})
        raw.rpush("bull:q:a:logs", "eins", BINARY, "")
        raw.hset("bull:q:a:processed", mapping={"bull:q:c": b"1e400", BINARY: BINARY})
        raw.hset("bull:q:a:failed", "bull:q:d", "why")
        raw.zadd("bull:q:a:unsuccessful", {"bull:q:e": at + 0.5})
        before = dump(raw, "a")
        assert len(before) == 7
        await here.sweep("1h")
        assert dump(raw, "a") == {b"completed": None, b"failed": None}
        (copy,) = await archived(here)
        await Archive.of(here.app).restore(copy)
        assert dump(raw, "a") == before

    async def test_of_a_flow(self, here: Place, bytes_client: redis.Redis) -> None:
        from toril import Flow

        await here.queue.set(Retention(completed="1h"))
        flow = Flow("q", "do", {"p": 1}, id="p", children=[Flow("q", "do", n) for n in range(3)])
        await here.app.add_flow(flow)
        await here.run()
        before = dump(bytes_client, "p")
        assert len(before[b"bull:q:p:processed"]) == 3
        await here.sweep("1h")
        assert not await here.kept()
        copy = await Archive.of(here.app).get("q", "p")
        assert copy is not None
        await Archive.of(here.app).restore(copy)
        assert dump(bytes_client, "p") == before

    async def test_of_a_log_of_many_lines(self, here: Place, bytes_client: redis.Redis) -> None:
        await here.queue.set(Retention(completed=Keep.nothing()))
        lines = [f"{n} {'ä' * 200}" for n in range(5_000)]
        bytes_client.rpush("bull:q:a:logs", *lines)
        await here.finish("a")
        await here.sweep()
        (copy,) = await archived(here)
        await Archive.of(here.app).restore(copy)
        assert bytes_client.lrange("bull:q:a:logs", 0, -1) == [line.encode() for line in lines]


class TestRestored:
    async def test_it_stays_and_goes_again_without_a_second_record(self, here: Place) -> None:
        await here.queue.set(Retention(completed="1h"))
        await here.finish("a", "b")
        await here.sweep("2h")
        copy = await Archive.of(here.app).get("q", "a")
        assert copy is not None
        await Archive.of(here.app).restore(copy)
        await here.sweep()
        await here.sweep("6d")
        assert await here.kept() == {"a"}
        job = await here.queue.get("a")
        assert job is not None
        (rule,) = [fact for fact in await job.explain() if fact.subject == "rule"]
        assert (rule.level, rule.text) == ("restored", "7d")
        await here.sweep("2d")
        assert not await here.kept()
        assert {job.id for job in await archived(here)} == {"a", "b"}
        assert await Archive.of(here.app).get("q", "a") == copy

    @pytest.mark.parametrize("said", [Retention(completed=1), Retention(completed=Keep.nothing())])
    async def test_it_outlives_what_is_said_about_its_queue(
        self, here: Place, said: Retention
    ) -> None:
        await here.queue.set(said)
        await here.finish("a", "b")
        await here.sweep()
        copy = await Archive.of(here.app).get("q", "a")
        assert copy is not None
        await Archive.of(here.app).restore(copy, stay="30d")
        await here.finish("c", "d")
        await here.sweep("29d")
        assert "a" in await here.kept()
        await here.sweep("2d")
        assert "a" not in await here.kept()

    async def test_one_that_exists_is_left_alone(self, here: Place) -> None:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("a")
        await here.sweep()
        (copy,) = await archived(here)
        await here.queue.add("do", {"new": True}, id="a")
        with pytest.raises(JobStateError, match="'a' exists in queue 'q'"):
            await Archive.of(here.app).restore(copy)
        job = await here.queue.get("a")
        assert job is not None
        assert job.data == {"new": True}

    async def test_it_can_run_again(self, here: Place) -> None:
        await here.queue.set(Retention(failed=Keep.nothing()))
        await here.finish("f", name="fail")
        await here.sweep()
        (copy,) = await archived(here)
        await Archive.of(here.app).restore(copy)
        job = await here.queue.get("f")
        assert job is not None
        here.clock.advance("1h")
        await job.retry()
        await here.run()
        await here.sweep()
        assert len({job.finished_on for job in await archived(here)}) == 2


class TestRequeue:
    async def test_it_is_the_same_work_as_a_new_job(self, here: Place) -> None:
        from toril import Backoff

        await here.queue.add(
            "fail",
            {"é": [1, 2.5, None]},
            Retention(failed=Keep.nothing()),
            id="a",
            attempts=1,
            backoff=Backoff.fixed("3s"),
            priority=7,
            keep_logs=5,
            delay="1h",
        )
        here.clock.advance("1h")
        await here.run()
        await here.sweep()
        (copy,) = await archived(here)
        archive = Archive.of(here.app)
        job = await archive.requeue(here.app, copy)
        assert job.id != "a"
        stored = job.snapshot
        assert (stored.name, stored.data, stored.priority, stored.delay) == (
            "fail", {"é": [1, 2.5, None]}, 7, 0,
        )  # fmt: skip
        assert stored.opts["backoff"] == {"type": "fixed", "delay": 3000}
        assert stored.opts["keepLogs"] == 5
        assert stored.settings.get(Retention) == Retention(failed=Keep.nothing())
        assert await job.state() == "prioritized"
        again = await archive.requeue(here.app, copy, id="a")
        assert again.id == "a"
        with pytest.raises(JobStateError, match="exists"):
            await archive.requeue(here.app, copy, id="a")

    async def test_what_a_foreign_producer_said_is_said_again(
        self, here: Place, raw: redis.Redis
    ) -> None:
        await here.queue.set(Retention(completed="1h"))
        at = here.clock.now_ms()
        opts = {"attempts": 0, "removeOnComplete": {"age": 5}, "removeOnFail": 3, "lifo": True}
        foreign_finish(raw, "x", at=at, opts=opts, data={"a": 1})
        await here.sweep("2h")
        (copy,) = await archived(here)
        job = await Archive.of(here.app).requeue(here.app, copy)
        assert job.snapshot.settings.get(Retention) == Retention(completed="5s", failed=3)
        assert job.snapshot.opts["lifo"] is True

    @pytest.mark.parametrize("own", [True, False], ids=["job", "queue"])
    async def test_data_that_has_gone_is_missed(self, here: Place, *, own: bool) -> None:
        said = Retention(completed=Keep("1d", data="1h"), failed=Keep("1d", data="1h"))
        if not own:
            await here.queue.set(said)
        for name in ("do", "fail"):
            await here.finish(f"{name} 1", f"{name} 2", name=name, settings=[said] if own else [])
        await here.sweep("1h")
        await here.queue.set(Retention(completed=Keep.nothing(), failed=Keep.nothing()))
        await here.sweep("23h")
        copies = {job.id: job for job in await archived(here)}
        assert copies.keys() == {"do 1", "do 2", "fail 1", "fail 2"}
        archive = Archive.of(here.app)
        for copy in copies.values():
            assert copy.job.data == {}
            with pytest.raises(JobStateError, match="had gone when it was archived"):
                await archive.requeue(here.app, copy)
        await archive.restore(copies["do 1"])
        job = await here.queue.get("do 1")
        assert job is not None
        with pytest.raises(JobStateError, match="a rule has taken its data"):
            await job.retry()
        await job.update({"n": 1})
        await job.retry()
        assert await job.state() == "waiting"

    async def test_data_that_was_always_empty_is_not(self, here: Place) -> None:
        await here.queue.set(Retention(completed=Keep("2d", last=1, data="1d")))
        await here.queue.add_many([NewJob("do", {}, id="a"), NewJob("do", {}, id="b")])
        await here.run()
        await here.sweep("1h")
        (copy,) = await archived(here)
        assert (await Archive.of(here.app).requeue(here.app, copy)).data == {}

    async def test_data_that_nobody_may_add_is_refused(self, here: Place, raw: redis.Redis) -> None:
        await here.queue.set(Retention(completed=Keep.nothing()))
        foreign_finish(raw, "x", at=here.clock.now_ms(), data={"n": 2**60})
        foreign_finish(raw, "y", at=here.clock.now_ms())
        raw.hset("bull:q:y", "data", "{no json")
        await here.sweep("1s")
        for job in await archived(here):
            with pytest.raises(Exception, match=r"beyond 2\^53|not JSON"):
                await Archive.of(here.app).requeue(here.app, job)


async def test_result_of_a_job_that_is_gone(here: Place) -> None:
    await here.queue.set(Retention(completed=Keep.nothing(), failed=Keep.nothing()))
    done = await here.queue.add("do", {"n": 1}, id="a")
    bad = await here.queue.add("fail", None, id="f")
    await here.run()
    await here.sweep()
    assert not await here.kept()
    assert await done.result(timeout="5s") == {"n": 1}
    with pytest.raises(Exception, match="as asked"):
        await bad.result(timeout="5s")
    recalled = await here.queue.recall("a")
    assert recalled is not None
    assert (recalled.name, recalled.outcome) == ("do", "completed")


async def test_other_copiers_and_reviewers_have_their_say(redis_url: str, tmp_path: Path) -> None:
    class Other:
        toril_name = "other"

        def __init__(self) -> None:
            self.seen: list[str] = []

        @hookimpl
        def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
            self.seen += [job.id for job in jobs]
            if len(self.seen) == 1:
                raise OSError("not yet")

    async with archiving(redis_url, {"jsonl": str(tmp_path / "x")}, Other()) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("a")
        await here.sweep()
        assert await here.kept() == {"a"}
        await here.sweep("1h")
        await here.sweep()
        assert not await here.kept()
        (path,) = (tmp_path / "x").glob("jobs-*")
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a"]


async def test_with_a_clock_of_a_worker_it_is_careful(
    redis_url: str, table: Mapping[str, Any], raw: redis.Redis
) -> None:
    """The finishing script of a process with the archive removes nothing itself."""
    async with archiving(redis_url, table) as here:
        await here.queue.set(Retention(completed=1))
        await here.finish("a", "b", "c")
        assert await here.kept() == {"a", "b", "c"}
        await here.sweep()
        assert await here.kept() == {"c"}
        assert keys_of(raw, "a") == []
        assert {job.id for job in await archived(here)} == {"a", "b"}


@pytest.mark.parametrize("erase", [True, False])
async def test_erasing_a_job_erases_its_copies_unless_the_option_says_no(
    redis_url: str, table: Mapping[str, Any], erase: bool
) -> None:
    async with archiving(redis_url, {**table, "erase": erase}) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("a", "b")
        await here.sweep()
        erased = await here.queue.erase("a")
        assert ("1 archived copies" in str(erased)) == erase
        left = {job.id for job in await archived(here)}
        assert left == ({"b"} if erase else {"a", "b"})
