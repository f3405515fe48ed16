"""What is configured for the plugins: `App(config=…)`, or one TOML file named by `TORIL_CONFIG`.

Both have one shape: a table per plugin, and `required`, the plugins without which nothing starts.

    required = ["archive"]

    [archive]
    dsn = "postgresql://…"

Nothing else is read: no `pyproject.toml` and no file of the working directory.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from toril.errors import ConfigurationError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name nearest to `name`, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """What was configured. `source` says where, for error messages."""

    tables: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict[str, "Mapping[str, Any]"]
    )
    required: tuple[str, ...] = ()
    source: str = "App(config=…)"
    _asked: set[str] = dataclasses.field(default_factory=set[str], compare=False, repr=False)

    @classmethod
    def read(
        cls, given: Mapping[str, Any] | None, environ: Mapping[str, str] | None = None
    ) -> Configuration:
        """The configuration `given` in code, else the file that `TORIL_CONFIG` names, else none.

        Raises:
            ConfigurationError: the file cannot be read, or its shape is not the one above.
        """
        if given is not None:
            return cls._parse(given, "App(config=…)")
        path = (os.environ if environ is None else environ).get("TORIL_CONFIG")
        if not path:
            return cls()
        # Here, not above: few need it, and all would wait for its import.
        import tomllib

        source = f"the file {path} (TORIL_CONFIG)"
        try:
            with Path(path).open("rb") as file:
                content = tomllib.load(file)
        except OSError as error:
            raise ConfigurationError(f"cannot read {source}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{source} is not TOML: {error}") from error
        return cls._parse(content, source)

    @classmethod
    def _parse(cls, content: Mapping[str, Any], source: str) -> Configuration:
        rest = dict(content)
        required = rest.pop("required", [])
        if not isinstance(required, (list, tuple)) or not all(
            isinstance(name, str) for name in cast("Sequence[object]", required)
        ):
            raise ConfigurationError(f"{source}: `required` is a list of names of plugins")
        for name, table in rest.items():
            if not isinstance(table, Mapping):
                raise ConfigurationError(
                    f"{source}: {name!r} must be a table of options of the plugin {name!r}"
                )
        return cls(rest, tuple(cast("Sequence[str]", required)), source)

    def check_names(self, known: Iterable[str]) -> None:
        """Raise `ConfigurationError` if a table or `required` names a plugin that is not known."""
        known = sorted(known)
        for name in (*self.required, *self.tables):
            if name not in known:
                raise ConfigurationError(
                    f"{self.source}: no plugin named {name!r} is installed"
                    f"{did_you_mean(name, known)}"
                )

    def unread(self, plugins: Iterable[str]) -> tuple[str, ...]:
        """Those of `plugins` for which there is a table that nobody has asked for."""
        return tuple(sorted({*plugins} & self.tables.keys() - self._asked))

    def options(self, plugin: str, kind: type[T]) -> T:
        """The table of a plugin as an instance of the dataclass `kind`; no table, all defaults.

        Raises:
            ConfigurationError: an option that `kind` has not, or a value of another type.
        """
        self._asked.add(plugin)
        table = self.tables.get(plugin, {})
        where = f"{self.source}: options of plugin {plugin!r}"
        _refuse_unknown(table, kind, where)
        try:
            return msgspec.convert(dict(table), kind)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{where}: {error}") from error


def _refuse_unknown(table: Mapping[str, Any], kind: type[Any], where: str) -> None:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for option, value in table.items():
        if option not in names:
            raise ConfigurationError(
                f"{where}: there is no option {option!r}{did_you_mean(option, names)}"
            )
        inner = hints[option]
        if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
            nested = cast("Mapping[str, Any]", value)
            _refuse_unknown(nested, cast("type[Any]", inner), f"{where}, {option!r}")
