"""`toril audit`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from toril import App, ConfigurationError
from toril.commands import Exit, Output, connection_options, output_option, talk
from toril.plugins import AuditReport, Finding, ServerError, by_this_user
from toril_plugins.retention import journal
from toril_plugins.running import with_app

COLUMNS = ("queue", "kind", "severity", "count", "what", "key", "repair")


@click.command()
@click.argument("queues", nargs=-1, metavar="[QUEUE]…")
@click.option("--repair", is_flag=True, help="Repair what can be repaired.")
@click.option(
    "--dry-run", is_flag=True, help="With --repair: show what it would do, and do nothing."
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    help="So many jobs, and entries of each index, are looked at in each queue; default: all.",
)
@connection_options
@output_option
@click.pass_context
def audit(
    context: click.Context,
    *,
    url: str | None,
    prefix: str,
    output: Output,
    queues: Sequence[str],
    repair: bool,
    dry_run: bool,
    most: int | None,
) -> None:
    """Check that what is stored agrees with itself, and that what was said is what happens.

    Looks at QUEUE…, or at all queues, while others work, and changes nothing without --repair.
    Exit code 6 if a problem was found and is still there; notes are no problems.
    """

    async def look(app: App) -> tuple[list[AuditReport], list[dict[str, Any]]]:
        reports = [await app.audit(name, most=most) for name in queues or await app.queues()]
        findings = [finding for report in reports for finding in report.findings]
        done = await _repaired(app, findings) if repair and not dry_run else {}
        return reports, [_row(each) | {"repaired": done.get(n)} for n, each in enumerate(findings)]

    reports, rows = with_app(url, prefix, look)
    columns = (*COLUMNS, "repaired") if repair and not dry_run else COLUMNS
    output.rows("findings", rows, columns, id="key")
    for report in reports:
        if not report.whole:
            more = f"{most} jobs" if most else "250000 keys of a plugin"
            talk(f"queue {report.queue!r} has more than {more}: not all were looked at")
    if any(row["severity"] == "problem" and not row["repaired"] for row in rows):
        context.exit(Exit.FOUND_PROBLEM)


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "queue": finding.queue,
        "kind": finding.kind,
        "severity": finding.severity,
        "count": finding.count,
        "what": finding.what,
        "key": finding.key,
        "repair": finding.repair.text if finding.repair else None,
    }


async def _repaired(app: App, findings: Sequence[Finding]) -> dict[int, bool]:
    """Repair what can be; by place, whether that was done."""
    done: dict[int, bool] = {}
    kinds: Counter[tuple[str, str]] = Counter()
    for place, finding in enumerate(findings):
        if finding.repair is not None:
            try:
                done[place] = await finding.repair.run()
            except ServerError as error:
                talk(f"{finding.key}: {error}")
                done[place] = False
            kinds[finding.queue, finding.kind] += done[place]
    for (queue, kind), count in kinds.items():
        if count:
            await _note(app, queue, kind, count)
    return done


async def _note(app: App, queue: str, kind: str, count: int) -> None:
    who = by_this_user("toril audit")
    try:
        await journal.note(app.queue(queue), "repair", who, kind=kind, count=str(count))
    except ConfigurationError:
        talk(f"{count} repairs in queue {queue!r} stand in no journal: its plugin is not in use")
