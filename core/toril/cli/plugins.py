"""`toril plugins`: which plugins are in use, and why others are not."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import click

from toril.cli.exits import Exit
from toril.cli.output import Output, output_option, talk
from toril.errors import ConfigurationError
from toril.hooks import discovery
from toril.hooks.configuration import Configuration
from toril.hooks.loader import load_plugins
from toril.hooks.plugin_set import PluginInfo, PluginSet

_CHOSEN = ("active", "off", "blocked")
"""What a plugin's status can be while all is well."""


@click.group()
def plugins() -> None:
    """Show which plugins are in use, and why others are not."""


@plugins.command("ls")
@output_option
def ls(output: Output) -> None:
    """List all plugins that are installed here.

    Status: active; off (until it has a table in the configuration); blocked (TORIL_PLUGINS,
    TORIL_PLUGINS_BLOCK); broken (the error says why); conflict (something has its name); waiting
    (for another plugin).
    """
    infos = _load().infos
    output.rows(
        "plugins",
        [_row(info) for info in infos],
        ("name", "distribution", "version", "status", "hooks"),
        id="name",
    )
    if output.format == "table":
        for info in infos:
            if info.error and info.status not in _CHOSEN:
                talk(f"{info.name} ({info.label}) is {info.status}: {info.error}")


@plugins.command("check")
@output_option
@click.pass_context
def check(context: click.Context, output: Output) -> None:
    """Check that every plugin that is wanted can be used; exit code 6 if one cannot.

    Also fails if a plugin that the configuration requires is not in use, if its options are wrong,
    or if two distributions offer one command.
    """
    loaded = _load()
    problems = [_row(info) for info in loaded.infos if info.status not in _CHOSEN]
    known = {problem["name"] for problem in problems}
    for name in loaded.configuration.required:
        if name not in loaded.active and name not in known:
            info = loaded.info(name)
            status = info.status if info else "not installed"
            problems.append({"name": name, "status": status, "error": "it is required"})
    wrong = loaded.wrong_options()
    problems += [
        {**_row(info), "status": "misconfigured", "error": wrong[info.name]}
        for info in loaded.infos
        if info.status == "active" and info.name in wrong
    ]
    problems += _commands_twice()
    if problems:
        output.rows("problems", problems, ("name", "distribution", "status", "error"), id="name")
        context.exit(Exit.FOUND_PROBLEM)
    if output.format == "table":
        talk(f"all well: {loaded.summary()}")
    else:
        output.rows("problems", [])


def _row(info: PluginInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "status": info.status,
        "hooks": list(info.hooks),
        "origin": info.origin,
        "error": info.error,
    }


def _load() -> PluginSet:
    """All plugins; what is required is looked at afterwards, so that the list can be shown."""
    configuration = Configuration.read(None)
    with _quiet():
        loaded = load_plugins(
            configuration=Configuration(configuration.tables, (), configuration.source)
        )
    names = {info.name for info in loaded.infos}
    unknown = [name for name in configuration.required if name not in names]
    if unknown:
        raise ConfigurationError(
            f"{configuration.source} requires {', '.join(map(repr, unknown))}, not installed here"
        )
    loaded.configuration = configuration
    return loaded


def _commands_twice() -> Iterator[dict[str, Any]]:
    first: dict[str, str] = {}
    for offer in discovery.offers(discovery.COMMANDS):
        other = first.setdefault(offer.name, offer.distribution)
        if other != offer.distribution:
            yield {
                "name": offer.name,
                "distribution": offer.distribution,
                "status": "conflict",
                "error": f"the command {offer.name!r} is also offered by {other}",
            }


@contextmanager
def _quiet() -> Generator[None]:
    """Do not log what the list shows anyway."""
    log = logging.getLogger("toril.hooks")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
