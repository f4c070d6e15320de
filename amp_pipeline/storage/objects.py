"""What the pipeline needs of a place that keeps named bytes.

Names are relative to the store's url and use ``/``. A write is whole or not at all: a reader, and a run after a
killed one,
sees the old object or the new one.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from amp_pipeline.core.errors import ObjectNotFoundError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells about an object."""

    name: str
    size: int
    """Bytes."""
    version: str
    """Changes when other bytes are written; says nothing else."""


class ObjectStore(ABC):
    """Named bytes below one url."""

    def __init__(self, url: str) -> None:
        """Keep ``url``, without a last slash."""
        self.url = url

    def uri(self, name: str) -> str:
        """Return where the object ``name`` is, for people."""
        return f"{self.url}/{name}"

    @abstractmethod
    def is_there(self) -> bool:
        """Tell whether the place itself exists, with or without objects."""

    @abstractmethod
    def find(self, prefix: str) -> list[ObjectInfo]:
        """Return the objects whose names begin with ``prefix``, sorted by name."""

    def some(self, prefix: str, most: int) -> list[str]:
        """Return names of objects that begin with ``prefix``, ``most`` at most, no matter which: a cheap look."""
        return [info.name for info in self.find(prefix)[:most]]

    @abstractmethod
    def head(self, name: str) -> ObjectInfo | None:
        """Return what is known of an object, or None where there is none."""

    @abstractmethod
    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield an object's bytes in pieces.

        Raises:
            ObjectNotFoundError: There is no such object.
        """

    @abstractmethod
    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes, fewer where it ends before.

        Raises:
            ObjectNotFoundError: There is no such object.
        """

    @abstractmethod
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write an object from pieces, replacing one of the same name; nothing is written where ``chunks`` raises."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing one of the same name."""
        self.put_chunks(name, [data])

    def copy(self, source: "ObjectStore", name_there: str, name: str) -> bool:
        """Copy an object of another store without reading it, where both are one server; tell whether that was done."""
        del source, name_there, name
        return False

    @abstractmethod
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        """Write an object only where nobody else has written it meanwhile.

        Args:
            name: Of the object.
            data: Its bytes.
            version: What it must be in now; None: there must be no such object.

        Returns:
            Its new version, or None where it was not written.
        """

    @abstractmethod
    def age(self, name: str) -> float | None:
        """Return how many seconds ago an object was written, by the clock of the store; None where there is none."""

    @abstractmethod
    def clear_unfinished(self, prefix: str) -> None:
        """Remove what writers that were killed left of objects whose names begin with ``prefix``.

        Only for who knows that nobody is writing any of them.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; nothing happens where there is none."""

    def get(self, name: str) -> bytes:
        """Return an object's bytes.

        Raises:
            ObjectNotFoundError: There is no such object.
        """
        return b"".join(self.chunks(name))

    def digest(self, name: str) -> str | None:
        """Return the hexadecimal SHA-256 of an object's bytes, read in pieces; None where there is no such object."""
        digest = hashlib.sha256()
        try:
            for chunk in self.chunks(name):
                digest.update(chunk)
        except ObjectNotFoundError:
            return None
        return digest.hexdigest()
