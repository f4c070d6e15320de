"""Local copies of large objects of a remote store, so that what is read twice is fetched once.

An hour is read when it lands and again when it is deduplicated, in another step and so by another object of this kind:
copies are kept on local disk between them, by place, name and version. The second reading takes them away; and any of
them may go at any time.
"""

import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.storage.scratch import own_folder

LARGE_BYTES = 1 << 20
"""Smaller objects are as quickly fetched again."""

_CHUNK_BYTES = 1 << 20
_KEPT_SECONDS = 6 * 3600
_MOST_OF_FREE_DISK = 0.5


class LocalCopies(ObjectStore):
    """Reads through ``store``, keeping copies below the system's folder for temporary files (``TMPDIR``)."""

    def __init__(self, store: ObjectStore) -> None:
        """Read from ``store``."""
        super().__init__(store.url)
        self._store = store
        self._listed: dict[str, ObjectInfo] = {}

    @override
    def is_there(self) -> bool:
        return self._store.is_there()

    @override
    def find(self, prefix: str) -> list[ObjectInfo]:
        found = self._store.find(prefix)
        self._listed.update({info.name: info for info in found})
        return found

    @override
    def some(self, prefix: str, most: int) -> list[str]:
        return self._store.some(prefix, most)

    @override
    def head(self, name: str) -> ObjectInfo | None:
        return self._store.head(name)

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        info = self._listed.get(name)
        if info is None or info.size < LARGE_BYTES:
            yield from self._store.chunks(name)
            return
        # As it is now: a copy of what it was is none of it.
        now = self._store.head(name)
        if now is None:
            raise ObjectNotFoundError(f"no object {self.uri(name)}")
        try:
            copy = own_folder("copies") / hashlib.sha256(f"{self.url}\0{name}\0{now.version}".encode()).hexdigest()
        except OSError:
            yield from self._store.chunks(name)
            return
        try:
            file = copy.open("rb")
            if copy.stat().st_size != now.size:
                # The machine stopped before all of it was on disk.
                file.close()
                raise FileNotFoundError
        except OSError:
            yield from self._copied(now, copy)
            return
        with file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
        copy.unlink(missing_ok=True)

    def _copied(self, info: ObjectInfo, copy: Path) -> Iterator[bytes]:
        """Yield an object's bytes, and keep a copy where all of them were read and it is the same object still."""
        chunks = self._store.chunks(info.name)
        incoming = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
        try:
            _make_room(copy.parent, info.size)
            # Without a buffer, whose rest might find no room only when it is closed.
            file = incoming.open("wb", buffering=0)
        except OSError:
            # No copy then.
            yield from chunks
            return
        try:
            with file:
                whole = True
                for chunk in chunks:
                    if whole:
                        whole = _written(file.write, chunk)
                    yield chunk
            if whole and self._store.head(info.name) == info:
                # Another run may have removed it to make room.
                with suppress(OSError):
                    if incoming.stat().st_size == info.size:
                        incoming.replace(copy)
        finally:
            incoming.unlink(missing_ok=True)

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._store.read_range(name, start, length)

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        self._store.put_chunks(name, chunks)

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        return self._store.put_if(name, data, version)

    @override
    def age(self, name: str) -> float | None:
        return self._store.age(name)

    @override
    def clear_unfinished(self, prefix: str) -> None:
        self._store.clear_unfinished(prefix)

    @override
    def delete(self, name: str) -> None:
        self._store.delete(name)


def _make_room(folder: Path, size: int) -> None:
    """Remove old copies, and young ones too where the disk gets full.

    Raises:
        OSError: There is no room.
    """
    copies: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        # Another run may be removing it.
        with suppress(OSError):
            stat = path.stat()
            copies.append((stat.st_mtime, stat.st_size, path))
    kept = sum(one for _, one, _ in copies)
    most = (shutil.disk_usage(folder).free + kept) * _MOST_OF_FREE_DISK
    for at, copied, path in sorted(copies):
        if time.time() - at < _KEPT_SECONDS and kept + size <= most:
            break
        path.unlink(missing_ok=True)
        kept -= copied
    if kept + size > most:
        raise OSError


def _written(write: Callable[[bytes], int | None], chunk: bytes) -> bool:
    try:
        return write(chunk) == len(chunk)
    except OSError:
        # The disk is full; the object is read on.
        return False
