"""What can be said about retention: short forms, refusals, the stored form, BullMQ's shape."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.plugins import Said
from toril_plugins import Keep, Retention
from toril_plugins.retention.bullmq import from_option, to_option

ages = st.integers(0, 10**12).map(lambda ms: timedelta(milliseconds=ms))
keeps = st.one_of(
    st.just(Keep.forever()),
    st.just(Keep.nothing()),
    st.builds(Keep, age=st.none() | ages, last=st.none() | st.integers(0, 10**6)),
    st.builds(
        Keep,
        age=st.none() | ages,
        last=st.integers(1, 10**6),
        key=st.just("name") | st.from_regex(r"data(\.[a-c]+)+", fullmatch=True),
    ),
)
retentions = (
    st.tuples(st.none() | keeps, st.none() | keeps)
    .filter(any)
    .map(lambda pair: Retention(completed=pair[0], failed=pair[1]))
)


def test_short_forms() -> None:
    said = Retention(completed="1h", failed=1000)
    assert said.completed == Keep(age=timedelta(hours=1))
    assert said.failed == Keep(last=1000)


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        (Keep.forever(), "for ever"),
        (Keep.nothing(), "nothing"),
        (Keep(last=100), "last 100"),
        (Keep(last=5, key="name"), "last 5 per name"),
        (Keep(age="36h", last=7), "last 7, 1d 12h"),
    ],
)
def test_a_keep_reads_as_people_say_it(keep: Keep, text: str) -> None:
    assert str(keep) == text


@given(keeps)
def test_what_is_printed_can_be_typed(keep: Keep) -> None:
    typed = Keep.parse(str(keep))
    assert typed == keep or (typed.is_nothing and keep.is_nothing)


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("1000", Keep(last=1000)),
        ("7d", Keep(age="7d")),
        ("forever", Keep.forever()),
        ("last 5 per data.customer, 2h", Keep(last=5, key="data.customer", age="2h")),
    ],
)
def test_short_things_can_be_typed(text: str, keep: Keep) -> None:
    assert Keep.parse(text) == keep


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Retention, "says nothing"),
        (lambda: Keep(last=-1), "0 or more"),
        (lambda: Keep(key="name"), "needs last"),
        (lambda: Keep(last=3, key="customer"), "'name' or a field of the data"),
        (lambda: Keep(age="soon"), "not a duration"),
    ],
)
def test_nonsense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bare_number_is_no_age_and_true_is_no_keep() -> None:
    with pytest.raises(TypeError, match="does not say its unit"):
        Keep(age=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"Keep\.nothing\(\)"):
        Retention(completed=True)


@given(retentions)
def test_the_stored_form_reads_back(retention: Retention) -> None:
    assert Retention.decode(retention.encode()) == retention


@pytest.mark.parametrize("stored", [None, 5, [], {"done": {}}, {"failed": {"ages": 1}}])
def test_a_garbled_stored_form_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match="not a stored"):
        Retention.decode(stored)


@pytest.mark.parametrize(
    ("keep", "option"),
    [
        (Keep.forever(), False),
        (Keep.nothing(), True),
        (Keep(last=10), {"count": 10}),
        (Keep(age="90s"), {"age": 90}),
        (Keep(age="1500ms", last=3), {"count": 3, "age": 1.5}),
        (Keep(last=3, key="name"), False),
    ],
)
def test_bullmqs_shape(keep: Keep, option: Any) -> None:
    assert to_option(keep) == option


@pytest.mark.parametrize(
    ("option", "keep"),
    [
        (True, Keep.nothing()),
        (False, Keep.forever()),
        (0, Keep.nothing()),
        (7, Keep(last=7)),
        (-1, Keep.forever()),
        ({"count": 0, "age": 9}, Keep(last=0, age="9s")),
        ({"count": -1}, Keep.forever()),
        ({"age": 3600, "limit": 5}, Keep(age="1h")),
        (None, None),
        ("10", None),
    ],
)
def test_bullmqs_shape_is_read(option: Any, keep: Keep | None) -> None:
    assert from_option(option) == keep


@given(keeps.filter(lambda keep: keep.key is None))
def test_what_foreign_workers_are_told_means_the_same(keep: Keep) -> None:
    told = from_option(to_option(keep))
    assert told is not None
    assert (told.is_nothing, told.is_forever) == (keep.is_nothing, keep.is_forever)
    if not keep.is_nothing:
        assert told == keep


def test_the_projection_has_one_rule_per_outcome() -> None:
    live = [
        Said(Retention(failed="30d"), "queue", "toril retention set", 5),
        Said(Retention(completed=100, failed=7), "worker", "app.worker", 6),
    ]
    assert Retention.project(live) == {
        "completed": "2:100:-1:worker:6:last 100::-1:-1:-1:-1",
        "failed": "2:-1:2592000000:queue:5:30d::-1:-1:-1:-1",
    }
