from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from tests.nouns.witness import Colour

from toril import App, Flow, NewJob, PluginError, hookimpl
from toril.plugins import Draft, Registry, SavePlan, only_when_said


class Planner:
    """A plugin that answers what it is told to."""

    def __init__(self, name: str, answer: Callable[[Draft], SavePlan | None]) -> None:
        self.toril_name = name
        self.answer = answer

    @hookimpl
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        return self.answer(draft)


class Palette:
    toril_name = "palette"

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Colour)


def answers(**opts: Any) -> Callable[[Draft], SavePlan]:
    return lambda draft: SavePlan(opts=opts)


async def stored(url: str, raw: redis.Redis, *plugins: object, **options: Any) -> dict[str, str]:
    async with App(url, plugins=plugins) as app:
        job = await app.queue("mail").add("send", {"n": 1}, **options)
    fields: Any = raw.hgetall(f"bull:mail:{job.id}")
    return dict(fields)


async def test_options_of_plugins_are_merged(redis_url: str, raw: redis.Redis) -> None:
    seen: list[dict[str, Any]] = []

    def second(draft: Draft) -> SavePlan:
        seen.append(dict(draft.opts))
        return SavePlan(opts={"b": 2, "attempts": 9})

    fields = await stored(
        redis_url, raw, Planner("one", answers(a=1)), Planner("two", second), attempts=3
    )
    assert json.loads(fields["opts"]) == {"attempts": 9, "a": 1, "b": 2}
    assert seen == [{"attempts": 3, "a": 1}]


async def test_two_plugins_may_agree(redis_url: str, raw: redis.Redis) -> None:
    fields = await stored(
        redis_url, raw, Planner("one", answers(a=1)), Planner("two", answers(a=1))
    )
    assert json.loads(fields["opts"])["a"] == 1


async def test_two_plugins_that_differ_are_both_named(redis_url: str, raw: redis.Redis) -> None:
    with pytest.raises(PluginError, match=r"'one'.*'two'.*option 'a'"):
        await stored(redis_url, raw, Planner("one", answers(a=1)), Planner("two", answers(a=2)))
    assert raw.keys("*") == []


@pytest.mark.parametrize("option", ["jobId", "parent", "timestamp", "failParentOnFailure"])
async def test_a_plugin_does_not_say_which_job_it_is(
    redis_url: str, raw: redis.Redis, option: str
) -> None:
    with pytest.raises(PluginError, match=f"'one' must not set the option {option!r}"):
        await stored(redis_url, raw, Planner("one", answers(**{option: "x"})))
    assert raw.keys("*") == []


async def test_fields_of_plugins_are_kept_apart(redis_url: str, raw: redis.Redis) -> None:
    fields = await stored(
        redis_url,
        raw,
        Planner("one", lambda draft: SavePlan(field={"x": 1})),
        Planner("two", lambda draft: SavePlan(field=[2])),
        Planner("three", lambda draft: None),
    )
    assert json.loads(fields["toril"]) == {"plugins": {"one": {"x": 1}, "two": [2]}}


async def test_settings_are_stored_most_specific_first_and_once(
    redis_url: str, raw: redis.Redis
) -> None:
    keep = Planner("one", lambda draft: SavePlan(settings=tuple(reversed(draft.said))))
    too = Planner("two", lambda draft: SavePlan(settings=draft.said))
    async with App(redis_url, plugins=[Palette(), keep, too]) as app:
        root = await app.add_flow(Flow("mail", "send", None, Colour("red")), Colour("blue"))
        said = root.snapshot.settings.said(Colour)
        assert root.snapshot.settings.get(Colour) == Colour("red")
    assert [(each.level, each.value.value, each.source) for each in said] == [
        ("job", "red", "Flow"),
        ("flow", "blue", "add_flow"),
    ]
    entries = json.loads(str(raw.hget(f"bull:mail:{root.id}", "toril")))["said"]["colour"]
    assert [(entry["v"], entry["l"]) for entry in entries] == [("red", "job"), ("blue", "flow")]


async def test_nothing_planned_stores_nothing(redis_url: str, raw: redis.Redis) -> None:
    assert "toril" not in await stored(redis_url, raw, Planner("one", lambda draft: SavePlan()))


async def test_an_answer_of_the_wrong_type_names_the_plugin(
    redis_url: str, raw: redis.Redis
) -> None:
    def wrong(draft: Draft) -> Any:
        return {"opts": {"a": 1}}

    with pytest.raises(PluginError, match="one"):
        await stored(redis_url, raw, Planner("one", wrong))
    assert raw.keys("*") == []


class Quiet:
    """A plugin that keeps colours, and has nothing to say where nobody named one."""

    toril_name = "quiet"

    def __init__(self) -> None:
        self.asked: list[str] = []

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Colour, at_save=True)

    @hookimpl
    @only_when_said
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        self.asked.append(draft.name)
        return SavePlan(settings=draft.said)


async def test_who_asks_for_it_is_passed_over_where_nobody_said_anything(redis_url: str) -> None:
    quiet, other = Quiet(), Planner("other", answers(a=1))
    async with App(redis_url, plugins=[quiet, other]) as app:
        mail, news = app.queue("mail"), app.queue("news", Colour("red"))
        await mail.add("silent")
        await mail.add("job's own", None, Colour("blue"))
        await news.add("the queue's")
        await app.add_flow(Flow("mail", "nothing", children=[Flow("news", "below")]))
        await app.add_flow(Flow("mail", "root", children=[Flow("mail", "leaf")]), Colour("green"))
        assert quiet.asked == ["job's own", "the queue's", "below", "root", "leaf"]
        assert [job.snapshot.opts["a"] async for job in mail.jobs()] == [1] * 5


async def test_jobs_that_say_the_same_do_not_share_what_a_plugin_adds(redis_url: str) -> None:
    def one_more(draft: Draft) -> SavePlan:
        with pytest.raises(TypeError):
            cast("Any", draft.opts)["attempts"] = 9
        return SavePlan(opts={"of": draft.id})

    async with App(redis_url, plugins=[Planner("one", one_more)]) as app:
        mail = app.queue("mail")
        jobs = await mail.add_many([NewJob("send", attempts=3) for _ in range(3)])
        assert [job.snapshot.opts for job in jobs] == [
            {"attempts": 3, "of": job.id} for job in jobs
        ]


async def test_equal_values_of_other_types_are_still_refused(redis_url: str) -> None:
    async with App(redis_url, plugins=()) as app:
        mail = app.queue("mail")
        await mail.add_many([NewJob("send", attempts=1), NewJob("send", priority=1)])
        wrong: dict[str, Any]
        for wrong in ({"attempts": True}, {"attempts": 1.0}, {"priority": True}):
            with pytest.raises(TypeError, match="is a whole number"):
                await mail.add("send", None, **wrong)
