"""Where the functions of a composed script stand: each call of a script makes them anew.

So one that nothing names is left out, and one that only local parts name stands in those. Both look
at `local function` at the start of a line, whose `end` stands there, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

LOCAL_BEGINS: Final = "--- @local begins"
LOCAL_ENDS: Final = "--- @local ends"
"""What the catalogue leaves around a local part; such parts may stand in each other."""

_BLOCK = re.compile(r"(?:local function (\w+)|function|if|for|while|do)\b")
_WORD = re.compile(r"\w+")


class _Function(NamedTuple):
    name: str
    first: int
    last: int


def arranged(text: str) -> str:
    """`text` without functions of no use, and with those for local parts only in these."""
    return where_used(without_unused(text))


def without_unused(text: str) -> str:
    """`text` without the functions that nothing in it names.

    Parts hold what several scripts need; a function that is not used costs as much as one that is.
    """
    lines = text.splitlines()
    functions = _functions(lines)
    while True:
        named = Counter(word for line in lines for word in _words(line))
        unused = [each for each in functions if named[each.name] == 1]
        if not unused:
            return "\n".join(lines) + "\n"
        for each in unused:
            lines[each.first : each.last + 1] = [""] * (each.last + 1 - each.first)
            functions.remove(each)


def where_used(text: str) -> str:
    """`text` with the functions that only local parts name at the start of each of those.

    A local part is there for what few calls do: the others need not pay for its functions. The
    marks of the parts are taken away.
    """
    lines = text.splitlines()
    parts = list(_local_parts(lines))
    inside = {number for part in parts for number in range(part.first, part.last + 1)}
    movable = [each for each in _functions(lines) if each.first not in inside]
    while True:
        bodies = {n for each in movable for n in range(each.first, each.last + 1)}
        named = {
            word
            for number, line in enumerate(lines)
            if number not in inside and number not in bodies
            for word in _words(line)
        }
        left = [each for each in movable if each.name not in named]
        if left == movable:
            return _moved(lines, parts, movable)
        movable = left


def _moved(lines: Sequence[str], parts: Sequence[_Part], movable: Sequence[_Function]) -> str:
    bodies = {each: lines[each.first : each.last + 1] for each in movable}
    gone = {n for each in movable for n in range(each.first, each.last + 1)}
    needed: dict[int, list[_Function]] = {}
    for part in parts:  # an outer one comes before those that stand in it
        seen = {each for outer in part.outer for each in needed[outer]}
        wanted = _needed(part.own_lines(lines, parts), bodies)
        needed[part.first] = [each for each in wanted if each not in seen]
    result: list[str] = []
    for number, line in enumerate(lines):
        for each in needed.get(number, ()):
            result += bodies[each]
        if line not in (LOCAL_BEGINS, LOCAL_ENDS):
            result.append("" if number in gone else line)
    return "\n".join(result) + "\n"


def _needed(part: Iterable[str], bodies: Mapping[_Function, Sequence[str]]) -> list[_Function]:
    """What of `bodies` the lines name, or what these name, in their order."""
    words = {word for line in part for word in _words(line)}
    while True:
        found = [each for each in bodies if each.name in words]
        more = {word for each in found for line in bodies[each] for word in _words(line)}
        if more <= words:
            return found
        words |= more


class _Part(NamedTuple):
    """A local part: its first and last line, and the first lines of those that it stands in."""

    first: int
    last: int
    outer: tuple[int, ...]

    def own_lines(self, lines: Sequence[str], parts: Iterable[_Part]) -> Iterator[str]:
        """Its lines without those of parts in it."""
        inner = {n for each in parts if self.first in each.outer for n in range(*each[:2])}
        return (lines[n] for n in range(self.first, self.last) if n not in inner)


def _local_parts(lines: Sequence[str]) -> list[_Part]:
    """In the order in which they begin."""
    found: list[_Part] = []
    open_parts: list[int] = []
    for number, line in enumerate(lines):
        if line == LOCAL_BEGINS:
            open_parts.append(number)
        elif line == LOCAL_ENDS:
            first = open_parts.pop()
            found.append(_Part(first, number, tuple(open_parts)))
    return sorted(found)


def _words(line: str) -> list[str]:
    """Comments have none."""
    return [] if line.lstrip().startswith("--") else _WORD.findall(line)


def _functions(lines: Sequence[str]) -> list[_Function]:
    """The functions at the start of a line; also one inside another."""
    found: list[_Function] = []
    open_blocks: list[tuple[str, int]] = []
    for number, line in enumerate(lines):
        if opens := _BLOCK.match(line):
            open_blocks.append((opens[1] or "", number))
        if open_blocks and (line == "end" or (opens and line.endswith(" end"))):
            name, first = open_blocks.pop()
            if name:
                found.append(_Function(name, first, number))
    return found
