"""The configuration of plugins: in code and in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from toril.duration import milliseconds
from toril.errors import ConfigurationError
from toril.hooks.configuration import Configuration


@dataclass(frozen=True)
class Pool:
    size: int = 4


@dataclass(frozen=True)
class Options:
    dsn: str = "sqlite:"
    period: str = "5s"
    pool: Pool = field(default_factory=Pool)

    def __post_init__(self) -> None:
        milliseconds(self.period)


def test_it_is_read_from_the_file_that_the_environment_names(tmp_path: Path) -> None:
    path = tmp_path / "toril.toml"
    path.write_text('required = ["archive"]\n[archive]\ndsn = "pg:"\n[archive.pool]\nsize = 9\n')
    read = Configuration.read(None, {"TORIL_CONFIG": str(path)})
    assert read.required == ("archive",)
    assert read.options("archive", Options) == Options("pg:", pool=Pool(9))
    assert read.options("other", Options) == Options()


def test_what_is_given_in_code_is_all_there_is(tmp_path: Path) -> None:
    environ = {"TORIL_CONFIG": str(tmp_path / "missing.toml")}
    read = Configuration.read({"archive": {"period": "1h"}}, environ)
    assert read.options("archive", Options).period == "1h"
    assert read.required == ()


def test_without_either_there_is_nothing() -> None:
    assert Configuration.read(None, {}) == Configuration()


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, "cannot read the file .*No such file"), ("a = ", "is not TOML")],
)
def test_a_file_that_cannot_be_read(content: str | None, error: str, tmp_path: Path) -> None:
    path = tmp_path / "toril.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=error):
        Configuration.read(None, {"TORIL_CONFIG": str(path)})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"archive": "pg:"}, "'archive' must be a table"),
        ({"required": "archive"}, "`required` is a list"),
        ({"required": 5}, "`required` is a list"),
        ({"required": [1]}, "`required` is a list"),
    ],
)
def test_a_wrong_shape(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        Configuration.read(given)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({"dns": "pg:"}, "no option 'dns'; did you mean 'dsn'"),
        ({"pool": {"siez": 1}}, "'pool': there is no option 'siez'; did you mean 'size'"),
        ({"dsn": 5}, r"Expected `str`, got `int` - at `\$.dsn`"),
        ({"period": "soon"}, "'soon' is not a duration"),
    ],
)
def test_wrong_options_name_plugin_and_option(table: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=f"plugin 'archive'.*{error}"):
        Configuration.read({"archive": table}).options("archive", Options)


def test_names_that_nobody_has() -> None:
    with pytest.raises(ConfigurationError, match="'archve' is installed; did you mean 'archive'"):
        Configuration.read({"archve": {}}).check_names(["archive"])
    with pytest.raises(ConfigurationError, match="no plugin named 'x'"):
        Configuration.read({"required": ["x"]}).check_names(["archive"])
