"""The guides for programs that come from elsewhere: each shows one program twice."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.docs.page import WRITTEN

GUIDES = sorted((DOCS / "porting").glob("*.md"))


@pytest.fixture(scope="session")
def arq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with arq, whose redis is older than ours."""
    home = tmp_path_factory.mktemp("arq")
    venv.create(home, with_pip=True)
    program = home / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "arq>=0.26,<1"]
    subprocess.run([program, *install], check=True)
    return program


def test_arq(arq: Path, redis_url: str, tmp_path: Path) -> None:
    """The program that its page cannot run."""
    (before,) = (one for one in blocks(DOCS / "porting/arq.md") if "skip" in one.options)
    (tmp_path / "before.py").write_text(before.text.replace(WRITTEN, redis_url))
    ended = subprocess.run(
        [arq, "before.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "sent to ada@example.org (es)\n", ended.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_shows_a_program_twice_and_two_tables(guide: Path) -> None:
    shown = {block.options.get("title", "before").split(".")[0] for block in blocks(guide)}
    assert {"before", "after"} <= shown
    text = guide.read_text()
    assert "## Concepts\n" in text
    assert "## Options\n" in text
    assert text.count("sent to ada@example.org (es)\n") == 2 - (guide.stem == "arq")


def test_all_guides_are_there() -> None:
    names = [guide.stem for guide in GUIDES]
    assert names == ["arq", "bullmq-node", "bullmq-python", "celery", "rq"]
