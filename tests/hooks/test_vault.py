"""Seams for plugins that keep, copy and put back jobs, used by one that is not ours.

The vault takes finished jobs out of their queue and gives them back; people say for a queue what
colour its jobs are, and how many places the vault has for them.
"""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast, get_args

import pytest
import redis
from tests.support.distributions import Site

import toril.plugins
from toril import ActiveJob, App, Flow, NewJob, Unrecoverable
from toril.plugins import (
    LEVELS,
    LIVE_LEVELS,
    OWN_LEVELS,
    STATES,
    Audit,
    AuditReport,
    ConfigurationError,
    Draft,
    Finding,
    FinishCause,
    FinishedCursor,
    FinishedJob,
    FinishedPage,
    GiveWay,
    HookFunction,
    JobParts,
    JobRef,
    JobRemoved,
    JobStalled,
    JobStateError,
    Json,
    JsonObject,
    Level,
    ManualClock,
    MetricKind,
    ParentRef,
    PluginContext,
    PluginError,
    PluginInfo,
    Recalled,
    Registry,
    Reject,
    RemovalCause,
    Repair,
    Said,
    Sample,
    SavePlan,
    ServerError,
    Service,
    ServiceContext,
    Setting,
    SettingEntry,
    SettingsView,
    Severity,
    TorilError,
    did_you_mean,
    duration_text,
    encode_json,
    hookimpl,
    lua_bytes,
    milliseconds,
)

ROOT = Path(__file__).parents[2]

SEALED = "if ctx.meta('toril.vault.sealed') == ctx.id then ctx.keep('sealed: ' .. ctx.cause) end"
TAKEN = "if redis.call('EXISTS', ctx.own('taken:@' .. ctx.id)) == 1 then ctx.duplicate() end"
BACK = "redis.call('HSET', ctx.own('back'), ctx.id, ctx.outcome .. ' ' .. (ctx.plan or 'no plan'))"
TAKE = """
    ctx.announce = args.announce or false
    local refused = ctx.refused(args.outcome, args.jobs)
    local why = {}
    for n, job in ipairs(refused) do why[n] = job.id .. ' ' .. job.why end
    if args.look then return why end
    for _, job in ipairs(ctx.remove_all(args.outcome, args.jobs)) do
      why[#why + 1] = job.id .. ' ' .. job.why
    end
    ctx.emit('toril:vault', {left = ctx.budget > 0 and 'room' or 'none'})
    ctx.report({refused = #why})
    return why
"""
STRIP = """
    local done, why = ctx.strip('completed', args.id, args.finished_on,
      {data = '{"gone": true}', returnvalue = false}, {'logs'})
    return {done, why or ''}
"""
RESTORE = """
    local done, why = ctx.restore(args.id, 'completed', args.finished_on, args.fields, args.logs,
      {processed = {}}, {vault = 'as planned'})
    return {done, why or ''}
"""


@dataclass(frozen=True)
class Colour(Setting):
    """A setting that is wanted when a job is saved."""

    name = "colour"
    levels = LIVE_LEVELS
    colours: tuple[str, ...]

    def encode(self) -> Json:
        return list(self.colours)

    @classmethod
    def decode(cls, value: Json) -> Self:
        return cls(tuple(map(str, value if isinstance(value, list) else ())))


class Shift:
    """A service that leaves its queue to others until it is their turn no more."""

    def __init__(self) -> None:
        self.away = True
        self.runs = 0

    async def run_once(self, context: ServiceContext) -> float | None:
        self.runs += 1
        if self.away:
            raise GiveWay(7, f"the shift of queue {context.queue} is somebody else's")
        return 60


class Vault:
    toril_name = "vault"

    def __init__(self) -> None:
        self.shift = Shift()
        self.reported: list[Any] = []
        self.removed: list[tuple[str, RemovalCause]] = []
        self.copies: dict[str, FinishedJob] = {}
        self.drafts: list[tuple[Level, ...]] = []

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Colour, at_save=True)
        registry.lua("removing", SEALED, meta=("toril.vault.sealed",))
        registry.lua("adding", TAKEN)
        registry.lua("restored", BACK)
        for name, text in (("take", TAKE), ("strip", STRIP), ("restore", RESTORE)):
            registry.script(name, text)
        registry.script("seal", "ctx.set_meta('toril.vault.sealed', args.id)")
        registry.script("reserve", "redis.call('SET', ctx.own('taken:@' .. args.id), 1)")
        registry.service("shift", self._shift)
        registry.reports(self.reported.append)

    def _shift(self) -> Service:
        return self.shift

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        live: Sequence[Said[Colour]] = draft.live(Colour)
        self.drafts.append(tuple(said.level for said in live))
        if not live:
            return None
        if "black" in live[0].value.colours:
            raise Reject("nothing black is saved")
        return SavePlan(opts={"colour": ",".join(live[0].value.colours)})

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        for event in events:
            self.removed.append((event.job.id, event.cause))

    @hookimpl
    def toril_recall_job(self, job: JobRef) -> Recalled | None:
        copy = self.copies.get(job.id)
        if copy is None:
            return None
        return Recalled(
            copy.outcome, finished=copy.finished or 0, result=copy.result,
            parent=ParentRef("bull:nobody", "top"),
        )  # fmt: skip

    @hookimpl
    async def toril_audit_queue(self, audit: Audit) -> Sequence[Finding]:
        severity: Severity = "note"

        async def empty() -> bool:
            self.copies.clear()
            return True

        key = f"{audit.key}:toril:vault"
        repair = Repair("empty the vault", empty)
        return [
            Finding("stuffed", audit.queue, key, "has copies", severity, len(self.copies), repair)
        ]

    async def take(self, *ids: str, **args: Json) -> Json:
        """Take finished jobs out of the queue; who stays, and why."""
        jobs: list[Json] = []
        for snapshot in await self.context.jobs("q", ids):
            if snapshot is not None:
                job = FinishedJob("q", snapshot.id, snapshot.fields, "completed", "processor")
                self.copies[job.id] = job
                jobs.append({"id": job.id, "finished_on": job.finished, "rule": "vault: now"})
        asked: JsonObject = {"outcome": "completed", "jobs": jobs, **args}
        return await self.context.run_script("q", "take", asked)


async def handle(job: ActiveJob) -> Json:
    await job.log("worked")
    if job.name == "fail":
        raise Unrecoverable("as asked")
    return {"answer": 42}


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
async def app(redis_url: str, vault: Vault) -> Any:
    async with App(redis_url, plugins=[vault], clock=ManualClock()) as made:
        yield made


async def finish(app: App, *ids: str) -> None:
    await app.queue("q").add_many([NewJob("do", {"n": 1}, id=id) for id in ids])
    await app.worker("q", handle).run(burst=True)


class TestSettings:
    async def test_changes_of_two_at_once_do_not_get_lost(self, app: App) -> None:
        queue = app.queue("q")

        def with_(colour: str) -> Callable[[Colour | None], Colour]:
            return lambda before: Colour((*(before.colours if before else ()), colour))

        changes = (queue.change(Colour, with_(f"c{n}"), source="eve") for n in range(9))
        await asyncio.gather(*changes)
        said = await queue.said(Colour)
        assert said is not None
        assert sorted(said.value.colours) == [f"c{n}" for n in range(9)]
        assert (said.level, said.source) == ("queue", "eve")
        assert await queue.change(Colour, lambda _: None) is None
        assert await queue.said(Colour) is None

    def test_the_synchronous_face_changes_too(self, redis_url: str, vault: Vault) -> None:
        with App(redis_url, plugins=[vault]).sync as app:
            queue = app.queue("q")
            queue.change(Colour, lambda _: Colour(("red",)))
            changed = queue.change(Colour, lambda old: old and replace(old, colours=("blue",)))
            assert changed is not None
            assert queue.said(Colour) == changed
            latest, first = queue.settings_log()
            assert (latest.value, latest.before) == (["blue"], ["red"])
            assert (latest.setting, latest.source) == ("colour", "SyncQueue.change")
            expected = SettingEntry(
                first.at, "colour", "queue", "set", "SyncQueue.change", ["red"], None
            )
            assert first == expected
            queue.add("do")
        assert vault.drafts == [("queue",)]

    async def test_what_is_said_for_the_queue_is_there_when_a_job_is_saved(
        self, app: App, vault: Vault
    ) -> None:
        queue = app.queue("q")
        await queue.set(Colour(("red", "blue")))
        job = await queue.add("do")
        assert job.snapshot.opts["colour"] == "red,blue"
        await queue.set(Colour(("black",)))
        await queue.add("do")  # a producer learns of a change within ten seconds
        cast("ManualClock", vault.context.clock).advance("11s")
        with pytest.raises(Reject, match="nothing black"):
            await app.add_flow(Flow("q", "do", children=[Flow("q", "do")]))
        assert set(vault.drafts) == {("queue",)}
        view: SettingsView = job.snapshot.settings
        assert view.said(Colour) == ()


class TestGiveWay:
    async def test_it_is_raised_where_somebody_asked(self, app: App, vault: Vault) -> None:
        await app.queue("q").add("do")
        with pytest.raises(GiveWay, match="somebody else's") as caught:
            await app.run_services("q")
        assert caught.value.seconds == 7
        assert isinstance(caught.value, TorilError)
        vault.shift.away = False
        assert await app.run_services("q")
        info: PluginInfo | None = app.runtime.plugins.info("vault")
        assert info is not None
        assert info.status == "active"

    async def test_the_other_services_run_all_the_same(self, redis_url: str, vault: Vault) -> None:
        class Other:
            toril_name = "other"
            runs = 0

            @hookimpl
            def toril_register(self, registry: Registry) -> None:
                registry.service("count", lambda: self)

            async def run_once(self, context: ServiceContext) -> float | None:
                self.runs += 1
                return None

        other = Other()
        async with App(redis_url, plugins=[vault, other]) as app:
            with pytest.raises(GiveWay):
                await app.run_services("q")
        assert (vault.shift.runs, other.runs) == (1, 1)

    async def test_a_worker_goes_on_without_the_service(
        self, app: App, vault: Vault, raw: redis.Redis
    ) -> None:
        await finish(app, "a")
        async with app.worker("q", handle) as worker:
            while not vault.shift.runs:
                await asyncio.sleep(0.01)
            job = await app.queue("q").add("do")
            assert await job.result(timeout="10s") == {"answer": 42}
            assert raw.exists("bull:q:toril:lease:shift") == 0
            assert worker.is_running

    def test_a_command_ends_as_refused(self, redis_url: str, tmp_path: Path) -> None:
        source = """
            from toril.plugins import GiveWay, hookimpl

            class Shift:
                async def run_once(self, context):
                    raise GiveWay(7, "not here")

            @hookimpl
            def toril_register(registry):
                registry.service("shift", Shift)
        """
        site = Site(tmp_path / "site")
        site.add("acme-shift", source)
        with App(redis_url, plugins=[]).sync as app:
            app.queue("q").add("do")
        path = str(site.folder)
        done = subprocess.run(
            [sys.executable, "-m", "toril", "sweep", "q", "--url", redis_url],
            env={"PYTHONPATH": path, "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "not here" in done.stderr) == (5, True), done.stderr


class TestInLua:
    async def test_keep_refuses_an_operator(self, app: App, vault: Vault) -> None:
        await finish(app, "a", "b")
        await vault.context.run_script("q", "seal", {"id": "a"})
        queue = app.queue("q")
        with pytest.raises(Reject, match=r"sealed: operator \(vault\)"):
            await queue.remove("a")
        cleaned = await queue.clean("completed", older_than="0s")
        assert (list(cleaned), [kept.id for kept in cleaned.kept]) == (["b"], ["a"])
        with pytest.raises(Reject, match="sealed"):
            await queue.obliterate()
        assert vault.removed == [("b", "clean")]

    async def test_duplicate_leaves_a_job_out(self, app: App, vault: Vault) -> None:
        await vault.context.run_script("q", "reserve", {"id": "a"})
        queue = app.queue("q")
        await queue.add("do", None, id="a")
        assert await queue.get("a") is None
        await queue.add("do", None, id="b")
        assert (await queue.counts())["waiting"] == 1

    async def test_refused_remove_all_report_and_emit(
        self, app: App, vault: Vault, raw: redis.Redis
    ) -> None:
        await finish(app, "a", "b", "c")
        raw.set("bull:q:b:lock", "somebody")
        assert await vault.take("a", "b", look=True) == ["b locked"]
        assert (await app.queue("q").counts())["completed"] == 3
        assert await vault.take("a", "b", announce=True) == ["b locked", "b locked"]
        assert vault.reported == [{"refused": 2}]
        assert vault.removed == [("a", "rule")]
        events: Any = raw.xrange("bull:q:events")
        told = [fields for _, fields in events if fields["event"] in ("removed", "toril:vault")]
        assert [(each["event"], each.get("rule"), each.get("left")) for each in told] == [
            ("removed", "vault: now", None), ("toril:vault", None, "room"),
        ]  # fmt: skip
        await vault.take("c")
        assert vault.removed[1:] == [("c", "rule")]
        assert raw.xlen("bull:q:events") == len(events) + 1, "no word of the removal"

    async def test_strip_empties_and_leaves_alone_what_has_changed(
        self, app: App, vault: Vault, raw: redis.Redis
    ) -> None:
        await finish(app, "a")
        job = await app.queue("q").get("a")
        assert job is not None
        finished = job.snapshot.finished
        args: JsonObject = {"id": "a", "finished_on": finished}
        assert await vault.context.run_script("q", "strip", args) == [True, ""]
        stripped = await app.queue("q").get("a")
        assert stripped is not None
        assert (stripped.data, stripped.snapshot.result) == ({"gone": True}, None)
        assert not await stripped.logs()
        args["finished_on"] = 1
        assert await vault.context.run_script("q", "strip", args) == [False, "changed"]

    async def test_restore_brings_a_job_back_with_its_logs(
        self, app: App, vault: Vault, raw: redis.Redis
    ) -> None:
        await finish(app, "a")
        (parts,) = await vault.context.parts("q", ["a"])
        await vault.take("a")
        gone = await app.queue("q").recall("a")
        assert gone is not None
        assert (gone.told_by, gone.result) == ("vault", {"answer": 42})
        copy = vault.copies["a"]
        fields = [lua_bytes(part) for pair in copy.fields.items() for part in pair]
        args: JsonObject = {
            "id": "a", "finished_on": copy.finished, "fields": fields,
            "logs": [lua_bytes(line) for line in parts.logs],
        }  # fmt: skip
        assert await vault.context.run_script("q", "restore", args) == [True, ""]
        assert await vault.context.run_script("q", "restore", args) == [False, "exists"]
        job = await app.queue("q").get("a")
        assert job is not None
        assert (job.data, job.snapshot.result) == (copy.data, {"answer": 42})
        assert tuple(await job.logs()) == ("worked",)
        assert raw.hgetall("bull:q:toril:vault:back") == {"a": "completed as planned"}
        state = await app.queue("q").state("a")
        assert state in STATES
        assert state == "completed"


async def test_an_audit_finds_and_repairs(app: App, vault: Vault) -> None:
    await finish(app, "a")
    await vault.take("a")
    report: AuditReport = await app.audit("q")
    (found,) = [each for each in report.findings if each.kind == "stuffed"]
    assert (found.count, found.severity) == (1, "note")
    assert found.repair is not None
    assert await found.repair.run()
    assert vault.copies == {}


async def test_what_the_context_reads_and_asks(app: App, vault: Vault) -> None:
    context = vault.context
    await finish(app, *"abcde")
    after: FinishedCursor | None = None
    ids: list[str] = []
    while True:
        page: FinishedPage = await context.finished("q", "completed", after=after, limit=2)
        ids += [job.id for job in page.jobs]
        if page.cursor is None:
            break
        after = page.cursor
    assert sorted(ids) == list("abcde")
    (parts,) = await context.parts("q", ["a"])
    assert isinstance(parts, JobParts)
    assert parts.logs == (b"worked",)
    (mine,) = context.implementations("toril_recall_job")
    assert isinstance(mine, HookFunction)
    assert (mine.plugin, mine.names("job"), mine.names("parent")) == ("vault", True, False)
    assert context.call("toril_recall_job", job=JobRef("q", "none")) == [("vault", None)]
    with pytest.raises(PluginError, match="'vault'"):
        await context.call_async("toril_recall_job", job=None)
    with pytest.raises(ConfigurationError, match="no plugin in use offers the vault 'key'"):
        context.named("vault", "key")
    context.count("vault_taken_total", 2, queue="q")
    samples: Sequence[Sample] = context.metrics()
    assert [each.value for each in samples if each.name == "vault_taken_total"] == [2]


def test_small_helpers() -> None:
    assert did_you_mean("valt", ["vault", "acme"]) == "; did you mean 'vault'?"
    assert milliseconds(duration_text(5_400_000)) == 5_400_000
    assert encode_json({"a": [1, None]}) == '{"a":[1,null]}'
    with pytest.raises((TypeError, ValueError)):
        encode_json(cast("Json", float("nan")))
    assert (*OWN_LEVELS, *LIVE_LEVELS) == LEVELS == get_args(Level)
    assert set(get_args(MetricKind)) == {"counter", "gauge"}
    assert {"processor", "foreign"} <= set(get_args(FinishCause))
    assert {"rule", "operator"} <= set(get_args(RemovalCause))
    assert issubclass(JobStateError, TorilError)
    assert issubclass(ServerError, TorilError)
    assert JobStalled.__dataclass_fields__.keys() >= {"job"}


FOREIGN = ("tests/*/test_*.py", "tests/plugins/cases/*.py", "docs/plugins/**/*.py")
"""Where plugins are that are not ours."""


def foreign() -> list[str]:
    return [path.read_text() for pattern in FOREIGN for path in ROOT.glob(pattern)]


def test_every_name_of_the_facade_is_used_by_a_plugin_that_is_not_ours() -> None:
    used: set[str] = set()
    for text in foreign():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "toril.plugins":
                used |= {alias.name for alias in node.names}
    assert sorted({*toril.plugins.__all__} - used) == []


def test_every_part_of_ctx_is_used_by_a_plugin_that_is_not_ours() -> None:
    page = (ROOT / "docs/plugins/writing.md").read_text()
    table = page.split("What `ctx` has:")[1].split("The rules:")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`(\w+)(?:\([^`]*\))?`", cell)}
    used = {name for text in foreign() for name in re.findall(r"ctx\.(\w+)", text)}
    assert len(names) > 25
    assert sorted(names - used) == []
