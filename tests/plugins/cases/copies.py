"""Jobs are copied to a database before they go."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from toril import hookimpl
from toril.plugins import FinishedJob, PluginContext, Registry


@dataclass(frozen=True)
class CopiesConfig:
    path: str


class Copies:
    toril_name = "copies"

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(CopiesConfig)

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.db = sqlite3.connect(context.config(CopiesConfig).path)
        self.db.execute(
            "create table if not exists job (queue, id, finished, outcome, name, data, ended,"
            " primary key (queue, id, finished))"
        )

    @hookimpl
    def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
        rows = [
            (
                *(job.queue, job.id, job.finished, job.outcome, job.name, json.dumps(job.data)),
                json.dumps(job.result if job.outcome == "completed" else job.reason),
            )
            for job in jobs
        ]
        with self.db:
            self.db.executemany("insert or ignore into job values (?, ?, ?, ?, ?, ?, ?)", rows)

    @hookimpl
    def toril_stop(self, context: PluginContext) -> None:
        self.db.close()
