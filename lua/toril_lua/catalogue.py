"""Composes the scripts: parts where they are included, plugins' chunks where they are called.

A script is a file of this package. Three directives, each alone on its line, are carried out here;
to Lua they are comments:

    --- @include "name"         the part `include/name.lua` stands here, once per script, its own
                                includes before it
    --- @local "name"           the same inside a function: the part is there only in that function,
                                so that it costs nothing in calls that do not come there, as do
                                functions that stand above but are named in such parts only
    --- @when point, point      the lines down to `--- @end` stay only if there is a chunk for one
    --- @end                    of these points

A script opens with a comment that says what it does and, in sections, its keys, arguments, reply,
events, and the points of the seam at which it calls chunks. An empty line ends a section.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from toril_lua.functions import LOCAL_BEGINS, LOCAL_ENDS, arranged

POINTS: Final = ("adding", "saved", "finished", "finished_batch", "removing", "removed", "restored")
"""Where chunks can be called."""
ALWAYS: Final = "return true"
"""The look of a chunk that has always something to do where a field of its `only_with` is set."""

_INCLUDE = re.compile(r'--- @(include|local) "([\w-]+)"')
_WHEN = re.compile(r"--- @when ([\w, ]+)")
_END = "--- @end"
_SECTION = re.compile(r"([A-Z][a-z]+):\s+(.*)")
_FIELD = re.compile(r"[\w.:-]+")
_PLUGIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")


class ScriptError(ValueError):
    """A script that cannot be composed: an unknown name, a cycle, a broken directive."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of Lua that a plugin runs inside core's scripts.

    `source` is the body of `function(ctx)`; `point` one of `POINTS`; `meta` the fields of the
    queue's meta that it reads. `only_with`, at the point `finished_batch`: fields of meta without
    which it has nothing to do but for jobs about which its plugin planned something, or could not.
    `look`, beside it: the body of `function(ctx)` that says whether there may be something to do
    where one of the fields is set, or something was planned, or has done it itself.
    """

    plugin: str
    point: str
    source: str
    meta: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()
    look: str = ALWAYS

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise ScriptError(
                f"plugin {self.plugin!r}: there is no point {self.point!r} in the scripts; "
                f"the points are {', '.join(POINTS)}"
            )
        _check_plugin_name(self.plugin)
        if self.only_with and self.point != "finished_batch":
            raise ScriptError(
                f"plugin {self.plugin!r}: only_with is for chunks at 'finished_batch', "
                f"not at {self.point!r}"
            )
        if self.look != ALWAYS and not self.only_with:
            raise ScriptError(f"plugin {self.plugin!r}: a look is taken where only_with is set")
        for field in (*self.meta, *self.only_with):
            if not _FIELD.fullmatch(field):
                raise ScriptError(f"plugin {self.plugin!r}: not a field of meta: {field!r}")

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of meta that it may read."""
        return (*self.only_with, *self.meta)

    @property
    def body(self) -> str:
        """Its text, which ends at once where it has nothing to do."""
        if not self.only_with:
            return self.source
        fields = "".join(f"\n  or ctx.meta('{field}')" for field in self.only_with)
        return f"if not (ctx.planned(){fields}) then return end\n{self.source}"


@dataclass(frozen=True, slots=True)
class Script:
    """A composed script: its name, its text, and the SHA-1 by which a server knows it."""

    name: str
    text: str
    sha1: str


@dataclass(frozen=True, slots=True)
class Header:
    """What the opening comment of a script says, by section; '' where it says nothing."""

    purpose: str
    keys: str
    arguments: str
    returns: str
    events: str
    seam: tuple[str, ...]


def names() -> tuple[str, ...]:
    """The names of all scripts, sorted. `plugin`, the frame of plugins' own scripts, is not one."""
    found = (entry.name for entry in files("toril_lua").iterdir())
    return tuple(
        sorted(n.removesuffix(".lua") for n in found if n.endswith(".lua") and n != "plugin.lua")
    )


@cache
def compose(name: str, chunks: tuple[Chunk, ...] = (), plugins: tuple[str, ...] = ()) -> Script:
    """The script `name` with the `chunks` of those points that it has.

    Chunks of one point run in the order given. `plugins` are those that the process runs, which
    chunks read as `ctx.plugins`; a script without chunks is the same for every process.

    Raises:
        ScriptError: for a name that is not known and for a broken directive.
    """
    if name not in names():
        raise ScriptError(f"there is no script {name!r}; there are {', '.join(names())}")
    called = [chunk for chunk in chunks if chunk.point in header(name).seam]
    table = _chunk_table(called, plugins) if called else ""
    return _script(name, table + _resolved(name, called))


@cache
def compose_plugin_script(
    source: str,
    chunks: tuple[Chunk, ...],
    plugin: str,
    name: str = "script",
    plugins: tuple[str, ...] = (),
) -> Script:
    """A plugin's own script: `source` is the body of `function(ctx, args)`.

    `chunks` are called for the jobs that it removes; `plugins` as in `compose`. The script's name
    is `plugin:<plugin>:<name>`.

    Raises:
        ScriptError: for a plugin name that cannot stand in a key.
    """
    _check_plugin_name(plugin)
    called = [chunk for chunk in chunks if chunk.point in header("plugin").seam]
    body = f"local PLUGIN, PLUGIN_SCRIPT = '{plugin}', function(ctx, args)\n{source}\nend\n"
    # Its own `ctx` looks at the table, whether or not there are chunks.
    text = body + _chunk_table(called, plugins) + _resolved("plugin", called)
    return _script(f"plugin:{plugin}:{name}", text)


@cache
def header(name: str) -> Header:
    """What the opening comment of the script `name` says.

    Raises:
        ScriptError: if there is no such script.
    """
    purpose: list[str] = []
    sections: dict[str, list[str]] = {}
    current = purpose
    for line in _read(f"{name}.lua").splitlines():
        if not line.startswith("--") or line.startswith("---"):
            break
        text = line.removeprefix("--").strip()
        if not text:
            current = purpose
        if section := _SECTION.fullmatch(text):
            current = sections.setdefault(section[1].lower(), [])
            text = section[2]
        current.append(text)
    said = {section: "\n".join(lines).strip() for section, lines in sections.items()}
    return Header(
        purpose="\n".join(purpose).strip(),
        keys=said.get("keys", ""),
        arguments=said.get("arguments", ""),
        returns=said.get("returns", ""),
        events=said.get("events", ""),
        seam=tuple(re.findall(r"\w+", said.get("seam", ""))),
    )


def resolve(text: str, points: Iterable[str] = ()) -> str:
    """`text` with its directives carried out, for chunks at `points`.

    Raises:
        ScriptError: for an unknown part, parts that include each other, a `@when` without `@end`.
    """
    marked = _Resolver(frozenset(points)).resolve(text, ()).splitlines(keepends=True)
    return "".join(line for line in marked if line.rstrip() not in (LOCAL_BEGINS, LOCAL_ENDS))


def _resolved(name: str, chunks: Sequence[Chunk]) -> str:
    points = frozenset(chunk.point for chunk in chunks)
    return arranged(_Resolver(points).resolve(_read(f"{name}.lua"), ()))


class _Resolver:
    def __init__(self, points: frozenset[str]) -> None:
        self._points = points
        self._included: set[str] = set()

    def resolve(self, text: str, path: tuple[str, ...]) -> str:
        lines: list[str] = []
        kept: bool | None = None  # None: outside of @when
        for line in text.splitlines():
            directive = line.strip()
            if when := _WHEN.fullmatch(directive):
                if kept is not None:
                    raise ScriptError(f"@when inside @when ({' > '.join(path)})")
                kept = self._wanted(when[1])
            elif directive == _END:
                if kept is None:
                    raise ScriptError(f"@end without @when ({' > '.join(path)})")
                kept = None
            elif kept is False:
                continue
            elif include := _INCLUDE.fullmatch(directive):
                lines.append(self._part(include[2], path, scoped=include[1] == "local"))
            elif directive.startswith("--- @"):
                raise ScriptError(f"not a directive: {directive} ({' > '.join(path)})")
            else:
                lines.append(line)
        if kept is not None:
            raise ScriptError(f"@when without @end ({' > '.join(path)})")
        return "\n".join(lines) + "\n"

    def _wanted(self, listed: str) -> bool:
        points = re.findall(r"\w+", listed)
        if unknown := set(points) - set(POINTS):
            raise ScriptError(f"@when names unknown points: {', '.join(sorted(unknown))}")
        return not self._points.isdisjoint(points)

    def _part(self, name: str, path: tuple[str, ...], *, scoped: bool) -> str:
        if name in path:
            raise ScriptError(f"parts include each other: {' > '.join((*path, name))}")
        if name in self._included:
            return ""
        above = set(self._included)
        text = self.resolve(_read(f"include/{name}.lua"), (*path, name))
        if scoped:
            self._included = above
            text = f"{LOCAL_BEGINS}\n{text}{LOCAL_ENDS}\n"
        else:
            self._included.add(name)
        return text


@cache
def _read(path: str) -> str:
    file = files("toril_lua").joinpath(path)
    if not file.is_file():
        raise ScriptError(f"there is no file {path!r} among the scripts")
    return file.read_text("utf-8")


def _check_plugin_name(plugin: str) -> None:
    if not _PLUGIN_NAME.fullmatch(plugin):
        raise ScriptError(
            f"a plugin with scripts needs a name of letters, digits, '_', '-' and '.', "
            f"not {plugin!r}"
        )


def _chunk_table(chunks: Sequence[Chunk], plugins: Sequence[str]) -> str:
    """Stands above all else, so that a chunk sees nothing of the script but its arguments."""
    lines = ["local function chunks_of_plugins()", "return {"]
    for point in POINTS:
        of_point = [chunk for chunk in chunks if chunk.point == point]
        if of_point:
            bodies = "\n".join(
                f"{{'{chunk.plugin}', function(ctx)\n{chunk.body}\nend}}," for chunk in of_point
            )
            lines.append(f"{point} = {{\n{bodies}\n}},")
    fields = _quoted(field for chunk in chunks for field in chunk.fields)
    lines += [f"}}, {fields}", "end"]
    if at_finish := [chunk for chunk in chunks if chunk.point in ("finished", "finished_batch")]:
        early = [field for chunk in at_finish for field in chunk.only_with or chunk.meta]
        either = " or ".join(f"meta['{field}']" for field in dict.fromkeys(early)) or "false"
        may_sleep = str(all(chunk.only_with for chunk in at_finish)).lower()
        lines += [f"local MAY_SLEEP = {may_sleep}"]
        lines += [f"local function early_fields() return {_quoted(early)[1:-1]} end"]
        lines += [f"local function may_wake(meta) return {either} end"]
        lines += ["local function looks_of_plugins()", "return {"]
        lines += [f"{{'{chunk.plugin}', function(ctx)\n{chunk.look}\nend}}," for chunk in at_finish]
        lines += ["}", "end"]
    lines += [f"local ACTIVE_PLUGINS = {_listed(plugins)}"]
    hear = dict.fromkeys(chunk.plugin for chunk in chunks if chunk.point == "removed")
    lines += [f"local HEAR_OF_REMOVALS = {_listed(hear)}", ""]
    return "\n".join(lines)


def _quoted(fields: Iterable[str]) -> str:
    """Fields as a table of Lua, each once."""
    return "{" + ", ".join(f"'{field}'" for field in dict.fromkeys(fields)) + "}"


def _listed(names: Iterable[str]) -> str:
    """Names as one text of Lua, each between commas."""
    return "'," + "".join(f"{name}," for name in names) + "'"


def _script(name: str, text: str) -> Script:
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, digest)
