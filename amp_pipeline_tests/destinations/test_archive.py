import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from amp_pipeline.core.errors import DeliveryError
from amp_pipeline.core.manifest import Manifest, broken_sum, decode
from amp_pipeline.destinations.archive import By
from amp_pipeline.workspace.records import LogEntry
from amp_pipeline_tests.builders import HOUR_US, PURCHASES, event, merged, merged_name, object_name
from amp_pipeline_tests.stages.trial import BUCKET, ONE, ZERO, NotingStore, Trial, delivery

MANIFEST = "_amp_pipeline/7/backup/2024-05-06/00.json"
MARKER = "7/7_2024-05-06_0_complete"
OWNER = "_amp_pipeline/owner.json"
PART = "7/7_2024-05-06_0#0.json.gz"
BUY = event(1, event_type="purchase", uuid="u")
BOTH = {"what": ["events", "merged_ids"]}


def landed(*lines: bytes, **settings: Any) -> Trial:
    """An hour that landed, and one delivery of it."""
    trial = Trial({"deliveries": [delivery(**settings)]})
    trial.land(object_name(ZERO), *(lines or (event(0), BUY, event(2, uuid="u"), b"nonsense")))
    return trial


def again(trial: Trial, **settings: Any) -> None:
    """Deliver the hour with other settings of the delivery."""
    trial.set({"deliveries": [delivery(**settings)]})
    trial.bucket.forget_notes()
    trial.deliver(ZERO)


def manifest(trial: Trial) -> Manifest:
    return decode(trial.bucket.get(MANIFEST))


def log(trial: Trial) -> list[LogEntry]:
    run = trial.run()
    project = run.projects["shop7"]
    return list(project.archive(project.project.deliveries[0]).state.log(ZERO))


def by(number: int) -> By:
    return By(run=f"run{number}", at=f"2024-05-07T00:00:0{number}+00:00", version="1")


def test_hour_is_parts_manifest_and_marker():
    trial = landed()
    receipt = trial.deliver(ZERO)
    assert trial.bucket.names() == [PART, MARKER, MANIFEST, OWNER]
    assert gzip.decompress(trial.bucket.get(PART)) == event(0) + b"\n" + BUY + b"\n"
    assert trial.bucket.get(MARKER) == b""
    assert (receipt.why, receipt.uri) == ("first", f"{BUCKET}/{MANIFEST}")
    assert receipt.manifest == manifest(trial)
    assert receipt.event_types == {"click": 1, "purchase": 1}


def test_manifest_says_what_is_in_the_hour():
    trial = landed()
    trial.deliver(ZERO)
    found = manifest(trial)
    assert broken_sum(found) == ""
    counts = found.counts
    assert (counts.landed, counts.quarantined, counts.repeats, counts.delivered) == (4, 1, 1, 2)
    assert (found.organization.slug, found.project.slug, found.delivery) == ("house", "shop7", "backup")
    assert (found.hour, found.complete_marker, found.filter, found.merged_ids) == (ZERO.key, MARKER, None, None)
    (file,) = found.files
    assert (file.name, file.rows, file.bytes) == (PART, 2, len(trial.bucket.get(PART)))
    assert found.server_upload_time is not None
    assert (found.server_upload_time.first, found.server_upload_time.last) == (
        "2024-05-06 00:00:00.000000",
        "2024-05-06 00:00:00.000001",
    )


def test_marker_is_written_last_and_taken_away_first():
    trial = landed()
    trial.deliver(ZERO)
    assert trial.bucket.written == [OWNER, PART, MANIFEST, MARKER]
    trial.land(object_name(ZERO), event(0))
    trial.bucket.forget_notes()
    trial.deliver(ZERO)
    assert trial.bucket.deleted == [MARKER, MANIFEST]
    assert trial.bucket.written == [PART, MANIFEST, MARKER]


def test_empty_hour_is_a_manifest_with_zeros_and_a_marker():
    trial = Trial()
    trial.deliver(ZERO)
    assert trial.bucket.names() == [MARKER, MANIFEST, OWNER]
    found = manifest(trial)
    assert (found.files, found.counts.landed, found.counts.delivered) == ([], 0, 0)
    assert (found.event_time, found.server_upload_time) == (None, None)


def test_nothing_is_written_when_nothing_changed():
    trial = landed(**BOTH)
    trial.deliver(ZERO)
    for store in trial.stores.values():
        store.forget_notes()
    receipt = trial.deliver(ZERO)
    assert receipt.why == ""
    assert receipt.manifest == manifest(trial)
    assert [store.written + store.deleted for store in trial.stores.values()] == [[]] * 3


def test_forced_hour_has_the_same_bytes():
    trial = landed()
    trial.deliver(ZERO)
    before = {name: trial.bucket.get(name) for name in trial.bucket.names()}
    trial.bucket.forget_notes()
    trial.deliver(ZERO, by(2), force=True)
    assert trial.bucket.written == [PART, MANIFEST, MARKER]
    assert {name: trial.bucket.get(name) for name in trial.bucket.names()} == before


@pytest.mark.parametrize(
    ("names", "hour", "first"),
    [({"first_part": 1}, "0", 1), ({"padded_hour": True}, "00", 0), ({"first_part": 1, "padded_hour": True}, "00", 1)],
)
def test_names_follow_the_settings_also_when_they_are_set_anew(names: dict[str, Any], hour: str, first: int):
    parts = {"parts": {"events": 1}}
    numbered = [f"7/7_2024-05-06_{hour}#{first + at}.json.gz" for at in (0, 1)]
    expected = [f"-9/-9_2024-05-06_{hour}.json.gz", *numbered, f"7/7_2024-05-06_{hour}_complete"]
    trial = landed(**BOTH, **parts, names=names)
    trial.land(merged_name(ZERO), merged(2, 1))
    trial.deliver(ZERO)
    assert [name for name in trial.bucket.names() if not name.startswith("_")] == expected
    again(trial, **BOTH, **parts)
    plain = ["-9/-9_2024-05-06_0.json.gz", PART, "7/7_2024-05-06_0#1.json.gz", MARKER]
    assert [name for name in trial.bucket.names() if not name.startswith("_")] == plain
    again(trial, **BOTH, **parts, names=names)
    assert [name for name in trial.bucket.names() if not name.startswith("_")] == expected


def test_names_of_another_hour_are_left_alone():
    trial = landed(names={"padded_hour": True})
    trial.land(object_name(ONE), event(HOUR_US))
    trial.deliver(ONE)
    trial.bucket.forget_notes()
    trial.deliver(ZERO)
    again(trial)
    assert "7/7_2024-05-06_01#0.json.gz" in trial.bucket.names()
    assert "7/7_2024-05-06_01_complete" in trial.bucket.names()


def test_parts_are_cut_as_the_delivery_says_and_obsolete_ones_are_removed():
    trial = landed(*[event(at) for at in range(5)], parts={"events": 2})
    trial.deliver(ZERO)
    assert [file.rows for file in manifest(trial).files] == [2, 2, 1]
    again(trial, parts={"events": 4})
    assert [file.rows for file in manifest(trial).files] == [4, 1]
    assert trial.bucket.deleted[-1] == "7/7_2024-05-06_0#2.json.gz"
    assert log(trial)[-1].files_deleted == ["7/7_2024-05-06_0#2.json.gz"]
    lines = [line for file in manifest(trial).files for line in trial.bucket.lines(file.name)]
    assert lines == [event(at) for at in range(5)]


def test_without_a_size_of_its_own_a_delivery_copies_the_projects_parts():
    trial = landed()
    trial.deliver(ZERO)
    (part,) = trial.deduped(ZERO).parts
    assert trial.bucket.get(PART) == trial.workspace.get(part.name)


def test_markers_may_be_switched_off_and_on():
    trial = landed(complete_markers=False)
    trial.deliver(ZERO)
    assert MARKER not in trial.bucket.names()
    assert manifest(trial).complete_marker is None
    again(trial)
    assert manifest(trial).complete_marker == MARKER
    assert MARKER in trial.bucket.names()
    again(trial, complete_markers=False)
    assert MARKER not in trial.bucket.names()


def test_filter_chooses_events_and_counts_the_others():
    trial = landed(filter=PURCHASES)
    receipt = trial.deliver(ZERO)
    found = manifest(trial)
    assert (found.counts.filtered, found.counts.delivered, found.filter) == (1, 1, PURCHASES)
    assert trial.bucket.lines(PART) == [BUY]
    assert receipt.event_types == {"purchase": 1}
    assert found.server_upload_time is not None
    assert found.server_upload_time.first == "2024-05-06 00:00:00.000001"
    assert broken_sum(found) == ""


def test_filter_that_nothing_passes_leaves_no_part():
    trial = landed(filter="event_type = 'none'")
    trial.deliver(ZERO)
    assert manifest(trial).files == []
    assert (manifest(trial).counts.filtered, manifest(trial).server_upload_time) == (2, None)


def test_filter_keeps_odd_events_as_they_are():
    odd = event(3, event_type="\ud800", event_properties={"x": 1})
    trial = landed(odd, event(4), filter="event_properties.x = 1")
    trial.deliver(ZERO)
    assert trial.bucket.lines(PART) == [odd]


def test_merged_ids_are_delivered_beside_the_events():
    trial = landed(event(0, amplitude_id=4, data={"merged_amplitude_id": 3}), **BOTH)
    trial.land(merged_name(ZERO), merged(2, 1), merged(2, 1))
    trial.deliver(ZERO)
    name = "-9/-9_2024-05-06_0.json.gz"
    assert len(trial.bucket.lines(name)) == 2
    counts = manifest(trial).merged_ids
    assert counts is not None
    assert (counts.landed, counts.made, counts.repeats, counts.delivered) == (2, 1, 1, 2)
    assert [file.kind for file in manifest(trial).files] == ["events", "merged_ids"]
    again(trial, what=["merged_ids"])
    assert [file.kind for file in manifest(trial).files] == ["merged_ids"]
    assert PART not in trial.bucket.names()
    assert broken_sum(manifest(trial)) == ""


def test_hour_that_is_not_deduplicated_or_has_no_merged_ids_yet_is_refused():
    trial = landed(**BOTH)
    project = trial.project()
    (first,) = project.project.deliveries
    with pytest.raises(DeliveryError, match="materialize shop7/deduped_events"):
        project.deliver(project.archive(first), first, ZERO, by(1))
    trial.deduped(ZERO)
    with pytest.raises(DeliveryError, match="materialize house/merged_ids"):
        project.deliver(project.archive(first), first, ZERO, by(1))


def test_bucket_of_another_organization_is_refused():
    trial = landed()
    trial.bucket.put(OWNER, json.dumps({"organization": {"id": 8, "slug": "other"}}).encode())
    trial.bucket.forget_notes()
    with pytest.raises(
        DeliveryError, match=rf"{BUCKET}/{OWNER} says that this bucket belongs to organization 8, not 9"
    ):
        trial.deliver(ZERO)
    assert trial.bucket.written == []


@pytest.mark.parametrize(
    "record", [b"", b"nonsense", b"[]", b"{}", b'{"organization":9}', b'{"organization":{"id":"9"}}']
)
def test_owner_record_that_cannot_be_read_is_refused(record: bytes):
    trial = landed()
    trial.bucket.put(OWNER, record)
    with pytest.raises(DeliveryError, match="belongs to"):
        trial.deliver(ZERO)


def test_own_record_of_the_owner_is_written_once():
    trial = landed()
    trial.deliver(ZERO)
    trial.deliver(ONE)
    assert trial.bucket.written.count(OWNER) == 1


@pytest.mark.parametrize("name", [PART, MANIFEST, MARKER])
def test_what_was_deleted_in_the_bucket_is_repaired(name: str):
    trial = landed()
    trial.deliver(ZERO)
    before = trial.bucket.get(name)
    trial.bucket.delete(name)
    assert trial.deliver(ZERO, by(2)).why == "repair"
    assert trial.bucket.get(name) == before


@pytest.mark.parametrize(
    ("name", "data"), [(PART, b"short"), (MANIFEST, b"{}"), ("7/7_2024-05-06_0#1.json.gz", b"foreign")]
)
def test_what_was_changed_in_the_bucket_is_repaired(name: str, data: bytes):
    trial = landed()
    trial.deliver(ZERO)
    before = {name: trial.bucket.get(name) for name in trial.bucket.names()}
    trial.bucket.put(name, data)
    assert trial.deliver(ZERO, by(2)).why == "repair"
    assert {name: trial.bucket.get(name) for name in trial.bucket.names()} == before


def test_delivery_log_says_why_and_what_changed():
    trial = landed()
    trial.deliver(ZERO, by(1))
    trial.deliver(ZERO, by(2))
    trial.land(object_name(ZERO, 1), event(9))
    trial.deliver(ZERO, by(3))
    trial.set({"deliveries": [delivery(filter=PURCHASES)]})
    trial.deliver(ZERO, by(4))
    trial.bucket.delete(PART)
    trial.deliver(ZERO, by(5))
    trial.deliver(ZERO, by(6), force=True)
    told = [(entry.run, entry.why, entry.before.get("events"), entry.after["events"]) for entry in log(trial)]
    assert told == [
        ("run1", "first", None, 2),
        ("run3", "late data", 2, 3),
        ("run4", "settings", 3, 1),
        ("run5", "repair", 1, 1),
        ("run6", "forced", 1, 1),
    ]
    assert log(trial)[0].files_written == [PART, MANIFEST, MARKER]


def test_lost_workspace_record_redelivers_nothing_that_stands():
    trial = landed()
    trial.deliver(ZERO)
    for name in trial.workspace.names("9/7/deliveries/"):
        trial.workspace.delete(name)
    trial.bucket.forget_notes()
    assert trial.deliver(ZERO).why == "first"
    assert trial.bucket.written == []


def test_workspace_part_that_is_not_what_was_written_is_refused_before_the_marker():
    trial = landed()
    (part,) = trial.deduped(ZERO).parts
    trial.workspace.put(part.name, b"other bytes")
    with pytest.raises(DeliveryError, match="run deduped_events of hour"):
        trial.deliver(ZERO)
    assert MARKER not in trial.bucket.names()


class LyingStore(NotingStore):
    """Reads back other bytes than were written."""

    def chunks(self, name: str) -> Iterator[bytes]:
        yield from (chunk + b"!" if name == PART else chunk for chunk in super().chunks(name))


def test_store_that_reads_back_other_bytes_gets_no_manifest_and_no_marker():
    trial = landed()
    lying = LyingStore(BUCKET)
    trial.stores[BUCKET] = lying
    with pytest.raises(DeliveryError, match="other bytes are read back"):
        trial.deliver(ZERO)
    assert [info.name for info in lying.find("")] == [PART, OWNER]


def test_delivery_log_tells_a_change_of_format_and_who_asked():
    trial = landed()
    trial.deliver(ZERO, by(1))
    (name,) = trial.workspace.names("9/7/deliveries/backup/state/")
    trial.workspace.put(name, json.dumps(json.loads(trial.workspace.get(name)) | {"format": 1}).encode())
    trial.deliver(ZERO, replace(by(2), asked_by="sensor"))
    assert [(entry.why, entry.asked_by) for entry in log(trial)] == [("first", "hand"), ("format change", "sensor")]
