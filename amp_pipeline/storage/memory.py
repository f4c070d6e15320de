"""An object store in memory, for tests and trials."""

import time
from collections.abc import Iterable, Iterator

from typing_extensions import override

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore


class MemoryStore(ObjectStore):
    """Objects in a dictionary."""

    def __init__(self, url: str = "memory:") -> None:
        """Begin empty."""
        super().__init__(url)
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._written_at: dict[str, float] = {}
        self._writes = 0

    @override
    def is_there(self) -> bool:
        return True

    @override
    def find(self, prefix: str) -> list[ObjectInfo]:
        return [
            ObjectInfo(name, len(data), str(version))
            for name, (data, version) in sorted(self._objects.items())
            if name.startswith(prefix)
        ]

    @override
    def head(self, name: str) -> ObjectInfo | None:
        if name not in self._objects:
            return None
        data, version = self._objects[name]
        return ObjectInfo(name, len(data), str(version))

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        if name not in self._objects:
            raise ObjectNotFoundError(f"no object {self.uri(name)}")
        data = self._objects[name][0]
        if data:
            yield data

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        if name not in self._objects:
            raise ObjectNotFoundError(f"no object {self.uri(name)}")
        return self._objects[name][0][start : start + length]

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        data = b"".join(chunks)
        self._writes += 1
        self._objects[name] = (data, self._writes)
        self._written_at[name] = time.monotonic()

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        found = self.head(name)
        if (found.version if found else None) != version:
            return None
        self.put(name, data)
        return str(self._writes)

    @override
    def age(self, name: str) -> float | None:
        return time.monotonic() - self._written_at[name] if name in self._objects else None

    @override
    def clear_unfinished(self, prefix: str) -> None:
        pass

    @override
    def delete(self, name: str) -> None:
        self._objects.pop(name, None)
