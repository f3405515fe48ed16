"""Workers for processes that are killed. `TORIL_URL` names the server, `TORIL_TEST_DIR` a folder
for the ledgers.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

from tests.support.ledger import Ledger
from toril import ActiveJob, App
from toril.types import Json
from toril.worker import WorkerOptions

app = App()
ledger = Ledger(Path(os.environ["TORIL_TEST_DIR"]))


async def handle(job: ActiveJob) -> Json:
    """Take a moment; fail as often as the data says."""
    data: Any = job.data
    ledger.write("begun", job.id)
    try:
        await asyncio.sleep(random.random() * 0.02)
    except asyncio.CancelledError:
        ledger.write("taken", job.id)
        raise
    failing = job.attempt <= data["fail"]
    ledger.write("failed" if failing else "done", job.id)
    if failing:
        raise ValueError("as asked")
    return job.id


options: WorkerOptions = {
    "lock": "1s",
    "stalled_interval": "300ms",
    "max_stalled": 1000,
}
app.worker("work", handle, **options)
app.worker("parents", handle, **options)
