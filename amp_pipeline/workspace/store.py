"""Where each thing of an hour lies in the workspace, and reading and writing it.

Data objects carry a piece of their digest in their name and records are written after them, so a record never names
bytes
that are not there, and a run that is killed leaves the old record with the old bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
import polars as pl

from amp_pipeline.core import codec, index
from amp_pipeline.core.envelope import Bad
from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.fingerprint import FORMAT
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import split_stored
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.workspace.records import (
    DedupedRecord,
    DeliveryState,
    LogEntry,
    MergedRecord,
    PairsRecord,
    PartRecord,
    RawRecord,
)

_RECORD = re.compile(r".*/(\d{4}-\d{2}-\d{2})/(\d{2})\.json")

_Record = TypeVar("_Record", RawRecord, DedupedRecord, PairsRecord, MergedRecord, DeliveryState)


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def quarantined(name: str, number: int, line: bytes, bad: Bad) -> dict[str, Any]:
    """Return the entry of a quarantined line: where it stood, why, and all of it.

    The line is ``text``, or ``base64`` where it is not UTF-8.
    """
    entry: dict[str, Any] = {"object": name, "line": number, "reason": bad.reason, "detail": bad.detail}
    try:
        return {**entry, "text": line.decode()}
    except UnicodeDecodeError:
        return {**entry, "base64": base64.b64encode(line).decode()}


class _Form(msgspec.Struct):
    """What all records have: a version of their form."""

    format: int


class _Landed(msgspec.Struct):
    """What the records of an hour's events have in all versions."""

    landed: int


class HourStore:
    """What all parts of the workspace share: records and data objects of hours below one folder."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        """Keep things below ``folder`` of ``store``."""
        self.store = store
        self.folder = folder

    def path(self, kind: str, hour: Hour, rest: str = "") -> str:
        """Return the name of an object of ``hour``."""
        return f"{self.folder}/{kind}/{hour.day}/{hour.of_day:02d}{rest}"

    def load(self, kind: str, hour: Hour, record: type[_Record]) -> _Record | None:
        """Return a record, or None where there is none of this format."""
        name = self.path(kind, hour, ".json")
        try:
            data = self.store.get(name)
        except ObjectNotFoundError:
            return None
        try:
            if msgspec.json.decode(data, type=_Form).format != FORMAT:
                return None
            return msgspec.json.decode(data, type=record)
        except msgspec.MsgspecError as error:
            raise WorkspaceError(
                f"{self.store.uri(name)} is damaged ({error}); delete it and run the hour again"
            ) from None

    def has_record(self, kind: str, hour: Hour) -> bool:
        """Tell whether there is a record, of whatever version."""
        return self.store.head(self.path(kind, hour, ".json")) is not None

    def save(self, kind: str, hour: Hour, record: msgspec.Struct) -> None:
        """Write a record."""
        self.store.put(self.path(kind, hour, ".json"), msgspec.json.encode(record, order="deterministic"))

    def hours(self, kind: str) -> set[Hour]:
        """Return the hours that have a record."""
        found = (_RECORD.fullmatch(info.name) for info in self.store.find(f"{self.folder}/{kind}/"))
        return {Hour.parse(f"{name[1]}-{name[2]}:00") for name in found if name is not None}

    def uri(self, kind: str, hour: Hour) -> str:
        """Return where the data objects of an hour are, for people."""
        return self.store.uri(self.path(kind, hour, "-*"))

    def data(self, kind: str, hour: Hour, digest: str, ending: str) -> bytes:
        """Return a data object's bytes, held against its digest.

        Raises:
            WorkspaceError: It is gone or has other bytes.
        """
        name = self.data_name(kind, hour, digest, ending)
        try:
            data = self.store.get(name)
        except ObjectNotFoundError:
            raise WorkspaceError(f"{self.store.uri(name)} is gone; run the hour {hour} again, forced") from None
        if sha256(data) != digest:
            raise WorkspaceError(
                f"{self.store.uri(name)} is not what was written; delete it and run the hour {hour} again, forced"
            )
        return data

    def data_name(self, kind: str, hour: Hour, digest: str, ending: str) -> str:
        """Return the name of a data object."""
        return self.path(kind, hour, f"-{digest[:16]}{ending}")

    def put_data(self, kind: str, hour: Hour, data: bytes, ending: str) -> str:
        """Write a data object and return its digest."""
        digest = sha256(data)
        name = self.data_name(kind, hour, digest, ending)
        found = self.store.head(name)
        if found is None or found.size != len(data):
            self.store.put(name, data)
        return digest

    def put_changed(self, name: str, data: bytes) -> bool:
        """Write an object unless it has these bytes already; tell whether it was written."""
        try:
            if self.store.get(name) == data:
                return False
        except ObjectNotFoundError:
            pass
        self.store.put(name, data)
        return True

    def remove_other_data(self, kind: str, hour: Hour, keep: Iterable[str]) -> None:
        """Delete data objects of ``hour`` but those with the names ``keep``."""
        kept = set(keep)
        for found in self.store.find(self.path(kind, hour, "-")):
            if found.name not in kept:
                self.store.delete(found.name)

    def report(self, kind: str, hour: Hour) -> list[dict[str, Any]]:
        """Return the lines of a report (``quarantine``, ``repeats``), empty where there is none."""
        try:
            blocks = codec.unpack(self.store.chunks(self.path(kind, hour, ".jsonl.gz")), "report")
            return [msgspec.json.decode(line) for lines in split_stored(blocks) for line in lines]
        except ObjectNotFoundError:
            return []

    def put_report(self, kind: str, hour: Hour, entries: Iterable[dict[str, Any]]) -> None:
        """Write a report, or delete it where there are no entries."""
        name = self.path(kind, hour, ".jsonl.gz")
        part = codec.pack_one(msgspec.json.encode(entry) for entry in entries)
        if part is not None:
            self.store.put(name, part.data)
        elif self.store.head(name) is not None:
            self.store.delete(name)


class ProjectStore(HourStore):
    """A project's part of the workspace."""

    def __init__(self, store: ObjectStore, organization: int, project: int) -> None:
        """Use the folder ``{organization}/{project}`` of ``store``."""
        super().__init__(store, f"{organization}/{project}")

    def raw(self, hour: Hour) -> RawRecord | None:
        """Return what landed in ``hour``, as last recorded."""
        return self.load("raw", hour, RawRecord)

    def deduped(self, hour: Hour) -> DedupedRecord | None:
        """Return what is left of ``hour`` without repeats, as last recorded."""
        return self.load("deduped", hour, DedupedRecord)

    def landed_before(self, hour: Hour) -> int:
        """Return how many lines landed in ``hour`` by any record of it, of any version; 0 where there is none."""
        most = 0
        for kind in ("raw", "deduped"):
            try:
                found = msgspec.json.decode(self.store.get(self.path(kind, hour, ".json")), type=_Landed)
            except (ObjectNotFoundError, msgspec.MsgspecError):
                continue
            most = max(most, found.landed)
        return most

    def keys(self, hour: Hour, digest: str) -> pl.DataFrame:
        """Return a key index; one without digest is empty."""
        return index.decode_keys(self.data("keys", hour, digest, ".keys")) if digest else index.empty_keys()

    def rows(self, hour: Hour, digest: str) -> pl.DataFrame:
        """Return the rows of an hour."""
        return index.decode_rows(self.data("rows", hour, digest, ".rows"))

    def part_name(self, hour: Hour, number: int, digest: str) -> str:
        """Return the name of a deduplicated part."""
        return self.path("deduped", hour, f"-{number}-{digest[:16]}.json.gz")

    def put_part(self, hour: Hour, number: int, part: codec.Part) -> PartRecord:
        """Write a deduplicated part."""
        digest = part.sha256
        name = self.part_name(hour, number, digest)
        self.store.put(name, part.data)
        return PartRecord(
            name=name, rows=part.rows, bytes=len(part.data), unpacked_bytes=part.unpacked_bytes, sha256=digest
        )

    def stray_files(self, day: str) -> list[ObjectInfo]:
        """Return the files of strays that belong to hours of ``day``."""
        return self.store.find(f"{self.folder}/strays/{day}/")

    def stray_file(self, hour: Hour, landing_object: str) -> str:
        """Return the name of the file with the strays of a landing object that belong to ``hour``."""
        return self.path("strays", hour, f"/{sha256(landing_object.encode())[:16]}.lines.gz")

    def accepted(self, landing_object: str, digest: str) -> bool:
        """Tell whether a damaged or vanished object was accepted by hand, with these bytes (``""`` for gone)."""
        return self.store.head(self.acceptance(landing_object, digest)) is not None

    def was_accepted(self, landing_object: str) -> bool:
        """Tell whether a landing object was ever accepted, whatever its bytes."""
        return bool(self.store.find(self.acceptance(landing_object, "").removesuffix(".json")))

    def acceptance(self, landing_object: str, digest: str) -> str:
        """Return the name of the record that an object was accepted."""
        return f"{self.folder}/accepted/{sha256(landing_object.encode())[:16]}-{digest[:16]}.json"


class DeliveryStore(HourStore):
    """A delivery's part of the workspace: its state by hour, and its log."""

    def __init__(self, store: ObjectStore, organization: int, project: int, delivery: str) -> None:
        """Use the folder ``{organization}/{project}/deliveries/{delivery}`` of ``store``."""
        super().__init__(store, f"{organization}/{project}/deliveries/{delivery}")

    def state(self, hour: Hour) -> DeliveryState | None:
        """Return the last delivery of ``hour`` that ended well."""
        return self.load("state", hour, DeliveryState)

    def append(self, hour: Hour, entry: LogEntry) -> None:
        """Add an entry to the delivery log."""
        stamp = entry.at.replace(":", "").replace("-", "")
        self.store.put(self.path("log", hour, f"/{stamp}-{entry.run[:8]}.json"), msgspec.json.encode(entry))

    def log(self, hour: Hour) -> Iterator[LogEntry]:
        """Yield the entries of ``hour``, oldest first."""
        for found in self.store.find(self.path("log", hour, "/")):
            yield msgspec.json.decode(self.store.get(found.name), type=LogEntry)


class OrganizationStore(HourStore):
    """An organization's part of the workspace: merged ids."""

    def __init__(self, store: ObjectStore, organization: int) -> None:
        """Use the folder ``{organization}`` of ``store``."""
        super().__init__(store, str(organization))

    def merged(self, hour: Hour) -> MergedRecord | None:
        """Return the merged ids of ``hour``, as last recorded."""
        return self.load("merged_ids", hour, MergedRecord)
