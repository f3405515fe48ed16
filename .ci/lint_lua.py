"""Lints the scripts as a server gets them: composed, with the chunks of the default plugins.

A part that several scripts share need not be used up by each of them, so something unused counts
only if it is unused wherever it stands.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import toril_lua
import toril_plugins
from toril.hooks.loader import load_plugins
from toril_lua import Chunk, compose, names
from toril_lua.catalogue import POINTS, compose_plugin_script

WARNING = re.compile(r"(?P<script>[^:]+):(?P<line>\d+):\d+: \((?P<code>\w\d+)\) (?P<message>.+)")
FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
UNUSED = ("W2", "W3")
SHADOWS = "43"
"""Ignored: a part that is included in a function stands below that function's variables."""
FOLDERS = [Path(package.__path__[0]) for package in (toril_lua, toril_plugins)]


class Found(NamedTuple):
    """A warning about a line, which may stand in several scripts."""

    code: str
    message: str
    text: str


def texts() -> Iterator[tuple[str, str]]:
    """Every script that the default plugins let a server have: its name and its text."""
    plugins = load_plugins(["persistence", "cleanup"])
    for name in names():
        yield name, compose(name).text
        if plugins.chunks and compose(name, plugins.chunks) != compose(name):
            yield f"{name}-with-chunks", compose(name, plugins.chunks).text
    for (plugin, name), source in plugins.scripts.items():
        script = compose_plugin_script(source, plugins.chunks, plugin, name)
        yield f"{plugin}-{name}", script.text


def lint(scripts: dict[str, str]) -> Iterator[Found]:
    """What luacheck says, once per script."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in scripts.items():
            Path(folder, f"{name}.lua").write_text(text, "utf-8")
        command = [
            shutil.which("luacheck") or "luacheck",
            "--config",
            Path(".luacheckrc").resolve(),
        ]
        options = ["--formatter", "plain", "--codes", "--ignore", SHADOWS, "--"]
        done = subprocess.run(
            [*command, *options, *sorted(f"{name}.lua" for name in scripts)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode > 2:  # 1: warnings, 2: errors
        sys.exit(done.stdout + done.stderr)
    for line in done.stdout.splitlines():
        found = WARNING.fullmatch(line)
        if found is None:
            sys.exit(f"not understood: {line}")
        text = scripts[found["script"].removesuffix(".lua")].splitlines()[int(found["line"]) - 1]
        message = re.sub(r" on line \d+", "", found["message"])
        yield Found(found["code"], message, text)


def counted(found: Iterable[Found], scripts: dict[str, str]) -> list[Found]:
    """Those that are to be mended."""
    often = Counter(found)
    standing = Counter(line for text in scripts.values() for line in text.splitlines())
    return sorted(
        one
        for one, times in often.items()
        if not one.code.startswith(UNUSED) or times >= standing[one.text]
    )


def unused_parts(scripts: dict[str, str]) -> Iterator[str]:
    """The functions that no script needs: the catalogue leaves them out of every one."""
    seams = tuple(Chunk("any", point, "") for point in POINTS)
    everything = [*scripts.values(), *(compose(name, seams).text for name in names())]
    named = set(FUNCTION.findall("\n".join(everything)))
    for path in sorted(Path(toril_lua.__path__[0]).rglob("*.lua")):
        for name in FUNCTION.findall(path.read_text("utf-8")):
            if name not in named:
                yield f"{path.name}: no script needs the function {name}"


def places(text: str) -> str:
    """The files and lines in which a line stands."""
    return ", ".join(
        f"{path.relative_to(folder.parent)}:{number}"
        for folder in FOLDERS
        for path in sorted(folder.rglob("*.lua"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if line == text
    )


if __name__ == "__main__":
    composed = dict(texts())
    wrong = [
        one
        for one in counted(lint(composed), composed)
        if places(one.text)  # else the catalogue has written it
    ]
    for one in wrong:
        print(f"{places(one.text)}: ({one.code}) {one.message}\n    {one.text.strip()}")
    unused = list(unused_parts(composed))
    print(*unused, f"{len(composed)} scripts, {len(wrong) + len(unused)} warnings", sep="\n")
    sys.exit(bool(wrong or unused))
