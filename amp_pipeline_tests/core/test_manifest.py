"""Tests of the manifest. Run as a module, it writes docs/manifest.schema.json anew."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from amp_pipeline.core.manifest import (
    COLUMN_SCHEMA,
    Counts,
    File,
    Manifest,
    MergedCounts,
    Owner,
    Range,
    broken_sum,
    decode,
    encode,
)

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "manifest.schema.json"


def schema_text() -> str:
    return json.dumps(msgspec.json.schema(Manifest), indent=2) + "\n"


def file(kind: Any, rows: int) -> File:
    return File(name=f"7/7_2024-05-06_5#{rows}.json.gz", kind=kind, rows=rows, bytes=20, unpacked_bytes=99, sha256="ab")


COUNTS = Counts(landed=15, quarantined=1, repeats=2, deleted=3, filtered=4, delivered=5)
MERGED = MergedCounts(landed=4, made=3, quarantined=1, repeats=2, delivered=4)
MANIFEST = Manifest(
    version=1,
    organization=Owner(id=3, slug="acme"),
    project=Owner(id=7, slug="shop"),
    delivery="backup",
    filter=None,
    hour="2024-05-06-05:00",
    complete_marker="7/7_2024-05-06_5_complete",
    files=[file("events", 2), file("events", 3), file("merged_ids", 4)],
    counts=COUNTS,
    merged_ids=MERGED,
    event_time=None,
    server_upload_time=Range(first="2024-05-06 05:00:00.000000", last="2024-05-06 05:59:59.999999"),
    schema=COLUMN_SCHEMA,
)
EMPTY = msgspec.structs.replace(
    MANIFEST,
    files=[],
    counts=Counts(landed=0, quarantined=0, repeats=0, deleted=0, filtered=0, delivered=0),
    merged_ids=None,
    complete_marker=None,
    server_upload_time=None,
)


def test_manifest_that_adds_up_has_no_broken_sum():
    assert broken_sum(MANIFEST) == ""
    assert broken_sum(EMPTY) == ""


@pytest.mark.parametrize("field", ["landed", "quarantined", "repeats", "deleted", "filtered"])
def test_count_that_is_off_by_one_is_found(field: str):
    counts = msgspec.structs.replace(COUNTS, **{field: getattr(COUNTS, field) + 1})
    assert "are accounted for" in broken_sum(msgspec.structs.replace(MANIFEST, counts=counts))


def test_files_that_hold_other_rows_than_delivered_are_found():
    counts = msgspec.structs.replace(COUNTS, delivered=6, landed=16)
    assert (
        broken_sum(msgspec.structs.replace(MANIFEST, counts=counts)) == "6 events are delivered, but the files hold 5"
    )
    assert (
        broken_sum(msgspec.structs.replace(MANIFEST, files=MANIFEST.files[1:]))
        == "5 events are delivered, but the files hold 3"
    )


@pytest.mark.parametrize("field", ["landed", "made", "quarantined", "repeats"])
def test_count_of_merged_ids_that_is_off_by_one_is_found(field: str):
    merged = msgspec.structs.replace(MERGED, **{field: getattr(MERGED, field) + 1})
    assert "merged ids came in" in broken_sum(msgspec.structs.replace(MANIFEST, merged_ids=merged))


def test_merged_id_file_that_holds_other_rows_is_found():
    merged = msgspec.structs.replace(MERGED, delivered=5, landed=5)
    found = broken_sum(msgspec.structs.replace(MANIFEST, merged_ids=merged))
    assert found == "5 merged ids are delivered, but the file holds 4"


def test_manifest_reads_back_and_is_the_same_bytes_again():
    for manifest in (MANIFEST, EMPTY):
        data = encode(manifest)
        assert decode(data) == manifest
        assert encode(decode(data)) == data
        assert data.endswith(b"\n}\n")


def test_manifest_of_another_version_is_refused():
    for change in ({"version": 2}, {"counts": None}):
        with pytest.raises(msgspec.ValidationError):
            decode(json.dumps({**json.loads(encode(MANIFEST)), **change}).encode())


@pytest.mark.parametrize("manifest", [MANIFEST, EMPTY])
def test_manifest_is_valid_by_its_schema(manifest: Manifest):
    jsonschema.Draft202012Validator(json.loads(schema_text())).validate(json.loads(encode(manifest)))


@pytest.mark.parametrize("change", [{"version": 2}, {"hour": None}, {"files": [{}]}, {"counts": {"landed": "1"}}])
def test_schema_refuses_what_is_no_manifest(change: dict[str, Any]):
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert not validator.is_valid({**json.loads(encode(MANIFEST)), **change})


def test_schema_in_the_docs_is_that_of_the_code():
    assert SCHEMA_FILE.read_text() == schema_text(), "write it anew: python -m amp_pipeline_tests.core.test_manifest"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text())
