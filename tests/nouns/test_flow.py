from __future__ import annotations

import json
from typing import Any, cast

import pytest
import redis
from tests.nouns.witness import Colour, Witness

from toril import App, ConfigurationError, Flow, JobNotFound, NewJob, Reject
from toril.connection.steps import Steps
from toril.errors import InvalidJob, ParentError
from toril.flow import queues_of
from toril.plugins import Draft, JobRef, JobSaved
from toril.types import ChildFailurePolicy


def parent_field(raw: redis.Redis, queue: str, name: str) -> dict[str, Any]:
    for key in raw.keys(f"bull:{queue}:*"):
        if raw.type(key) == "hash" and raw.hget(key, "name") == name:
            found: dict[str, Any] = json.loads(str(raw.hget(key, "parent")))
            return found
    raise LookupError(name)


async def test_what_is_no_flow(app: App) -> None:
    wrong = cast(Any, NewJob("x"))
    with pytest.raises(TypeError, match=r"^what add_flow adds is a Flow\(queue, name, …\), not "):
        await app.add_flow(wrong)
    with pytest.raises(TypeError, match="what add_flows adds is a Flow"):
        await app.add_flows([Flow("q", "a"), wrong])
    with pytest.raises(TypeError, match="a child of a flow is a Flow"):
        Flow("q", "a", children=[wrong])
    with pytest.raises(TypeError, match="a child of a flow is a Flow"):
        Flow("q", "a").after(wrong)
    assert await app.queues() == []


async def test_a_tree_over_several_queues(app: App, raw: redis.Redis) -> None:
    flow = Flow(
        "reports",
        "daily",
        {"day": 1},
        children=[
            Flow("pages", "fetch", {"url": "a"}),
            Flow("books", "bind", children=[Flow("pages", "print", priority=2)]),
        ],
    )
    assert queues_of(flow)[0] == "reports"
    assert set(queues_of(flow)) == {"reports", "pages", "books"}
    root = await app.add_flow(flow)
    assert (root.queue, root.name, root.data) == ("reports", "daily", {"day": 1})
    assert await root.state() == "waiting-children"
    tree = await app.flow_tree(root)
    found = sorted((node.job.queue, node.job.name, node.state) for node in tree)
    assert found == [
        ("books", "bind", "waiting-children"),
        ("pages", "fetch", "waiting"),
        ("pages", "print", "prioritized"),
        ("reports", "daily", "waiting-children"),
    ]
    assert (await root.children()).unprocessed == {
        f"bull:{node.job.queue}:{node.job.id}" for node in tree.children
    }
    (bind,) = (node for node in tree.children if node.job.name == "bind")
    parent = await bind.children[0].job.parent()
    assert parent is not None
    assert parent.ref == bind.job.ref


@pytest.mark.parametrize(
    ("policy", "flag"),
    [
        ("wait", None),
        ("fail", "fpof"),
        ("continue", "cpof"),
        ("ignore", "idof"),
        ("remove", "rdof"),
    ],
)
async def test_the_parents_policy_holds_for_children_that_say_nothing(
    app: App, raw: redis.Redis, policy: Any, flag: str | None
) -> None:
    other: ChildFailurePolicy = "ignore" if policy != "ignore" else "fail"
    other_flag = "idof" if policy != "ignore" else "fpof"
    await app.add_flow(
        Flow(
            "p",
            "root",
            on_child_failure=policy,
            children=[
                Flow("c", "plain", children=[Flow("c", "grandchild")]),
                Flow("c", "own", on_failure=other),
                Flow("c", "patient", on_failure="wait"),
            ],
        )
    )

    def flags(name: str) -> set[str]:
        return set(parent_field(raw, "c", name)) - {"id", "queueKey"}

    assert flags("plain") == ({flag} if flag else set())
    assert flags("own") == {other_flag}
    assert flags("patient") == set()
    assert flags("grandchild") == set()


async def test_a_flow_below_an_existing_job(app: App, raw: redis.Redis) -> None:
    above = await app.queue("orders").add("order")
    root = await app.add_flow(
        Flow("p", "root", parent=above, on_failure="remove", children=[Flow("c", "kid")])
    )
    assert raw.smembers(f"bull:orders:{above.id}:dependencies") == {f"bull:p:{root.id}"}
    assert parent_field(raw, "p", "root")["rdof"] is True


async def test_a_missing_parent_writes_nothing(app: App, raw: redis.Redis) -> None:
    flow = Flow("p", "root", parent=JobRef("orders", "nobody"), children=[Flow("c", "kid")])
    with pytest.raises(ParentError):
        await app.add_flow(flow)
    assert raw.keys("*") == []


async def test_a_child_names_no_other_parent(app: App) -> None:
    with pytest.raises(InvalidJob, match=r"on_child_failure is one of 'wait', .*, not 'explode'"):
        Flow("q", "leaf", on_child_failure=cast(Any, "explode"))
    with pytest.raises(InvalidJob, match="another parent"):
        await app.add_flow(Flow("p", "root", children=[Flow("c", "x", parent=JobRef("q", "y"))]))


async def test_one_id_twice(app: App) -> None:
    with pytest.raises(InvalidJob, match="two jobs of one flow"):
        await app.add_flow(
            Flow("p", "r", children=[Flow("c", "x", id="a"), Flow("c", "y", id="a")])
        )


async def test_one_description_used_twice_makes_two_jobs(app: App, raw: redis.Redis) -> None:
    kid = Flow("c", "kid")
    await app.add_flow(Flow("p", "root", children=[kid, kid]))
    assert raw.llen("bull:c:wait") == 2


async def test_a_queue_brings_its_defaults(app: App, raw: redis.Redis) -> None:
    mail = app.queue("mail", attempts=4)
    root = await app.add_flow(Flow(mail, "root", children=[Flow("mail", "plain")]))
    assert root.snapshot.attempts == 4
    (kid,) = (await app.flow_tree(root)).children
    assert kid.job.snapshot.attempts == 1


async def test_a_large_flow_goes_in_steps(watched: App, witness: Witness, raw: redis.Redis) -> None:
    flow = Flow(
        "p",
        "root",
        children=[
            Flow("m", f"m{i}", children=[Flow("c", f"c{i}-{j}") for j in range(150)])
            for i in range(4)
        ],
    )
    root = await watched.add_flow(flow)
    assert raw.llen("bull:c:wait") == 600
    assert raw.scard(f"bull:p:{root.id}:dependencies") == 4
    assert raw.keys("bull:*:toril:flows*") == []
    saved = [event.job.name for event in witness.events if isinstance(event, JobSaved)]
    assert len(saved) == len(set(saved)) == 605


async def test_one_refusal_refuses_the_flow(
    watched: App, witness: Witness, raw: redis.Redis
) -> None:
    def refuse(draft: Draft) -> None:
        if draft.name == "bad":
            raise Reject("no")

    witness.refuse = refuse
    with pytest.raises(Reject) as caught:
        await watched.add_flow(Flow("p", "root", children=[Flow("c", "good"), Flow("c", "bad")]))
    assert caught.value.item == "bad"
    assert raw.keys("*") == []


async def test_drafts_tell_where_a_node_stands(watched: App, witness: Witness) -> None:
    root = await watched.add_flow(
        Flow("p", "root", None, Colour("red"), children=[Flow("c", "kid")]), Colour("blue")
    )
    above, below = witness.drafts
    assert (above.has_children, above.parent) == (True, None)
    assert below.parent is not None
    assert (below.has_children, below.parent.id, below.parent.queue) == (False, root.id, "p")
    assert [(said.level, said.value.value) for said in above.said] == [
        ("job", "red"),
        ("flow", "blue"),
    ]
    assert [(said.level, said.value.value) for said in below.said] == [("flow", "blue")]


async def test_an_existing_root_gives_the_job_that_exists(app: App) -> None:
    await app.add_flow(Flow("p", "first", {"n": 1}, id="one", children=[Flow("c", "a")]))
    again = await app.add_flow(Flow("p", "second", {"n": 2}, id="one", children=[Flow("c", "b")]))
    assert (again.name, again.data) == ("first", {"n": 1})


async def test_queues_in_different_slots_are_refused_before_anything_is_sent() -> None:
    app = App("redis+cluster://localhost:1", plugins=[])
    with pytest.raises(ConfigurationError, match="hash tag"):
        await app.add_flow(Flow("p", "root", children=[Flow("c", "kid")]))


class TestTree:
    async def test_depth_and_width_cut_it(self, app: App) -> None:
        kids = [Flow("c", f"k{i}", children=[Flow("c", f"g{i}")]) for i in range(5)]
        root = await app.add_flow(Flow("p", "root", children=kids))
        whole = await app.flow_tree(root)
        assert len(list(whole)) == 11
        assert not any(node.cut for node in whole)
        shallow = await app.flow_tree(root, depth=2)
        assert (len(list(shallow)), shallow.cut) == (6, False)
        assert all(node.cut for node in shallow.children)
        narrow = await app.flow_tree(root, width=3)
        assert (len(narrow.children), narrow.cut) == (3, True)
        only = await app.flow_tree(root, depth=1)
        assert (only.children, only.cut) == ((), True)

    async def test_a_level_is_read_in_few_steps(
        self, app: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kids = [
            Flow("c", "k", children=[Flow(f"g{n % 2}", "g") for n in range(3)]) for _ in range(90)
        ]
        root = await app.add_flow(Flow("p", "root", children=kids))
        executor, made = app.runtime.executor, 0
        converse = executor.converse

        def count(*request: Any) -> Steps[Any]:
            nonlocal made
            made += 1
            return (yield from converse(*request))

        monkeypatch.setattr(executor, "converse", count)
        tree = await app.flow_tree(root, width=100)
        assert len(list(tree)) == 361
        assert {node.state for node in tree.children} == {"waiting-children"}
        # For each parent four scans, and for 100 jobs of a queue, or of a level, some more.
        assert made < 91 * 4 + 30

    @pytest.mark.parametrize("reads", range(1, 8))
    async def test_a_child_that_ends_meanwhile_is_not_missed(
        self, app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, reads: int
    ) -> None:
        """It ends behind the read of that number."""
        root = await app.add_flow(Flow("p", "root", children=[Flow("c", "kid", id="kid")]))
        executor, key = app.runtime.executor, f"bull:p:{root.id}"
        converse, made = executor.converse, 0

        def run_and_end(*request: Any) -> Steps[Any]:
            nonlocal made
            result = yield from converse(*request)
            made += 1
            if made == reads:
                raw.srem(f"{key}:dependencies", "bull:c:kid")
                raw.hset(f"{key}:processed", "bull:c:kid", "1")
            return result

        monkeypatch.setattr(executor, "converse", run_and_end)
        (kid,) = (await app.flow_tree(root)).children
        assert kid.job.id == "kid"
        assert made >= reads

    async def test_children_that_are_gone_are_left_out(self, app: App, raw: redis.Redis) -> None:
        root = await app.add_flow(
            Flow("p", "root", children=[Flow("c", "a", id="a"), Flow("c", "b")])
        )
        raw.delete("bull:c:a")
        assert [node.job.name for node in (await app.flow_tree(root)).children] == ["b"]

    async def test_a_root_that_is_gone(self, app: App) -> None:
        root = await app.add_flow(Flow("p", "root"))
        await root.remove()
        with pytest.raises(JobNotFound):
            await app.flow_tree(root)

    @pytest.mark.parametrize("options", [{"depth": 0}, {"width": 0}])
    async def test_nothing_to_read(self, app: App, options: dict[str, int]) -> None:
        root = await app.add_flow(Flow("p", "root"))
        with pytest.raises(ValueError, match="at least 1"):
            await app.flow_tree(root, **options)


class TestAddMany:
    async def test_the_roots_come_back_in_order(self, app: App) -> None:
        roots = await app.add_flows(
            Flow("p", "root", n, children=[Flow("c", "kid")]) for n in range(3)
        )
        assert [root.data for root in roots] == [0, 1, 2]
        assert await app.queue("c").count("waiting") == 3
        assert await app.add_flows([]) == []

    async def test_they_share_calls(self, app: App, raw: redis.Redis) -> None:
        kids = [Flow("c", "kid") for _ in range(9)]
        given = [Flow("p", "root", n, children=kids) for n in range(50)]
        given[20] = Flow("other", "root", 20)
        await app.add_flow(Flow("p", "first"))
        before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
        roots = await app.add_flows(given)
        calls = raw.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert [(root.queue, root.data) for root in roots] == [
            (flow.queue, flow.data) for flow in given
        ]
        assert calls == 4  # 20 flows, that of the other queue, 20 and 9
        assert await app.queue("c").count("waiting") == 49 * 9
        assert await app.queue("p").count("waiting-children") == 49

    async def test_a_large_one_is_a_part_of_its_own(self, app: App) -> None:
        kids = [Flow("c", "kid") for _ in range(200)]
        given = [Flow("p", "root", n, children=kids if n == 1 else ()) for n in range(3)]
        assert [root.data for root in await app.add_flows(given)] == [0, 1, 2]
        assert await app.queue("c").count("waiting") == 200
        assert await app.queue("p").count("waiting") == 2

    async def test_a_refused_one_ends_the_adding(
        self, watched: App, witness: Witness, raw: redis.Redis
    ) -> None:
        flows = [Flow("p", f"r{n}", children=[Flow("c", "kid")]) for n in range(5)]
        flows[2] = Flow("p", "r2", parent=JobRef("p", "gone"))
        with pytest.raises(ParentError) as caught:
            await watched.add_flows(flows)
        assert caught.value.__notes__ == ["2 of the 5 flows were added"]
        names = [job.name async for job in watched.queue("p").jobs()]
        assert sorted(names) == ["r0", "r1"]
        assert len(witness.events) == 4

    async def test_one_refusal_refuses_all(
        self, watched: App, witness: Witness, raw: redis.Redis
    ) -> None:
        def refuse(planned: Draft) -> None:
            if planned.name == "bad":
                raise Reject("not that one")

        witness.refuse = refuse
        with pytest.raises(Reject):
            await watched.add_flows(
                [Flow("p", "good"), Flow("p", "x", children=[Flow("c", "bad")])]
            )
        with pytest.raises(InvalidJob):
            await watched.add_flows([Flow("p", "good"), Flow("p", "x", id="7")])
        assert raw.keys("bull:p:*") == []


class TestChildren:
    async def test_page_by_page(self, app: App, raw: redis.Redis) -> None:
        kids = [Flow("c", "kid", id=f"k{n:03}") for n in range(300)]
        root = await app.add_flow(Flow("p", "root", children=kids))
        key = f"bull:p:{root.id}"
        raw.srem(f"{key}:dependencies", "bull:c:k000", "bull:c:k001", "bull:c:k002")
        raw.hset(f"{key}:processed", "bull:c:k000", '{"ok":true}')
        raw.hset(f"{key}:failed", "bull:c:k001", "no luck")
        raw.zadd(f"{key}:unsuccessful", {"bull:c:k002": 1})
        assert await root.children_counts() == {
            "unprocessed": 297,
            "processed": 1,
            "ignored": 1,
            "failed": 1,
        }
        found: dict[str, Any] = {}
        cursor, pages = "0", 0
        while True:
            page = await root.children_page("unprocessed", cursor=cursor, count=50)
            found |= page.children
            pages += 1
            if page.cursor is None:
                break
            cursor = page.cursor
        assert found == {f"bull:c:k{n:03}": None for n in range(3, 300)}
        assert pages > 3
        ends: list[Any] = [
            (await root.children_page(kind)).children for kind in ("processed", "ignored", "failed")
        ]
        assert ends == [
            {"bull:c:k000": {"ok": True}},
            {"bull:c:k001": "no luck"},
            {"bull:c:k002": None},
        ]

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("open", {}),
            ("processed", {"cursor": "next"}),
            ("processed", {"count": 0}),
        ],
    )
    async def test_asked_wrongly(self, app: App, kind: Any, options: dict[str, Any]) -> None:
        job = await app.queue("p").add("root")
        with pytest.raises(ValueError, match=r"no kind|no cursor|at least 1"):
            await job.children_page(kind, **options)


async def test_a_tree_by_its_name(app: App) -> None:
    root = await app.add_flow(Flow("p", "root", id="r", children=[Flow("c", "kid")]))
    tree = await app.flow_tree(JobRef("p", "r"))
    assert (tree.job.ref, tree.children[0].job.name) == (root.ref, "kid")
