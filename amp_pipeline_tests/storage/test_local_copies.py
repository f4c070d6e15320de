import resource
import shutil
import signal
import tempfile
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.storage import local_copies
from amp_pipeline.storage.local_copies import LARGE_BYTES, LocalCopies
from amp_pipeline.storage.memory import MemoryStore

DATA = bytes(range(256)) * (LARGE_BYTES // 256 + 3)
_Usage = namedtuple("_Usage", ["total", "used", "free"])


class Remote(MemoryStore):
    """Counts what is fetched."""

    fetched = 0

    @override
    def chunks(self, name: str) -> Iterator[bytes]:
        self.fetched += 1
        for chunk in super().chunks(name):
            yield chunk[:100_000]
            yield chunk[100_000:]


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def remote() -> Remote:
    remote = Remote()
    remote.put("a", DATA)
    remote.put("small", b"x")
    return remote


def read(remote: Remote, name: str = "a") -> bytes:
    """As a step of its own reads it."""
    store = LocalCopies(remote)
    store.find("")
    return store.get(name)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_read_twice_is_fetched_once_and_nothing_stays(remote: Remote, copies: Path):
    assert read(remote) == DATA
    assert len(kept(copies)) == 1
    assert read(remote) == DATA
    assert remote.fetched == 1
    assert kept(copies) == []


def test_small_objects_are_fetched_again(remote: Remote, copies: Path):
    assert read(remote, "small") == read(remote, "small") == b"x"
    assert remote.fetched == 2
    assert kept(copies) == []


def test_object_that_changed_is_fetched(remote: Remote):
    read(remote)
    remote.put("a", DATA[::-1])
    assert read(remote) == DATA[::-1]
    remote.delete("a")
    store = LocalCopies(remote)
    with pytest.raises(ObjectNotFoundError):
        store.get("a")


def test_object_that_is_gone_behind_the_listing_is_missed(remote: Remote):
    read(remote)
    store = LocalCopies(remote)
    store.find("")
    remote.delete("a")
    with pytest.raises(ObjectNotFoundError):
        store.get("a")


def test_object_that_changes_while_it_is_read_is_not_kept(remote: Remote, copies: Path):
    store = LocalCopies(remote)
    store.find("")
    chunks = store.chunks("a")
    next(chunks)
    remote.put("a", DATA[::-1])
    list(chunks)
    assert kept(copies) == []


def test_reading_that_is_given_up_keeps_nothing(remote: Remote, copies: Path):
    store = LocalCopies(remote)
    store.find("")
    chunks = store.chunks("a")
    next(chunks)
    del chunks
    assert kept(copies) == []


def test_full_disk_is_no_trouble(remote: Remote, copies: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1, 1, len(DATA)))
    assert read(remote) == read(remote) == DATA
    assert remote.fetched == 2
    assert kept(copies) == []


def test_old_copies_go_and_young_ones_where_there_is_no_room(
    remote: Remote, copies: Path, monkeypatch: pytest.MonkeyPatch
):
    remote.put("b", DATA)
    read(remote)
    (first,) = kept(copies)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1, 1, 2 * len(DATA)))
    read(remote, "b")
    assert first not in kept(copies)
    assert len(kept(copies)) == 1
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    monkeypatch.setattr(local_copies, "_KEPT_SECONDS", 0)
    time.sleep(0.01)
    read(remote)
    assert len(kept(copies)) == 1


def test_folder_that_somebody_else_made_is_not_used(remote: Remote, copies: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert read(remote) == read(remote) == DATA
    assert remote.fetched == 2
    assert kept(copies) == []


def test_copy_that_a_machine_stopped_in_the_middle_of_is_not_read(remote: Remote, copies: Path):
    read(remote)
    (copy,) = kept(copies)
    copy.write_bytes(DATA[:1000])
    assert read(remote) == DATA


def test_copy_that_another_run_removes_for_room_is_no_trouble(remote: Remote, copies: Path):
    store = LocalCopies(remote)
    store.find("")
    chunks = store.chunks("a")
    got = next(chunks)
    (incoming,) = kept(copies)
    incoming.unlink()
    assert got + b"".join(chunks) == DATA
    assert kept(copies) == []


def test_disk_that_gets_full_at_the_end_of_a_copy_is_no_trouble(remote: Remote, copies: Path):
    remote.put("a", DATA + b"rest")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA), before[1]))
        assert read(remote) == DATA + b"rest"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert kept(copies) == []
