"""What hypothesis draws from."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from toril_plugins import Keep, Retention

QUEUES = ("bull:a", "bull:b")
WORKERS = ("w1", "w2")


# A number that chooses one of what there is when the rule runs.
some = st.integers(0, 10_000)
queues = st.sampled_from(QUEUES)
workers = st.sampled_from(WORKERS)
policies = st.sampled_from((None, "fail", "continue", "ignore", "remove"))
delays = st.sampled_from((0, 0, 0, 0, 0, 0, 1, 500, 2000))
priorities = st.sampled_from((0, 0, 0, 1, 1, 7))
keeps = st.sampled_from(
    (
        None,
        Keep.nothing(),
        Keep.forever(),
        Keep(last=1),
        Keep(last=2),
        Keep(age="5s"),
        Keep(age="5s", last=3),
        Keep(last=1, key="name"),
    )
)


@st.composite
def retentions(draw: st.DrawFn) -> Retention | None:
    """What is said about keeping jobs, if anything is."""
    completed, failed = draw(keeps), draw(keeps)
    if completed is None and failed is None:
        return None
    return Retention(completed=completed, failed=failed)


said = st.one_of(st.none(), st.none(), retentions())


@dataclass(frozen=True)
class Shape:
    """A node of a flow before it has an id."""

    queue: str
    name: str
    delay: int
    priority: int
    policy: str | None
    known_id: int | None
    children: tuple[Shape, ...] = ()


def shapes(depth: int, least: int = 0) -> st.SearchStrategy[Shape]:
    """Flows with `depth` levels below the root at most."""
    children: st.SearchStrategy[tuple[Shape, ...]] = st.just(())
    if depth:
        children = st.lists(shapes(depth - 1), min_size=least, max_size=1 + depth).map(tuple)
    known = st.one_of(st.none(), st.none(), st.none(), some)
    return st.builds(
        Shape, queues, st.sampled_from("xy"), delays, priorities, policies, known, children
    )


def endings(most: int, *kinds: str) -> st.SearchStrategy[list[str]]:
    """How some attempts end."""
    return st.lists(st.sampled_from(kinds), min_size=1, max_size=most)
