"""A store for Toril's archive in object storage, through fsspec.

It is chosen by `store = "fsspec"` in the table `archive` of the configuration; the table
`archive.options` has `url` (`s3://bucket/jobs`) and `storage_options`, a table of what the file
system is opened with.

One object per job, whose name is made from what names the job, so that a job that is archived twice
is one object: `queue=mail/day=2026-11-23/1790000000000-completed-0193….json`.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from toril import ConfigurationError, hookimpl
from toril.plugins import Clock, Registry, as_datetime
from toril_plugins.archive import STORE_KIND, ArchivedJob, Page, Wanted

LONGEST_NAME = 120
"""Characters of an id that stand in an object's name; a longer one is cut, and its hash added."""


@hookimpl
def toril_register(registry: Registry) -> None:
    """Offer the store."""
    registry.name(STORE_KIND, "fsspec", open_store)


def open_store(options: Mapping[str, Any], clock: Clock) -> FsspecStore:
    """Open the store with the options of the table `archive.options`."""
    del clock  # the jobs bring their times
    unknown = options.keys() - {"url", "storage_options"}
    if unknown or not options.get("url"):
        raise ConfigurationError(
            "the options of the store 'fsspec' are url (needed) and storage_options, "
            f"not {', '.join(options) or 'none'}"
        )
    return FsspecStore(options["url"], options.get("storage_options", {}))


@dataclass(frozen=True, slots=True)
class Entry:
    """An object, and what its name tells."""

    path: str
    queue: str
    finished_on: int
    outcome: str
    id: str


class FsspecStore:
    """Archived jobs as objects, below one prefix.

    Args:
        url: where, as fsspec names it: `s3://bucket/prefix`, `file:///srv/archive`.
        storage_options: what the file system is opened with.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url, **(storage_options or {}))

    def add(self, jobs: Sequence[ArchivedJob]) -> int:
        """Write an object for each that has none yet; return how many those were.

        An object appears whole or not at all: object storage does it so, and on a local disk the
        file gets its name when it has been synced.
        """
        fresh = {self._path(job): job for job in reversed(jobs)}
        contents = {
            path: job.encode() + b"\n"
            for path, job in fresh.items()
            if not self._files.exists(path)
        }
        if isinstance(self._files, LocalFileSystem):
            for path, content in contents.items():
                write_synced(Path(path), content)
        elif contents:
            self._files.pipe(contents)  # many at a time, where the storage can
        return len(contents)

    def find(self, wanted: Wanted, after: str | None = None, limit: int = 100) -> Page:
        """Some of those that are wanted, last finished first. It lists all objects of the queue."""
        if after is not None and self._entry(after) is None:
            raise ValueError(f"not a place in the archive: {after!r}")
        found: list[ArchivedJob] = []
        last = None
        for entry in self._entries(wanted):
            if after is not None and order(entry) >= order(self._entry(after)):
                continue
            job = self._read(entry.path)
            if wanted.matches(job):
                found.append(job)
                last = entry.path
            if len(found) == limit:
                return Page(found, last)
        return Page(found, None)

    def get(self, queue: str, id: str, finished_on: int | None = None) -> ArchivedJob | None:
        """One job: as it finished then, or as it finished last."""
        for entry in self._entries(Wanted(queue=queue, id=id)):
            if finished_on in (None, entry.finished_on):
                return self._read(entry.path)
        return None

    def erase(self, queue: str, id: str) -> int:
        """Delete all objects of a job. What a bucket with versions keeps of them is not ours."""
        paths = [entry.path for entry in self._entries(Wanted(queue=queue, id=id))]
        if paths:
            self._files.rm(paths)
        self._files.invalidate_cache()
        return len(paths)

    def close(self) -> None:
        """There is nothing to close."""

    def _read(self, path: str) -> ArchivedJob:
        return ArchivedJob.decode(self._files.cat_file(path))

    def _folder(self, queue: str) -> str:
        return posixpath.join(self._root, f"queue={quote(queue, safe='')}")

    def _path(self, job: ArchivedJob) -> str:
        day = as_datetime(job.finished_on).date().isoformat()
        name = f"{job.finished_on:015d}-{job.outcome}-{short(job.id)}.json"
        return posixpath.join(self._folder(job.queue), f"day={day}", name)

    def _entries(self, wanted: Wanted) -> Iterator[Entry]:
        """What may be wanted by the names of the objects, last finished first."""
        root = self._root if wanted.queue is None else self._folder(wanted.queue)
        self._files.invalidate_cache()  # others write there too
        paths = self._files.find(root) if self._files.exists(root) else []
        found = (self._entry(path) for path in paths)
        for entry in sorted((each for each in found if each is not None), key=order, reverse=True):
            if (
                (wanted.id is None or entry.id == short(wanted.id))
                and wanted.outcome in (None, entry.outcome)
                and (wanted.since is None or entry.finished_on >= wanted.since)
                and (wanted.until is None or entry.finished_on < wanted.until)
            ):
                yield entry

    def _entry(self, path: str) -> Entry | None:
        """What an object's name tells; None if it is none of ours."""
        folder, name = posixpath.split(path)
        parts = name.removesuffix(".json").split("-", 2)
        queue = posixpath.basename(posixpath.dirname(folder)).removeprefix("queue=")
        if len(parts) != 3 or not parts[0].isdecimal() or not name.endswith(".json"):
            return None
        return Entry(path, queue, int(parts[0]), parts[1], parts[2])


def order(entry: Entry | None) -> tuple[int, str]:
    """Orders objects by when their jobs finished."""
    return (0, "") if entry is None else (entry.finished_on, entry.path)


def short(id: str) -> str:
    """An id as part of an object's name."""
    name = quote(id, safe="")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(id.encode()).hexdigest()[:32]}"


def write_synced(path: Path, content: bytes) -> None:
    """Write a local file that is on the disk, whole, when it has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folders = path.parents[:3]  # of the day, of the queue, and the root: they may be new
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    for folder in folders:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
