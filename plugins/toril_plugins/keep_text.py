"""How long jobs are kept, as an argument of a command."""

from __future__ import annotations

from typing import Any

import click

from toril_plugins.retention.values import Keep


class _KeepText(click.ParamType[Keep]):
    """`7d`, `1000`, `last 5 per data.customer, 30d`, `forever`, `nothing`."""

    name = "keep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keep:
        try:
            return Keep.parse(str(value))
        except ValueError as error:
            self.fail(
                f"{error}. Say how long to keep, such as 7d, 1000 (the newest), "
                "'last 5 per name', forever or nothing",
                param,
                ctx,
            )


KEEP = _KeepText()
