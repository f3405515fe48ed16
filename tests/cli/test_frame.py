"""The frame of the command line: lazy commands, exit codes, errors for people."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tests.support.distributions import Site

import toril.errors
from toril import __version__
from toril.cli import main
from toril.cli.exits import CommandError, Exit, exit_code, not_found, refused
from toril.errors import (
    ConfigurationError,
    GiveWay,
    IndeterminateError,
    InvalidJob,
    InvalidResult,
    JobCancelled,
    JobError,
    JobFailed,
    JobLocked,
    JobNotFound,
    JobTimedOut,
    PluginError,
    Reject,
    ServerFull,
    ServerUnavailable,
    TorilError,
)


def toril_(*arguments: str, **environ: str | None) -> Result:
    return CliRunner().invoke(main, arguments, env=environ)


def command(site: Site, body: str, name: str = "act") -> None:
    """Install a plugin's command that does `body`."""
    source = f"""
        import click
        from toril import errors

        @click.command()
        def act():
            "Act."
            {body}
    """
    site.add(f"acme-{name}", source, commands={name: f"acme_{name}:act"})


def test_version_and_help(site: Site) -> None:
    assert toril_("--version").output == f"toril, version {__version__}\n"
    shown = toril_("--help")
    assert shown.exit_code == 0
    assert "Exit codes: 0 done, 1 unexpected error" in shown.output
    for name in ("jobs", "plugins", "queues", "worker"):
        assert f"\n  {name} " in shown.output


def test_help_imports_no_command(site: Site) -> None:
    site.add("acme-bomb", "raise AssertionError('imported')", commands={"bomb": "acme_bomb:x"})
    shown = toril_("--help")
    assert shown.exit_code == 0
    assert re.search(r"^  bomb +\(from acme-bomb\)$", shown.output, re.MULTILINE)
    assert "acme_bomb" not in sys.modules


def test_help_tells_what_a_command_says_of_itself(site: Site) -> None:
    command(site, "raise AssertionError('called')")
    shown = " ".join(toril_("--help").output.split())
    assert " act Act. (from acme-act) " in shown


def test_a_message_of_several_lines_stays_so(site: Site) -> None:
    command(site, "raise errors.ConfigurationError('no server:\\n  say one\\x1b')")
    assert toril_("act").stderr == "toril: no server:\n         say one\\x1b\n"


def test_a_plugins_command_runs(site: Site) -> None:
    command(site, "click.echo('acted')")
    assert toril_("act").output == "acted\n"


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("import nothing_there", "acme_bad:x", "ModuleNotFoundError"),
        ("", "acme_bad:missing", "AttributeError"),
        ("x = 5", "acme_bad:x", "is no click command: 5"),
        ("raise SystemExit(0)", "acme_bad:x", "SystemExit"),
    ],
)
def test_a_command_that_cannot_be_loaded(source: str, target: str, error: str, site: Site) -> None:
    site.add("acme-bad", source, commands={"bad": target})
    done = toril_("bad")
    assert done.exit_code == Exit.USAGE
    assert "the command bad of acme-bad" in done.stderr
    assert error in done.stderr
    assert "Traceback" not in done.stderr
    assert toril_("--help").exit_code == 0


def test_a_built_in_command_keeps_its_name_and_ours_goes_before_a_strangers(site: Site) -> None:
    command(site, "click.echo('stranger')", "plugins")
    assert "stranger" not in toril_("plugins", "--help").output
    command(site, "click.echo('zeta')", "zeta")
    command(site, "click.echo('alpha')", "alpha")
    for name in ("zeta", "alpha"):
        path = next(site.folder.glob(f"acme_{name}-*")) / "entry_points.txt"
        path.write_text(f"[toril.commands]\nshared = acme_{name}:act\n")
    from toril.hooks import discovery

    discovery._scan()
    assert toril_("shared").output == "alpha\n"


def test_an_unknown_command_names_the_nearest(site: Site) -> None:
    done = toril_("plugin")
    assert done.exit_code == Exit.USAGE
    assert "there is no command 'plugin'; did you mean 'plugins'?" in done.stderr
    assert toril_("--nonsense").exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 2),
        (InvalidJob("x"), 2),
        (ServerUnavailable("x"), 3),
        (ServerFull("x"), 3),
        (IndeterminateError("x"), 3),
        (JobNotFound("x", queue="q", job_id="1"), 4),
        (Reject("x"), 5),
        (GiveWay(20, "x"), 5),
        (JobLocked("x", queue="q", job_id="1"), 5),
        (PluginError("x", plugin="p", hook="h"), 1),
        (JobFailed("x", queue="q", job_id="1"), 1),
        (TorilError("x"), 1),
    ],
)
def test_every_error_has_its_exit_code(error: TorilError, code: int) -> None:
    assert exit_code(error) == code


def test_no_error_about_one_job_is_unexpected_by_oversight() -> None:
    kinds = {
        kind
        for kind in vars(toril.errors).values()
        if isinstance(kind, type) and issubclass(kind, JobError) and kind is not JobError
    }
    # That a job failed, or left a strange result, is news of the job, and no fault of the command.
    faults = kinds - {JobFailed, JobCancelled, JobTimedOut, InvalidResult}
    codes = {kind: exit_code(kind("x", queue="q", job_id="1")) for kind in faults}
    assert Exit.UNEXPECTED not in codes.values()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise errors.ConfigurationError('no url')", 2, "toril: no url\n"),
        ("raise errors.ServerUnavailable('down')", 3, "toril: down\n"),
        ("raise errors.Reject('never\\x1b[2J')", 5, "toril: never\\x1b[2J\n"),
        ("raise click.BadParameter('bad')", 2, "Error: Invalid value: bad\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise click.Abort", 130, "interrupted\n"),
        ("raise RuntimeError('boom')", 1, "toril: unexpected RuntimeError: boom (TORIL_DEBUG=1"),
        ("click.get_current_context().exit(6)", 6, ""),
        ("return 7", 7, ""),
        ("return 'done'", 0, ""),
    ],
)
def test_how_a_command_ends(body: str, code: int, said: str, site: Site) -> None:
    command(site, body)
    done = toril_("act")
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_notes_of_an_error_are_shown_and_a_traceback_on_request(site: Site) -> None:
    command(site, "e = errors.Reject('no'); e.add_note('refused by plugin x'); raise e")
    done = toril_("act")
    assert done.stderr == "toril: no\ntoril: refused by plugin x\n"
    assert "Traceback" in toril_("act", TORIL_DEBUG="1").stderr


def test_commands_end_by_raising(site: Site) -> None:
    with pytest.raises(CommandError, match="gone") as error:
        not_found("gone")
    assert error.value.code == Exit.NOT_FOUND
    with pytest.raises(CommandError, match="say --yes") as error:
        refused("say --yes")
    assert error.value.code == Exit.REFUSED

    @click.command()
    def act() -> None:
        refused("say --yes")

    main.add_command(act)
    try:
        with pytest.raises(CommandError):
            act.main([], standalone_mode=False)
    finally:
        main.commands.pop("act")


ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith("TORIL_")}


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    made = Site(tmp_path)
    body = "[click.echo('x' * 1000) for _ in range(1000)]"
    command(made, body)
    path = os.pathsep.join((str(tmp_path), ENVIRON.get("PYTHONPATH", "")))
    writer = subprocess.Popen(
        [sys.executable, "-P", "-m", "toril", "act"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRON, "PYTHONPATH": path},
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == 0
