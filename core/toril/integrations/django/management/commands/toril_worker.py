"""`manage.py toril_worker`: run the workers of a task backend."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from toril.cli.worker import worker


class Command(BaseCommand):
    """Runs `toril worker` with the settings of the project."""

    help = "Runs tasks until it is stopped. Options of `toril worker` follow after `--`."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--backend", default="default", help="The alias in TASKS.")
        parser.add_argument("options", nargs="*", metavar="-- OPTIONS")

    def handle(self, *, backend: str, options: list[str], **_: Any) -> None:
        target = f"toril.integrations.django.workers:{backend}"
        worker.main([target, *options], prog_name="toril_worker")
