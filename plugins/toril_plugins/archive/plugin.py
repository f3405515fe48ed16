"""The archive plugin: jobs are copied to safety before they are removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Final, TypeVar

from toril import App, ConfigurationError, Job, hookimpl
from toril.plugins import (
    Fact,
    FinishedJob,
    JobRef,
    JobStateError,
    Json,
    PluginContext,
    Recalled,
    Registry,
    as_datetime,
    duration_text,
    lua_bytes,
    milliseconds,
)
from toril_plugins.archive.config import ArchiveConfig, open_stores
from toril_plugins.archive.record import ArchivedJob
from toril_plugins.archive.store import ArchiveStore, Page, Wanted
from toril_plugins.retention.reviewing import Details, JobDetails

T = TypeVar("T")

RESTORE: Final = files("toril_plugins.archive").joinpath("restore.lua").read_text("utf-8")


class Archive:
    """Copies jobs to its stores before they are removed, and gives them back.

    Without a table of its own in the configuration it is off. `Archive.of(app)` finds it:

        archive = Archive.of(app)
        page = await archive.find(Wanted(queue="mail", outcome="failed"))
        await archive.restore(page.jobs[0])
    """

    toril_off_until_configured = True

    def __init__(self) -> None:
        self._stores: Mapping[str, ArchiveStore] = {}
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def of(cls, app: App) -> Archive:
        """The archive of an App that is in use. Raises `ConfigurationError` if it has none."""
        try:
            found: Archive = app.named("archive", "archive")
        except ConfigurationError as error:
            raise ConfigurationError(
                "there is no archive: say where it is in the table `archive` of the configuration "
                "(TORIL_CONFIG), or, to a command, with --sqlite or --jsonl"
            ) from error
        return found

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(ArchiveConfig)
        registry.script("restore", RESTORE)
        registry.name("archive", "archive", self)

    @hookimpl(trylast=True)
    async def toril_start(self, context: PluginContext) -> None:
        self._context = context
        self._config = context.config(ArchiveConfig)
        self._thread = ThreadPoolExecutor(1, "toril-archive")
        self._stores = await self._run(
            lambda: open_stores(self._config, context.named, context.clock)
        )

    @hookimpl
    async def toril_stop(self) -> None:
        stores, self._stores = self._stores, {}
        for store in stores.values():
            await self._run(store.close)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    @hookimpl
    async def toril_before_removal(self, jobs: Sequence[FinishedJob], details: Details) -> None:
        now = self._context.now_ms()
        await self.add([_archived(job, details[job.id], now) for job in jobs])

    @hookimpl(trylast=True)
    async def toril_recall_job(self, job: JobRef) -> Recalled | None:
        archived = await self.get(job.queue, job.id)
        if archived is None:
            return None
        found = archived.job
        return Recalled(
            archived.outcome,
            finished=archived.finished_on,
            name=archived.name,
            result=found.result,
            reason=found.reason if archived.outcome == "failed" else None,
            has_result=archived.outcome == "failed" or b"returnvalue" in archived.fields,
        )

    @hookimpl(trylast=True)
    async def toril_explain_job(self, job: JobRef) -> Sequence[Fact]:
        stores = ", ".join(self._stores)
        archived = await self.get(job.queue, job.id)
        if archived is None:
            return [Fact("archive", f"it is copied to {stores} before a rule removes it")]
        ended = f"{as_datetime(archived.finished_on):%Y-%m-%d %H:%M:%S}"
        text = f"{stores} has a copy of how it {archived.outcome} on {ended}, made as "
        text += f"it was to go by {archived.rule or 'a rule'}"
        return [Fact("archive", text, archived.archived_on)]

    @hookimpl
    async def toril_erase_job(self, job: JobRef) -> str | None:
        if not self._config.erase:
            return None
        gone = 0
        for store in self._stores.values():
            gone += await self._run(partial(store.erase, job.queue, job.id))
        return f"{gone} archived copies" if gone else None

    async def add(self, jobs: Sequence[ArchivedJob]) -> None:
        """Keep these jobs in every store; they are safe when it returns.

        Raises what a store raises.
        """
        for name, store in self._stores.items():
            added = await self._run(partial(store.add, jobs))
            self._context.count("toril_archived_total", added, store=name)

    async def find(
        self,
        wanted: Wanted = Wanted(),  # noqa: B008 - frozen
        *,
        after: str | None = None,
        limit: int = 100,
        store: str | None = None,
    ) -> Page:
        """Some of the archived jobs that are wanted, last archived first.

        Args:
            wanted: which; by default all.
            after: that of the page before.
            limit: at most so many.
            store: the store that is asked; None: the first that is configured.

        Raises:
            ConfigurationError: there is no such store.
            ValueError: an `after` that is none of this store's.
        """
        place = self._store(store)
        return await self._run(lambda: place.find(wanted, after, limit))

    async def get(
        self, queue: str, id: str, finished_on: int | None = None, *, store: str | None = None
    ) -> ArchivedJob | None:
        """One archived job: as it finished then (ms since the epoch), or as it finished last."""
        place = self._store(store)
        return await self._run(lambda: place.get(queue, id, finished_on))

    async def restore(self, job: ArchivedJob, *, stay: str | None = None) -> None:
        """Put a job back into its finished set, as it was when it was archived.

        Its parent does not get it back as a child. It is kept for `stay` (default: the option of
        the plugin), whatever is said about it; then it goes again, and is archived once more
        without becoming another record.

        Raises:
            JobStateError: a job with its id exists.
            ServerError: The server cannot do it.
        """
        kept = milliseconds(self._config.stay if stay is None else stay)
        args: dict[str, Json] = {
            "id": job.id,
            "outcome": job.outcome,
            "finished_on": job.finished_on,
            "fields": _flat(job.fields),
            "logs": [lua_bytes(line) for line in job.logs],
            "children": {kind: _flat(values) for kind, values in job.children.items()},
            "plans": {"cleanup": {"stay": kept, "text": duration_text(kept)}},
        }
        if not await self._context.run_script(job.queue, "restore", args):
            raise _exists(job.queue, job.id)

    async def requeue(self, app: App, job: ArchivedJob, *, id: str | None = None) -> Job:
        """Add a job with the same name and data, to be tried and kept as this one was.

        What was about that one occasion is left out: delay, times, parent, schedule. The archived
        job stays in the archive.

        Args:
            app: the App.
            job: the archived job.
            id: the new job's id; None: a new one. The archived job's own can be given again.

        Raises:
            ValueError: its data or options are garbled, or cannot be added (`InvalidJob`).
            JobStateError: a job with that `id` exists, or the archived job's data had gone, by a
                tier of its rule, before it was archived.
            ConfigurationError: a setting was said for it whose plugin is not in use.
            ServerError: the server cannot do it.
        """
        from toril_plugins.archive.requeue import as_new

        queue = app.queue(job.queue)
        if id is not None and await queue.get(id) is not None:
            raise _exists(job.queue, id)
        (added,) = await queue.add_many([as_new(job, self._context.named, id)])
        return added

    def _store(self, name: str | None) -> ArchiveStore:
        if name is None:
            return next(iter(self._stores.values()))
        if name not in self._stores:
            known = ", ".join(self._stores)
            raise ConfigurationError(f"the archive has no store {name!r}; it has: {known}")
        return self._stores[name]

    async def _run(self, work: Callable[[], T]) -> T:
        """Do what blocks, in the one thread of this archive."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _archived(job: FinishedJob, details: JobDetails, now: int) -> ArchivedJob:
    stored = details.stored
    children = {
        "processed": stored.processed,
        "failed": stored.failed,
        "unsuccessful": stored.unsuccessful,
    }
    return ArchivedJob(
        queue=job.queue,
        id=job.id,
        name=job.name,
        outcome=job.outcome,
        finished_on=job.finished or 0,
        archived_on=now,
        rule=details.rule,
        fields=job.fields,
        logs=stored.logs,
        children={kind: left for kind, left in children.items() if left},
    )


def _flat(values: Mapping[bytes, bytes]) -> list[Json]:
    return [lua_bytes(part) for pair in values.items() for part in pair]


def _exists(queue: str, id: str) -> JobStateError:
    return JobStateError(
        f"a job {id!r} exists in queue {queue!r}; it is left as it is", queue=queue, job_id=id
    )
