"""Archived jobs as JSON Lines files.

A folder with files `jobs-<UTC time>.jsonl`, one record a line (see `toril_plugins.archive.record`).
The newest is written to; when it is large or old enough the next one begins, and it is compressed
to `jobs-<UTC time>.jsonl.gz`. The files are all there is to keep: copy, ship and read them with any
tool. Beside them are `lock`, which processes hold while they use the folder, and `index.sqlite`,
which tells where each record is and is made anew from the files whenever it does not fit them.

A line that ends without a line end was being written when the process or the machine died. Its job
is still on the server, so it is cut off before the next line is written.
"""

from __future__ import annotations

import fcntl
import gzip
import logging
import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, cast

from toril.plugins import Clock
from toril_plugins.archive.index import Index, Place
from toril_plugins.archive.record import ArchivedJob, UnreadableRecord
from toril_plugins.archive.store import Page, Wanted

log = logging.getLogger("toril.archive")

OPEN: Final = ".jsonl"
PACKED: Final = ".jsonl.gz"
UNFINISHED: Final = ".unfinished"


class JsonlStore:
    """See `ArchiveStore`. Several processes may use one folder, all on one machine.

    Args:
        folder: where the files are; made if it is not there.
        rotate_bytes: a file of that size is followed by the next one.
        rotate_age: and so is one that was begun so long ago, in milliseconds; looked at when jobs
            are archived.
        clock: where the time comes from.

    Raises `OSError` if the folder cannot be used.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int, rotate_age: int, clock: Clock) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        self._rotate_age = rotate_age
        self._clock = clock
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with self._alone():
                self._index = Index(folder / "index.sqlite")
                self._tidy()
        except BaseException:
            os.close(self._lock)
            raise

    def add(self, jobs: Sequence[ArchivedJob]) -> int:
        """Append those that are not there yet, and sync; return how many that were."""
        with self._alone():
            self._catch_up()
            fresh = self._index.missing(jobs)
            path = self._current()
            if fresh or path.exists():
                # Also for jobs that are there: who wrote them may have died before it was synced.
                append(path, b"".join(job.encode() + b"\n" for job in fresh))
            if fresh:
                self._catch_up()
                if path.stat().st_size >= self._rotate_bytes:
                    self._pack(path)
            return len(fresh)

    def find(self, wanted: Wanted, after: str | None = None, limit: int = 100) -> Page:
        """Some of those that are wanted, last archived first."""
        with self._alone():
            self._catch_up()
            places = self._index.find(wanted, None if after is None else Place.parse(after), limit)
            found = self._read(places)
        jobs = [found[place] for place in places]
        return Page(jobs, str(places[-1]) if len(places) == limit else None)

    def get(self, queue: str, id: str, finished_on: int | None = None) -> ArchivedJob | None:
        """One job: as it finished then, or as it finished last."""
        with self._alone():
            self._catch_up()
            place = self._index.get(queue, id, finished_on)
            return None if place is None else self._read([place])[place]

    def erase(self, queue: str, id: str) -> int:
        """Write the files that hold records of the job anew, without them."""
        with self._alone():
            self._catch_up()
            places = self._index.places_of(queue, id)
            by_file: dict[str, set[int]] = defaultdict(set)
            for place in places:
                by_file[place.file].add(place.offset)
            for file, offsets in by_file.items():
                self._rewrite(file, offsets)
            self._catch_up()
            return len(places)

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        os.close(self._lock)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """No other process uses the folder meanwhile."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _tidy(self) -> None:
        """Go on with what a process was doing to the files when it died."""
        for left in self._folder.glob(f"jobs-*{UNFINISHED}"):
            left.unlink()
        opened = self._opened()
        for path in opened:
            if path.with_suffix(PACKED).exists():  # complete, as it has its name
                path.unlink()
        self._catch_up()
        for path in opened[:-1]:
            if path.exists():
                self._pack(path)

    def _opened(self) -> list[Path]:
        """The files that are not packed, oldest first; more than one if packing failed."""
        return sorted(self._folder.glob(f"jobs-*{OPEN}"))

    def _current(self) -> Path:
        """The file to write to; the one before is packed if its time is over."""
        opened = self._opened()
        now = self._clock.now_ms()
        if opened and now - begun(opened[-1]) < self._rotate_age:
            return opened[-1]
        for path in opened:
            self._pack(path)
        return self._folder / f"jobs-{self._stamp(now)}{OPEN}"

    def _stamp(self, now: int) -> str:
        """A name that sorts behind those of all files that are there."""
        last = max((begun(path) for path in self._folder.glob("jobs-*.jsonl*")), default=0)
        at = datetime.fromtimestamp(max(now, last + 1) / 1000, UTC)
        return f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z"

    def _pack(self, path: Path) -> None:
        """Compress a file that is no longer written to. If that fails it stays as it is."""
        packed = path.with_suffix(PACKED)
        try:
            append(path, b"")
            with replacing(packed) as raw:
                write(raw, (line for _, line in lines(path)), packed=True)
            path.unlink()
        except OSError:
            log.exception("%s could not be compressed; it is tried again later", path)
        else:
            self._index.restamp(name_of(packed), stamp_of(packed))

    def _rewrite(self, file: str, without: set[int]) -> None:
        """Replace a file by what is left of it without the lines at these offsets."""
        path = self._path(file)
        kept = [
            line for offset, line in lines(path) if offset not in without and line.endswith(b"\n")
        ]
        with replacing(path) as raw:
            write(raw, kept, packed=path.suffix == ".gz")
        if not kept:
            path.unlink()
            sync_folder(self._folder)

    def _path(self, file: str) -> Path:
        """The file of that name, whether it is packed or not."""
        opened = self._folder / f"{file}{OPEN}"
        return opened if opened.exists() else self._folder / f"{file}{PACKED}"

    def _catch_up(self) -> None:
        """Let the index know what is in the files."""
        there: dict[str, Path] = {}
        for path in sorted(self._folder.glob("jobs-*.jsonl*")):
            if path.name.endswith((OPEN, PACKED)):
                there[name_of(path)] = path
        self._index.forget_all_but(there)
        for file, path in there.items():
            stamp = stamp_of(path)
            start = self._index.known_up_to(file, stamp, may_grow=path.suffix == OPEN)
            if start is not None:
                self._index.learn(file, stamp, start, self._readable(path, start))

    def _readable(self, path: Path, start: int) -> Iterator[tuple[int, int, ArchivedJob]]:
        """The records of a file from there on: where each begins and ends."""
        unreadable = 0
        for offset, line in lines(path, start):
            if not line.endswith(b"\n"):
                break  # torn, or being written
            try:
                yield offset, offset + len(line), ArchivedJob.decode(line)
            except UnreadableRecord:
                unreadable += 1
        if unreadable:
            log.error("%s: %d lines are no records of archived jobs", path, unreadable)

    def _read(self, places: Iterable[Place]) -> dict[Place, ArchivedJob]:
        """The records at these places."""
        by_file: dict[str, list[Place]] = defaultdict(list)
        for place in places:
            by_file[place.file].append(place)
        found: dict[Place, ArchivedJob] = {}
        for file, wanted in by_file.items():
            with open_file(self._path(file)) as source:
                for place in sorted(wanted):
                    source.seek(place.offset)
                    found[place] = ArchivedJob.decode(source.readline())
        return found


def name_of(path: Path) -> str:
    """A file's name without its ending, which changes when it is packed."""
    return path.name.partition(OPEN)[0]


def begun(path: Path) -> int:
    """When a file was begun, in milliseconds since the epoch; its name tells. 0 if it does not."""
    stamp = path.name.removeprefix("jobs-").partition("Z")[0]
    try:
        at = datetime.strptime(stamp, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return 0
    return round(at.timestamp() * 1000)


def stamp_of(path: Path) -> str:
    """Tells one state of a file from another."""
    seen = path.stat()
    return f"{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}"


def open_file(path: Path) -> IO[bytes]:
    """A file to read from, as if it were not packed."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def write(raw: IO[bytes], content: Iterable[bytes], *, packed: bool) -> None:
    """Write lines, compressed if they are to be."""
    if packed:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw) as target:
            target.writelines(content)
    else:
        raw.writelines(content)


def lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from an offset on, with where each begins."""
    with open_file(path) as source:
        source.seek(start)
        offset = start
        for line in source:
            yield offset, line
            offset += len(line)


def append(path: Path, text: bytes) -> None:
    """Write lines at the end of a file, and sync. A torn last line is cut off before."""
    new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        end = whole_lines(file)
        try:
            written = end
            while written < end + len(text):
                written += os.pwrite(file, text[written - end :], written)
            os.ftruncate(file, written)
            os.fsync(file)
        except OSError:
            os.ftruncate(file, end)
            raise
    finally:
        os.close(file)
    if new:
        sync_folder(path.parent)


def whole_lines(file: int) -> int:
    """How many bytes of a file are whole lines."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 2**16)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """Write a file that takes the place of `path`, all at once, when it is complete and synced."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("wb") as raw:
        yield raw
        raw.flush()
        os.fsync(raw.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names of files last."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
