"""What landed: the lines of an hour told apart into events, strays and quarantine, and the hour's key index.

Lines are not copied; the landing keeps them. The result of an hour depends on what landed and on nothing else, so
whoever
needs an hour's key index may make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import polars as pl

from amp_pipeline.config import Project
from amp_pipeline.core import codec, envelope, identity, index, timestamps
from amp_pipeline.core.envelope import Bad, Envelope
from amp_pipeline.core.errors import AmpError, FrozenHourError, LandingError, ObjectNotFoundError
from amp_pipeline.core.fingerprint import FORMAT
from amp_pipeline.core.hours import MICROSECONDS, Hour
from amp_pipeline.sources import landing
from amp_pipeline.sources.landing import ObjectReader
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.workspace.records import Input, RawRecord
from amp_pipeline.workspace.store import ProjectStore, quarantined


class RawEvents:
    """The landed hours of a project, as one run sees them."""

    def __init__(self, project: Project, source: ObjectStore, workspace: ProjectStore) -> None:
        """Read from ``source``, record in ``workspace``."""
        self.project = project
        self.source = source
        self.workspace = workspace
        self._pattern = project.events_pattern
        self._listing = landing.events(source, project)
        self._markers = landing.markers(source, project)
        self._stray_days: dict[str, dict[str, list[ObjectInfo]]] = {}
        self._current: dict[Hour, RawRecord] = {}
        self._bounds = [project.first_hour.key, project.last_hour.key if project.last_hour else None]

    def is_complete(self, hour: Hour) -> bool:
        """Tell whether the source says that the hour is complete; always where it has no markers."""
        return self._markers is None or bool(self._markers.objects(hour))

    def has_landed(self, hour: Hour) -> bool:
        """Tell whether anything of ``hour`` is in the landing, in strays, or on record."""
        if hour in self._current or self._listing.objects(hour) or self._strays_to(hour):
            return True
        return self.workspace.raw(hour) is not None

    def uri(self, hour: Hour) -> str:
        """Return where the hour's landing objects are, for people."""
        objects = self._listing.objects(hour)
        return self.source.uri(objects[0].name) if objects else self.source.uri(self._pattern.listing_prefix(hour.date))

    def land(self, hour: Hour, *, force: bool = False) -> RawRecord:
        """Return what landed in ``hour``, reading the landing where it is new or has changed.

        Args:
            hour: An hour of the project.
            force: Read it again even if nothing seems to have changed.

        Raises:
            LandingError: An object is damaged, has vanished, or changes while it is read.
            FrozenHourError: The landing of the hour is gone, and something new would change it.
        """
        if not force and hour in self._current:
            return self._current[hour]
        record = self.workspace.raw(hour)
        inputs = self._inputs(hour)
        if record is not None:
            frozen = self._vanished(hour, record, inputs)
            if frozen or (
                not force and self._judges_as(record) and _seen(record.inputs) == [_seen_now(*item) for item in inputs]
            ):
                self._current[hour] = record
                return record
        record = self._read(hour, inputs, record)
        self._current[hour] = record
        return record

    def recorded(self, hour: Hour) -> RawRecord | None:
        """Return what is on record of ``hour``, as far as that can be read."""
        try:
            return self.workspace.raw(hour)
        except AmpError:
            return None

    def landed_hours(self) -> list[Hour]:
        """Return all hours that have objects in the landing; this lists all of it."""
        return self._listing.hours()

    def is_gone(self, hour: Hour, record: RawRecord) -> bool:
        """Tell whether the hour's landing objects, which there once were, are gone."""
        return not self._listing.objects(hour) and any(not item.stray_file for item in record.inputs)

    def lines(self, record: RawRecord) -> Iterator[tuple[str, Sequence[int], list[bytes]]]:
        """Yield all lines of a recorded hour again, in the same positions: landing object, numbers in it, lines.

        Raises:
            LandingError: An object has other bytes than when the hour was recorded.
        """
        for item in record.inputs:
            reader = self._reader(item.object, item.stray_file, to_the_damage=item.damaged)
            left = item.lines
            for numbers, lines in _numbered(reader, stray=bool(item.stray_file)):
                yield item.object, numbers[:left], lines[:left]
                left -= len(lines)
            if reader.sha256 != item.sha256:
                self._current.pop(Hour.parse(record.hour), None)
                raise LandingError(
                    f"{self.source.uri(item.object)} changed while hour {record.hour} was read; run the hour again"
                )

    def _inputs(self, hour: Hour) -> list[tuple[str, str, ObjectInfo]]:
        """Return landing object, file of strays ("" for the object itself) and what is known of it, in order."""
        found = [(info.name, "", info) for info in self._listing.objects(hour)]
        for info in self._strays_to(hour):
            origin = _stray_origin(self.workspace.store, info.name)
            # The project's first or last hour may have been set anew since those strays came.
            named = self._pattern.hour_of(origin)
            if named is not None and self.project.holds(named):
                found.append((origin, info.name, info))
        return sorted(found, key=lambda item: (self._pattern.order_of(item[0]), item[0]))

    def _strays_to(self, hour: Hour) -> list[ObjectInfo]:
        if hour.day not in self._stray_days:
            by_folder: dict[str, list[ObjectInfo]] = {}
            for info in self.workspace.stray_files(hour.day):
                by_folder.setdefault(info.name.rpartition("/")[0], []).append(info)
            self._stray_days[hour.day] = by_folder
        return self._stray_days[hour.day].get(self.workspace.path("strays", hour), [])

    def _vanished(self, hour: Hour, record: RawRecord, inputs: list[tuple[str, str, ObjectInfo]]) -> bool:
        """Tell whether the hour is frozen: its landing is gone as a whole, so what is on record stands."""
        had = {item.object for item in record.inputs if not item.stray_file}
        have = {name for name, stray_file, _ in inputs if not stray_file}
        gone = sorted(name for name in had - have if not self.workspace.accepted(name, ""))
        if not gone:
            return False
        if have:
            raise LandingError(
                f"{self.source.uri(gone[0])} has vanished from the landing of hour {hour}; "
                f"put it back, or accept that it is gone: {_accept_command(self.project, gone[0])}"
            )
        strays = [_seen_now(*item) for item in inputs if item[1]]
        if strays != _seen([item for item in record.inputs if item.stray_file]):
            raise FrozenHourError(
                f"late events came in for hour {hour}, whose landing objects are gone ({self.source.uri(gone[0])}, …); "
                "put them back and run the hour again"
            )
        return True

    def _judges_as(self, record: RawRecord) -> bool:
        """Tell whether the project's first and last hour, maybe set anew, would tell the same lines apart."""
        strays = all(self.project.holds(Hour.parse(key)) for key in record.strays_out)
        return record.bounds == self._bounds or (strays and "outside_project" not in record.reasons)

    def _read(self, hour: Hour, inputs: list[tuple[str, str, ObjectInfo]], before: RawRecord | None) -> RawRecord:
        scan = _Scan(self.project, hour)
        read = [self._scan_object(scan, *item) for item in inputs]
        keys, rows = scan.index()
        landed = scan.events + len(scan.quarantine)
        if before is None and not self._listing.objects(hour) and landed < self.workspace.landed_before(hour):
            raise FrozenHourError(
                f"more lines landed in hour {hour} before, but its record is gone or of another version, and its "
                "landing objects are gone; put them back and run the hour again"
            )
        self._route_strays(hour, scan.strays)
        self.workspace.put_report("quarantine", hour, scan.quarantine)
        keys_digest = self.workspace.put_data("keys", hour, index.encode_keys(keys), ".keys") if len(keys) else ""
        rows_digest = self.workspace.put_data("rows", hour, index.encode_rows(rows), ".rows") if len(rows) else ""
        merges = codec.pack_one(made for _, _, made in sorted(scan.made_merges))
        merges_digest = self.workspace.put_data("made_merges", hour, merges.data, ".json.gz") if merges else ""
        record = RawRecord(
            format=FORMAT,
            hour=hour.key,
            bounds=self._bounds,
            inputs=read,
            landed=landed,
            events=scan.events,
            quarantined=len(scan.quarantine),
            strays_in=scan.strays_in,
            strays_out=dict(
                sorted((target.key, sum(map(len, found.values()))) for target, found in scan.strays.items())
            ),
            landed_bytes=scan.landed_bytes,
            keys=keys_digest,
            rows=rows_digest,
            reasons=dict(sorted(Counter(entry["reason"] for entry in scan.quarantine).items())),
            event_types=dict(sorted(scan.event_types.items())),
            made_merges=merges_digest,
        )
        self.workspace.save("raw", hour, record)
        if before is not None and before.rows != rows_digest:
            # Those of the record before this one stay, for a run that is using them.
            known = [self.workspace.data_name("rows", hour, digest, ".rows") for digest in (rows_digest, before.rows)]
            self.workspace.remove_other_data("rows", hour, known)
        return record

    def _scan_object(self, scan: _Scan, name: str, stray_file: str, info: ObjectInfo) -> Input:
        reader = self._reader(name, stray_file, to_the_damage=self.workspace.was_accepted(name))
        first = scan.position
        held: tuple[Sequence[int], list[bytes]] = (range(0), [])
        for block in _numbered(reader, stray=bool(stray_file)):
            scan.add(name, *held)
            held = block
        numbers, lines = held
        rest: bytes | None = None
        if reader.damage is not None:
            if not self.workspace.accepted(name, reader.sha256):
                raise LandingError(
                    f"{reader.damage}; put a whole copy in its place, "
                    "or accept it as it is, so that the lines before the damage "
                    f"count: {_accept_command(self.project, name)}"
                )
            rest = lines.pop() if lines and reader.unfinished else None
        scan.add(name, numbers, lines)
        if rest is not None:
            scan.add_truncated(name, numbers[-1], rest)
        if stray_file:
            scan.strays_in += scan.position - first
        return Input(
            object=name,
            stray_file=stray_file,
            size=info.size,
            version=info.version,
            sha256=reader.sha256,
            lines=scan.position - first,
            damaged=reader.damage is not None,
        )

    def _reader(self, name: str, stray_file: str, *, to_the_damage: bool) -> ObjectReader:
        if stray_file:
            return ObjectReader(self.workspace.store, stray_file)
        return ObjectReader(self.source, name, to_the_damage=to_the_damage)

    def _route_strays(self, hour: Hour, strays: dict[Hour, dict[str, list[tuple[int, bytes]]]]) -> None:
        """Put strays of this hour's objects where their hours find them, and take away those of objects that changed.

        Which files there are is written down first: a run that is killed in between leaves nothing that the next one
        doesn't know.
        """
        written = {
            self.workspace.stray_file(target, name): (target, name, lines)
            for target, by_object in strays.items()
            for name, lines in by_object.items()
        }
        plan = self._stray_plan(hour)
        planned = self.strays_from(hour)
        if not written and not planned:
            return
        self.workspace.store.put(plan, msgspec.json.encode(sorted({*written, *planned})))
        for file, (target, name, lines) in written.items():
            # Written again, the file would look new, and its hour would be read again for nothing.
            if self.workspace.put_changed(file, _pack_strays(name, lines)):
                self._forget(target)
        for file in set(planned) - set(written):
            self.workspace.store.delete(file)
        for day in {file.split("/")[-3] for file in planned}:
            self._stray_days.pop(day, None)
            self._current = {hour: record for hour, record in self._current.items() if hour.day != day}
        self.workspace.store.put(plan, msgspec.json.encode(sorted(written)))

    def _stray_plan(self, hour: Hour) -> str:
        return self.workspace.path("strays_from", hour, ".json")

    def strays_from(self, hour: Hour) -> list[str]:
        """Return the files of strays that objects of ``hour`` have, or had when a run was killed."""
        try:
            return msgspec.json.decode(self.workspace.store.get(self._stray_plan(hour)), type=list[str])
        except ObjectNotFoundError:
            return []

    def _forget(self, hour: Hour) -> None:
        self._stray_days.pop(hour.day, None)
        self._current.pop(hour, None)


class _Scan:
    """Tells the lines of an hour's objects apart, block by block, and keeps what the hour's record and index need."""

    def __init__(self, project: Project, hour: Hour) -> None:
        self._project = project
        self._first_us = project.first_hour.start_us
        self._end_us = (project.last_hour + 1).start_us if project.last_hour else None
        self._hour = hour
        self.position = 0
        """Lines so far, of all objects."""
        self.quarantine: list[dict[str, Any]] = []
        self.strays: dict[Hour, dict[str, list[tuple[int, bytes]]]] = {}
        self.strays_in = 0
        self.landed_bytes = 0
        self.event_types: Counter[str] = Counter()
        self.made_merges: list[tuple[int, int, bytes]] = []
        """Time, row and record; in order of arrival when sorted."""
        self._rows: list[int] = []
        self._times: list[int] = []
        self._event_times: list[int | None] = []
        self._digests: list[bytes | None] = []
        self._contents: list[int] = []

    @property
    def events(self) -> int:
        return len(self._rows)

    def index(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the key index and the rows."""
        return index.build(self._rows, self._times, self._event_times, self._digests, self._contents)

    def add(self, name: str, numbers: Sequence[int], lines: list[bytes]) -> None:
        """Take the next lines of an object, and their numbers in it."""
        found = envelope.read(lines)
        events = [item if isinstance(item, Envelope) else _NO_EVENT for item in found]
        uploads = timestamps.parse([event.server_upload_time for event in events]).to_list()
        clients = timestamps.parse([event.client_event_time for event in events]).to_list()
        times = timestamps.parse([event.event_time for event in events]).to_list()
        for offset, item in enumerate(found):
            if item is None:
                continue
            bad = (
                item if isinstance(item, Bad) else self._refusal(item, uploads[offset], clients[offset], times[offset])
            )
            if bad is not None:
                self.quarantine.append(quarantined(name, numbers[offset], lines[offset], bad))
            elif (target := uploads[offset] // MICROSECONDS) != self._hour.number:
                by_object = self.strays.setdefault(Hour(target), {})
                by_object.setdefault(name, []).append((numbers[offset], lines[offset]))
            else:
                self._event(
                    self.position + offset,
                    lines[offset],
                    events[offset],
                    uploads[offset],
                    clients[offset],
                    times[offset],
                )
        self.position += len(lines)

    def add_truncated(self, name: str, number: int, rest: bytes) -> None:
        """Take what stood between the last line end and the damage of an accepted object."""
        if rest.strip(b" \t\r"):
            self.quarantine.append(quarantined(name, number, rest, Bad("truncated", "")))
        self.position += 1

    def _refusal(self, event: Envelope, upload: int | None, client: int | None, time: int | None) -> Bad | None:
        if event.server_upload_time is None:
            return Bad("no_time", "")
        for field, text, parsed in (
            ("server_upload_time", event.server_upload_time, upload),
            ("client_event_time", event.client_event_time, client),
            ("event_time", event.event_time, time),
        ):
            if text is not None and parsed is None:
                return Bad("bad_time", field)
        if event.app is not None and event.app != self._project.id:
            return Bad("other_project", "app")
        if upload is None or upload < self._first_us or (self._end_us is not None and upload >= self._end_us):
            return Bad("outside_project", "server_upload_time")
        return None

    def _event(self, row: int, line: bytes, event: Envelope, upload: int, client: int | None, time: int | None) -> None:
        text = identity.identity(event, client)
        self._rows.append(row)
        self._times.append(upload)
        self._event_times.append(time)
        self._digests.append(None if text is None else identity.digest(text))
        self._contents.append(0 if text is None else identity.content_digest(line))
        self.landed_bytes += len(line) + 1
        self.event_types[envelope.printable(event.event_type)] += 1
        winner = event.data.merged_amplitude_id if event.data else None
        if winner is not None and event.amplitude_id is not None:
            made = _made_merge(event.amplitude_id, winner, time if time is not None else client, upload)
            self.made_merges.append((upload, row, made))


_NO_EVENT = Envelope()


def _made_merge(loser: int, winner: int, time: int | None, upload: int) -> bytes:
    merge_time = (upload if time is None else time) // 1000
    return (
        f'{{"scope":null,"merge_time":{merge_time},"merge_server_time":{upload // 1000},'
        f'"amplitude_id":{loser},"merged_amplitude_id":{winner}}}'
    ).encode()


def _accept_command(project: Project, name: str) -> str:
    return f"amp-pipeline accept --project {project.slug} '{name}'"


def _numbered(reader: ObjectReader, *, stray: bool) -> Iterator[tuple[Sequence[int], list[bytes]]]:
    """Yield an object's lines and their numbers in the landing object.

    A file of strays tells the numbers (see :func:`_pack_strays`).
    """
    if stray:
        for block in reader.stored_blocks():
            pairs = [text.partition(b"\t") for text in block if b"\t" in text]
            yield [int(number) for number, _, _ in pairs], [line for _, _, line in pairs]
        return
    first = 1
    for lines in reader.blocks():
        yield range(first, first + len(lines)), lines
        first += len(lines)


def _pack_strays(name: str, lines: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a file of strays: the landing object's name, then each line behind its number and a tab."""
    return codec.pack_whole([msgspec.json.encode(name), *(b"%d\t%s" % item for item in lines)]).data


def _stray_origin(store: ObjectStore, file: str) -> str:
    for lines in ObjectReader(store, file).stored_blocks():
        return msgspec.json.decode(lines[0], type=str)
    raise LandingError(f"{store.uri(file)} is empty; delete it and run the hour it came from again")


def _seen(inputs: list[Input]) -> list[tuple[str, str, int, str]]:
    return [(item.object, item.stray_file, item.size, item.version) for item in inputs]


def _seen_now(name: str, stray_file: str, info: ObjectInfo) -> tuple[str, str, int, str]:
    return name, stray_file, info.size, info.version
