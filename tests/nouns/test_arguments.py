"""Arguments of a wrong type or value: each error says which one it is, and what it should be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from toril import App, ConfigurationError, EventValues, Flow, NewJob

Act = Callable[[Any, Any], Awaitable[object]]
"""Done with an App and its queue, both untyped: what is given is wrong on purpose."""


WRONG: dict[str, tuple[Act, type[Exception], str]] = {
    "get": (lambda _, q: q.get(5), TypeError, "the id of a job is a text, not 5"),
    "state": (lambda _, q: q.state(None), TypeError, "the id of a job is a text, not None"),
    "remove": (lambda _, q: q.remove(["a"]), TypeError, r"the id of a job is a text, not \['a'\]"),
    "erase": (lambda _, q: q.erase(5), TypeError, "the id of a job is a text, not 5"),
    "App.erase": (lambda app, _: app.erase("a"), TypeError, "is a Job or a JobRef, not 'a'"),
    "log": (lambda _, q: q.log("a", 5), TypeError, "a log line is a text, not 5"),
    "log keep": (lambda _, q: q.log("a", "b", keep="3"), TypeError, "keep is a whole number"),
    "clean state": (
        lambda _, q: q.clean("bogus", older_than="1d"),
        ConfigurationError,
        "jobs that are 'bogus' cannot be cleaned; those that are waiting, active",
    ),
    "clean limit": (
        lambda _, q: q.clean("failed", older_than="1d", limit="9"),
        TypeError,
        "limit is a whole number, not '9'",
    ),
    "retry_all": (lambda _, q: q.retry_all("bogus"), ConfigurationError, "'bogus' have not fini"),
    "promote_all": (lambda _, q: q.promote_all(limit=0), ValueError, "limit is at least 1, not 0"),
    "metrics": (lambda _, q: q.metrics("bogus"), ConfigurationError, "not of 'bogus'"),
    "metrics start": (
        lambda _, q: q.metrics("failed", start="a"),
        TypeError,
        "start is a whole number, not 'a'",
    ),
    "settings_log": (lambda _, q: q.settings_log(limit=0), ValueError, "limit is at least 1"),
    "said": (lambda _, q: q.said("events"), TypeError, "a class such as EventValues, not 'events'"),
    "unset": (lambda _, q: q.unset(EventValues(True)), TypeError, "a class such as EventValues"),
    "change": (lambda _, q: q.change(5, None), TypeError, "a class such as EventValues"),
    "publish": (lambda _, q: q.publish(5), TypeError, "the name of an event is a text, not 5"),
    "publish fields": (lambda _, q: q.publish("a", ["b"]), TypeError, "names and values, not"),
    "trim_events": (lambda _, q: q.trim_events("9"), TypeError, "most is a whole number, not '9'"),
    "keep_events": (lambda _, q: q.keep_events(0), ValueError, "most is at least 1, not 0"),
    "get_schedule": (lambda _, q: q.get_schedule(5), TypeError, "the id of a schedule is a text"),
    "pause_schedule": (lambda _, q: q.pause_schedule(None), TypeError, "the id of a schedule is"),
    "flow_tree": (lambda app, _: app.flow_tree("x"), TypeError, "is a Job or a JobRef, not 'x'"),
    "add_many": (
        lambda _, q: q.add_many(NewJob("a")),
        TypeError,
        "the jobs to add are given together, as a list, not as one NewJob",
    ),
    "add_flows": (
        lambda app, _: app.add_flows(Flow("a", "b")),
        TypeError,
        "the flows to add are given together, as a list, not as one Flow",
    ),
    "audit": (lambda app, _: app.audit("mail", most="9"), TypeError, "most is a whole number"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_argument_is_named(redis_url: str, what: str) -> None:
    act, error, text = WRONG[what]
    async with App(redis_url, plugins=[]) as app:
        with pytest.raises(error, match=text):
            await act(app, app.queue("mail"))


@pytest.mark.parametrize("wrong", [5, None, b"mail"])
def test_a_queue_is_given_as_itself_or_by_its_name(wrong: Any) -> None:
    app = App("redis://localhost:1", plugins=[])

    async def handle(job: object) -> None: ...

    made: list[Callable[[], object]] = [
        lambda: app.events(wrong),
        lambda: app.worker(wrong, handle),
        lambda: app.fetcher(wrong),
        lambda: app.tasks(wrong),
        lambda: Flow(wrong, "do"),
    ]
    for make in made:
        with pytest.raises(TypeError, match=r"a queue is given as itself or by its name, not as"):
            make()
    assert app.events(app.queue("mail")).queue == "mail"


async def test_the_synchronous_face_says_the_same(redis_url: str) -> None:
    wrong: Any = "x"
    with App(redis_url, plugins=[]).sync as app:
        for act in (lambda: app.flow_tree(wrong), lambda: app.erase(wrong)):
            with pytest.raises(TypeError, match="is a Job or a JobRef, not 'x'"):
                act()


def test_the_children_of_a_flow_are_several() -> None:
    with pytest.raises(TypeError, match="the children of a flow are given together, as a list"):
        Flow("a", "b", children=cast(Any, Flow("c", "d")))
