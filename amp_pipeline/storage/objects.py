"""What the pipeline needs of a place that keeps named bytes.

Names are relative to the store's url and use ``/``. A write is whole or not at all: a reader, and a run after a
killed one,
sees the old object or the new one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells about an object."""

    name: str
    size: int
    """Bytes."""
    version: str
    """Changes when the object is written again; says nothing else."""


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

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; nothing happens where there is none."""

    def get(self, name: str) -> bytes:
        """Return an object's bytes.

        Raises:
            ObjectNotFoundError: There is no such object.
        """
        return b"".join(self.chunks(name))
