"""One store over another: what is written goes into the upper one, what is not there is read from the lower one.

For trials on what there is: the lower store stays as it is, whatever is written or deleted.
"""

from collections.abc import Iterable, Iterator

from typing_extensions import override

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore


class Layered(ObjectStore):
    """Objects of ``below``, and in their place those that were written since."""

    def __init__(self, below: ObjectStore, above: ObjectStore) -> None:
        """Read from ``below``, write into ``above``, which nobody else uses."""
        super().__init__(below.url)
        self._below = below
        self._above = above
        self._deleted: set[str] = set()

    def _of(self, name: str) -> ObjectStore:
        if self._above.head(name) is not None:
            return self._above
        if name in self._deleted:
            raise ObjectNotFoundError(f"no object {self.uri(name)}")
        return self._below

    @override
    def is_there(self) -> bool:
        return self._below.is_there()

    @override
    def find(self, prefix: str) -> list[ObjectInfo]:
        found = {info.name: info for info in self._below.find(prefix) if info.name not in self._deleted}
        found |= {info.name: info for info in self._above.find(prefix)}
        return [found[name] for name in sorted(found)]

    @override
    def head(self, name: str) -> ObjectInfo | None:
        found = self._above.head(name)
        return found if found is not None or name in self._deleted else self._below.head(name)

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        yield from self._of(name).chunks(name)

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._of(name).read_range(name, start, length)

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        self._above.put_chunks(name, chunks)

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        found = self.head(name)
        if (found.version if found else None) != version:
            return None
        self._above.put(name, data)
        written = self._above.head(name)
        return written.version if written else None

    @override
    def age(self, name: str) -> float | None:
        try:
            return self._of(name).age(name)
        except ObjectNotFoundError:
            return None

    @override
    def clear_unfinished(self, prefix: str) -> None:
        """Leave it: nobody else writes."""

    @override
    def delete(self, name: str) -> None:
        self._above.delete(name)
        self._deleted.add(name)
