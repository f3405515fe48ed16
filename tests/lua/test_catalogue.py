"""The catalogue: parts stand once, chunks only where they are called, every script compiles."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import redis

from toril_lua import (
    POINTS,
    Chunk,
    ScriptError,
    catalogue,
    compose,
    compose_plugin_script,
    header,
    names,
)
from toril_lua.functions import LOCAL_BEGINS, LOCAL_ENDS, where_used, without_unused

SCRIPTS = (*names(), "plugin")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts parts of the test's own in the place of the package's."""

    def put(**texts: str) -> None:
        files = {f"include/{name}.lua": text for name, text in texts.items()}

        def read(path: str) -> str:
            if path not in files:
                raise ScriptError(f"there is no file {path!r} among the scripts")
            return files[path]

        monkeypatch.setattr(catalogue, "_read", read)

    return put


def test_a_part_stands_once_and_after_what_it_includes(parts: Callable[..., None]) -> None:
    parts(
        a='--- @include "base"\nlocal a = base', b='--- @include "base"\nlocal b', base="local base"
    )
    text = catalogue.resolve('--- @include "a"\n--- @include "b"\nreturn a')
    lines = [line for line in text.splitlines() if line]
    assert lines == ["local base", "local a = base", "local b", "return a"]


def test_a_local_part_does_not_count_as_included_elsewhere(parts: Callable[..., None]) -> None:
    parts(base="local base", deep='--- @include "base"\nlocal deep')
    text = catalogue.resolve(
        'local function f()\n--- @local "deep"\nend\n--- @include "base"\n--- @include "deep"'
    )
    lines = [line for line in text.splitlines() if line]
    assert lines == [
        *("local function f()", "local base", "local deep", "end"),
        *("local base", "local deep"),
    ]


def test_a_local_part_uses_what_stands_above(parts: Callable[..., None]) -> None:
    parts(base="local base", deep='--- @include "base"\nlocal deep')
    text = catalogue.resolve('--- @include "base"\nlocal function f()\n--- @local "deep"\nend')
    assert text.count("local base") == 1


def test_parts_that_include_each_other_are_refused(parts: Callable[..., None]) -> None:
    parts(a='--- @include "b"', b='--- @include "a"')
    with pytest.raises(ScriptError, match="a > b > a"):
        catalogue.resolve('--- @include "a"')


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ScriptError, match="nothing-like-it"):
        catalogue.resolve('--- @include "nothing-like-it"')


@pytest.mark.parametrize(
    "text",
    [
        "--- @when finished\nx",
        "--- @end",
        "--- @when finished\n--- @when removed\n--- @end",
        "--- @when nowhere\n--- @end",
        "--- @inclode numbers",
    ],
)
def test_a_broken_directive_is_refused(text: str) -> None:
    with pytest.raises(ScriptError):
        catalogue.resolve(text)


def test_lines_for_chunks_stay_only_with_a_chunk() -> None:
    text = "one\n--- @when finished, removed\ntwo\n--- @end\nthree"
    assert catalogue.resolve(text) == "one\nthree\n"
    assert catalogue.resolve(text, ["saved"]) == "one\nthree\n"
    assert catalogue.resolve(text, ["removed"]) == "one\ntwo\nthree\n"


def test_functions_that_nothing_names_are_left_out() -> None:
    text = """\
local function of_no_use(id)
  for _ = 1, 2 do id = id + 1 end
  return only_there(id)
end
local function one_line() return 1 end
-- of_no_use is named here, which does not count
local function outer()
local function inner()
  return {outer = 1}
end
local function needed() return 2 end
  return needed()
end
for _ = 1, 2 do
  outer()
end
"""
    left = re.findall(r"function (\w+)", without_unused(text))
    assert left == ["outer", "needed"]
    assert "only_there" not in without_unused(text)
    assert without_unused(text).count("end") == 3


def test_what_only_an_unused_function_names_goes_with_it() -> None:
    text = "local function one()\n  return 1\nend\nlocal function two()\n  one()\nend\nreturn 0\n"
    assert without_unused(text).split() == ["return", "0"]


def test_what_only_local_parts_name_stands_in_those() -> None:
    begins, ends = LOCAL_BEGINS, LOCAL_ENDS
    text = f"""\
local function deep() return 1 end
local function rare()
  return deep()
end
local function common() return 2 end
local function both() return common() end
local function one()
{begins}
local function two()
{begins}
  return rare() + both()
{ends}
end
{ends}
  return common(), two()
end
if both() then
{begins}
  -- deep
  rare()
{ends}
end
one()
"""
    found = where_used(text)
    assert not {begins, ends} & set(found.splitlines())
    lines = [line.strip() for line in found.splitlines() if line]
    rare = ["local function deep() return 1 end", "local function rare()", "return deep()", "end"]
    assert lines[:4] == [
        "local function common() return 2 end",
        "local function both() return common() end",
        "local function one()",
        "local function two()",  # the inner part only names it
    ]
    assert lines[4:8] == rare
    assert lines[lines.index("if both() then") + 1 :][:4] == rare
    assert found.count("function rare") == 2


def test_an_unknown_script_is_refused() -> None:
    with pytest.raises(ScriptError, match="tock"):
        compose("tock")


def test_an_unknown_point_is_refused() -> None:
    with pytest.raises(ScriptError, match="somewhere"):
        Chunk("p", "somewhere", "return")


def test_what_only_a_batch_can_say_is_refused_elsewhere() -> None:
    with pytest.raises(ScriptError, match="only_with is for chunks at 'finished_batch'"):
        Chunk("p", "finished", "return", only_with=("toril.x",))
    with pytest.raises(ScriptError, match="a look is taken where only_with is set"):
        Chunk("p", "finished_batch", "return", look="return false")


@pytest.mark.parametrize("plugin", ["", "a'b", "a b", "a:b"])
def test_a_plugin_name_that_cannot_stand_in_a_key_is_refused(plugin: str) -> None:
    with pytest.raises(ScriptError):
        Chunk(plugin, "saved", "return")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_calls_no_chunk_is_the_same_with_and_without(name: str) -> None:
    chunks = tuple(Chunk("p", point, "return") for point in POINTS)
    plain, own = (
        (compose(name), compose(name, chunks))
        if name != "plugin"
        else (compose_plugin_script("", (), "p"), compose_plugin_script("", chunks, "p"))
    )
    assert (plain == own) == (not header(name).seam)
    assert ("function(ctx)\n" in own.text) == bool(header(name).seam)
    assert "function(ctx)\n" not in plain.text


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_says_everything(name: str) -> None:
    about = header(name)
    assert about.purpose
    assert about.keys
    assert about.arguments
    assert about.returns
    assert about.events
    assert set(about.seam) <= set(POINTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_uses_the_keys_and_arguments_of_its_header(name: str) -> None:
    text = compose(name).text if name != "plugin" else compose_plugin_script("", (), "p").text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    for used, told in (("KEYS", header(name).keys), ("ARGV", header(name).arguments)):
        numbers = set(re.findall(rf"{used}\[(\d+)\]", body))
        assert numbers <= set(re.findall(r"\[(\d+)(?:\.\.\.)?\]", told)), used


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_compiles_with_the_chunks_of_any_points(name: str, raw: redis.Redis) -> None:
    for count in range(len(POINTS) + 1):
        for points in itertools.combinations(POINTS, count):
            chunks = tuple(
                Chunk(plugin, point, "local x = ctx.id -- a comment", ("toril.x",))
                for point in points
                for plugin in ("one", "two")
            )
            script = (
                compose(name, chunks)
                if name != "plugin"
                else compose_plugin_script("return args", chunks, "p")
            )
            assert raw.script_load(script.text) == script.sha1
            assert not script.text.startswith("#!")
