"""Running a page: its code, its files and its commands, in order and in one place."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import tomllib
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.docs.blocks import ROOT, Block
from tests.docs.console import Shell, difference, matches, steps
from tests.support.server import Server

WRITTEN = "redis://localhost"
"""How the documentation writes the address of the server; the tests put theirs in its place."""

TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Page:
    """One page under test, in a folder of its own.

    - `python`: runs, all blocks of the page in one namespace; `await` works at the top level.
    - a block with a `title`: is written to the folder, for the blocks after it.
    - `console`: each command runs in the folder, and prints what the block shows.
    - `toml`, `json`: can be read.
    - `conf`: a server starts with these directives.
    - `text`: is only looked at.
    """

    def __init__(self, name: str, folder: Path, url: str, extra: Mapping[str, str]) -> None:
        self.url = url
        self.folder = folder
        self.site = folder / ".site"
        self.site.mkdir()
        path = os.pathsep.join(
            filter(None, [str(Path(sys.executable).parent), extra.get("PATH"), os.environ["PATH"]])
        )
        self.shell = Shell(
            folder,
            {
                **extra,
                "PATH": path,
                "HOME": str(folder),
                "LANG": "C.UTF-8",
                "TORIL_URL": url,
                "NO_COLOR": "1",
                "COLUMNS": "120",
                "PYTHONPATH": os.pathsep.join([str(self.site), str(folder)]),
                "PYTHONUNBUFFERED": "1",
                # `pip install .` puts a plugin of the page beside the page, not among ours; what
                # it needs is here.
                "PIP_TARGET": str(self.site),
                "PIP_NO_DEPS": "1",
                "PIP_NO_INDEX": "1",
                "PIP_NO_BUILD_ISOLATION": "0",
                "PIP_QUIET": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            },
        )
        self.module = types.ModuleType(f"page_{name}")
        self.runner = asyncio.Runner()

    def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            AssertionError: It does not do what it shows.
            ValueError: Nobody knows how to run it.
        """
        if "skip" in block.options:
            assert block.options["skip"], f"{block}: a block that is not run says why"
            return
        text = block.text.replace(WRITTEN, self.url.removesuffix("/0"))
        if title := block.options.get("title"):
            target = self.folder / title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        check = getattr(self, f"_run_{block.language}", None)
        if check is None:
            raise ValueError(f"{block}: nobody runs blocks of {block.language!r}")
        check(block, text)

    def _run_python(self, block: Block, text: str) -> None:
        tree = ast.parse(text, filename=str(block.page))
        ast.increment_lineno(tree, block.line)
        code = compile(tree, str(block.page), "exec", flags=TOP_LEVEL_AWAIT, dont_inherit=True)
        if "title" in block.options:
            return
        if code.co_flags & inspect.CO_COROUTINE:
            function = types.FunctionType(code, self.module.__dict__)
            self.runner.run(function())
        else:
            exec(code, self.module.__dict__)

    def _run_console(self, block: Block, text: str) -> None:
        pending = ""
        for step in steps(text):
            assert not pending or step.command == "echo $?", f"{block}: {pending}"
            printed = self.shell.run(step)
            expected = step.before + step.after
            assert matches(expected, printed), (
                f"{block}: $ {step.command}\n{difference(expected, printed)}"
            )
            pending = (
                f"{step.command!r} ended with {self.shell.code} and printed:\n{printed}"
                if self.shell.code
                else ""
            )
        assert not pending, f"{block}: {pending}"

    def _run_toml(self, block: Block, text: str) -> None:
        tomllib.loads(text)

    def _run_json(self, block: Block, text: str) -> None:
        json.loads(text)

    def _run_conf(self, block: Block, text: str) -> None:
        lines = (line.split("#")[0].split(maxsplit=1) for line in text.splitlines())
        config = {line[0]: line[1].strip() for line in lines if line}
        server = Server.start(config)
        try:
            with server.client() as client:
                assert client.config_get(*config).keys() >= config.keys(), f"{block}: {config}"
        finally:
            server.stop()

    def _run_javascript(self, block: Block, text: str) -> None:
        assert "title" in block.options, f"{block}: is run by a command, so it needs a file"

    def _run_lua(self, block: Block, text: str) -> None:
        assert "title" in block.options, f"{block}: is run by a plugin, so it needs a file"

    def _run_text(self, block: Block, text: str) -> None:
        """It is a drawing."""


def unused_files(page_blocks: list[Block]) -> Iterator[str]:
    """Files that a page shows and nothing after them uses."""
    for block in page_blocks:
        title = block.options.get("title")
        if title is None or title == "pyproject.toml":
            continue
        others = "".join(other.text for other in page_blocks if other is not block)
        names = {title, Path(title).stem, Path(title).parts[0]}
        if not any(name in others for name in names):
            yield f"{block}: nothing uses {title}"


@contextmanager
def running(
    page: Path, folder: Path, url: str, extra: Mapping[str, str]
) -> Generator[Callable[[Block], None]]:
    """A function that runs the blocks of a page, in the page's folder."""
    name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
    before, path = Path.cwd(), list(sys.path)
    modules = set(sys.modules)
    here = Page(name, folder, url, extra)
    sys.modules[here.module.__name__] = here.module
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    previous = os.environ.get("TORIL_URL")
    os.environ["TORIL_URL"] = url
    try:
        yield here.run
    finally:
        here.runner.close()
        if previous is None:
            del os.environ["TORIL_URL"]
        else:
            os.environ["TORIL_URL"] = previous
        os.chdir(before)
        sys.path[:] = path
        for new in set(sys.modules) - modules:
            origin = getattr(sys.modules[new], "__file__", None)
            if origin is None or str(folder) in origin:
                del sys.modules[new]
