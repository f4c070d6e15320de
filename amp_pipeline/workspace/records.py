"""What the workspace says about an hour: one record a stage, written last, so that what it names is there.

Records are JSON. Times are µs since 1970, hours are partition keys, digests hexadecimal SHA-256.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from amp_pipeline.core.timestamps import NO_TIME


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object that an hour was read from."""

    object: str
    """Name of the landing object."""
    stray_file: str = ""
    """Name of the workspace object that holds its strays to this hour; empty for the landing object itself."""
    size: int
    version: str
    sha256: str
    lines: int
    """Lines in the object, blank ones too."""
    damaged: bool = False
    """Damaged, and accepted by hand."""
    without_deleted: list[str] = msgspec.field(default_factory=list[str])
    """Digests of the same file of strays after events of deleted users were taken out of it."""


class RawRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What landed in an hour."""

    format: int
    hour: str
    bounds: list[str | None]
    """The project's first and last hour at that time."""
    inputs: list[Input]
    landed: int
    events: int
    quarantined: int
    strays_in: int
    strays_out: dict[str, int]
    """Lines of this hour's objects that belong to other hours, by hour."""
    landed_bytes: int
    """Unpacked bytes of the events, line ends included."""
    keys: str
    """Digest of the key index; empty where the hour has no identities."""
    rows: str
    """Digest of the rows."""
    reasons: dict[str, int]
    event_types: dict[str, int]
    made_merges: str = ""
    """Digest of the merged ids made from events; empty where there are none."""
    made_deleted: int = 0
    """Merged ids made from events that are left out because their users were deleted."""
    made_before: list[str] = []
    """Digests of the merged ids made from events before deleted ones were taken out."""
    suppressions: str = ""
    """Fingerprint of the list of deleted users that quarantine, strays and merged ids were held against."""

    @property
    def lines(self) -> int:
        """All lines of the inputs."""
        return sum(item.lines for item in self.inputs)


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A packed file of lines in the workspace."""

    name: str
    rows: int
    bytes: int
    unpacked_bytes: int
    sha256: str


class TimeRange(msgspec.Struct, frozen=True):
    """First and last time, in µs since 1970."""

    first: int
    last: int


def widened(known: TimeRange | None, times: npt.NDArray[np.int64]) -> TimeRange | None:
    """Return the range of times of ``known`` and ``times``, in which :data:`NO_TIME` stands for none."""
    times = times[times != NO_TIME]
    if not len(times):
        return known
    first, last = int(times.min()), int(times.max())
    return TimeRange(min(first, known.first), max(last, known.last)) if known else TimeRange(first, last)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """How the events of an hour differ from those that were there before."""

    before: str
    """Fingerprint of the record before this one."""
    added: int
    """Lines that were not there before."""
    removed: int
    """Lines that are there no more."""
    deletion: bool = False
    """They belonged to deleted users."""


class DedupedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of an hour without its repeats."""

    format: int
    hour: str
    fingerprint: str
    landed_as: str
    """Fingerprint of what landed, and of the settings that decide what is kept and how it is packed."""
    window: dict[str, str]
    """Digests of the key indexes of earlier hours that were searched; hours without identities are left out."""
    missing: list[str]
    """Earlier hours whose landing could not be read; the hour is stale once they can."""
    parts: list[PartRecord]
    landed: int
    quarantined: int
    repeats: int
    conflicts: int
    first_seen: dict[str, int]
    """Repeats by the hour their event was first seen in."""
    event_types: dict[str, int]
    event_time: TimeRange | None
    server_upload_time: TimeRange | None
    inputs_as: str = ""
    """Fingerprint of what landed alone; empty in records of before this was kept."""
    window_us: int = 0
    """Length of the window; 0 in records of before this was kept."""
    change: Change | None = None
    """What the last writing changed; None for the first."""
    deleted: int = 0
    """Events that are no repeats, but whose users were deleted."""
    deleted_by: dict[str, int] = {}
    """The same by the id of the suppression."""
    kept_as: str = ""
    """The fingerprint that the hour would have if nobody were deleted; empty where nobody is."""
    suppressions: str = ""
    """Fingerprint of the list of deleted users that parts and repeats were held against."""

    @property
    def rows(self) -> int:
        """Events that are not repeats."""
        return sum(part.rows for part in self.parts)


class PairsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The merged ids that landed or were made in an hour, repeats included."""

    format: int
    hour: str
    inputs: list[Input]
    made: dict[str, str]
    """Digests of the records made from events, by project id."""
    missing: list[int]
    """Projects whose landing could not be read."""
    pairs: str
    """Digest of the records; empty where there are none."""
    landed: int
    quarantined: int
    reasons: dict[str, int]
    landed_deleted: int = 0
    """Landed ones that are left out because their users were deleted."""
    made_deleted: int = 0
    """The same of those made from events."""
    made_without: int = 0
    """How many of them had been left out before they came here."""
    suppressions: str = ""
    """Fingerprint of the list of deleted users that they were held against."""


class MergedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The merged ids of an hour, without repeats."""

    format: int
    hour: str
    fingerprint: str
    pairs: str
    window: dict[str, str]
    """Digests of the records of earlier hours; hours without any are left out."""
    missing: list[int]
    part: PartRecord | None
    landed: int
    quarantined: int
    made: int
    repeats: int
    reasons: dict[str, int]
    deleted: int = 0
    """Merged ids of deleted users."""
    suppressions: str = ""
    """Fingerprint of the list of deleted users that it was made by."""

    @property
    def rows(self) -> int:
        """Merged ids that are not repeats."""
        return self.part.rows if self.part else 0


class DeliveryState(msgspec.Struct, frozen=True, kw_only=True):
    """The last delivery of an hour that ended well."""

    format: int
    hour: str
    fingerprint: str
    settings: str
    """Fingerprint of the delivery's settings alone."""
    manifest_sha256: str
    files: dict[str, int]
    """Names and sizes of the delivered files, as in the manifest."""
    rows: dict[str, int]
    """Delivered rows: events, merged_ids."""
    event_types: dict[str, int]
    """Delivered events by type."""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One delivery of an hour, for the delivery log.

    It holds what the manifest leaves out because two runs would write it differently.
    """

    project: int
    delivery: str
    hour: str
    at: str
    """When, UTC, ISO-8601."""
    run: str
    """Dagster's run id, or what else delivered."""
    version: str
    """Version of amp_pipeline."""
    why: str
    """first, late data, deletion, settings, format change, repair or forced."""
    asked_by: str = "hand"
    """Who asked for the run: hand, sensor, or backfill for one of Dagster's."""
    before: dict[str, int]
    """Rows delivered before: events, merged_ids."""
    after: dict[str, int]
    lines_added: int | None = None
    """Lines of the hour's deduplicated events that late data added, filters aside; None where that is not known."""
    lines_removed: int | None = None
    """Lines that late data made repeats of earlier ones, or that landed no more."""
    manifest_sha256: str
    files_written: list[str] = msgspec.field(default_factory=list[str])
    files_deleted: list[str] = msgspec.field(default_factory=list[str])
