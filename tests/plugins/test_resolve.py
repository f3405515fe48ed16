"""Resolution of levels: pure, and the same whatever the order in which things were said."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from toril.plugins import LEVELS, JobSnapshot, Level, Outcome, Said
from toril_plugins import Keep, Retention
from toril_plugins.retention.resolve import own_values, resolve

outcomes: st.SearchStrategy[Outcome] = st.sampled_from(["completed", "failed"])


@st.composite
def said_things(draw: st.DrawFn) -> list[Said[Retention]]:
    levels: list[Level] = draw(st.lists(st.sampled_from(LEVELS), unique=True))
    values = st.none() | st.integers(0, 9).map(lambda n: Keep(last=n))
    things: list[Said[Retention]] = []
    for since, level in enumerate(levels):
        completed, failed = draw(values), draw(values)
        if completed or failed:
            value = Retention(completed=completed, failed=failed)
            things.append(Said(value, level, "test", since))
    return things


@given(said_things(), outcomes, st.randoms(use_true_random=False))
def test_the_most_specific_level_that_speaks_wins(
    said: list[Said[Retention]], outcome: Outcome, rng: random.Random
) -> None:
    rng.shuffle(said)
    resolution = resolve(said, outcome)
    by_level = {each.level: each for each in said if each.value.of(outcome) is not None}
    expected = next((by_level[level] for level in LEVELS if level in by_level), None)
    assert resolution.said is expected
    if expected is None:
        assert resolution.keep == Keep.forever()
        assert resolution.overrode == ()
    else:
        assert resolution.keep == expected.value.of(outcome)
        assert {each.level for each in resolution.overrode} == by_level.keys() - {expected.level}


def job(**fields: bytes) -> JobSnapshot:
    return JobSnapshot("q", "1", {name.encode(): value for name, value in fields.items()})


def test_what_toril_stored_is_exact_and_beats_the_copy_in_the_options() -> None:
    stored = job(
        opts=b'{"removeOnComplete":false,"removeOnFail":{"count":3}}',
        toril=b'{"said":{"retention":[{"v":{"completed":{"last":2,"key":"name"}},'
        b'"l":"flow","s":"add_flow","t":7}]}}',
    )
    (completed,) = own_values(stored, "completed")
    assert (completed.level, completed.value.completed) == ("flow", Keep(last=2, key="name"))
    (failed,) = own_values(stored, "failed")
    assert (failed.level, failed.source) == ("job", "option removeOnFail")
    assert failed.value.failed == Keep(last=3)


def test_a_job_without_a_value_of_its_own_says_nothing() -> None:
    assert own_values(job(opts=b'{"attempts":0}'), "completed") == ()
