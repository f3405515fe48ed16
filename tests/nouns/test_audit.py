"""An audit of a queue: what a foreign hand broke is found, repaired, and gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis

from toril import App, Flow, NewJob, hookimpl
from toril.auditing import MOST_OF_A_KIND
from toril.plugins import Audit, AuditReport, Finding, ManualClock, PluginContext, Registry, Repair

Q = "bull:mail"
HOUR = 3_600_000


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[]) as made:
        await made.queue("mail").add_many(
            [NewJob("send", {"n": n}, id=f"j{n}", priority=n % 2 or None) for n in range(6)]
        )
        yield made


async def test_what_was_found_is_told_to_exporters(app: App, raw: redis.Redis) -> None:
    def gauges() -> dict[tuple[str, str], float]:
        return {
            (each.labels["kind"], each.labels["severity"]): each.value
            for each in app.metrics()
            if each.name == "toril_audit_findings" and each.labels["queue"] == "mail"
        }

    await app.audit("mail")
    assert gauges() == {}
    raw.rpush(f"{Q}:gone:logs", "a line")
    raw.hset(f"{Q}:meta", "version", "bullmq:5.45.2")
    report = await app.audit("mail")
    assert gauges() == {("orphan-key", "problem"): 1, ("foreign-version", "note"): 1}
    for finding in report.findings:
        if finding.repair is not None:
            await finding.repair.run()
    await app.audit("mail")
    assert gauges() == {("orphan-key", "problem"): 0, ("foreign-version", "note"): 1}
    (when,) = [each for each in app.metrics() if each.name == "toril_audited_timestamp_seconds"]
    assert when.labels == {"queue": "mail"}


async def test_what_was_not_read_is_not_looked_for_job_by_job(app: App, raw: redis.Redis) -> None:
    queue = app.queue("mail")
    await queue.add_many([NewJob("send", {"n": n}) for n in range(900)])
    raw.config_resetstat()
    report = await app.audit("mail", most=500)
    assert not report.whole
    assert not report.findings
    # Looking for one job takes time that grows with the list.
    assert "cmdstat_lpos" not in raw.info("commandstats")


def names(report: AuditReport) -> list[tuple[str, str]]:
    return sorted((each.kind, each.key) for each in report.findings)


def finish(raw: redis.Redis, id: str, at: int = 5_000) -> None:
    """What another library's worker leaves of a job that completed."""
    raw.lrem(f"{Q}:wait", 0, id)
    raw.zrem(f"{Q}:prioritized", id)
    raw.hset(f"{Q}:{id}", mapping={"finishedOn": at, "returnvalue": "null", "atm": 1, "ats": 1})
    raw.zadd(f"{Q}:completed", {id: at})


def hash_of(raw: redis.Redis, id: str, **more: str | int) -> None:
    """A job's hash, and nothing else."""
    fields: dict[Any, Any] = {"name": "x", "data": "{}", "opts": "{}", "timestamp": 1_000}
    raw.hset(f"{Q}:{id}", mapping=fields | more)


def orphan_key(raw: redis.Redis) -> None:
    raw.rpush(f"{Q}:gone:logs", "a line")


def no_hash(raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:failed", {"gone": 5_000})
    raw.lpush(f"{Q}:wait", "ghost")


def finished_in_no_state(raw: redis.Redis) -> None:
    hash_of(raw, "lost", finishedOn=7_000, returnvalue="1")


def waiting_in_no_state(raw: redis.Redis) -> None:
    raw.lrem(f"{Q}:wait", 0, "j0")


def half_a_hash(raw: redis.Redis) -> None:
    raw.hset(f"{Q}:torn", mapping={"name": "x"})
    raw.rpush(f"{Q}:torn:logs", "a line")


def two_states(raw: redis.Redis) -> None:
    finish(raw, "j0")
    raw.lpush(f"{Q}:wait", "j0")


def twice(raw: redis.Redis) -> None:
    raw.lpush(f"{Q}:wait", "j0")


def score(raw: redis.Redis) -> None:
    finish(raw, "j0")
    raw.zadd(f"{Q}:completed", {"j0": 6_000})


def lock_left(raw: redis.Redis) -> None:
    raw.set(f"{Q}:j0:lock", "token", px=60_000)


def lock_endless(raw: redis.Redis) -> None:
    raw.lrem(f"{Q}:wait", 0, "j0")
    raw.lpush(f"{Q}:active", "j0")
    raw.set(f"{Q}:j0:lock", "token")


def window_left(raw: redis.Redis) -> None:
    raw.set(f"{Q}:de:once", "gone")


def endless_record(raw: redis.Redis) -> None:
    raw.set(f"{Q}:toril:call:who:0", "x")


def deferred_left(raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:toril:deferred", {f"{Q}:gone": 1})


MADE: Sequence[tuple[Callable[[redis.Redis], None], Sequence[tuple[str, str]]]] = [
    (orphan_key, [("orphan-key", f"{Q}:gone:logs")]),
    (no_hash, [("no-hash", f"{Q}:ghost"), ("no-hash", f"{Q}:gone")]),
    (finished_in_no_state, [("no-state", f"{Q}:lost")]),
    (waiting_in_no_state, [("no-state", f"{Q}:j0")]),
    (two_states, [("two-states", f"{Q}:j0")]),
    (twice, [("twice", f"{Q}:j0")]),
    (score, [("score", f"{Q}:j0")]),
    (lock_left, [("lock-left", f"{Q}:j0:lock")]),
    (lock_endless, [("lock-endless", f"{Q}:j0:lock")]),
    (window_left, [("window-left", f"{Q}:de:once")]),
    (endless_record, [("endless", f"{Q}:toril:call:who:0")]),
    (deferred_left, [("deferred-left", f"{Q}:toril:deferred")]),
]


async def test_all_is_well(app: App) -> None:
    report = await app.audit("mail")
    assert report.findings == ()
    assert (report.whole, report.problems, report.looked["jobs"]) == (True, 0, 6)


async def test_a_worker_that_shows_itself_is_no_finding(app: App, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:toril:workers", {"who": 1})
    raw.set(f"{Q}:toril:workers:who", "x", ex=60)
    assert (await app.audit("mail")).findings == ()


async def test_a_queue_that_is_not_there(app: App, raw: redis.Redis) -> None:
    assert (await app.audit("nothing")).findings == ()
    assert raw.keys("bull:nothing*") == []


@pytest.mark.parametrize(("make", "found"), MADE, ids=lambda each: getattr(each, "__name__", ""))
async def test_it_is_found_repaired_and_gone(
    make: Callable[[redis.Redis], None],
    found: Sequence[tuple[str, str]],
    app: App,
    raw: redis.Redis,
) -> None:
    make(raw)
    before = {key: raw.dump(key) for key in raw.keys("*")}
    report = await app.audit("mail")
    assert names(report) == sorted(found)
    assert report.problems == len(found)
    # It only reads.
    assert {key: raw.dump(key) for key in raw.keys("*")} == before
    for finding in report.findings:
        assert finding.repair is not None
        assert await finding.repair.run()
    assert (await app.audit("mail")).findings == ()
    for finding in report.findings:  # what is not so any more is left alone
        assert finding.repair is not None
        assert not await finding.repair.run()


async def test_what_is_repaired_stands_where_it_belongs(app: App, raw: redis.Redis) -> None:
    finished_in_no_state(raw)
    waiting_in_no_state(raw)
    half_a_hash(raw)
    raw.zrem(f"{Q}:prioritized", "j1")
    for finding in (await app.audit("mail")).findings:
        if finding.repair is not None:
            await finding.repair.run()
    assert raw.zscore(f"{Q}:completed", "lost") == 7_000
    assert "j0" in raw.lrange(f"{Q}:wait", 0, -1)
    assert raw.zscore(f"{Q}:prioritized", "j1") is not None
    assert raw.keys(f"{Q}:torn*") == []


async def test_what_nobody_can_know_is_told_only(app: App, raw: redis.Redis) -> None:
    raw.set(f"{Q}:odd", "x")
    raw.hset(f"{Q}:j0", "priority", "high")
    raw.lpush(f"{Q}:j1:dependencies", "x")
    finish(raw, "j2")
    raw.hdel(f"{Q}:j2", "returnvalue")
    found = (await app.audit("mail")).findings
    assert {each.key.removeprefix(Q): each.repair for each in found} == {
        ":odd": None, ":j0": None, ":j1:dependencies": None, ":j2": None,
    }  # fmt: skip


async def test_a_held_job_has_a_mark_for_a_score(app: App, raw: redis.Redis) -> None:
    finish(raw, "j0")
    raw.zadd(f"{Q}:completed", {"j0": 9e15})
    assert (await app.audit("mail")).findings == ()


async def test_foreign_programs_are_noted(app: App, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "version", "bullmq:5.45.2")
    (found,) = (await app.audit("mail")).findings
    assert (found.kind, found.severity) == ("foreign-version", "note")
    assert "bullmq:5.45.2" in found.what


async def test_a_key_that_belongs_to_nothing_is_a_note(app: App, raw: redis.Redis) -> None:
    raw.sadd(f"{Q}:wait:thing", "a member")
    (found,) = (await app.audit("mail")).findings
    assert (found.kind, found.severity) == ("strange-key", "note")
    assert (found.key, found.repair) == (f"{Q}:wait:thing", None)


class TestParents:
    @pytest.fixture
    async def flow(self, app: App) -> App:
        await app.add_flow(
            Flow("mail", "x", id="top", children=[
                Flow("mail", "x", id="a"), Flow("mail", "x", id="b"),
            ])
        )  # fmt: skip
        return app

    async def repaired(self, app: App, kind: str) -> AuditReport:
        report = await app.audit("mail")
        found = [each for each in report.findings if each.kind == kind]
        assert [each.key for each in found] == [f"{Q}:top"], report.findings
        assert found[0].repair is not None
        assert await found[0].repair.run()
        return await app.audit("mail")

    async def test_a_flow_is_well(self, flow: App) -> None:
        assert (await flow.audit("mail")).findings == ()

    async def test_without_an_open_child(self, flow: App, raw: redis.Redis) -> None:
        raw.delete(f"{Q}:top:dependencies")
        assert (await self.repaired(flow, "stuck-parent")).findings == ()
        assert await flow.queue("mail").state("top") == "waiting"
        assert raw.zscore(f"{Q}:marker", "0") == 0  # workers are woken

    async def test_with_a_child_that_has_completed(self, flow: App, raw: redis.Redis) -> None:
        finish(raw, "a")
        assert (await self.repaired(flow, "completed-child")).findings == ()
        assert raw.hgetall(f"{Q}:top:processed") == {f"{Q}:a": "null"}
        assert await flow.queue("mail").state("top") == "waiting-children"

    async def test_with_a_child_that_is_gone(
        self, flow: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw.delete(f"{Q}:a")
        raw.lrem(f"{Q}:wait", 0, "a")
        assert (await flow.audit("mail")).findings == ()  # it may be on its way in
        raw.hset(f"{Q}:top", "timestamp", 1_000)
        assert (await self.repaired(flow, "missing-child")).findings == ()
        assert raw.smembers(f"{Q}:top:dependencies") == {f"{Q}:b"}

    async def test_of_which_somebody_decided(self, flow: App, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:top", "defa", "child failed")
        raw.zadd(f"{Q}:top:unsuccessful", {f"{Q}:a": 1})
        report = await self.repaired(flow, "decided-parent")
        assert report.findings == ()  # it runs, and the rescue has noted it
        assert await flow.queue("mail").state("top") == "waiting"
        raw.zadd(f"{Q}:toril:deferred", {f"{Q}:top": 1_000})
        (found,) = (await flow.audit("mail")).findings
        assert (found.kind, found.what) == ("decided-parent", "must fail, and nobody takes it")

    async def test_with_a_child_of_somebody_else(self, flow: App, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:a", "parentKey", f"{Q}:other")
        (found,) = (await flow.audit("mail")).findings
        assert (found.kind, found.repair) == ("strange-child", None)


class TestBounds:
    async def test_it_looks_at_no_more_than_it_is_told(self, app: App, raw: redis.Redis) -> None:
        report = await app.audit("mail", most=3)
        assert not report.whole
        assert report.looked["ids"] < 6 or report.looked["jobs"] <= 100

    async def test_by_default_it_looks_at_everything(
        self, app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("toril.auditing.OTHER_KEYS", 3)
        queue = app.queue("mail")
        await queue.add_many([NewJob("send", {"n": n}) for n in range(600)])
        for n in range(20):
            raw.set(f"{Q}:de:{n}", f"gone{n}")
            raw.zadd(f"{Q}:repeat", {f"s{n}": 1})
            raw.hset(f"{Q}:repeat:s{n}", "name", "x")
        raw.hset(f"{Q}:repeat:half", "name", "x")
        raw.rpush(f"{Q}:wait", str(raw.lindex(f"{Q}:wait", 300)))
        report = await app.audit("mail")
        assert report.whole
        assert report.looked["jobs"] >= 600
        kinds = Counter(finding.kind for finding in report.findings)
        assert kinds.items() >= {"twice": 1, "half": 1, "window-left": 20}.items()

    async def test_many_of_a_kind_are_counted(self, app: App, raw: redis.Redis) -> None:
        many = MOST_OF_A_KIND + 250
        raw.zadd(f"{Q}:failed", {f"gone{n}": n for n in range(many)})
        report = await app.audit("mail")
        assert report.problems == many
        assert len(report.findings) == MOST_OF_A_KIND + 1
        assert report.findings[-1].what == "and 250 more"


class Vault:
    """Keeps keys of its own, and knows which of them are right."""

    toril_name = "vault"

    def __init__(self, tell: Callable[[Audit], Awaitable[Sequence[Finding]]]) -> None:
        self.tell = tell
        self.seen: list[Audit] = []

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.script("put", "redis.call('SET', ctx.own(args.name), args.value)")
        registry.script("drop", "return redis.call('DEL', ctx.own(args.name))")

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    async def toril_audit_queue(self, audit: Audit) -> Sequence[Finding]:
        self.seen.append(audit)
        return await self.tell(audit)


class TestPlugins:
    async def test_a_plugin_audits_and_repairs_its_own(
        self, redis_url: str, raw: redis.Redis
    ) -> None:
        async def tell(audit: Audit) -> Sequence[Finding]:
            async def drop() -> bool:
                return bool(await vault.context.run_script("mail", "drop", {"name": "wrong"}))

            return [
                Finding("wrong", audit.queue, key, "is wrong", repair=Repair("drop it", drop))
                for key in audit.keys.get("vault", ())
                if key == "wrong"
            ]

        vault = Vault(tell)
        async with App(redis_url, plugins=[vault], clock=ManualClock(77)) as app:
            for name in ("right", "wrong"):
                await vault.context.run_script("mail", "put", {"name": name, "value": "1"})
            report = await app.audit("mail", most=5)
            (seen,) = vault.seen
            assert (seen.queue, seen.now, seen.most) == ("mail", 77, 5)
            assert sorted(seen.keys["vault"]) == ["right", "wrong"]
            (found,) = report.findings
            assert found.repair is not None
            assert await found.repair.run()
            assert raw.keys("*vault*") == [f"{Q}:toril:vault:right"]
            assert (await app.audit("mail")).findings == ()
        # Somebody without the plugin is told of what it left.
        async with App(redis_url, plugins=[]) as app:
            (found,) = (await app.audit("mail")).findings
            assert (found.kind, found.severity, found.count) == ("leftover", "note", 1)

    async def test_more_keys_than_can_be_remembered(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def tell(audit: Audit) -> Sequence[Finding]:
            return []

        monkeypatch.setattr("toril.auditing.MOST_OF_A_PLUGIN", 3)
        vault = Vault(tell)
        async with App(redis_url, plugins=[vault]) as app:
            for count in (3, 5):
                for n in range(count):
                    await vault.context.run_script("mail", "put", {"name": str(n), "value": "1"})
                assert (await app.audit("mail")).whole is (count == 3)
                assert len(vault.seen[-1].keys["vault"]) == 3

    async def test_one_that_breaks_is_a_finding(
        self, redis_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def tell(audit: Audit) -> Sequence[Finding]:
            raise ValueError("no")

        async with App(redis_url, plugins=[Vault(tell)]) as app:
            (found,) = (await app.audit("mail")).findings
            assert (found.kind, found.severity) == ("not-audited", "problem")
            assert "ValueError: no" in found.what


def test_the_synchronous_face(redis_url: str, raw: redis.Redis) -> None:
    with App(redis_url, plugins=[]).sync as app:
        app.queue("mail").add("x")
        orphan_key(raw)
        (found,) = app.audit("mail").findings
        assert app.repair(found)
        assert not app.repair(found)
        assert app.audit("mail").findings == ()
