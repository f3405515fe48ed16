"""Arguments and results as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.tasks.kinds import MISFITS, VALUES, Point, with_json

from toril import ActiveJob
from toril.errors import InvalidJob
from toril.payload import Arguments, Misfit, carrier

if TYPE_CHECKING:
    from decimal import Decimal


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda each: str(each)[:40])
def test_every_type_comes_back(kind: Any, value: Any) -> None:
    carries = carrier(kind)
    written = json.loads(json.dumps(carries.encode(value)))
    found = carries.decode(written)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("kind", "value", "message"), MISFITS)
def test_what_is_not_of_its_type(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(Misfit) as caught:
        carrier(kind).decode(value)
    assert str(caught.value) == message


def test_models_need_no_pydantic_until_they_are_used() -> None:
    program = """
import sys, toril.payload
toril.payload.carrier(list[int])
sys.exit("pydantic" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def plain(first: int, second: str = "b", /, *, third: Point | None = None) -> None: ...


async def with_job(job: ActiveJob, number: int = 1) -> int:
    return number


class TestArguments:
    def test_are_stored_by_name_without_defaults(self) -> None:
        arguments = Arguments(plain, "plain")
        assert not arguments.takes_job
        assert arguments.encode((1,), {"third": Point(2)}) == {
            "first": 1,
            "third": {"x": 2, "y": 0},
        }
        bound = arguments.decode({"first": 1, "third": {"x": 2}})
        assert (bound.args, bound.kwargs) == ((1, "b"), {"third": Point(2)})

    def test_the_job_is_none_of_them(self) -> None:
        arguments = Arguments(with_job, "with_job")
        assert arguments.takes_job
        assert arguments.encode((2,), {}) == {"number": 2}
        assert arguments.decode(None).args == (1,)

    def test_any_json(self) -> None:
        arguments = Arguments(with_json, "with_json")
        payload = arguments.encode((1, {"a": None}, [[1], "b"]), {})
        assert arguments.decode(payload).args == (1, {"a": None}, [[1], "b"])

    @pytest.mark.parametrize(
        ("args", "kwargs", "error", "message"),
        [
            ((), {}, TypeError, "task 'plain': missing a required .*'first'"),
            ((1,), {"fourth": 4}, TypeError, "got an unexpected keyword argument 'fourth'"),
            (("1",), {}, InvalidJob, "argument 'first': expected `int`, got `str`; it is '1'"),
            (
                (object(),),
                {},
                InvalidJob,
                "argument 'first': a value of type object cannot be stored as JSON",
            ),
            ((1, 2), {}, InvalidJob, "argument 'second': expected `str`, got `int`"),
        ],
    )
    def test_a_wrong_call(
        self, args: Any, kwargs: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            Arguments(plain, "plain").encode(args, kwargs)

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            ({}, "task 'plain': argument 'first' is missing"),
            ([1], r"task 'plain': its arguments are a JSON object, not \[1\]"),
            ({"first": 1, "x": 2}, "unknown argument 'x'; its arguments are: first, second, third"),
            (
                {"first": 1, "third": {"x": "a"}},
                "argument 'third': expected `int`, got `str` at .x",
            ),
        ],
    )
    def test_a_wrong_payload(self, payload: Any, message: str) -> None:
        with pytest.raises(InvalidJob, match=message):
            Arguments(plain, "plain").decode(payload)


def unknown(value: Decimal) -> None: ...
def many(*values: int) -> None: ...
def named(**values: int) -> None: ...
def strange(value: Callable[[], int]) -> None: ...
def anything(value: Any) -> None: ...
def late(value: int, job: ActiveJob) -> None: ...
def complex_result() -> complex:
    return 1j


def untyped(value: int) -> None: ...


del untyped.__annotations__["value"]  # as if its author had left it out


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unknown, "'Decimal' is not defined; import it outside of TYPE_CHECKING"),
        (many, "parameter 'values': arguments are stored by name"),
        (named, "parameter 'values': arguments are stored by name"),
        (untyped, "task 't': parameter 'value' has no type"),
        (
            strange,
            "task 't': parameter 'value' cannot be carried as JSON: type .* is not supported",
        ),
        (anything, "the first parameter cannot be Any"),
        (late, "parameter 'job': the job is the first parameter, or none"),
        (complex_result, "task 't': its result cannot be carried as JSON"),
    ],
)
def test_functions_that_cannot_be_tasks(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Arguments(function, "t")


def test_a_result_that_is_not_json() -> None:
    def any_result() -> Any: ...

    with pytest.raises(InvalidJob, match="task 't': its result: a value of type object cannot be"):
        Arguments(any_result, "t").encode_result(object())
