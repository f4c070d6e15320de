"""A store that tells before each call that a method is about to be called."""

from collections.abc import Callable, Iterable, Iterator

from typing_extensions import override

from amp_pipeline.buckets import S3
from amp_pipeline.run import OpenStore
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore

Tell = Callable[[str, str], None]
"""Takes the method and the uri."""


class ToldStore(ObjectStore):
    """Hands everything on to ``store``, after a word to ``tell``."""

    def __init__(self, store: ObjectStore, tell: Tell) -> None:
        super().__init__(store.url)
        self._store = store
        self._tell = tell

    @override
    def is_there(self) -> bool:
        return self._store.is_there()

    @override
    def find(self, prefix: str) -> list[ObjectInfo]:
        self._tell("find", self.uri(prefix))
        return self._store.find(prefix)

    @override
    def head(self, name: str) -> ObjectInfo | None:
        self._tell("head", self.uri(name))
        return self._store.head(name)

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        self._tell("chunks", self.uri(name))
        return self._store.chunks(name)

    @override
    def read_range(self, name: str, start: int, length: int) -> bytes:
        self._tell("read_range", self.uri(name))
        return self._store.read_range(name, start, length)

    @override
    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        self._tell("put", self.uri(name))
        self._store.put_chunks(name, chunks)

    @override
    def copy(self, source: ObjectStore, name_there: str, name: str) -> bool:
        self._tell("put", self.uri(name))
        return self._store.copy(source._store if isinstance(source, ToldStore) else source, name_there, name)

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        self._tell("put", self.uri(name))
        return self._store.put_if(name, data, version)

    @override
    def age(self, name: str) -> float | None:
        self._tell("age", self.uri(name))
        return self._store.age(name)

    @override
    def clear_unfinished(self, prefix: str) -> None:
        self._tell("clear_unfinished", self.uri(prefix))
        self._store.clear_unfinished(prefix)

    @override
    def delete(self, name: str) -> None:
        self._tell("delete", self.uri(name))
        self._store.delete(name)

    @override
    def get(self, name: str) -> bytes:
        self._tell("get", self.uri(name))
        return self._store.get(name)


def telling(stores: OpenStore, tell: Tell) -> OpenStore:
    """Opens what ``stores`` opens, told."""

    def opened(url: str, s3: S3 | None = None) -> ObjectStore:
        return ToldStore(stores(url, s3), tell)

    return opened
