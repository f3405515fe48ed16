"""The reader of console blocks: what it accepts and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.blocks import blocks
from tests.docs.console import Shell, matches, steps


def shell(folder: Path) -> Shell:
    return Shell(folder, {"PATH": os.environ["PATH"]})


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("", ""),
        ("one\n", "one\n"),
        ("one ... three\n", "one two three\n"),
        ("...\nlast\n", "first\nsecond\nlast\n"),
        ("first\n...\n", "first\n"),
        ("a.b (c)\n", "a.b (c)\n"),
        ("at   2026-01-01 10:00:00\n", "at 2027-12-31 23:59:59\n"),
        ("in 1h (2026-01-01 10:00 UTC)\n", "in 59m 58s (2026-01-02 11:00 UTC)\n"),
    ],
)
def test_output_matches(expected: str, actual: str) -> None:
    assert matches(expected, actual)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("", "noise\n"),
        ("one\n", "one\ntwo\n"),
        ("a.b\n", "axb\n"),
        ("a ... b\n", "a\nb\n"),
        ("in 1h\n", "never\n"),
    ],
)
def test_output_does_not_match(expected: str, actual: str) -> None:
    assert not matches(expected, actual)


def test_steps_of_a_block() -> None:
    first, second = steps("$ toril one \\\n  two\nout\n$ toril worker app:app\nready\n^C\nbye\n")
    assert (first.command, first.before) == ("toril one \\\n  two", "out\n")
    assert (second.before, second.interrupted, second.after) == ("ready\n", True, "bye\n")


def test_a_block_begins_with_a_command() -> None:
    with pytest.raises(ValueError, match="begins with a command"):
        list(steps("out\n"))


def test_exit_code_and_exports_hold_for_the_next_step(tmp_path: Path) -> None:
    runner = shell(tmp_path)
    printed = [
        runner.run(step)
        for step in steps("$ (exit 3)\n$ echo $?\n$ export WORD=hello\n$ echo $WORD >&2\n")
    ]
    assert printed == ["", "3\n", "", "hello\n"]


def test_interrupt_comes_after_what_is_waited_for(tmp_path: Path) -> None:
    (step,) = steps("$ trap 'echo bye; exit' INT; sleep 30 & echo ready; wait\nready\n^C\nbye\n")
    runner = shell(tmp_path)
    assert runner.run(step) == "ready\nbye\n"
    assert runner.code == 0


def test_command_that_ends_before_the_interrupt(tmp_path: Path) -> None:
    (step,) = steps("$ echo early\nready\n^C\n")
    with pytest.raises(AssertionError, match="ended early"):
        shell(tmp_path).run(step)


def test_blocks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '# T\n\n```python title="a.py"\nx = 1\n```\n\n!!! note\n\n    ```toml\n    b = 2\n    ```\n'
    )
    first, second = blocks(page)
    assert (first.language, first.options, first.text) == ("python", {"title": "a.py"}, "x = 1\n")
    assert (second.language, second.line, second.text) == ("toml", 9, "b = 2\n")


@pytest.mark.parametrize(
    ("text", "problem"), [("```\nx\n```\n", "language"), ("```text\nx\n", "not closed")]
)
def test_malformed_pages(tmp_path: Path, text: str, problem: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=problem):
        list(blocks(page))
