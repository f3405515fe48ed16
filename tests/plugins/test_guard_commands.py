"""`toril holds` and the commands for ceilings, required plugins, foreign workers, the journal."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from toril import App, ConfigurationError, EventValues, NewJob, Reject
from toril.cli import main
from toril_plugins import Ceiling, Foreign, Hold, Holds, Requires, Retention
from toril_plugins.retention import journal

IDS = ("a", "b", "c")


@pytest.fixture
def mail(redis_url: str, raw: redis.Redis) -> str:
    """A queue with three completed jobs, of customers 0, 1 and 2; its server's URL."""
    with App(redis_url, plugins=[]).sync as app:
        jobs = [NewJob("send", {"customer": {"id": n}}, id=id) for n, id in enumerate(IDS)]
        app.queue("mail").add_many(jobs)
    raw.delete("bull:mail:wait")
    for n, id in enumerate(IDS):
        raw.zadd("bull:mail:completed", {id: 1000 + n})
        raw.hset(f"bull:mail:{id}", mapping={"finishedOn": 1000 + n, "returnvalue": "null"})
    return redis_url


def toril_(url: str, *arguments: str, input: str | None = None, **environ: str) -> Result:
    environ = {"TORIL_URL": url, "TORIL_PLUGINS": "persistence,cleanup", **environ}
    return CliRunner().invoke(main, arguments, env=environ, input=input)


def rows(done: Result, noun: str) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)[noun]
    return found


def said(url: str, kind: Any) -> Any:
    with App(url).sync as app:
        found = app.queue("mail").said(kind)
    return None if found is None else found.value


class TestHolds:
    def test_added_listed_heeded_and_released(self, mail: str, raw: redis.Redis) -> None:
        done = toril_(
            mail, "holds", "add", "mail", "--data", "customer.id=1", "--why", "audit",
            "--who", "eve", "--until", "30d", "-o", "json",
        )  # fmt: skip
        (row,) = rows(done, "holds")
        assert (row["hold"], row["why"], row["who"]) == ("data.customer.id = 1", "audit", "eve")
        assert row["data"] == {"customer.id": 1}
        assert row["until"] > "2026"
        assert "that are held: 1" in done.stderr
        assert rows(toril_(mail, "holds", "ls", "mail", "-o", "json"), "holds") == [row]
        assert toril_(mail, "holds", "ls", "-o", "ids").stdout == f"{row['handle']}\n"
        assert toril_(mail, "retention", "set", "mail", "--completed", "nothing").exit_code == 0
        for _ in range(5):
            assert toril_(mail, "sweep", "mail").exit_code == 0
        assert raw.zrange("bull:mail:completed", 0, -1) == ["b"]
        refused = toril_(mail, "jobs", "remove", "mail", "b")
        assert (refused.exit_code, "by eve: audit" in refused.stderr) == (5, True)
        done = toril_(mail, "holds", "release", "mail", row["handle"])
        assert (done.exit_code, done.stderr) == (0, "released: data.customer.id = 1\n")
        for _ in range(5):
            assert toril_(mail, "sweep", "mail").exit_code == 0
        assert raw.exists("bull:mail:b") == 0
        entries = rows(toril_(mail, "retention", "journal", "mail", "-o", "json"), "entries")
        assert [entry["what"] for entry in entries] == ["release", "set retention", "hold"]
        assert entries[2]["who"] == "eve"
        assert entries[2]["details"] == {"hold": "data.customer.id = 1", "why": "audit"}
        assert entries[0]["who"].startswith("toril holds release by ")
        newest = toril_(mail, "retention", "journal", "mail", "--limit", "1").stdout
        assert "hold data.customer.id = 1, why audit" in newest
        assert len(newest.splitlines()) == 2

    def test_cleaning_passes_over_what_is_held(self, mail: str, raw: redis.Redis) -> None:
        held = ("holds", "add", "mail", "--id", "b", "--why", "audit", "--who", "eve")
        assert toril_(mail, *held).exit_code == 0
        clean = ("queues", "clean", "mail", "completed", "--older-than", "1d", "--yes")
        done = toril_(mail, *clean)
        assert (done.exit_code, "2 jobs removed\n1 jobs stay:\n  b: " in done.stderr) == (0, True)
        assert "by eve: audit" in done.stderr
        assert raw.zrange("bull:mail:completed", 0, -1) == ["b"]

    def test_by_id_name_and_data_together(self, mail: str) -> None:
        both = ("--name", "send", "--data", "customer.id=2", "--data", "data.customer.vip=yes")
        assert toril_(mail, "holds", "add", "mail", *both, "--why", "x").exit_code == 0
        assert toril_(mail, "holds", "add", "mail", "--id", "a", "--why", "x").exit_code == 0
        query, one = said(mail, Holds).holds
        assert query.conditions == {
            "name": "send", "data": [[["customer", "id"], 2], [["customer", "vip"], "yes"]],
        }  # fmt: skip
        assert one.conditions == {"id": "a"}
        # The same conditions in another order are the same hold.
        other = ("--data", "customer.vip=yes", "--data", "customer.id=2", "--name", "send")
        assert toril_(mail, "holds", "release", "mail", *other).exit_code == 0
        assert said(mail, Holds).holds == (one,)

    def test_a_text_that_reads_as_a_number(self, mail: str) -> None:
        text = 'customer.id="7"'
        assert toril_(mail, "holds", "add", "mail", "--data", text, "--why", "x").exit_code == 0
        assert said(mail, Holds).holds[0].data == {"customer.id": "7"}

    def test_handles_from_stdin_and_one_that_is_unknown(self, mail: str) -> None:
        handles: list[str] = []
        for id in IDS:
            done = toril_(mail, "holds", "add", "mail", "--id", id, "--why", "x", "-o", "ids")
            handles.append(done.stdout.strip())
        wrong = handles[2][:-1]
        done = toril_(mail, "holds", "release", "mail", wrong, "-", input="\n".join(handles[:2]))
        assert done.exit_code == 4
        assert f"has no such hold: {wrong}; did you mean {handles[2]!r}?" in done.stderr
        assert [one.id for one in said(mail, Holds).holds] == ["c"]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("add", "mail", "--why", "x"), "say --id, --name, --data"),
            (("add", "mail", "--id", "a"), "Missing option '--why'"),
            (("add", "mail", "--why", "x", "--data", "customer.id"), "say PATH=VALUE"),
            (("add", "mail", "--why", "x", "--data", "a=[1]"), "a value is a text"),
            (("add", "mail", "--why", "x", "--data", "a b=1"), "name a field"),
            (("add", "mail", "--why", "x", "--id", "a", "--until", "soon"), "such as 30d"),
            (("add", "mail", "--why", "x", "--id", "a", "--until", "2020-01-01"), "has passed"),
            (("release", "mail"), "either handles or conditions"),
            (("release", "mail", "1234", "--id", "a"), "either handles or conditions"),
        ],
    )
    def test_wrong_arguments(self, mail: str, arguments: tuple[str, ...], text: str) -> None:
        done = toril_(mail, "holds", *arguments)
        assert (done.exit_code, text in done.stderr) == (2, True), done.output
        assert said(mail, Holds) is None

    def test_a_mistyped_queue(self, mail: str, raw: redis.Redis) -> None:
        for command in (("holds", "ls", "mial"), ("holds", "release", "mial", "1234")):
            done = toril_(mail, *command)
            assert done.exit_code == 4
            assert "there is no queue 'mial'; did you mean 'mail'?" in done.stderr
        assert raw.keys("bull:mial:*") == []
        # A queue can be held before its first job; the command says that it is new.
        done = toril_(mail, "holds", "add", "mails", "--id", "a", "--why", "x")
        assert done.exit_code == 0
        assert "queue 'mails' is new: it has no jobs yet; did you mean 'mail'?" in done.stderr

    def test_without_cleanup_nothing_is_said(self, mail: str) -> None:
        done = toril_(
            mail, "holds", "add", "mail", "--id", "a", "--why", "x", TORIL_PLUGINS="persistence"
        )
        assert done.exit_code == 2
        assert "no plugin in use declares the setting Holds" in done.stderr
        assert said(mail, Holds) is None


class TestCeiling:
    def test_set_by_outcome_heeded_and_taken_back(self, mail: str, raw: redis.Redis) -> None:
        assert toril_(mail, "retention", "ceiling", "mail", "--completed", "2").exit_code == 0
        assert toril_(mail, "retention", "ceiling", "mail", "--failed", "90d").exit_code == 0
        assert said(mail, Ceiling) == Ceiling(completed=2, failed="90d")
        assert toril_(mail, "sweep", "mail").exit_code == 0
        assert raw.zrange("bull:mail:completed", 0, -1) == ["b", "c"]
        shown = rows(toril_(mail, "retention", "show", "mail", "-o", "json"), "retention")
        assert [(row["setting"], row["keep"], row["state"]) for row in shown] == [
            ("ceiling", "last 2", "applies"), ("ceiling", "90d", "applies"),
        ]  # fmt: skip
        assert toril_(mail, "retention", "ceiling", "mail", "--unset").exit_code == 0
        assert said(mail, Ceiling) is None

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ((), "either --completed"),
            (("--unset", "--failed", "1d"), "either --completed"),
            (("--failed", "last 5 per name"), "a ceiling is an age, a number of jobs or both"),
            (("--failed", "5 parsecs"), "such as 7d, 1000"),
        ],
    )
    def test_wrong_arguments(self, mail: str, arguments: tuple[str, ...], text: str) -> None:
        done = toril_(mail, "retention", "ceiling", "mail", *arguments)
        assert (done.exit_code, text in done.stderr) == (2, True), done.output
        assert said(mail, Ceiling) is None


class TestRequire:
    def test_required_missing_and_not_any_more(self, mail: str, raw: redis.Redis) -> None:
        done = toril_(mail, "retention", "require", "mail", "archiv")
        assert done.exit_code == 0
        assert "'archiv' is not in use; did you mean 'archive'?" in done.stderr
        assert toril_(mail, "retention", "require", "mail", "cleanup", "acme").exit_code == 0
        assert said(mail, Requires) == Requires("cleanup", "acme")
        assert toril_(mail, "retention", "set", "mail", "--completed", "1").exit_code == 0
        assert toril_(mail, "sweep", "mail").exit_code == 5
        assert raw.zcard("bull:mail:completed") == 3
        shown = toril_(mail, "retention", "show", "mail", "-o", "json")
        (row,) = rows(shown, "retention")
        assert (row["state"], row["holds"]) == ("nobody applies it", False)
        assert "the queue requires acme there" in toril_(mail, "retention", "show", "mail").stderr
        assert toril_(mail, "retention", "require", "mail", "--unset").exit_code == 0
        assert said(mail, Requires) is None
        assert toril_(mail, "sweep", "mail").exit_code == 0
        assert raw.zcard("bull:mail:completed") == 1

    def test_wrong_arguments(self, mail: str) -> None:
        for arguments, text in (
            ((), "say either the names of plugins or --unset"),
            (("a b",), "not the name of a plugin"),
        ):
            done = toril_(mail, "retention", "require", "mail", *arguments)
            assert (done.exit_code, text in done.stderr) == (2, True), done.output


def test_foreign(mail: str) -> None:
    assert toril_(mail, "retention", "foreign", "mail", "isolate").exit_code == 0
    assert said(mail, Foreign) == Foreign("isolate")
    done = toril_(mail, "retention", "foreign", "mail", "isolat")
    assert (done.exit_code, "'isolat' is not one of" in done.stderr) == (2, True)
    assert toril_(mail, "retention", "foreign", "mail", "native").exit_code == 0
    assert said(mail, Foreign) == Foreign("native")


class TestShow:
    async def test_who_overrides_whom(self, mail: str) -> None:
        async with App(mail, Retention(completed="1h")) as app:
            await app.queue("mail").set(Retention(completed="9d", failed="1d"), source="eve")
            await app.worker("mail", lambda _: None).run(burst=True)
            assert await app.run_services("mail")
        shown = await asyncio.to_thread(toril_, mail, "retention", "show", "mail", "-o", "json")
        assert [
            (row["outcome"], row["level"], row["state"], row["holds"])
            for row in rows(shown, "retention")
        ] == [
            ("completed", "queue", "applies", True),
            ("completed", "application", "overridden by the queue", False),
            ("failed", "queue", "applies", True),
        ]

    def test_nobody_sweeps(self, mail: str, raw: redis.Redis) -> None:
        assert toril_(mail, "retention", "set", "mail", "--completed", "9d").exit_code == 0
        done = toril_(mail, "retention", "show", "mail")
        assert "nobody applies it" in done.stdout
        assert "nothing is removed: no process has ever swept the queue" in done.stderr
        assert toril_(mail, "sweep", "mail").exit_code == 0
        done = toril_(mail, "retention", "show", "mail")
        assert ("  applies" in done.stdout, done.stderr) == (True, "")
        raw.hset("bull:mail:meta", "toril.cleanup.swept", 1_000_000_000_000)
        done = toril_(mail, "retention", "show", "mail")
        assert "no process has swept the queue since 2001-09-09 01:46" in done.stderr

    def test_a_blocked_cleanup_applies_nothing(self, mail: str) -> None:
        assert toril_(mail, "retention", "set", "mail", "--completed", "1").exit_code == 0
        assert toril_(mail, "sweep", "mail").exit_code == 0
        done = toril_(mail, "retention", "show", "mail", TORIL_PLUGINS="persistence")
        assert done.exit_code == 0
        assert "nobody applies it" in done.stdout
        assert "the plugin 'cleanup', which would, is not in use here" in done.stderr

    def test_queues_show_spells_values(self, mail: str) -> None:
        for command in (
            ("holds", "add", "mail", "--id", "a", "--why", "x"),
            ("retention", "set", "mail", "--completed", "7d", "--failed", "last 5 per name"),
            ("retention", "ceiling", "mail", "--failed", "90d"),
            ("retention", "require", "mail", "archive"),
            ("retention", "foreign", "mail", "isolate"),
            ("queues", "event-values", "mail", "off"),
        ):
            assert toril_(mail, *command).exit_code == 0
        text = toril_(mail, "queues", "show", "mail").stdout
        for line in (
            "retention: completed 7d; failed last 5 per name (queue, by toril retention set",
            "holds: id a (queue", "ceiling: failed 90d (queue", "requires: archive (queue",
            "foreign: isolate (queue", "events: off (queue",
        ):  # fmt: skip
            assert line in text
        shown = json.loads(toril_(mail, "queues", "show", "mail", "-o", "json").stdout)["queue"]
        assert {each["setting"]: each["value"] for each in shown["settings"]}["foreign"] == (
            "isolate"
        )


def test_operators_are_refused_where_a_plugin_is_missing(mail: str) -> None:
    with App(mail).sync as app:
        app.queue("mail").set(Requires("acme"))
        with pytest.raises(Reject, match="acme"):
            app.queue("mail").remove("a")


def test_every_change_of_what_is_said_is_in_the_journal(mail: str) -> None:
    commands = (
        ("retention", "set", "mail", "--completed", "7d"),
        ("retention", "set", "mail", "--completed", "3d", "--failed", "100"),
        ("retention", "ceiling", "mail", "--failed", "90d"),
        ("retention", "require", "mail", "archive"),
        ("retention", "foreign", "mail", "isolate"),
        ("retention", "ceiling", "mail", "--unset"),
        ("retention", "require", "mail", "--unset"),
        ("retention", "unset", "mail"),
    )
    for command in commands:
        assert toril_(mail, *command).exit_code == 0
    entries = rows(toril_(mail, "retention", "journal", "mail", "-o", "json"), "entries")
    assert [(entry["what"], entry["details"]) for entry in reversed(entries)] == [
        ("set retention", {"now": "completed 7d"}),
        ("set retention", {"now": "completed 3d; failed last 100", "was": "completed 7d"}),
        ("set ceiling", {"now": "failed 90d"}),
        ("set requires", {"now": "archive"}),
        ("set foreign", {"now": "isolate"}),
        ("unset ceiling", {"was": "failed 90d"}),
        ("unset requires", {"was": "archive"}),
        ("unset retention", {"was": "completed 3d; failed last 100"}),
    ]
    for entry, (noun, verb, *_) in zip(reversed(entries), commands, strict=True):
        assert entry["who"].startswith(f"toril {noun} {verb} by ")


async def test_what_programs_say_is_in_the_journal_too(redis_url: str, raw: redis.Redis) -> None:
    async def ignore(job: object) -> None: ...

    async with App(redis_url, Retention(failed="9d")) as app:
        queue = app.queue("mail", Holds(Hold(name="send", why="trial")))
        await queue.add("send")
        await queue.set(Holds(Hold(name="other", why="trial")), source="ops")
        await queue.set(EventValues(False))  # no policy of what is kept
        async with app.worker("mail", ignore, Retention(completed="1h")):
            pass
        entries = await journal.entries(queue)
        assert [(each.what, each.details) for each in reversed(entries)] == [
            ("hold", {"hold": "name send", "why": "trial"}),
            ("release", {"hold": "name send", "why": "trial"}),
            ("hold", {"hold": "name other", "why": "trial"}),
            ("declare retention", {"now": "failed 9d", "level": "application"}),
            ("declare retention", {"now": "completed 1h", "level": "worker"}),
        ]
        assert await journal.entries(queue, limit=2) == entries[:2]
        log = await queue.settings_log()
        assert log[-1].source == "app.queue('mail')"
        assert {each.setting for each in log} == {"holds", "events", "retention"}
        assert (await app.audit("mail")).findings == ()
        await queue.unset(Holds)
        await queue.obliterate()
    assert raw.keys("bull:mail*") == []


async def test_a_plugin_that_is_not_ours_keeps_the_journal_too(mail: str) -> None:
    class Acme:
        toril_name = "acme"

        async def export(self, app: App) -> None:
            await journal.note(app.queue("mail"), "export", "eve", jobs="3", store="acme")

    async with App(mail) as app:
        await Acme().export(app)
        await Acme().export(app)
        entries = await journal.entries(app.queue("mail"))
        assert [(each.what, each.who, each.details) for each in entries] == 2 * [
            ("export", "eve", {"jobs": "3", "store": "acme"})
        ]
        assert await journal.entries(app.queue("mail"), limit=1) == [entries[0]]
        assert entries[0].at >= entries[1].at
    async with App(mail, block=["cleanup"]) as app:
        await app.queue("mail").counts()
        with pytest.raises(ConfigurationError, match="journal"):
            await journal.entries(app.queue("mail"))
    shown = await asyncio.to_thread(toril_, mail, "retention", "journal", "mail")
    assert "jobs 3, store acme" in shown.stdout
