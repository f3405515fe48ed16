"""How commands show what they found."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import click
import pytest
from click.testing import CliRunner

from toril.cli.output import FORMATS, Format, Output, connection_options, output_option, talk
from toril.cli.text import safe, safe_json

ROWS: list[Mapping[str, Any]] = [
    {"id": "a1", "name": "send", "data": {"to": "ada"}, "tags": ["x", "y"], "done": True},
    {"id": "b2", "name": "wide\x1b[31m\u202e", "data": None, "tags": [], "done": False},
]


def shown(format: Format, capsys: pytest.CaptureFixture[str]) -> str:
    Output(format).rows("jobs", ROWS, ("id", "name", "tags", "done"))
    return capsys.readouterr().out


def test_a_table_has_its_columns_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert shown("table", capsys) == (
        "id  name                tags  done\n"
        "a1  send                x, y  yes\n"
        "b2  wide\\x1b[31m\\u202e        no\n"
    )


def test_json_is_one_document_with_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("json", capsys)
    assert json.loads(text) == {"v": 1, "jobs": [dict(row) for row in ROWS]}
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_ndjson_is_a_line_each_and_ids_are_ids(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown("ndjson", capsys).splitlines()
    assert [json.loads(line) for line in lines] == [dict(row) for row in ROWS]
    assert shown("ids", capsys) == "a1\nb2\n"


def test_rows_are_shown_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Any:
        yield {"id": "a1"}
        assert capsys.readouterr().out == '{"id": "a1"}\n'
        yield {"id": "b2"}

    Output("ndjson").rows("jobs", rows())


def test_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    for each in FORMATS:
        Output(each).rows("jobs", [])
    out, err = capsys.readouterr()
    assert (out, err) == ('{"v": 1, "jobs": []}\n', "no jobs\n")


def test_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"id": "a1", "state": "failed", "reason": "a\nb"}
    outputs: dict[Format, str] = {
        "table": "id      a1\nstate   failed\nreason  a b\n",
        "json": '{"v": 1, "job": {"id": "a1", "state": "failed", "reason": "a\\nb"}}\n',
        "ndjson": '{"id": "a1", "state": "failed", "reason": "a\\nb"}\n',
        "ids": "a1\n",
    }
    for each, expected in outputs.items():
        Output(each).record("job", record)
        assert capsys.readouterr().out == expected


def test_talk_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    talk("hi\x07")
    assert capsys.readouterr() == ("", "hi\\x07\n")


@pytest.mark.parametrize("text", ["\x00", "\x1b]0;title\x07", "\x9b31m", "\u202e", "\u2066", "é漢"])
def test_text_is_made_safe_and_json_stays_json(text: str) -> None:
    assert safe(text).isprintable()
    encoded = json.dumps(text, ensure_ascii=False)
    assert safe_json(encoded).isprintable()
    assert json.loads(safe_json(encoded)) == text
    assert safe("é漢") == "é漢"


def test_options() -> None:
    @click.command()
    @connection_options
    @output_option
    def act(url: str | None, prefix: str, output: Output) -> None:
        click.echo(f"{url} {prefix} {output.format}")

    run = CliRunner().invoke
    assert run(act, []).output == "None bull table\n"
    environ = {"TORIL_URL": "redis://a", "TORIL_PREFIX": "p"}
    assert run(act, ["-o", "ids"], env=environ).output == "redis://a p ids\n"
    assert run(act, ["--url", "u", "--prefix", "q"], env=environ).output == "u q table\n"
    assert run(act, ["-o", "xml"]).exit_code == 2


def test_a_terminal_gets_a_table_with_lines_and_no_instructions_of_jobs() -> None:
    code = (
        "from toril.cli.output import Output;"
        "Output('table').rows('jobs', [{'id': 'a1', 'name': '[bold]x[/]\\x1b[2J'}])"
    )
    master, slave = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    assert "─" in text
    assert "[bold]x[/]\\x1b[2J" in text
    assert "\x1b[2J" not in text
