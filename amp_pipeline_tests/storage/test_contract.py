"""What every store promises, held against each of them; then what only a folder has to promise."""

import os
import threading
import time
from pathlib import Path

import pytest

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.storage.urls import open_store


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "not" / "yet" / "there")


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
    for data in (b"one", b"two", b"two"):
        store.put("a", data)
        found = store.head("a")
        assert found is not None
        versions.append(found.version)
        assert store.get("a") == data
    assert versions[0] != versions[1] != versions[2]
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
