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
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from amp_pipeline.core import codec, index
from amp_pipeline.core.envelope import Bad
from amp_pipeline.core.errors import ObjectNotFoundError, WorkspaceError
from amp_pipeline.core.fingerprint import FORMAT
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.index import KeyIndex, Rows
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

_RECORD = re.compile(r".*/(\d{4}-\d{2}-\d{2})/([01]\d|2[0-3])\.json")

_CHUNK_BYTES = 1 << 20
_YOUNG_SECONDS = 12 * 3600
"""An older object that no record names may be taken away at any time; see :mod:`amp_pipeline.retention`."""

_SMALL_BYTES = 64 << 10  # 168 of them at most are held at a time

_Entry = TypeVar("_Entry")
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


@lru_cache(maxsize=4096)
def _midnight(day: str) -> Hour:
    return Hour.parse(f"{day}-00:00")


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
        # By the day, of which there are few: to parse each hour of ten years would take longer than to list them.
        return {_midnight(name[1]) + int(name[2]) for name in found if name is not None}

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
            raise self._gone(name, hour) from None
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
        if not self._holds(name, len(data), digest):
            self.store.put(name, data)
        return digest

    def read_data(self, kind: str, hour: Hour, digest: str, ending: str) -> tuple[index.Read, int, str]:
        """Return how to read a data object in pieces, its size, and where it is.

        A small one is read whole, at once: of a window of quiet hours each is asked for again and again.

        Raises:
            WorkspaceError: It is gone.
        """
        name = self.data_name(kind, hour, digest, ending)
        found = self.store.head(name)
        if found is None:
            raise self._gone(name, hour)

        def read(start: int, length: int) -> bytes:
            try:
                return self.store.read_range(name, start, length)
            except ObjectNotFoundError:
                raise self._gone(name, hour) from None

        if found.size <= _SMALL_BYTES:
            data = read(0, found.size)

            def read_small(start: int, length: int) -> bytes:
                return data[start : start + length]

            return read_small, found.size, self.store.uri(name)
        return read, found.size, self.store.uri(name)

    def _gone(self, name: str, hour: Hour) -> WorkspaceError:
        return WorkspaceError(f"{self.store.uri(name)} is gone; run the hour {hour} again, forced")

    def put_file(self, kind: str, hour: Hour, file: Path, ending: str) -> str:
        """Write a data object from a local file and return its digest."""
        digest = hashlib.sha256()
        for chunk in _chunks(file):
            digest.update(chunk)
        name = self.data_name(kind, hour, digest.hexdigest(), ending)
        if not self._holds(name, file.stat().st_size, digest.hexdigest()):
            self.store.put_chunks(name, _chunks(file))
        return digest.hexdigest()

    def _holds(self, name: str, size: int, digest: str) -> bool:
        """Tell whether an object has these bytes and will stay.

        What is damaged must be written anew by a run that is forced, and what is old so that it is old no more.
        """
        found = self.store.head(name)
        if found is None or found.size != size or (self.store.age(name) or 0) > _YOUNG_SECONDS:
            return False
        actual = hashlib.sha256()
        for chunk in self.store.chunks(name):
            actual.update(chunk)
        return actual.hexdigest() == digest

    def put_changed(self, name: str, part: codec.Part) -> bool:
        """Write an object unless it has these bytes already; tell whether it was written."""
        digest = hashlib.sha256()
        try:
            for chunk in self.store.chunks(name):
                digest.update(chunk)
        except ObjectNotFoundError:
            pass
        else:
            if digest.hexdigest() == part.sha256:
                return False
        self.store.put_chunks(name, part.chunks())
        return True

    def remove_other_data(self, kind: str, hour: Hour, keep: Iterable[str]) -> None:
        """Delete data objects of ``hour`` but those with the names ``keep``."""
        kept = set(keep)
        for found in self.store.find(self.path(kind, hour, "-")):
            if found.name not in kept:
                self.store.delete(found.name)

    def report(self, kind: str, hour: Hour, entry: type[_Entry] = dict[str, Any]) -> Iterator[_Entry]:
        """Yield the entries of a report (``quarantine``, ``repeats``), none where there is none.

        Args:
            kind: Of the report.
            hour: Its hour.
            entry: What is read of each.
        """
        yield from map(msgspec.json.Decoder(entry).decode, self.report_lines(kind, hour))

    def report_lines(self, kind: str, hour: Hour) -> Iterator[bytes]:
        """Yield the entries of a report as they are stored."""
        try:
            for block in split_stored(codec.unpack(self.store.chunks(self.path(kind, hour, ".jsonl.gz")), "report")):
                yield from block.lines
        except ObjectNotFoundError:
            return

    def put_report(self, kind: str, hour: Hour, entries: codec.LinePacker) -> None:
        """Write a report, or delete it where there are no entries."""
        name = self.path(kind, hour, ".jsonl.gz")
        part = entries.finish()
        if part.rows:
            self.store.put_chunks(name, part.chunks())
        elif self.store.head(name) is not None:
            self.store.delete(name)


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk


class ProjectStore(HourStore):
    """A project's part of the workspace."""

    def __init__(self, store: ObjectStore, organization: int, project: int) -> None:
        """Use the folder ``{organization}/{project}`` of ``store``."""
        super().__init__(store, f"{organization}/{project}")
        self.organization = organization

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

    def keys(self, hour: Hour, digest: str) -> KeyIndex:
        """Return the key index of an hour, to be searched where it lies.

        Raises:
            WorkspaceError: It is gone, or not what was written.
        """
        return KeyIndex(*self.read_data("keys", hour, digest, ".keys"))

    def rows(self, hour: Hour, digest: str) -> Rows:
        """Return the rows of an hour.

        Raises:
            WorkspaceError: They are gone, or not what was written.
        """
        read, size, uri = self.read_data("rows", hour, digest, ".rows")
        found = hashlib.sha256()
        for start in range(0, size, _CHUNK_BYTES):
            found.update(read(start, _CHUNK_BYTES))
        if found.hexdigest() != digest:
            raise WorkspaceError(f"{uri} is not what was written; delete it and run the hour {hour} again, forced")
        return Rows(read, size, uri)

    def part_name(self, hour: Hour, number: int, digest: str) -> str:
        """Return the name of a deduplicated part."""
        return self.path("deduped", hour, f"-{number}-{digest[:16]}.json.gz")

    def put_part(self, hour: Hour, number: int, part: codec.Part) -> PartRecord:
        """Write a deduplicated part."""
        name = self.part_name(hour, number, part.sha256)
        self.store.put_chunks(name, part.chunks())
        return PartRecord(
            name=name, rows=part.rows, bytes=part.bytes, unpacked_bytes=part.unpacked_bytes, sha256=part.sha256
        )

    def stray_files(self, day: str) -> list[ObjectInfo]:
        """Return the files of strays that belong to hours of ``day``."""
        return self.store.find(f"{self.folder}/strays/{day}/")

    def stray_file(self, hour: Hour, landing_object: str) -> str:
        """Return the name of the file with the strays of a landing object that belong to ``hour``."""
        return self.path("strays", hour, f"/{sha256(landing_object.encode())[:16]}.lines.gz")

    def hour_of_strays(self, file: str) -> Hour:
        """Return the hour whose strays a file holds."""
        day, of_day = file.split("/")[-3:-1]
        return Hour.parse(f"{day}-{of_day}:00")

    def stray_plan(self, hour: Hour) -> str:
        """Return the name of the list of files of strays that objects of ``hour`` have."""
        return self.path("strays_from", hour, ".json")

    def strays_from(self, hour: Hour) -> list[str]:
        """Return the files of strays that objects of ``hour`` have, or had when a run was killed."""
        try:
            return msgspec.json.decode(self.store.get(self.stray_plan(hour)), type=list[str])
        except ObjectNotFoundError:
            return []

    def accepted(self, landing_object: str, digest: str) -> bool:
        """Tell whether a damaged or vanished object was accepted by hand, with these bytes (``""`` for gone)."""
        return self.store.head(self.acceptance(landing_object, digest)) is not None

    def was_accepted(self, landing_object: str) -> bool:
        """Tell whether a landing object was ever accepted, whatever its bytes."""
        return bool(self.store.find(self.acceptance(landing_object, "").removesuffix(".json")))

    def acceptances(self) -> list[str]:
        """Return the names of all records that an object was accepted."""
        return [info.name for info in self.store.find(f"{self.folder}/accepted/")]

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

    def pairs(self, hour: Hour) -> PairsRecord | None:
        """Return the merged ids that landed or were made in ``hour``, as last recorded."""
        return self.load("pairs", hour, PairsRecord)
