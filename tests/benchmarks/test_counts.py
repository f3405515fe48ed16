"""The check of what a job costs: it catches growth, tells shrinkage, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.count_subjects import SUBJECTS, Bench, Subject, add
from tests.benchmarks.counting import LuaMemory, Numbers, Work
from tests.benchmarks.counts import REFERENCE, Change, Reference, changes, count, main
from toril_lua import compose

ONE = SUBJECTS[0].name


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A reference for one subject, as it is now."""
    path = tmp_path / "counts.json"
    assert main(["--only", ONE, "--accept", "--reference", str(path)]) == 0
    return path


def altered(path: Path, name: str, times: float, python: str | None = None) -> list[str]:
    """Multiply a number of the reference; the arguments that compare with it."""
    known = Reference.read(path)
    subjects = {
        subject: {**numbers, name: numbers[name] * times}
        for subject, numbers in known.subjects.items()
    }
    Reference(python or known.python, subjects).write(path)
    return ["--only", ONE, "--reference", str(path)]


def test_what_is_as_it_was_passes(reference: Path) -> None:
    again = ["--only", ONE, "--reference", str(reference)]
    assert [main(again), main(again)] == [0, 0]


@pytest.mark.parametrize("name", ["commands", "lua bytes", "opcodes"])
def test_growth_fails_and_says_which_number_of_what(
    reference: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(altered(reference, name, 0.9)) == 1
    told = capsys.readouterr().err
    assert f"{ONE}: {name} a job grew from " in told
    assert "(+11%)" in told
    assert "python -m tests.benchmarks.counts --accept" in told


def test_shrinkage_is_told(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(altered(reference, "commands", 1.5)) == 0
    assert f"{ONE}: commands a job shrank from " in capsys.readouterr().err


def test_numbers_of_another_python_are_not_compared(reference: Path) -> None:
    assert main(altered(reference, "opcodes", 0.5, python="3.9")) == 0
    assert main(altered(reference, "commands", 0.5)) == 1


def test_one_command_more_is_found_and_named(redis_url: str) -> None:
    async def dearer(bench: Bench, number: int) -> None:
        with bench.counting():
            for _ in range(number):
                await bench.queue.add("send")
                bench.client.echo("more")

    async def plain(bench: Bench, number: int) -> None:
        with bench.counting():
            for _ in range(number):
                await bench.queue.add("send")

    was = count(redis_url, Work(), Subject("s", (5, 15), plain))
    now = count(redis_url, Work(), Subject("s", (5, 15), dearer))
    (found,) = (each for each in changes("s", was, now, python=False) if each.name == "commands")
    assert found == Change("s", "commands", was["commands"], was["commands"] + 1, " [echo 0 to 1]")
    assert found.grown


def test_work_in_a_thread_counts(redis_url: str) -> None:
    numbers = count(redis_url, Work(), Subject("s", (5, 15), add))
    assert numbers["scripts"] == 1
    assert numbers["opcodes"] > numbers["calls"] > 0


def test_what_a_script_allocates_is_the_same_in_every_run(redis_url: str) -> None:
    one = Subject("s", (5, 15), add)
    with LuaMemory() as memory:
        (first, again) = (count(redis_url, memory, one)["lua bytes"] for _ in range(2))
    assert first == pytest.approx(again, abs=8)
    assert first > 1000
    assert "collectgarbage" not in compose("add").text


def test_accepting_some_leaves_the_others(reference: Path) -> None:
    known = Reference.read(reference)
    other: Numbers = {"scripts": 7.0, "command get": 2.0}
    Reference(known.python, {**known.subjects, SUBJECTS[2].name: other}).write(reference)
    assert main(["--only", ONE, "--accept", "--reference", str(reference)]) == 0
    assert Reference.read(reference).subjects[SUBJECTS[2].name] == other


def test_the_reference_knows_every_subject() -> None:
    assert list(Reference.read(REFERENCE).subjects) == [subject.name for subject in SUBJECTS]
