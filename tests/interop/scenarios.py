"""The stories whose traces every library must leave alike. See `tests.support.scenario`."""

from __future__ import annotations

import time
from typing import Any, cast

from tests.support.scenario import (
    Abandon,
    Act,
    Add,
    Bulk,
    Dump,
    Flow,
    Gated,
    Node,
    Open,
    Pass,
    Rest,
    Run,
    Scenario,
    Settle,
    Step,
    Surgery,
    Until,
    Work,
)

SCENARIOS: list[Scenario] = []

NO_SIGNAL = "BullMQ for Python knows no such signal"
NO_METHOD = "BullMQ for Python has no such method"
MINUTE = 60_000


def scenario(name: str, *steps: Step, **unable: str) -> None:
    """Add a scenario; `python_worker="why not"` names who cannot play it."""
    named = {role.replace("_", " "): reason for role, reason in unable.items()}
    SCENARIOS.append(Scenario(name, steps, named))


def step(verb: str, *arguments: Any) -> list[Any]:
    return [verb, *arguments]


def looked(run: Run) -> bool:
    """The first stalled check is over wherever a job runs; BullMQ for Python makes it later."""
    return run.worker.label == "python" or all(
        run.client.exists(run.key(queue, "stalled-check"))
        for queue in ("q", "parents", "children")
        if run.client.exists(run.key(queue, "active"))
    )


def unmarked(run: Run) -> None:
    """Whether the first stalled check came before the first job or after it is chance."""
    for queue in ("q", "parents", "children"):
        run.client.delete(run.key(queue, "stalled"))


OK = (step("return", {"ok": True}),)
FAIL = (step("fail", "boom"),)


# -- adding ----------------------------------------------------------------------------------------

scenario(
    "add",
    Add("q", "a", OK),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "results",
    Add("q", "nothing"),
    Add("q", "null", (step("return", None),)),
    Add("q", "text", (step("return", 'says "ü" / \\ \n\U0001f600'),)),
    Add("q", "number", (step("return", 12.5),)),
    Add("q", "false", (step("return", False),)),
    Add("q", "nested", (step("return", {"b": [1, {"c": None}], "a": []}),)),
    Work("q"),
    Settle({"nested": "completed"}),
    Dump("completed"),
)
scenario(
    "data of every kind",
    *(
        Add("q", f"d{number}", data=data)
        for number, data in enumerate([0, "text", True, [], {}, [1, "é", None], {"a": {"b": 1}}])
    ),
    Dump("added"),
    Work("q"),
    Settle({"d6": "completed"}),
    Dump("completed"),
)
scenario("add without data", Add("q", "a", data={}), Dump("added"))
scenario(
    "last in first out",
    Add("q", "a"),
    Add("q", "b", opts={"lifo": True}),
    Add("q", "c"),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed", "b": "completed", "c": "completed"}),
    Dump("completed"),
)
scenario("delayed", Add("q", "a", OK, {"delay": MINUTE}), Dump("added"))
scenario(
    "delayed and due",
    Add("q", "a", OK, {"delay": 200}),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "prioritised",
    Add("q", "third", OK, {"priority": 3}),
    Add("q", "first", OK, {"priority": 1}),
    Add("q", "second", OK, {"priority": 1}),
    Add("q", "plain", OK),
    Add("q", "last", OK, {"priority": 2_097_151}),
    Dump("added"),
    Work("q"),
    Settle({"last": "completed"}),
    Dump("completed"),
)
scenario(
    "prioritised and delayed",
    Add("q", "a", OK, {"priority": 5, "delay": 200}),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "own id twice",
    Add("q", "a", OK, {"jobId": "order-7"}),
    Add("q", "b", FAIL, {"jobId": "order-7"}, again=True),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed"}),
    Add("q", "c", FAIL, {"jobId": "order-7"}, again=True),
    Dump("completed"),
)
scenario(
    "bulk",
    Bulk(
        "q",
        (
            Add("q", "a", OK),
            Add("q", "b", OK, {"lifo": True}),
            Add("q", "c", OK, {"priority": 2}),
            Add("q", "d", OK, {"delay": MINUTE}),
            Add("q", "e", OK, {"attempts": 3, "backoff": {"type": "exponential", "delay": 400}}),
        ),
    ),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed", "c": "completed", "e": "completed"}),
    Dump("completed"),
)

# -- attempts --------------------------------------------------------------------------------------

scenario(
    "retry at once",
    Add("q", "a", (step("fail-times", 2, "not yet"), *OK), {"attempts": 3}),
    Add("q", "b", OK),
    Work("q"),
    Settle({"a": "completed", "b": "completed"}),
    Dump("completed"),
)
scenario(
    "retry later",
    Add("q", "a", (step("fail-times", 1, "not yet"), *OK), {"attempts": 2, "backoff": 200}),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "retry later, seen in between",
    Add("q", "a", FAIL, {"attempts": 2, "backoff": {"type": "fixed", "delay": MINUTE}}),
    Work("q"),
    Settle({"a": "delayed"}),
    Dump("delayed"),
)
scenario(
    "retry with growing delay",
    Add(
        "q",
        "a",
        (step("fail-times", 2, "not yet"), *OK),
        {"attempts": 3, "backoff": {"type": "exponential", "delay": 200}},
    ),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "retry, last in first out",
    Add("q", "a", (step("fail-times", 1, "not yet"), *OK), {"attempts": 2, "lifo": True}),
    Add("q", "b", OK),
    Work("q"),
    Settle({"a": "completed", "b": "completed"}),
    Dump("completed"),
)
scenario(
    "retry of a prioritised job",
    Add("q", "a", (step("fail-times", 1, "not yet"), *OK), {"attempts": 2, "priority": 4}),
    Add("q", "b", OK, {"priority": 4}),
    Work("q"),
    Settle({"a": "completed", "b": "completed"}),
    Dump("completed"),
)
scenario(
    "final failure",
    Add("q", "a", FAIL),
    Add("q", "b", FAIL, {"attempts": 2}),
    Work("q"),
    Settle({"a": "failed", "b": "failed"}),
    Dump("failed"),
)
scenario(
    "unrecoverable",
    Add("q", "a", (step("unrecoverable", "never"),), {"attempts": 3}),
    Work("q"),
    Settle({"a": "failed"}),
    Dump("failed"),
)
scenario(
    "limited stack traces",
    Add("q", "a", FAIL, {"attempts": 3, "stackTraceLimit": 1}),
    Work("q"),
    Settle({"a": "failed"}),
    Dump("failed"),
)

# -- what a handler does ---------------------------------------------------------------------------

scenario(
    "progress and logs",
    Add(
        "q",
        "a",
        (
            step("log", "one"),
            step("progress", 40),
            step("log", 'two "ü"'),
            step("progress", {"done": [1, 2], "of": 3}),
            *OK,
        ),
    ),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "handler updates data",
    Add("q", "a", (step("update-data", {"new": [1]}), *OK)),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "handler moves to delayed",
    Add("q", "a", (step("delay", 200), *OK)),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "handler moves to delayed, seen in between",
    Add("q", "a", (step("delay", MINUTE), *OK)),
    Add("q", "b", OK),
    Work("q"),
    Settle({"a": "delayed", "b": "completed"}),
    Dump("delayed"),
)
scenario(
    "handler moves back to waiting",
    Add("q", "a", (step("wait"), *OK)),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
    python_worker=NO_SIGNAL,
)

# -- flows -----------------------------------------------------------------------------------------

VALUES = (step("children-values"),)


def family(opts: dict[str, Any], parent: dict[str, Any] | None = None) -> Flow:
    """A parent with one good child and one that fails under the given options."""
    return Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            parent or {},
            (
                Node("children", "good", (step("return", 1),), opts),
                Node("children", "bad", FAIL, opts),
            ),
        )
    )


scenario(
    "flow",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {},
            (
                Node("children", "one", (step("return", 1),)),
                Node("children", "two", (step("return", 2),), {"priority": 2}),
                Node("children", "late", (step("return", 3),), {"delay": MINUTE}),
            ),
        )
    ),
    Dump("added"),
    Work("children"),
    Settle({"one": "completed", "two": "completed", "late": "delayed"}),
    Act("promote", "late"),
    Settle({"late": "completed", "parent": "wait"}),
    Dump("released"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "flow in one queue",
    Flow(Node("q", "parent", VALUES, {}, (Node("q", "child", (step("return", [1, "x"]),)),))),
    Dump("added"),
    Work("q"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "flow with own ids",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {"jobId": "p"},
            (Node("children", "child", (step("return", 1),), {"jobId": "c"}),),
        )
    ),
    Dump("added"),
    Work("children"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "parent with priority",
    family({"ignoreDependencyOnFailure": True}, {"priority": 3}),
    Dump("added"),
    Work("children"),
    Settle({"bad": "failed", "parent": "prioritized"}),
    Dump("released"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "parent with delay",
    family({"ignoreDependencyOnFailure": True}, {"delay": 200}),
    Dump("added"),
    Work("children"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "child fails without policy",
    family({}),
    Work("children"),
    Work("parents"),
    Settle({"good": "completed", "bad": "failed", "parent": "waiting-children"}),
    Dump("waiting"),
)
for policy, ends in (
    ("failParentOnFailure", "failed"),
    ("ignoreDependencyOnFailure", "completed"),
    ("removeDependencyOnFailure", "completed"),
):
    scenario(
        policy,
        family({policy: True}),
        Dump("added"),
        Work("children"),
        Settle({"good": "completed", "bad": "failed", "parent": "wait"}),
        Dump("released"),
        Work("parents"),
        Settle({"parent": ends}),
        Dump("finished"),
    )
scenario(
    "continueParentOnFailure",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {},
            (Node("children", "bad", FAIL, {"continueParentOnFailure": True}),),
        )
    ),
    Dump("added"),
    Work("children"),
    Work("parents"),
    Settle({"bad": "failed", "parent": "completed"}),
    Dump("finished"),
)
scenario(
    "continueParentOnFailure with an open child",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {"attempts": 2},
            (
                Node("children", "bad", FAIL, {"continueParentOnFailure": True}),
                Node("children", "late", OK, {"delay": MINUTE}),
            ),
        )
    ),
    Work("children"),
    Work("parents"),
    Settle({"bad": "failed", "parent": "failed"}),
    Dump("failed"),
)
scenario(
    "child retried before it fails",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {},
            (
                Node(
                    "children",
                    "child",
                    (step("fail-times", 1, "not yet"), *OK),
                    {"attempts": 2, "failParentOnFailure": True},
                ),
            ),
        )
    ),
    Work("children"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "failure over two levels",
    Flow(
        Node(
            "tops",
            "top",
            VALUES,
            {},
            (
                Node(
                    "parents",
                    "parent",
                    VALUES,
                    {"failParentOnFailure": True, "attempts": 5},
                    (Node("children", "bad", FAIL, {"failParentOnFailure": True}),),
                ),
            ),
        )
    ),
    Dump("added"),
    Work("children"),
    Settle({"bad": "failed", "parent": "wait"}),
    Work("parents"),
    Settle({"parent": "failed", "top": "wait"}),
    Work("tops"),
    Settle({"top": "failed"}),
    Dump("failed"),
)
scenario(
    "failed parent with delay",
    family({"failParentOnFailure": True}, {"delay": 400}),
    Work("children"),
    Settle({"good": "completed", "bad": "failed", "parent": "delayed"}),
    Dump("released"),
    Work("parents"),
    Settle({"parent": "failed"}),
    Dump("failed"),
)
scenario(
    "two children fail their parent",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {},
            (
                Node("children", "first", FAIL, {"failParentOnFailure": True}),
                Node("children", "second", FAIL, {"failParentOnFailure": True}),
            ),
        )
    ),
    Work("children"),
    Settle({"first": "failed", "second": "failed"}),
    Work("parents"),
    Settle({"parent": "failed"}),
    Dump("failed"),
)
scenario(
    "child fails while its parent is active",
    Add("parents", "parent", (step("gate"), *OK)),
    Work("parents"),
    Gated("parent"),
    Add("children", "bad", FAIL, {"failParentOnFailure": True}, parent="parent"),
    Work("children"),
    Settle({"bad": "failed"}, busy=1),
    Until("the first stalled check", looked),
    Surgery(unmarked),
    Dump("child failed"),
    Open("parent"),
    Settle({"parent": "failed"}),
    Dump("parent failed"),
)
scenario(
    "child fails while its parent is delayed",
    Add(
        "parents",
        "parent",
        (
            step(
                "child",
                "children",
                "bad",
                {"do": [["fail", "boom"]]},
                {"failParentOnFailure": True},
            ),
            step("delay", MINUTE),
            *OK,
        ),
    ),
    Work("parents"),
    Settle({"parent": "delayed"}),
    Work("children"),
    Settle({"bad": "failed", "parent": "failed"}),
    Dump("failed"),
)
scenario(
    "dynamic children",
    Add(
        "parents",
        "parent",
        (
            step("child", "children", "one", {"do": [["return", 1]]}, {}),
            step("child", "children", "two", {"do": [["return", 2]]}, {}),
            step("wait-children"),
            step("children-values"),
        ),
    ),
    Work("parents"),
    Settle({"parent": "waiting-children"}),
    Dump("waiting for children"),
    Work("children"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "waiting for children without any",
    Add("parents", "parent", (step("wait-children"), *VALUES)),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "child added to a waiting parent",
    Flow(Node("parents", "parent", VALUES, {}, (Node("children", "one", (step("return", 1),)),))),
    Add("children", "two", (step("return", 2),), parent="parent"),
    Dump("added"),
    Work("children"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "child that is completed already",
    Add("children", "done", (step("return", 9),), {"jobId": "done"}),
    Work("children"),
    Settle({"done": "completed"}),
    Flow(Node("parents", "parent", VALUES, {}, (Node("children", "done", OK, {"jobId": "done"}),))),
    Dump("added"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "child of another parent",
    Flow(
        Node("parents", "first", VALUES, {}, (Node("children", "shared", OK, {"jobId": "shared"}),))
    ),
    Flow(
        Node(
            "parents", "second", VALUES, {}, (Node("children", "shared", OK, {"jobId": "shared"}),)
        )
    ),
    Dump("added"),
    Work("children"),
    Work("parents"),
    Settle({"first": "completed", "second": "waiting-children"}),
    Dump("completed"),
    toril_producer="Toril refuses such a flow: it would wait for ever",
)

# -- stalled jobs ----------------------------------------------------------------------------------

SOON = {"stalledInterval": 1000}


def lock(run: Run) -> None:
    queue, job = run.find("a")
    run.client.set(run.key(queue, job, "lock"), "somebody", px=30_000)


def checked(run: Run) -> bool:
    return bool(run.client.exists(run.key("q", "stalled-check")))


def noted_again(run: Run) -> bool:
    return checked(run) and bool(run.client.exists(run.key("q", "stalled")))


scenario(
    "stalled once",
    Add("q", "a", OK),
    Abandon("a"),
    Work("q", SOON),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "stalled with priority",
    Add("q", "a", OK, {"priority": 3}),
    Abandon("a"),
    Work("q", SOON),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "stalled more than allowed",
    Add("q", "a", OK, {"attempts": 3}),
    Abandon("a"),
    Work("q", {**SOON, "maxStalledCount": 0}),
    Settle({"a": "failed"}),
    Dump("failed"),
)
scenario(
    "stalled child more than allowed",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {},
            (Node("q", "a", OK, {"failParentOnFailure": True}),),
        )
    ),
    Abandon("a"),
    Work("q", {**SOON, "maxStalledCount": 0}),
    Settle({"a": "failed", "parent": "wait"}),
    Work("parents"),
    Settle({"parent": "failed"}),
    Dump("failed"),
)
scenario(
    "active with a lock is left alone",
    Add("q", "a", OK),
    Abandon("a"),
    Surgery(lock),
    Work("q", SOON),
    Until("the check has run and noted the job again", noted_again),
    Dump("checked"),
)

# -- operating -------------------------------------------------------------------------------------

scenario(
    "pause and resume",
    Add("q", "a", OK),
    Act("pause", "q"),
    Add("q", "b", OK),
    Add("q", "c", OK, {"priority": 1}),
    Add("q", "d", OK, {"delay": MINUTE}),
    Dump("paused"),
    Act("resume", "q"),
    Dump("resumed"),
    Work("q"),
    Settle({"a": "completed", "b": "completed", "c": "completed"}),
    Dump("completed"),
)
scenario(
    "pause while working",
    Add("q", "a", (step("gate"), *OK)),
    Add("q", "b", OK),
    Work("q"),
    Gated("a"),
    Act("pause", "q"),
    Open("a"),
    Settle({"a": "completed", "b": "wait"}),
    Dump("paused"),
    Act("resume", "q"),
    Settle({"b": "completed"}),
    Dump("completed"),
)
scenario(
    "promote",
    Add("q", "a", OK, {"delay": MINUTE}),
    Add("q", "b", OK, {"delay": MINUTE, "priority": 2}),
    Act("promote", "a"),
    Act("promote", "b"),
    Dump("promoted"),
    Act("promote", "a", refused=True),
    Work("q"),
    Settle({"b": "completed"}),
    Dump("completed"),
)
scenario(
    "promote all",
    Add("q", "a", OK, {"delay": MINUTE}),
    Pass(),
    Add("q", "b", OK, {"delay": 2 * MINUTE, "priority": 2}),
    Act("promote_all", "q"),
    Dump("promoted"),
)
scenario(
    "change delay",
    Add("q", "a", OK, {"delay": MINUTE}),
    Pass(),
    Act("change_delay", "a", {"delay": 2 * MINUTE}),
    Dump("changed"),
    python_producer=NO_METHOD,
)
scenario(
    "change priority",
    Add("q", "a", OK),
    Add("q", "b", OK, {"priority": 2}),
    Add("q", "c", OK, {"priority": 2}),
    Add("q", "d", OK, {"delay": MINUTE}),
    Act("change_priority", "a", {"priority": 1}),
    Act("change_priority", "b", {"priority": 0}),
    Act("change_priority", "d", {"priority": 7}),
    Dump("changed"),
    Act("change_priority", "c", {"priority": 5, "lifo": True}),
    Act("change_priority", "a", {"priority": 0, "lifo": True}),
    Dump("changed again"),
)
scenario(
    "update data",
    Add("q", "a", OK),
    Act("update_data", "a", {"data": {"do": [["return", "new"]]}}),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "progress and logs from outside",
    Add("q", "a", OK),
    Act("progress", "a", {"value": {"half": 0.5}}),
    *(Act("log", "a", {"text": f"line {n}"}) for n in range(4)),
    Dump("logged"),
)
scenario(
    "limited logs",
    Add("q", "a", tuple(step("log", f"line {n}") for n in range(4)), {"keepLogs": 2}),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed"),
)
scenario(
    "clear logs",
    Add("q", "a", OK),
    *(Act("log", "a", {"text": f"line {n}"}) for n in range(4)),
    Act("clear_logs", "a", {"keep": 1}),
    Dump("one kept"),
    Act("clear_logs", "a"),
    Dump("none kept"),
    python_producer=NO_METHOD,
)
scenario(
    "retry a failed job",
    Add("q", "a", FAIL, {"attempts": 2}),
    Add("q", "b", FAIL, {"priority": 2}),
    Work("q"),
    Settle({"a": "failed", "b": "failed"}),
    Rest(),
    Act("retry", "a", {"state": "failed"}),
    Act("retry", "b", {"state": "failed"}),
    Dump("retried"),
    Act("retry", "a", {"state": "failed"}, refused=True),
    Work("q"),
    Settle({"a": "failed", "b": "failed"}),
    Dump("failed again"),
)
scenario(
    "retry a failed job from the beginning",
    Add("q", "a", FAIL, {"attempts": 2}),
    Work("q"),
    Settle({"a": "failed"}),
    Rest(),
    Act("retry", "a", {"state": "failed", "reset": True}),
    Dump("retried"),
)
scenario(
    "retry a completed job",
    Add("q", "a", OK),
    Work("q"),
    Settle({"a": "completed"}),
    Rest(),
    Act("retry", "a", {"state": "completed"}),
    Dump("retried"),
    Work("q"),
    Settle({"a": "completed"}),
    Dump("completed again"),
)
for policy in (
    "failParentOnFailure",
    "ignoreDependencyOnFailure",
    "continueParentOnFailure",
    "removeDependencyOnFailure",
):
    scenario(
        f"retry a child with {policy}",
        Flow(
            Node("parents", "parent", VALUES, {}, (Node("children", "bad", FAIL, {policy: True}),))
        ),
        Work("children"),
        Settle({"bad": "failed"}),
        Rest(),
        Act("retry", "bad", {"state": "failed"}),
        Dump("retried"),
    )
scenario(
    "retry all failed jobs",
    Add("q", "a", FAIL),
    Pass(),
    Add("q", "b", FAIL, {"priority": 2}),
    Work("q"),
    Settle({"a": "failed", "b": "failed"}),
    Rest(),
    Pass(),
    Act("retry_all", "q", {"state": "failed"}),
    Dump("retried"),
)
scenario(
    "remove in every state",
    Add("q", "waiting", OK),
    Add("q", "first", OK, {"priority": 2}),
    Add("q", "later", OK, {"delay": MINUTE}),
    *(Act("remove", name) for name in ("waiting", "first", "later")),
    Dump("removed"),
    Add("q", "good", OK),
    Add("q", "bad", FAIL),
    Work("q"),
    Settle({"good": "completed", "bad": "failed"}),
    Rest(),
    *(Act("remove", name) for name in ("good", "bad")),
    Dump("removed after the end"),
)
scenario(
    "remove a job with logs",
    Add("q", "a", (step("log", "x"), *OK)),
    Work("q"),
    Settle({"a": "completed"}),
    Act("remove", "a"),
    Dump("removed"),
)
scenario(
    "remove an active job",
    Add("q", "a", (step("gate"), *OK)),
    Work("q"),
    Gated("a"),
    Act("remove", "a", refused=True),
    Until("the first stalled check", looked),
    Surgery(unmarked),
    Dump("refused"),
    Open("a"),
    Settle({"a": "completed"}),
)
scenario(
    "remove a parent with its children",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {},
            (Node("children", "one", OK), Node("children", "two", OK, {"priority": 2})),
        )
    ),
    Act("remove", "parent"),
    Dump("removed"),
)
scenario(
    "remove the last open child",
    Flow(
        Node("parents", "parent", VALUES, {}, (Node("children", "one", OK),)),
    ),
    Act("remove", "one"),
    Dump("removed"),
    Work("parents"),
    Settle({"parent": "completed"}),
    Dump("completed"),
)
scenario(
    "unlink the last open child",
    Flow(
        Node("parents", "parent", VALUES, {}, (Node("children", "one", OK),)),
    ),
    Act("unlink", "one"),
    Dump("unlinked"),
    python_producer=NO_METHOD,
)
scenario(
    "remove unprocessed children",
    family({}),
    Work("children"),
    Settle({"good": "completed", "bad": "failed"}),
    Rest(),
    Add("children", "open", OK, parent="parent"),
    Act("remove_unprocessed", "parent"),
    Dump("removed"),
    python_producer=NO_METHOD,
)
scenario(
    "remove unprocessed children, level by level",
    Flow(
        Node(
            "parents",
            "top",
            VALUES,
            {},
            (
                Node(
                    "parents",
                    "middle",
                    VALUES,
                    {},
                    (
                        Node("children", "good", (step("return", 1),)),
                        Node("children", "bad", FAIL),
                        Node("q", "open", OK),
                    ),
                ),
                Node("q", "late", OK, {"delay": MINUTE}),
            ),
        )
    ),
    Work("children"),
    Settle({"good": "completed", "bad": "failed"}),
    Rest(),
    Act("remove_unprocessed", "top"),
    Dump("removed"),
    python_producer=NO_METHOD,
)
scenario(
    "unlink one of two children",
    Flow(
        Node("parents", "parent", VALUES, {}, (Node("q", "one", OK), Node("children", "two", OK))),
    ),
    Act("unlink", "one"),
    Dump("unlinked"),
    Work("children"),
    Work("parents"),
    Settle({"two": "completed", "parent": "completed"}),
    Dump("completed"),
    python_producer=NO_METHOD,
)
scenario(
    "unlink a child that has ended",
    Flow(
        Node("parents", "parent", VALUES, {}, (Node("q", "one", OK), Node("children", "two", OK))),
    ),
    Work("children"),
    Settle({"two": "completed"}),
    Rest(),
    Act("unlink", "two"),
    Dump("unlinked"),
    python_producer=NO_METHOD,
)
scenario(
    "clean",
    Add("q", "one", OK),
    Add("q", "two", OK),
    Add("q", "bad", FAIL),
    Work("q"),
    Settle({"one": "completed", "two": "completed", "bad": "failed"}),
    Rest(),
    Pass(),
    Act("clean", "q", {"grace": 0, "limit": 1, "state": "completed"}),
    Dump("one cleaned"),
    Act("clean", "q", {"grace": MINUTE, "limit": 0, "state": "completed"}),
    Act("clean", "q", {"grace": 0, "limit": 0, "state": "failed"}),
    Dump("failed cleaned"),
)
scenario(
    "clean what has not run",
    Add("q", "waiting", OK),
    Add("q", "first", OK, {"priority": 2}),
    Add("q", "later", OK, {"delay": MINUTE}),
    Pass(),
    *(
        Act("clean", "q", {"grace": 0, "limit": 0, "state": state})
        for state in ("wait", "prioritized", "delayed")
    ),
    Dump("cleaned"),
)
scenario(
    "drain",
    Add("q", "waiting", OK),
    Add("q", "first", OK, {"priority": 2}),
    Add("q", "later", OK, {"delay": MINUTE}),
    Act("drain", "q"),
    Dump("drained"),
    Add("q", "another", OK),
    Act("drain", "q", {"delayed": True}),
    Dump("drained of delayed jobs"),
)
scenario(
    "obliterate",
    Add("q", "waiting", OK),
    Add("q", "first", OK, {"priority": 2}),
    Add("q", "later", OK, {"delay": MINUTE}),
    Add("q", "bad", FAIL, {"lifo": True}),
    Work("q"),
    Settle({"waiting": "completed", "bad": "failed"}),
    Rest(),
    Act("obliterate", "q"),
    Dump("obliterated"),
)
scenario(
    "obliterate with active jobs",
    Add("q", "a", OK),
    Abandon("a"),
    Act("obliterate", "q", refused=True),
    Dump("refused"),
    Act("obliterate", "q", {"force": True}),
    Dump("obliterated"),
)

# -- limits ----------------------------------------------------------------------------------------

scenario(
    "global concurrency",
    Act("concurrency", "q", {"value": 1}),
    Add("q", "a", (step("gate"), *OK)),
    Add("q", "b", OK),
    Work("q", {"concurrency": 2}),
    Gated("a"),
    Settle({"a": "active"}),
    Add("q", "c", OK),
    Until("the first stalled check", looked),
    Surgery(unmarked),
    Dump("maxed"),
    Open("a"),
    Settle({"a": "completed", "b": "completed", "c": "completed"}),
    Act("concurrency", "q"),
    Dump("completed"),
)
scenario(
    "worker's limiter",
    Add("q", "a", OK),
    Add("q", "b", OK),
    Work("q", {"limiter": {"max": 1, "duration": 200}}),
    Settle({"a": "completed", "b": "completed"}, busy=1),
    Pass(250),
    Dump("completed"),
)
scenario(
    "global rate limit",
    Act("rate_limit", "q", {"max": 1, "duration": 200}),
    Add("q", "a", OK),
    Add("q", "b", OK),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed", "b": "completed"}, busy=1),
    Pass(250),
    Dump("completed"),
)
scenario(
    "handler says limited",
    Add("q", "a", (step("rate-limit", 200), *OK)),
    Work("q", {"limiter": {"max": 100, "duration": 1000}}),
    Settle({"a": "completed"}),
    Dump("completed"),
    python_worker=NO_SIGNAL,
)
scenario(
    "handler says limited, seen in between",
    Add("q", "a", (step("rate-limit", MINUTE), *OK), {"priority": 3}),
    Work("q", {"limiter": {"max": 100, "duration": 1000}}),
    Until("the limit", lambda run: bool(run.client.exists(run.key("q", "limiter")))),
    Settle({"a": "prioritized"}, busy=1),
    Until("the first stalled check", looked),
    Add("q", "b", OK),
    Pass(),
    Dump("limited"),
    python_worker=NO_SIGNAL,
)
scenario(
    "queue held back",
    Act("rate_limit", "q", {"max": 100, "duration": 1000}),
    Act("hold_back", "q", {"ms": MINUTE}),
    Add("q", "a", OK),
    Work("q"),
    Until("the first stalled check", looked),
    Pass(),
    Dump("held back"),
    python_worker="BullMQ for Python takes the marker while it waits",
)
scenario(
    "queue held back no more",
    Act("hold_back", "q", {"ms": MINUTE}),
    Dump("held back"),
    Act("go_on", "q"),
    Dump("freed"),
)

# -- retention as BullMQ knows it ------------------------------------------------------------------

scenario(
    "job that is not kept",
    Add("q", "good", OK, {"removeOnComplete": True}),
    Add("q", "bad", FAIL, {"removeOnFail": True}),
    Dump("added"),
    Work("q"),
    Settle({"good": "gone", "bad": "gone"}),
    Dump("removed"),
)
scenario(
    "newest jobs are kept",
    *(Add("q", f"a{n}", OK, {"removeOnComplete": {"count": 2}}) for n in range(5)),
    Work("q"),
    Settle({"a2": "gone", "a3": "completed", "a4": "completed"}),
    Dump("removed"),
)
scenario(
    "children that are not kept",
    Flow(
        Node(
            "parents",
            "parent",
            VALUES,
            {"removeOnComplete": True},
            (
                Node("children", "one", (step("return", 1),), {"removeOnComplete": True}),
                Node(
                    "children",
                    "bad",
                    FAIL,
                    {"removeOnFail": True, "ignoreDependencyOnFailure": True},
                ),
            ),
        )
    ),
    Work("children"),
    Settle({"one": "gone", "bad": "gone"}),
    Dump("children removed"),
    Work("parents"),
    Settle({"parent": "gone"}),
    Dump("removed"),
)

# -- deduplication ---------------------------------------------------------------------------------


def dedup(**more: Any) -> dict[str, Any]:
    return {"deduplication": {"id": "d", **more}}


scenario(
    "deduplication until finished",
    Add("q", "a", OK, dedup()),
    Add("q", "b", OK, dedup(), again=True),
    Dump("added"),
    Work("q"),
    Settle({"a": "completed"}),
    Add("q", "c", OK, dedup()),
    Settle({"c": "completed"}),
    Dump("completed"),
)
scenario(
    "deduplication for a time",
    Add("q", "a", OK, dedup(ttl=MINUTE)),
    Add("q", "b", OK, dedup(ttl=MINUTE), again=True),
    Work("q"),
    Settle({"a": "completed"}),
    Add("q", "c", OK, dedup(ttl=MINUTE), again=True),
    Dump("completed"),
)
scenario(
    "deduplication that replaces",
    Add("q", "a", OK, {**dedup(replace=True, ttl=MINUTE, extend=True), "delay": MINUTE}),
    Add("q", "b", OK, {**dedup(replace=True, ttl=MINUTE, extend=True), "delay": MINUTE}),
    Dump("added"),
)
scenario(
    "deduplication that keeps the last",
    Add("q", "a", (step("gate"), *OK), dedup(keepLastIfActive=True)),
    Work("q"),
    Gated("a"),
    Add("q", "b", OK, dedup(keepLastIfActive=True), again=True),
    Open("a"),
    Settle({"a": "completed", "b": "completed"}),
    Dump("completed"),
)

scenario(
    "deduplication that extends",
    Add("q", "a", OK, {**dedup(ttl=MINUTE, extend=True), "delay": MINUTE}),
    Add("q", "b", OK, dedup(ttl=5 * MINUTE, extend=True), again=True),
    Dump("added"),
)
scenario(
    "deduplication that replaces within its time",
    Add("q", "a", OK, {**dedup(replace=True, ttl=MINUTE), "delay": MINUTE}),
    Add("q", "b", OK, dedup(replace=True, ttl=5 * MINUTE)),
    Add("q", "c", OK, dedup(replace=True, ttl=5 * MINUTE), again=True),
    Dump("added"),
)
scenario(
    "deduplication that reschedules",
    Add("q", "a", OK, {**dedup(), "delay": MINUTE}),
    Pass(),
    Add("q", "b", OK, {**dedup(reschedule=True), "delay": 3 * MINUTE}, again=True),
    Dump("added"),
    python_producer="BullMQ for Python has no such option",
)
scenario(
    "deduplication that keeps the last with its options",
    Add("q", "a", (step("gate"), *OK), dedup(keepLastIfActive=True)),
    Work("q"),
    Gated("a"),
    Add("q", "b", OK, {**dedup(keepLastIfActive=True), "delay": MINUTE}, again=True),
    Add("q", "c", OK, {**dedup(keepLastIfActive=True), "priority": 4, "attempts": 3}, again=True),
    Open("a"),
    Settle({"a": "completed", "c": "completed"}),
    Dump("completed"),
)
scenario(
    "deduplication whose owner fails and is retried",
    Add("q", "a", (step("fail-times", 1, "not yet"), *FAIL), {**dedup(), "attempts": 2}),
    Work("q"),
    Settle({"a": "failed"}),
    Add("q", "b", OK, dedup()),
    Settle({"b": "completed"}),
    Dump("completed"),
)
scenario(
    "deduplication whose owner is removed",
    Add("q", "a", OK, dedup(ttl=MINUTE)),
    Act("remove", "a"),
    Dump("removed"),
)
scenario(
    "deduplication whose owner was deleted",
    Add("q", "a", OK, dedup()),
    Surgery(lambda run: run.client.delete(*run.client.keys(run.key("q", "*")))),
    Surgery(lambda run: run.client.set(run.key("q", "de:d"), "gone")),
    Add("q", "b", OK, dedup()),
    Dump("added"),
    python_producer="BullMQ for Python takes the window for open",
)

# -- schedulers ------------------------------------------------------------------------------------


def count(name: str, number: int) -> Until:
    return Until(f"{number} {name}", lambda run: run.client.zcard(run.key("q", name)) == number)


def bring_forward(run: Run) -> None:
    """Make the scheduler's pending job due, as if its time had come."""
    pending = cast("list[str]", run.client.zrange(run.key("q", "delayed"), 0, -1))
    run.client.zadd(run.key("q", "delayed"), dict.fromkeys(pending, run.since * 4096))


scenario(
    "scheduler with an interval",
    Act(
        "schedule",
        "q",
        {"id": "s", "repeat": {"every": 10 * MINUTE}, "template": {"name": "tick", "data": {}}},
    ),
    Work("q"),
    count("completed", 1),
    count("delayed", 1),
    Settle({}),
    Dump("run once"),
    Act("unschedule", "q", {"id": "s"}),
    Dump("removed"),
)
scenario(
    "scheduler with a pattern",
    Act(
        "schedule",
        "q",
        {
            "id": "s",
            "repeat": {"pattern": "0 30 4 29 2 *", "tz": "Europe/Madrid"},
            "template": {"name": "tick", "data": {"do": [["return", 1]]}, "opts": {"attempts": 2}},
        },
    ),
    Dump("scheduled"),
    Surgery(bring_forward),
    Work("q"),
    count("completed", 1),
    count("delayed", 1),
    Settle({}),
    Dump("run once"),
)
scenario(
    "scheduler with deduplication",
    Act(
        "schedule",
        "q",
        {
            "id": "s",
            "repeat": {"every": 10 * MINUTE},
            "template": {
                "name": "tick",
                "data": {},
                "opts": {"deduplication": {"id": "d", "ttl": MINUTE}},
            },
        },
    ),
    Work("q"),
    count("completed", 1),
    count("delayed", 1),
    Settle({}),
    Dump("run once"),
)
scenario(
    "scheduler with a limit",
    Act(
        "schedule",
        "q",
        {"id": "s", "repeat": {"every": 200, "limit": 2}, "template": {"name": "tick"}},
    ),
    Work("q"),
    count("completed", 2),
    Settle({}),
    Dump("over"),
)
scenario(
    "scheduler whose job fails and is retried",
    Act(
        "schedule",
        "q",
        {
            "id": "s",
            "repeat": {"every": 10 * MINUTE},
            "template": {
                "name": "tick",
                "data": {"do": [["fail-times", 1, "not yet"]]},
                "opts": {"attempts": 2},
            },
        },
    ),
    Work("q"),
    count("completed", 1),
    count("delayed", 1),
    Settle({}),
    Dump("completed"),
)


# -- metrics ---------------------------------------------------------------------------------------

CHARTS = {"metrics": {"maxDataPoints": 4}}


def minutes_pass(minutes: int) -> Surgery:
    """Let what has been counted be so much older, and do not come near the end of a minute."""

    def change(run: Run) -> None:
        while time.time() % 60 > 57:
            time.sleep(0.05)
        for outcome in ("completed", "failed"):
            key = run.key("q", "metrics", outcome)
            if run.client.exists(key):
                run.client.hincrby(key, "prevTS", -minutes * MINUTE)

    return Surgery(change)


def ended(state: str, *names: str) -> tuple[Step, ...]:
    """One job after the other."""
    do = OK if state == "completed" else FAIL
    steps = [(Add("q", name, do), Settle({name: state})) for name in names]
    return tuple(step for pair in steps for step in pair)


scenario(
    "metrics per minute",
    Work("q", CHARTS),
    minutes_pass(0),
    *ended("completed", "a", "b"),
    *ended("failed", "c"),
    Dump("the first minute"),
    minutes_pass(1),
    *ended("completed", "d", "e"),
    *ended("failed", "f"),
    Dump("the next minute"),
    minutes_pass(2),
    *ended("completed", "g"),
    *ended("failed", "h"),
    Add("q", "i", (step("fail-times", 1, "boom"), *OK), {"attempts": 2}),
    Settle({"i": "completed"}),
    Dump("two minutes later; an attempt that is not the last is not counted"),
    minutes_pass(100),
    *ended("completed", "j"),
    *ended("failed", "k"),
    Dump("no more than was asked for"),
)
scenario(
    "metrics of a job that is not kept",
    Add("q", "a", OK, {"removeOnComplete": True}),
    Work("q", CHARTS),
    Settle({"a": "gone"}),
    Dump("counted"),
)


def ghost(run: Run) -> None:
    run.client.lpush(run.key("q", "active"), "ghost")
    run.client.sadd(run.key("q", "stalled"), "ghost")


def ghost_seen(run: Run) -> bool:
    places = ("active", "wait", "stalled")
    return not any(run.client.exists(run.key("q", place)) for place in places) and checked(run)


scenario(
    "id without a job",
    Surgery(ghost),
    Work("q", SOON),
    Until("the ghost has been dealt with", ghost_seen),
    Add("q", "a", OK),
    Settle({"a": "completed"}),
    Dump("completed"),
)
