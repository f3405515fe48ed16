"""Virtual environments of the peers, one each: they ask for versions that exclude one another."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from tests.support.driver import ROOT

SHARED = ROOT / ".peers"
CONSTRAINTS = Path(__file__).parent / "constraints"
INSTALL_DEADLINE = 600.0  # seconds


class InstallError(RuntimeError):
    """A peer cannot be installed; the text ends with what pip printed."""


def python(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment with `requirements`, which is made if it is not there.

    Versions are those of `constraints/<name>.txt`. The folder is named by what it was made from,
    and is complete or absent.

    Raises:
        InstallError: pip failed.
    """
    constraints = CONSTRAINTS / f"{name}.txt"
    made_from = repr((sys.version, requirements, constraints.read_text()))
    home = SHARED / f"{name}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    interpreter = home / "bin" / "python"
    if not interpreter.exists():
        SHARED.mkdir(exist_ok=True)
        with (SHARED / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not interpreter.exists():
                print(f"installing {name}", file=sys.stderr)
                _install(home, requirements, constraints)
    return interpreter


def _install(home: Path, requirements: Sequence[str], constraints: Path) -> None:
    unfinished = home.with_name(home.name + ".unfinished")
    venv.create(unfinished, clear=True, symlinks=True, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", str(unfinished / "bin" / "python")]
    command += ["install", "--quiet", "--no-warn-script-location"]
    done = subprocess.run(
        [*command, "--constraint", str(constraints), *requirements],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_DEADLINE,
        check=False,
    )
    if done.returncode:
        raise InstallError(f"{', '.join(requirements)}: pip failed\n{done.stdout[-3000:]}")
    shutil.rmtree(home, ignore_errors=True)
    unfinished.rename(home)


def version_in(interpreter: Path, package: str) -> str:
    """The version of a package in an environment."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    command = [str(interpreter), "-c", code, package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
