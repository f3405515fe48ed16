"""Distributions of plugins, made for a test: real metadata, a real module, nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import textwrap
import zipfile
from pathlib import Path


class Site:
    """A folder like `site-packages`, into which distributions are put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        distribution: str,
        source: str,
        *,
        version: str = "1.0",
        plugins: dict[str, str] | None = None,
        commands: dict[str, str] | None = None,
    ) -> None:
        """Put a distribution there. `plugins` are its entry points: by default its module."""
        for name, content in files(distribution, source, version, plugins, commands).items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, "utf-8")


def module_of(distribution: str) -> str:
    """The name of the one module of a distribution."""
    return distribution.replace("-", "_")


def files(
    distribution: str,
    source: str,
    version: str = "1.0",
    plugins: dict[str, str] | None = None,
    commands: dict[str, str] | None = None,
) -> dict[str, str]:
    """The files of a distribution with one module, by their paths."""
    module = module_of(distribution)
    if plugins is None and commands is None:
        plugins = {distribution.removeprefix("acme-"): module}
    lines: list[str] = []
    for group, entries in (("toril.plugins", plugins), ("toril.commands", commands)):
        if entries:
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    info = f"{module}-{version}.dist-info"
    return {
        f"{module}.py": textwrap.dedent(source),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/entry_points.txt": "\n".join(lines) + "\n",
    }


def wheel(folder: Path, distribution: str, source: str, version: str = "1.0") -> Path:
    """Write a wheel that pip can install."""
    content = files(distribution, source, version)
    info = f"{module_of(distribution)}-{version}.dist-info"
    content[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [
        f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in content.items()
    ]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{module_of(distribution)}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
