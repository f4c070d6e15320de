"""A folder as an object store: what ``make demo`` delivers to, and the default workspace.

An object is written to ``.incoming`` in the same folder, synced to disk and renamed, so a crash of the process or of
the machine
leaves the old object or the new one.
"""

import fcntl
import os
import time
import uuid
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice, takewhile
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, cast

from typing_extensions import override

from amp_pipeline.core.errors import ObjectNotFoundError, StoreError
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore

_INCOMING = ".incoming"
_CHUNK_BYTES = 128 << 10
_ABANDONED_AFTER_SECONDS = 24 * 3600

_MANY_NAMES = 1000
_MOST_FOLDERS = 16
_NAMES_SECONDS = 600.0
_CLOCK_SECONDS = 2.0
"""By how much the time of a change may be too coarse: that of FAT is by two seconds."""


class _Names:
    """The names in large folders, kept while a folder does not change: a landing may have all its years in one.

    To look for a day in a folder of a hundred thousand names takes 70 ms, and a tick of a sensor looks for 24 days.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[int, float, list[str]]] = OrderedDict()

    def beginning_with(self, folder: Path, beginning: str) -> list[str]:
        """Return the names in ``folder`` that begin with ``beginning``."""
        changed = folder.stat().st_mtime_ns
        kept = self._kept.get(folder)
        if kept is not None and kept[0] == changed and time.monotonic() - kept[1] < _NAMES_SECONDS:
            names = kept[2]
        else:
            read_at = time.time()
            names = sorted(entry.name for entry in os.scandir(folder))
            # What changes twice within one tick of the file system's clock looks as if it had changed once.
            if len(names) >= _MANY_NAMES and read_at - changed / 1e9 > _CLOCK_SECONDS:
                self._keep(folder, changed, names)
        first = bisect_left(names, beginning)
        return list(takewhile(lambda name: name.startswith(beginning), islice(names, first, None)))

    def _keep(self, folder: Path, changed: int, names: list[str]) -> None:
        self._kept[folder] = changed, time.monotonic(), names
        self._kept.move_to_end(folder)
        while len(self._kept) > _MOST_FOLDERS:
            self._kept.popitem(last=False)


_NAMES = _Names()


class FolderStore(ObjectStore):
    """Objects as files below a folder, which is made by the first write."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """Use ``folder``, which need not exist; without ``durable`` nothing waits for the disk (scratch)."""
        super().__init__(str(folder))
        self._folder = folder
        self._durable = durable

    @override
    def is_there(self) -> bool:
        return self._folder.is_dir()

    @override
    def find(self, prefix: str) -> list[ObjectInfo]:
        parent, _, beginning = prefix.rpartition("/")
        found: list[ObjectInfo] = []
        with self._explained("listed", prefix):
            self._scan(self._folder / parent, f"{parent}/" if parent else "", beginning, found)
        return sorted(found, key=lambda info: info.name)

    @override
    def some(self, prefix: str, most: int) -> list[str]:
        parent, _, beginning = prefix.rpartition("/")
        with self._explained("listed", prefix):
            return list(islice(self._names(self._folder / parent, beginning), most))

    def _names(self, folder: Path, beginning: str) -> Iterator[str]:
        """Yield the names of files below ``folder``, in no order, as they are found."""
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            path = Path(entry.path).relative_to(self._folder).as_posix()
            if not entry.name.startswith(beginning) or path == _INCOMING:
                continue
            if entry.is_dir():
                yield from self._names(Path(entry.path), "")
            else:
                yield path

    def _scan(self, folder: Path, path: str, beginning: str, found: list[ObjectInfo]) -> None:
        try:
            names = _NAMES.beginning_with(folder, beginning)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if not path and name == _INCOMING:
                continue
            # Another process may have deleted it since the folder was read.
            with suppress(FileNotFoundError):
                stat = (folder / name).stat()
                if S_ISDIR(stat.st_mode):
                    self._scan(folder / name, f"{path}{name}/", "", found)
                else:
                    found.append(_info(path + name, stat))

    @override
    def head(self, name: str) -> ObjectInfo | None:
        with self._explained("read", name):
            try:
                stat = (self._folder / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _info(name, stat) if S_ISREG(stat.st_mode) else None

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        with self._explained("read", name):
            try:
                file = (self._folder / name).open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectNotFoundError(f"no object {self.uri(name)}") from None
        with file:
            while chunk := self._chunk(file, name):
                yield chunk

    def _chunk(self, file: BinaryIO, name: str) -> bytes:
        with self._explained("read", name):
            return file.read(_CHUNK_BYTES)

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._explained("read", name):
            try:
                file = (self._folder / name).open("rb", buffering=0)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectNotFoundError(f"no object {self.uri(name)}") from None
            with file:
                file.seek(start)
                return _read_all(cast(BinaryIO, file), length)

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        with self._explained("written", name):
            self._put(name, chunks)

    def _put(self, name: str, chunks: Iterable[bytes], *, durable: bool = True) -> None:
        durable = durable and self._durable
        target = self._folder / name
        incoming = self._folder / _INCOMING
        if not incoming.is_dir():
            incoming.mkdir(parents=True, exist_ok=True)
        else:
            _sweep(incoming)
        target.parent.mkdir(parents=True, exist_ok=True)
        written = incoming / uuid.uuid4().hex
        try:
            with written.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                # An empty one, a marker, has nothing to wait for but its name.
                if durable and file.tell():
                    os.fsync(file.fileno())
        except BaseException:
            # Half an object is of no use to anyone.
            written.unlink(missing_ok=True)
            raise
        written.replace(target)
        if durable:
            _sync_folder(target.parent)

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        with self._explained("written", name), self._alone():
            found = self.head(name)
            if (found.version if found else None) != version:
                return None
            # Not waiting for the disk: what it says, that a run is at work, a crash of the machine makes untrue.
            self._put(name, [data], durable=False)
            return _info(name, (self._folder / name).stat()).version

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other conditional writers out, in this process and others."""
        incoming = self._folder / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(incoming, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @override
    def age(self, name: str) -> float | None:
        with self._explained("read", name):
            try:
                return time.time() - (self._folder / name).stat().st_mtime
            except (FileNotFoundError, NotADirectoryError):
                return None

    @override
    def clear_unfinished(self, prefix: str) -> None:
        """Leave it: what killed writers left has no name, and is swept once it is old."""

    @override
    def delete(self, name: str) -> None:
        target = self._folder / name
        with self._explained("deleted", name):
            try:
                target.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            _sync_folder(target.parent)

    @contextmanager
    def _explained(self, done: str, name: str) -> Iterator[None]:
        """Turn what the system refuses into an error that says what, where and what to do."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.uri(name)} can't be {done}: {error.strerror}; check that the folder {self.url} is there, "
                "may be read and written by this user, and that the disk has room"
            ) from error


def _read_all(file: BinaryIO, length: int) -> bytes:
    """Return up to ``length`` bytes; one call to the system may give fewer than there are."""
    data = file.read(length)
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data


def _info(name: str, stat: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ino}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(incoming: Path) -> None:
    """Remove what killed processes left, once it is old enough to belong to no living one."""
    for entry in os.scandir(incoming):
        # A living process moves its file away at any time.
        with suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                Path(entry.path).unlink()
