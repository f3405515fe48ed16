"""How commands show what they found: data to stdout, talk to stderr, and the options for both.

Tables are for people and may change; the other formats are for programs and only grow.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

import click

from toril.cli.text import safe, safe_json
from toril.types import Json

P = ParamSpec("P")
R = TypeVar("R")

Format = Literal["table", "json", "ndjson", "ids"]
FORMATS: Final[tuple[Format, ...]] = ("table", "json", "ndjson", "ids")

SCHEMA: Final = 1
"""`v` of every JSON document; it changes only if something is taken away or renamed."""

Row = Mapping[str, Any]


def connection_options(command: Callable[P, R]) -> Callable[P, R]:
    """`--url` and `--prefix`, for commands that talk to a server."""
    command = click.option(
        "--prefix",
        envvar="TORIL_PREFIX",
        default="bull",
        show_default=True,
        help="What all keys begin with (TORIL_PREFIX).",
    )(command)
    return click.option(
        "--url", envvar="TORIL_URL", help="The server, for example redis://localhost (TORIL_URL)."
    )(command)


def output_option(command: Callable[P, R]) -> Callable[P, R]:
    """`-o`, for commands that show something; the command gets `output`, an `Output`."""

    def make(context: click.Context, parameter: click.Parameter, value: str) -> Output:
        del context, parameter
        return Output(cast("Format", value))

    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        callback=make,
        help="How to show it: for people, as one JSON document, as a JSON line each, or ids only.",
    )(command)


def talk(message: str) -> None:
    """Say something to the person at the terminal, on stderr."""
    click.echo(safe(message), err=True)


class Output:
    """Shows rows and records in the format that was asked for."""

    def __init__(self, format: Format = "table") -> None:
        self.format: Format = format

    def rows(
        self,
        noun: str,
        rows: Iterable[Row],
        columns: Sequence[str] | None = None,
        *,
        id: str = "id",
    ) -> None:
        """Show many things.

        Args:
            noun: what they are, in the plural: the key of the JSON document.
            rows: values by name. As JSON a row is shown whole.
            columns: the ones that the table has; None: all of the first row.
            id: the value that `-o ids` prints.
        """
        if self.format == "json":
            _print_json({"v": SCHEMA, noun: [dict(row) for row in rows]})
        elif self.format == "ndjson":
            for row in rows:
                _print_json(dict(row))
        elif self.format == "ids":
            for row in rows:
                click.echo(safe(str(row[id])))
        else:
            listed = list(rows)
            names = list(columns if columns is not None else listed[0] if listed else ())
            if listed:
                _table(names, [[_cell(row.get(name)) for name in names] for row in listed])
            else:
                talk(f"no {noun}")

    def record(self, noun: str, record: Row, *, id: str = "id") -> None:
        """Show one thing: a line per value, and per element of a list; or one JSON document."""
        if self.format == "json":
            _print_json({"v": SCHEMA, noun: dict(record)})
        elif self.format == "ndjson":
            _print_json(dict(record))
        elif self.format == "ids":
            click.echo(safe(str(record[id])))
        else:
            width = max(map(len, record), default=0)
            for name, value in record.items():
                for title, line in zip_longest((name,), _lines(value), fillvalue=""):
                    click.echo(f"{title:<{width}}  {line}".rstrip())


def _lines(value: object) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [_cell(each) for each in cast("Sequence[object]", value)]
    return [_cell(value)]


def _print_json(value: Json | dict[str, Any]) -> None:
    click.echo(safe_json(json.dumps(value, ensure_ascii=False, default=str)))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(each) for each in cast("Sequence[object]", value))
    if isinstance(value, Mapping):
        return safe(json.dumps(value, ensure_ascii=False, default=str))
    return safe(str(value))


def _table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    titles = [name.replace("_", " ") for name in names]
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        try:
            _rich_table(titles, cells)
            return
        except ImportError:
            pass  # the extra `cli` is not installed
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for line in (titles, *cells):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _rich_table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for line in cells:
        # Text, not markup: what a job holds is no instruction to the terminal.
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)
