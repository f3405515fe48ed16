"""A failed child that keeps its parent waiting stays, whatever is said: what becomes of a flow is
not for retention to decide. (BullMQ removes such a child and lets the parent run.)
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.scenarios.stage import Stage, steps
from toril import Flow, Job
from toril.plugins import Outcome
from toril_plugins import Keep, Retention

HOUR, LAST, NOTHING = Keep(age="1h"), Keep(last=1), Keep.nothing()
BY_NAME = Keep(last=1, key="name")


@dataclass(frozen=True, slots=True)
class Rule:
    """Who says it, and what they say about both outcomes."""

    level: str
    keep: Keep

    def __str__(self) -> str:
        return f"{self.level}: {self.keep}"

    @property
    def setting(self) -> Retention:
        return Retention(completed=self.keep, failed=self.keep)

    def at(self, level: str) -> tuple[Retention, ...]:
        """As `*settings` of that level: nothing, if another level says it."""
        return (self.setting,) if level == self.level else ()


LIVE = [
    Rule(level, keep)
    for level in ("queue", "worker", "application")
    for keep in (NOTHING, LAST, HOUR, BY_NAME)
]
OWN = [Rule(level, keep) for level in ("job", "flow") for keep in (NOTHING, LAST, HOUR, BY_NAME)]


class Family:
    """A parent in `p`, waiting for a child in `q` that fails for good without a policy."""

    def __init__(self, stage: Stage, rule: Rule) -> None:
        self.stage = stage
        self.rule = rule

    async def add(self) -> None:
        """Say the rule and add both; a job that will evict the child follows it."""
        rule, stage = self.rule, self.stage
        home = stage.app(*rule.at("application"))
        if rule.level == "queue":
            await home.queue("q").set(rule.setting)
        await stage.work("toril", "q", *rule.at("worker"), app=home)
        child = Flow("q", "child", steps("failed"), *rule.at("job"), id="child")
        flow = Flow("p", "parent", steps("completed"), children=[child])
        self.parent = await home.add_flow(flow, *rule.at("flow"))

    async def fail(self, library: str = "toril") -> None:
        """The child fails; then a newer one does, about which the same is said."""
        await self.stage.work(library, "q")
        self.stage.clock.advance("1m")
        await self.finish_another("failed")

    async def finish_another(self, outcome: Outcome) -> None:
        """A newer job of the same name, about which the same is said."""
        flow = Flow("q", "child", steps(outcome), *self.rule.at("job"))
        await self.stage.away.add_flow(flow, *self.rule.at("flow"))
        await self.stage.work("toril", "q")

    async def sweep_for_years(self) -> None:
        for later in ("0s", "1m", "1h", "1h", "1d", "1095d"):
            await self.stage.sweep("q", later=later)

    async def child(self) -> Job:
        found = await self.stage.away.queue("q").get("child")
        assert found is not None
        return found

    @property
    def states(self) -> tuple[str, str]:
        """Where parent and child are."""
        return self.stage.state("p", self.parent.id), self.stage.state("q", "child")


@pytest.fixture(params=LIVE + OWN, ids=str)
def rule(request: pytest.FixtureRequest) -> Rule:
    found: Rule = request.param
    return found


@pytest.fixture
async def family(stage: Stage, rule: Rule) -> Family:
    made = Family(stage, rule)
    await made.add()
    return made


async def removal(job: Job) -> tuple[str, str]:
    """What `explain` says: the rule, and when the job goes."""
    told = {fact.subject: fact for fact in await job.explain()}
    return f"{told['rule'].level}: {told['rule'].text}", told["removal"].text


async def test_it_stays_and_is_explained(family: Family) -> None:
    await family.fail()
    await family.sweep_for_years()
    assert family.states == ("waiting-children", "failed")
    rule, when = await removal(await family.child())
    assert rule == str(family.rule)
    assert "waits for it" in when


async def test_it_does_not_keep_others(family: Family) -> None:
    """A child that has to stay takes nobody's place, and no slice of the sweep."""
    await family.fail()
    await family.sweep_for_years()
    others = {job.id async for job in family.stage.away.queue("q").jobs("failed")} - {"child"}
    assert len(others) == (1 if family.rule.keep.age is None and family.rule.keep.last else 0)


async def test_it_goes_after_it_was_retried_and_completed(family: Family) -> None:
    await family.fail()
    await family.stage.sweep("q")
    child = await family.child()
    await child.update(steps("completed"))
    await child.retry()
    await family.stage.sweep("q", later="2h")
    assert family.states == ("waiting-children", "wait")
    await family.stage.work("toril", "q")
    assert family.states[0] == "wait"
    family.stage.clock.advance("1m")
    await family.finish_another("completed")
    await family.stage.sweep("q", later="1h")
    assert family.states == ("wait", "gone")
    assert family.stage.leftovers("q", "child") == []
    assert family.stage.removals.rules["child"] == str(family.rule)
    await family.stage.work("toril", "p")
    assert family.states[0] in ("completed", "gone")


async def test_it_goes_after_its_parent_was_removed(family: Family) -> None:
    await family.fail()
    await family.stage.sweep("q")
    assert await family.parent.remove(children=False)
    for later in ("0s", "1h", "1h"):
        await family.stage.sweep("q", later=later)
    assert family.states == ("gone", "gone")
    assert family.stage.leftovers("q", "child") == []
    assert family.stage.removals.rules["child"] == str(family.rule)


@pytest.mark.parametrize("foreign", ["node", "node5452", "python"])
@pytest.mark.parametrize("rule", LIVE, ids=str, indirect=False)
async def test_a_live_rule_does_not_remove_what_others_failed(
    stage: Stage, rule: Rule, foreign: str
) -> None:
    family = Family(stage, rule)
    await family.add()
    await family.fail(foreign)
    await family.sweep_for_years()
    assert family.states == ("waiting-children", "failed")


async def test_a_parent_that_is_a_child_stays_too(stage: Stage) -> None:
    """A failed parent, itself a child without a policy, keeps its own parent waiting."""
    leaf = Flow("r", "leaf", steps("failed"))
    middle = Flow(
        "q", "middle", steps("completed"), id="middle", children=[leaf], on_child_failure="fail"
    )
    root = await stage.away.add_flow(
        Flow("p", "root", steps("completed"), children=[middle]), Retention(failed=NOTHING)
    )
    await stage.work("toril", "r")
    await stage.work("toril", "q")
    for later in ("0s", "1h", "1d"):
        await stage.sweep("q", later=later)
    assert stage.state("q", "middle") == "failed"
    assert stage.state("p", root.id) == "waiting-children"
