import gzip
import hashlib

import pytest

from amp_pipeline.core.errors import ObjectNotFoundError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import EVENTS, Pattern
from amp_pipeline.sources.landing import Listing, ObjectReader
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline_tests.stages.trial import ONE, ZERO, NotingStore, Trial

PATTERN = Pattern(EVENTS, project=7)
TEXT = b'{"a":1}\r\n\n{"a":2}'


def listing(*names: str) -> tuple[MemoryStore, Listing]:
    store = MemoryStore()
    for name in names:
        store.put(name, b"")
    return store, Listing(store, PATTERN)


def objects(found: Listing, hour: Hour) -> list[str]:
    return [info.name for info in found.objects(hour)]


def test_objects_of_an_hour_stand_in_their_order():
    names = [
        "7/7_2024-05-06_0#10.json",
        "7/7_2024-05-06_0#9.json.gz",
        "7/7_2024-05-06_00#11.json",
        "7/7_2024-05-06_0#9.json",
    ]
    _, found = listing(*names)
    assert objects(found, ZERO) == [names[3], names[1], names[0], names[2]]


def test_other_hours_projects_and_markers_are_left_out():
    _, found = listing(
        "7/7_2024-05-06_1#0.json", "8/8_2024-05-06_0#0.json", "7/7_2024-05-06_0_complete", "7/7_2024-05-07_0#0.json"
    )
    assert objects(found, ZERO) == []
    assert objects(found, ONE) == ["7/7_2024-05-06_1#0.json"]


def test_a_listing_is_one_view():
    store, found = listing("7/7_2024-05-06_0#0.json")
    assert len(objects(found, ZERO)) == 1
    store.put("7/7_2024-05-06_0#1.json", b"")
    assert len(objects(found, ZERO)) == 1


def test_hour_is_complete_once_its_marker_is_there_or_always_where_there_are_none():
    trial = Trial()
    assert not trial.project().raw.is_complete(ZERO)
    trial.landing.put("7/7_2024-05-06_0_complete", b"")
    assert trial.project().raw.is_complete(ZERO)
    assert not trial.project().raw.is_complete(ONE)
    trial.set({"source": {"url": "/trial/landing", "complete": None}})
    assert trial.project().raw.is_complete(ONE)


def reader(data: bytes) -> ObjectReader:
    store = MemoryStore()
    store.put("a.json.gz", data)
    return ObjectReader(store, "a.json.gz")


@pytest.mark.parametrize(
    "data",
    [TEXT, gzip.compress(TEXT, mtime=0), gzip.compress(TEXT, mtime=0) + bytes(100)],
    ids=["plain", "gzip", "padded"],
)
def test_object_is_read_to_its_lines_and_its_digest(data: bytes):
    found = reader(data)
    assert [line for block in found.blocks() for line in block.lines] == [b'{"a":1}', b"", b'{"a":2}']
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.damage is None
    assert found.unfinished


def test_object_that_ends_with_a_line_end_is_finished():
    found = reader(TEXT + b"\n")
    list(found.blocks())
    assert not found.unfinished


def test_damage_is_kept_with_the_digest_of_the_whole_object():
    data = gzip.compress(TEXT + b"\n") + b"junk"
    found = reader(data)
    assert [line for block in found.blocks() for line in block.lines] == [b'{"a":1}', b"", b'{"a":2}']
    assert "a.json.gz" in str(found.damage)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_object_that_is_gone_is_told():
    with pytest.raises(ObjectNotFoundError):
        list(ObjectReader(NotingStore("memory:"), "none").blocks())
