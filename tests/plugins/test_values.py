"""What can be said about retention: short forms, refusals, the stored form, BullMQ's shape."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.plugins import Said
from toril_plugins import Ceiling, IdWindow, Keep, Retention
from toril_plugins.retention.bullmq import from_option, to_option

ages = st.integers(0, 10**12).map(lambda ms: timedelta(milliseconds=ms))
counts = st.integers(1, 10**6)
COUNTED_BY = ("key", "group")


@st.composite
def any_keep(draw: st.DrawFn) -> Keep:
    """Any value that can be said."""
    given: dict[str, Any] = {}
    given |= draw(st.fixed_dictionaries({}, optional={"first": counts, "last": counts}))
    counted: bool = draw(st.booleans())
    if given and counted:
        by = draw(st.sampled_from(COUNTED_BY))
        keys = st.just("name") | st.from_regex(r"data(\.[^\s.,\ud800-\udfff]+)+", fullmatch=True)
        given[by] = draw(keys if by == "key" else st.text(min_size=1))
    tiers = sorted(draw(st.sets(st.integers(1, 10**12), max_size=4)))
    names = ["logs", "data", "age", "tombstone"]
    for ms in tiers:
        if names:
            at = draw(st.integers(0, len(names) - 1))
            given[names[at]] = timedelta(milliseconds=ms)
            names = names[at + 1 :]
    if given.get("key", "name") != "name":
        given.pop("data", None)
    if not given.keys() & {"age", "last", "first"}:
        given.pop("tombstone", None)
    return Keep(**given)


keeps = st.one_of(
    st.just(Keep.forever()),
    st.just(Keep.nothing()),
    st.builds(Keep, age=st.none() | ages, last=st.none() | st.integers(0, 10**6)),
    st.builds(Keep, age=ages, flow=st.just(value=True)),
    st.builds(Keep, last=st.just(0), tombstone=st.just("5d")),
    any_keep(),
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
        (Keep(first=3, key="name"), "first 3 per name"),
        (Keep(first=3, last=5, group='a "b"'), 'first 3 and last 5 of "a \\"b\\""'),
        (
            Keep("30d", logs="1d", data="7d", tombstone="365d"),
            "30d, logs 1d, data 7d, tombstone 365d",
        ),
        (Keep(data="30d"), "for ever, data 30d"),
        (Keep(last=0, tombstone="1h"), "nothing, tombstone 1h"),
        (Keep("90d", flow=True), "90d, flow"),
        (Keep(flow=True), "for ever, flow"),
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
        ("first 3 last 5 per name", Keep(first=3, last=5, key="name")),
        ("first 3, last 5", Keep(first=3, last=5)),
        ('last 5 of "a, b"', Keep(last=5, group="a, b")),
        (
            "logs 1d, data 7d, 30d, tombstone 365d",
            Keep("30d", logs="1d", data="7d", tombstone="365d"),
        ),
        ("flow, 1h 30m", Keep("90m", flow=True)),
    ],
)
def test_short_things_can_be_typed(text: str, keep: Keep) -> None:
    assert Keep.parse(text) == keep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing is said"),
        ("1d,,5", "nothing is said"),
        ("1d,", "nothing is said"),
        ("1d, ", "says age twice"),
        ("first 3 5", "not a duration"),
        ("last 5, 7", "says last twice"),
        ("1d, 2d", "says age twice"),
        ("forever, 2d", "says for ever and not for ever"),
        ('last 5 of "a', "not a duration"),
        ("last 5 of a", "not a duration"),
        ("last", "not a duration"),
        ("and", "not a duration"),
        ("logs", "not a duration"),
        ("tombstone 1d", "say age or last"),
        ("flow, last 3", "by age alone"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Keep.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Retention, "says nothing"),
        (lambda: Keep(last=-1), "0 or more"),
        (lambda: Keep(first=-1), "first=-1.*0 or more"),
        (lambda: Keep(first=2**60), "for ever"),
        (lambda: Keep(key="name"), "needs last"),
        (lambda: Keep(group="x"), "needs last"),
        (lambda: Keep(last=1, group="x", key="name"), "once"),
        (lambda: Keep(last=1, group=""), "not empty"),
        (lambda: Keep(last=1, group=cast(Any, 5)), "is a text"),
        (lambda: Keep("7d", data="8d"), "data comes before age"),
        (lambda: Keep("7d", data="7d"), "data comes before age"),
        (lambda: Keep("7d", logs="8d"), "logs comes before age"),
        (lambda: Keep(data="1d", logs="2d"), "logs comes before data"),
        (lambda: Keep("7d", tombstone="7d"), "age comes before tombstone"),
        (lambda: Keep(tombstone="7d"), "say age or last"),
        (lambda: Keep(last=1, key="data.x", data="1d"), "nobody can tell"),
        (lambda: Keep(last=0, logs="1d"), "kept for a while"),
        (lambda: Keep("1d", last=4, flow=True), "by age alone"),
        (lambda: Keep("7d", logs="1d", flow=True), "by age alone"),
        (lambda: Ceiling(completed=Keep.forever()), "an age, a number of jobs or both"),
        (lambda: Ceiling(failed=Keep(first=3)), "an age, a number of jobs or both"),
        (lambda: Ceiling(failed=Keep("7d", logs="1d")), "an age, a number of jobs or both"),
        (Ceiling, "says nothing"),
        (lambda: IdWindow("1ms"), "from one second"),
        (lambda: IdWindow("1000w"), "from one second"),
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cast(Any, Retention)("1h"), r"Retention\('1h'\): for which outcome\? Say comp"),
        (lambda: cast(Any, Retention)(complete="1h"), "no 'complete'; did you mean 'completed'"),
        (lambda: cast(Any, Retention)(removeOnFail=5), "did you mean 'failed'"),
        (lambda: cast(Any, Retention)(queue=5), "there are completed, failed"),
        (lambda: cast(Any, Ceiling)("1h"), r"Ceiling\('1h'\): for which outcome"),
        (lambda: cast(Any, Keep)(count=5), r"Keep\(\) has no 'count'; did you mean 'last'"),
        (lambda: cast(Any, Keep)(ttl="5d"), "did you mean 'age'"),
        (lambda: cast(Any, Keep)(tombstones="5d"), "did you mean 'tombstone'"),
        (lambda: cast(Any, IdWindow)(60), "does not say its unit"),
    ],
)
def test_usual_mistakes_are_answered_with_the_right_spelling(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_one_spelling_of_each() -> None:
    assert Keep(first=0, last=5) == Keep(last=5)
    assert Keep(first=3, last=0) == Keep(first=3)
    assert Keep(first=0) == Keep.nothing()


def test_a_long_group_stands_as_its_beginning_and_a_hash() -> None:
    one, other = Keep(last=1, group="x" * 500 + "1"), Keep(last=1, group="x" * 500 + "2")
    assert one != other
    assert one.group is not None
    assert len(one.group) == 100
    assert Keep(last=1, group=one.group) == one
    assert Keep(last=1, group="\ud800").group == "?"


@given(keeps)
def test_a_keep_is_shown_as_it_is_written(keep: Keep) -> None:
    assert eval(repr(keep)) == keep


def test_it_is_shown_in_short() -> None:
    assert repr(Keep(age="30d")) == "Keep('30d')"
    assert repr(Keep("30d", last=5, key="name")) == "Keep('30d', last=5, key='name')"
    assert repr(Retention(completed="1h", failed=Keep.nothing())) == (
        "Retention(completed=Keep('1h'), failed=Keep.nothing())"
    )
    assert repr(Ceiling(failed=10)) == "Ceiling(failed=Keep(last=10))"
    assert repr(IdWindow("90m")) == "IdWindow('1h 30m')"


def test_settings_can_be_copied() -> None:
    for value in (Retention(completed="1h", failed=Keep(first=2)), Ceiling(failed=3), Keep("1h")):
        assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


@given(retentions)
def test_the_stored_form_reads_back(retention: Retention) -> None:
    assert Retention.decode(retention.encode()) == retention


def test_what_earlier_versions_stored_is_read() -> None:
    stored: Any = {"completed": {"age": 5000, "last": 3, "key": "name"}, "failed": {}}
    assert Retention.decode(stored) == Retention(
        completed=Keep("5s", last=3, key="name"), failed=Keep.forever()
    )


def test_the_other_settings_read_back() -> None:
    for value in (Ceiling(completed="1h", failed=Keep("2h", last=5)), IdWindow("90m")):
        assert type(value).decode(value.encode()) == value
    for stored in (None, {}, {"ms": True}, {"ms": "5"}, {"ms": -1}, {"ms": 10**30}):
        with pytest.raises(ValueError, match="IdWindow"):
            IdWindow.decode(stored)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        5,
        [],
        {},
        {"done": {}},
        {"failed": {"ages": 1}},
        {"failed": {"age": "5"}},
        {"failed": {"age": 2**60}},
        {"failed": {"last": True}},
        {"failed": {"flow": 1}},
        {"failed": {"last": 1, "group": 5}},
    ],
)
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
        (Keep(last=3, group="x"), False),
        (Keep(first=3), False),
        (Keep(first=3, last=4), False),
        (Keep("1d", flow=True), False),
        (Keep("0s", flow=True), False),
        (Keep(data="1d"), False),
        (Keep(last=0, tombstone="1d"), False),
        (Keep("1d", tombstone="2d"), False),
        (Keep("10s", logs="1s", data="2s"), {"age": 10}),
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


@given(keeps)
def test_what_foreign_workers_are_told_means_the_same_or_to_keep(keep: Keep) -> None:
    told = from_option(to_option(keep))
    assert told is not None
    if told.is_forever or keep != Keep(
        age=keep.age, last=keep.last, logs=keep.logs, data=keep.data
    ):
        assert told.is_forever
        return
    assert told.is_nothing == keep.is_nothing
    if not keep.is_nothing:
        assert told == Keep(age=keep.age, last=keep.last)


def test_the_projection_has_one_rule_per_outcome() -> None:
    live = [
        Said(Retention(failed="30d"), "queue", "toril retention set", 5),
        Said(Retention(completed=100, failed=7), "worker", "app.worker", 6),
    ]
    assert Retention.project(live) == {
        "completed": "2:100:-1:worker:6:last 100::-1:-1:-1:-1",
        "failed": "2:-1:2592000000:queue:5:30d::-1:-1:-1:-1",
    }


def test_the_projection_has_what_is_new_behind_what_there_was() -> None:
    keep = Keep("30d", last=5, first=2, key="data.a:b", logs="1d", tombstone="60d")
    (rule,) = Retention.project([Said(Retention(failed=keep), "queue", "test", 7)]).values()
    assert rule == (
        "2:5:2592000000:queue:7:first 2 and last 5 per data.a;b, 30d, logs 1d, tombstone 60d:"
        "data.a:b:2:86400000:-1:5184000000"
    )


def test_a_flow_kept_whole_is_not_said_for_a_queue() -> None:
    live = [Said(Retention(failed=Keep("1d", flow=True)), "worker", "app.worker on h", 7)]
    with pytest.raises(ValueError, match=r"app\.worker on h: .* said for a flow"):
        Retention.project(live)


def test_the_other_projections() -> None:
    live = [
        Said(Ceiling(failed=Keep("1h", last=9)), "queue", "test", 5),
        Said(Ceiling(completed="0s", failed=3), "application", "test", 6),
    ]
    assert Ceiling.project(live) == {
        "completed": "1:0:0:application:6:nothing",
        "failed": "1:9:3600000:queue:5:last 9, 1h",
    }
    windows = [Said(IdWindow("1h"), "queue", "t", 1), Said(IdWindow("2h"), "application", "t", 1)]
    assert IdWindow.project(windows) == {"ms": "3600000"}
    assert IdWindow.project([]) == {}
