"""The manifest: what one delivered hour is, and the proof of it.

A pure function of content: two runs over the same landed data write the same bytes. What they would write differently
(when, by which run, why) is in the delivery
log. The JSON Schema is docs/manifest.schema.json; it follows from the types here, and a test holds the two together.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from amp_pipeline.core.schema import COLUMNS

VERSION = 1
"""Version of the form. Readers refuse what they don't know."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who something belongs to."""

    id: int
    slug: str


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A delivered file."""

    name: str
    """Relative to the delivery's url."""
    kind: Literal["events", "merged_ids"]
    rows: int
    bytes: int
    """Size as stored."""
    unpacked_bytes: int
    sha256: str
    """Digest of the bytes as stored."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """landed = quarantined + repeats + deleted + filtered + delivered."""

    landed: int
    quarantined: int
    repeats: int
    deleted: int
    filtered: int
    delivered: int


class MergedCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """landed + made = quarantined + repeats + deleted + delivered."""

    landed: int
    made: int
    quarantined: int
    repeats: int
    delivered: int
    deleted: int = 0
    """Of deleted users; left out where there are none."""


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """First and last time, UTC, ``2024-05-06 10:00:00.000000``."""

    first: str
    last: str


class ColumnSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A column that events may have."""

    name: str
    type: Literal["string", "integer", "number", "boolean", "time", "json"]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One delivered hour."""

    version: Literal[1]
    organization: Owner
    project: Owner
    delivery: str
    filter: str | None
    """The condition that chose the events; null where all were delivered."""
    hour: str
    """UTC hour of ``server_upload_time``, ``2024-05-06-10:00``."""
    complete_marker: str | None
    """Name of the marker that is written after this manifest; null where markers are off."""
    files: list[File]
    counts: Counts
    merged_ids: MergedCounts | None
    """Null where the delivery has no merged ids."""
    event_time: Range | None
    """Of the delivered events; null where none has one."""
    server_upload_time: Range | None
    schema: list[ColumnSchema]
    """Columns that are known; events may hold more."""


COLUMN_SCHEMA = [ColumnSchema(name=column.name, type=column.kind) for column in COLUMNS]


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON with a last line end."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Return the manifest that ``data`` holds.

    Raises:
        msgspec.MsgspecError: It is none of this version.
    """
    return msgspec.json.decode(data, type=Manifest)


def broken_sum(manifest: Manifest) -> str:
    """Return what does not add up in a manifest, or "" where all does (law 2)."""
    counts = manifest.counts
    accounted = counts.quarantined + counts.repeats + counts.deleted + counts.filtered + counts.delivered
    if counts.landed != accounted:
        return f"{counts.landed} lines landed, but {accounted} are accounted for"
    in_files = _rows(manifest, "events")
    if in_files != counts.delivered:
        return f"{counts.delivered} events are delivered, but the files hold {in_files}"
    merged = manifest.merged_ids
    if merged is not None:
        accounted = merged.quarantined + merged.repeats + merged.deleted + merged.delivered
        if merged.landed + merged.made != accounted:
            return f"{merged.landed + merged.made} merged ids came in, but {accounted} are accounted for"
        if _rows(manifest, "merged_ids") != merged.delivered:
            return f"{merged.delivered} merged ids are delivered, but the file holds {_rows(manifest, 'merged_ids')}"
    return ""


def _rows(manifest: Manifest, kind: str) -> int:
    return sum(file.rows for file in manifest.files if file.kind == kind)
