"""What every store promises, held against each of them; then what only a folder has to promise."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.s3 import PART_BYTES
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests.conftest import new_bucket
from amp_pipeline_tests.servers import Server


@pytest.fixture(params=["memory", "folder", "moto", "ministack"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "folder":
        return FolderStore(tmp_path / "not" / "yet" / "there")
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return open_store(f"s3://{new_bucket(server)}/some path/ä", server.settings())


def names(store: ObjectStore, prefix: str) -> list[str]:
    return [info.name for info in store.find(prefix)]


NAMES = [
    "-3/-3_2024-05-06_5.json.gz",
    "7/7_2024-05-06_5#0.json.gz",
    "7/7_2024-05-06_5#1.json.gz",
    "7/7_2024-05-06_5_complete",
    "7/day/deep/a",
    "70/a",
    "top",
]


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "7",
        "7/",
        "7/7_2024-05-06_5#",
        "7/7_2024-05-06_5",
        "7/d",
        "7/day/deep/",
        "-3/",
        "-",
        "t",
        "top",
        "none",
        "7/none/a",
        "top/",
    ],
)
def test_objects_are_found_by_any_beginning_of_their_names(store: ObjectStore, prefix: str):
    for name in reversed(NAMES):
        store.put(name, name.encode())
    assert names(store, prefix) == [name for name in NAMES if name.startswith(prefix)]


def test_empty_store_has_no_objects(store: ObjectStore):
    assert store.find("") == []
    assert store.find("a/b") == []
    assert store.head("a") is None


def test_listing_and_head_agree(store: ObjectStore):
    store.put("a/b", b"four")
    (found,) = store.find("a/")
    assert found == store.head("a/b")
    assert (found.name, found.size) == ("a/b", 4)


def test_put_replaces_and_changes_the_version(store: ObjectStore):
    versions: list[str] = []
    for data in (b"one", b"two"):
        store.put("a", data)
        found = store.head("a")
        assert found is not None
        versions.append(found.version)
        assert store.get("a") == data
    assert versions[0] != versions[1]
    assert store.head("a") == store.head("a")


def test_empty_object_is_an_object(store: ObjectStore):
    store.put("a", b"")
    assert store.get("a") == b""
    assert list(store.chunks("a")) == []
    found = store.head("a")
    assert found is not None
    assert found.size == 0


def test_large_object_comes_in_pieces_that_are_not_empty(store: ObjectStore):
    data = bytes(range(256)) * 10_000
    store.put("a", data)
    pieces = list(store.chunks("a"))
    assert b"".join(pieces) == data
    assert all(pieces)


# In a bucket "there/below" may stand beside "there"; the pipeline never makes such names.
@pytest.mark.parametrize("name", ["none", "no/folder", "there/below"])
def test_missing_object_is_told_by_name(store: ObjectStore, name: str):
    store.put("there", b"x")
    assert store.head(name) is None
    with pytest.raises(ObjectNotFoundError, match=name):
        store.get(name)
    with pytest.raises(ObjectNotFoundError, match=name):
        list(store.chunks(name))


def test_beginning_of_a_name_is_no_object(store: ObjectStore):
    store.put("a/b", b"x")
    assert store.head("a") is None
    with pytest.raises(ObjectNotFoundError):
        store.get("a")
    store.delete("a")
    assert store.get("a/b") == b"x"


def test_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore):
    store.put("a/b", b"x")
    store.put("a/c", b"x")
    for _ in range(2):
        store.delete("a/b")
        store.delete("no/such")
        assert names(store, "") == ["a/c"]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 5])
def test_object_from_chunks_of_any_size_is_whole(store: ObjectStore, size: int):
    data = random.Random(size).randbytes(size)
    store.put_chunks("a", (data[at : at + 1_000_003] for at in range(0, size, 1_000_003)))
    assert hashlib.sha256(store.get("a")).digest() == hashlib.sha256(data).digest()
    found = store.head("a")
    assert found is not None
    assert found.size == size
    assert store.find("") == [found]


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES])
def test_nothing_is_written_where_the_chunks_raise(store: ObjectStore, size: int):
    store.put("a", b"old")

    def chunks() -> Iterator[bytes]:
        yield bytes(size)
        raise LookupError

    with pytest.raises(LookupError):
        store.put_chunks("a", chunks())
    assert store.get("a") == b"old"
    assert names(store, "") == ["a"]


def test_ranges_of_an_object(store: ObjectStore):
    data = bytes(range(200))
    store.put("a", data)
    store.put("empty", b"")
    for start, length in [(0, 0), (0, 1), (5, 10), (0, 200), (190, 50), (200, 5), (500, 5)]:
        assert store.read_range("a", start, length) == data[start : start + length]
    assert store.read_range("empty", 0, 5) == b""
    with pytest.raises(ObjectNotFoundError, match="none"):
        store.read_range("none", 0, 5)


def test_object_is_made_only_where_there_is_none(store: ObjectStore):
    version = store.put_if("a", b"first", None)
    assert version is not None
    assert store.put_if("a", b"second", None) is None
    assert store.get("a") == b"first"
    store.delete("a")
    assert store.put_if("a", b"third", None) is not None


def test_object_is_replaced_only_where_nobody_else_did(store: ObjectStore):
    first = store.put_if("a/b", b"first", None)
    assert first is not None
    second = store.put_if("a/b", b"second", first)
    assert second is not None
    assert second != first
    assert store.put_if("a/b", b"third", first) is None
    found = store.head("a/b")
    assert found is not None
    assert found.version == second
    assert store.get("a/b") == b"second"
    store.delete("a/b")
    assert store.put_if("a/b", b"fourth", second) is None
    assert store.head("a/b") is None


def test_of_many_that_make_an_object_one_does(store: ObjectStore):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: store.put_if("a", b"%d" % number, None), range(8)))
    (winner,) = [number for number, version in enumerate(made) if version is not None]
    assert store.get("a") == b"%d" % winner


def test_age_of_an_object(store: ObjectStore):
    assert store.age("a") is None
    store.put("a", b"x")
    age = store.age("a")
    assert age is not None
    # Servers count in seconds.
    assert -2 <= age < 60


def test_clearing_leaves_what_is_whole(store: ObjectStore):
    store.put("a/b", b"x")
    store.clear_unfinished("a/")
    assert names(store, "") == ["a/b"]


def test_uri_tells_people_where_an_object_is(tmp_path: Path):
    assert open_store(str(tmp_path)).uri("a#0/b") == f"{tmp_path}/a#0/b"


def test_put_leaves_no_temporary_file(tmp_path: Path):
    store = FolderStore(tmp_path)
    store.put("a/b", b"x")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]


def test_put_that_is_killed_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = FolderStore(tmp_path)
    store.put("a", b"old")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), kill)
            with pytest.raises(KeyboardInterrupt):
                store.put("a", b"new and longer")
        assert store.get("a") == b"old"
        assert names(store, "") == ["a"]
        assert names(store, ".") == []


def test_object_is_visible_only_when_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = FolderStore(tmp_path)
    seen: list[list[str]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        seen.append(names(store, ""))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    store.put("a/b", b"x")
    assert seen == [[], ["a/b"]]


def test_what_killed_processes_left_is_swept_once_it_is_old(tmp_path: Path):
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    for name, age in (("old", 25 * 3600), ("young", 23 * 3600)):
        (incoming / name).write_bytes(b"x")
        at = time.time() - age
        os.utime(incoming / name, (at, at))
    store = FolderStore(tmp_path)
    assert names(store, "") == []
    store.put("a", b"x")
    assert [path.name for path in incoming.iterdir()] == ["young"]
    assert names(store, "") == ["a"]


def test_some_names_are_looked_at(store: ObjectStore):
    assert store.some("", 5) == []
    for name in ("a/1", "a/b/2", "a/b/3", "ab", "b"):
        store.put(name, b"x")
    assert sorted(store.some("", 9)) == ["a/1", "a/b/2", "a/b/3", "ab", "b"]
    assert sorted(store.some("a/b", 9)) == ["a/b/2", "a/b/3"]
    assert sorted(store.some("a", 9)) == ["a/1", "a/b/2", "a/b/3", "ab"]
    assert len(store.some("a", 2)) == 2
    assert store.some("c/", 9) == store.some("c", 9) == []


def test_several_may_write_list_and_delete_at_once(tmp_path: Path):
    troubles: list[Exception] = []

    def work(number: int) -> None:
        store = FolderStore(tmp_path)
        try:
            for at in range(60):
                store.put(f"a/{number}-{at}", b"x")
                store.find("a/")
                store.delete(f"a/{number}-{at - 1}")
        except Exception as error:
            troubles.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert troubles == []
