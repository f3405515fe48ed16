"""How long jobs are kept stands on a page of the company, and is read again every few minutes."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from toril import hookimpl
from toril.plugins import FinishedJob, PluginContext, Registry, milliseconds
from toril_plugins import Keep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteConfig:
    url: str
    every: str = "5m"


class RemotePolicy:
    toril_name = "remote_policy"

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(RemoteConfig)

    @hookimpl
    async def toril_start(self, context: PluginContext) -> None:
        self.config = context.config(RemoteConfig)
        await self.refresh()
        context.spawn(self.keep_fresh())

    async def refresh(self) -> None:
        text = await asyncio.to_thread(self.read)
        rules: dict[str, Any] = json.loads(text)
        self.rules = {queue: Keep.parse(rule) for queue, rule in rules.items()}

    def read(self) -> bytes:
        with urlopen(self.config.url, timeout=5) as page:
            content: bytes = page.read()
            return content

    async def keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(milliseconds(self.config.every) / 1000)
            try:
                await self.refresh()
            except (OSError, ValueError) as error:
                log.warning("the old rules stay: %s", error)

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return self.rules.get(job.queue)
