"""The command line: `toril`.

Built-in commands and those of plugins (entry points of the group `toril.commands`) are imported
when they are called; `toril --help` imports none of them.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

import toril as package
from toril.cli.exits import CommandError, Exit, exit_code
from toril.cli.text import safe
from toril.errors import TorilError
from toril.hooks import discovery

_OURS: Final = "toril"


class _BuiltIn(NamedTuple):
    target: str
    help: str


_BUILT_IN: Final[Mapping[str, _BuiltIn]] = {
    "flows": _BuiltIn("toril.cli.flows:flows", "Show flows, and loosen parents from children."),
    "jobs": _BuiltIn("toril.cli.jobs:jobs", "List, show, change, retry and remove jobs."),
    "plugins": _BuiltIn("toril.cli.plugins:plugins", "Show which plugins are in use, and why."),
    "queues": _BuiltIn("toril.cli.queues:queues", "Show, pause, resume and empty queues."),
    "schedules": _BuiltIn(
        "toril.cli.schedules:schedules", "Show, pause, run and remove schedules."
    ),
    "worker": _BuiltIn("toril.cli.worker:worker", "Run workers."),
    "workers": _BuiltIn("toril.cli.workers:workers", "Show the workers of queues, of any library."),
}


def _debugging() -> bool:
    return bool(os.environ.get("TORIL_DEBUG"))


class _Toril(click.Group):
    """A group that imports a command when it is called, and ends with the documented exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted({*_BUILT_IN, *_offered()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        built_in = _BUILT_IN.get(cmd_name)
        if built_in is not None:
            module, _, attribute = built_in.target.partition(":")
            return _command(cmd_name, lambda: getattr(importlib.import_module(module), attribute))
        offer = _offered().get(cmd_name)
        if offer is not None:
            return _command(f"{cmd_name} of {offer.distribution}", offer.load)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from toril.hooks.configuration import did_you_mean

            ctx.fail(
                f"there is no command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        offered = _offered()
        rows = [
            (name, _BUILT_IN[name].help if name in _BUILT_IN else _help(offered[name]))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has seen enough, and Python must not complain about that at
            # its end either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.DONE
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's own signature
        **extra: Any,
    ) -> Any:
        def run() -> Any:
            return super(_Toril, self).main(
                args, prog_name or "toril", complete_var, standalone_mode=False, **extra
            )

        return _guarded(run) if standalone_mode else run()


def _offered() -> dict[str, discovery.Offer]:
    """The commands of plugins. Of two that share a name ours is used, else the first by name."""
    offers = sorted(
        discovery.offers(discovery.COMMANDS),
        key=lambda offer: (offer.distribution != _OURS, offer.distribution),
        reverse=True,
    )
    return {offer.name: offer for offer in offers}


def _help(offer: discovery.Offer) -> str:
    """The first line that a command says of itself, read off its source: importing takes time."""
    origin = f"(from {offer.distribution})"
    module, _, attribute = offer.value.partition(":")
    top, *below = module.split(".")
    try:
        found = importlib.util.find_spec(top)
        if found is None or found.origin is None:
            return origin
        source = Path(found.origin)
        if below:
            source = source.parent.joinpath(*below).with_suffix(".py")
        functions = ast.parse(source.read_bytes()).body
    except (OSError, ValueError, SyntaxError):
        return origin
    said = [
        ast.get_docstring(each) or ""
        for each in functions
        if isinstance(each, ast.FunctionDef) and each.name == attribute
    ]
    first = "".join(said).partition("\n")[0]
    return first if offer.distribution == _OURS else f"{first} {origin}".lstrip()


def _command(what: str, load: Callable[[], Any]) -> click.Command:
    try:
        command = load()
    except (Exception, SystemExit) as error:
        if _debugging():
            raise
        raise CommandError(
            f"the command {what} cannot be loaded: {type(error).__name__}: {error}", Exit.USAGE
        ) from error
    if not isinstance(command, click.Command):
        raise CommandError(f"the command {what} is no click command: {command!r}", Exit.USAGE)
    return command


def _guarded(run: Callable[[], Any]) -> Any:
    """Run a command and end the process with what became of it. Its own result is an exit code."""
    try:
        result = run()
        code = result if isinstance(result, int) else Exit.DONE
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = Exit.INTERRUPTED
    except CommandError as error:
        _report(str(error), error)
        code = error.code
    except TorilError as error:
        _report(str(error) or type(error).__name__, error)
        code = exit_code(error)
    except Exception as error:  # noqa: BLE001 - guard place: the last one
        hint = "" if _debugging() else " (TORIL_DEBUG=1 shows where)"
        _report(f"unexpected {type(error).__name__}: {error}{hint}", error)
        code = Exit.UNEXPECTED
    sys.exit(int(code))


def _report(message: str, error: BaseException) -> None:
    if _debugging():
        traceback.print_exception(error)
    for text in (message, *getattr(error, "__notes__", ())):
        # A message of several lines is laid out for reading; no line of it can be another's.
        first, *others = text.split("\n")
        click.echo(f"toril: {safe(first)}", err=True)
        for line in others:
            click.echo(f"       {safe(line)}", err=True)


class _Short(logging.Formatter):
    """A line per record: a person at a terminal did not ask for stacks."""

    def format(self, record: logging.LogRecord) -> str:
        if _debugging():
            return super().format(record)
        return safe(f"{record.levelname.lower()}: {record.getMessage()}")


@click.group(cls=_Toril, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="toril")
def main() -> None:
    """Look after job queues, and run their workers.

    \b
    Exit codes: 0 done, 1 unexpected error, 2 usage or configuration,
      3 server not reachable or not writable, 4 not found, 5 refused,
      6 a check found a problem, 7 worker stopped with jobs not finished
    """  # noqa: D301 - \b is click's own mark for lines to be left as they are
    # Until a command sets up logging itself.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Short())
