"""Delivery of an hour as an Amplitude archive: parts, merged ids, manifest, complete marker, in one commit.

The order of a commit is the whole promise to readers (law 5): the marker and the manifest go away when content will
change; then the data; then what was
written is read back and held against its digests and counts; then the manifest; then the marker. Killed at any
instant, the hour
is as it was before, or has no marker, and the next run finishes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import codec, envelope, timestamps
from amp_pipeline.core.envelope import Envelope
from amp_pipeline.core.errors import DeliveryError, ObjectNotFoundError
from amp_pipeline.core.filters import Filter
from amp_pipeline.core.fingerprint import FORMAT, fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.lines import split
from amp_pipeline.core.manifest import (
    COLUMN_SCHEMA,
    VERSION,
    Counts,
    File,
    Manifest,
    MergedCounts,
    Owner,
    Range,
    broken_sum,
    encode,
)
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import DedupedRecord, DeliveryState, LogEntry, MergedRecord, PartRecord, TimeRange
from amp_pipeline.workspace.store import DeliveryStore, sha256


@dataclass(frozen=True)
class By:
    """Who delivers, for the delivery log."""

    run: str
    at: str
    """When, UTC, ISO-8601."""
    version: str


@dataclass(frozen=True)
class Receipt:
    """What a delivery of an hour came to."""

    uri: str
    """Of the manifest."""
    manifest: Manifest
    why: str
    """first, late data, settings, repair, forced, or "" where nothing had to be written."""
    event_types: dict[str, int]
    """Delivered events by type; of the whole hour where nothing is filtered."""
    written: list[str] = field(default_factory=list[str])
    deleted: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class _Source:
    """A file to be delivered, and where its bytes are."""

    file: File
    read: Callable[[], bytes]


class Archive:
    """One delivery, as one run sees it."""

    def __init__(
        self,
        organization: Organization,
        project: Project,
        delivery: Delivery,
        workspace: ObjectStore,
        destination: ObjectStore,
    ) -> None:
        """Deliver from ``workspace`` to ``destination``."""
        self.names = ArchiveNames(
            organization.id, project.id, delivery.name, delivery.names.first_part, delivery.names.padded_hour
        )
        self.store = destination
        self.state = DeliveryStore(workspace, organization.id, project.id, delivery.name)
        self._workspace = workspace
        self._organization = organization
        self._project = project
        self._delivery = delivery
        self._filter = Filter(delivery.filter) if delivery.filter is not None else None
        self._repacks = self._filter is not None or (delivery.parts is not None and delivery.parts != project.parts)
        self._settings = fingerprint(
            delivery.model_dump(mode="json", exclude={"url", "enabled"}), project.slug, organization.slug
        )
        self._owned = False

    def fingerprint(self, events: DedupedRecord, merged: MergedRecord | None) -> str:
        """Return the digest of all that decides about the bytes of an hour."""
        return fingerprint(
            self._settings,
            [(part.sha256, part.rows) for part in events.parts],
            events.landed,
            events.quarantined,
            events.repeats,
            events.event_time,
            events.server_upload_time,
            None if merged is None else [merged.fingerprint, merged.part and merged.part.sha256],
        )

    def deliver(
        self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None, by: By, *, force: bool = False
    ) -> Receipt:
        """Deliver ``hour``, writing only where something has changed.

        Args:
            hour: The hour.
            events: Its deduplicated events.
            merged: Its merged ids, where the delivery has them.
            by: For the delivery log.
            force: Write it again even if nothing has changed.

        Raises:
            DeliveryError: The bucket belongs to another organization, or what was written is not what is read back;
                no marker was written.
        """
        decided = self.fingerprint(events, merged)
        state = self.state.state(hour)
        if state is not None and state.fingerprint == decided and not force:
            found = self._manifest_bytes(hour)
            if found is not None and sha256(found) == state.manifest_sha256 and self._stands(hour, state.files):
                manifest = msgspec.json.decode(found, type=Manifest)
                return Receipt(self.store.uri(self.names.manifest(hour)), manifest, "", events.event_types)
        with tempfile.TemporaryDirectory(prefix="amp_pipeline-") as scratch:
            return self._commit(hour, events, merged, by, decided, state, Path(scratch), force)

    def holds(self, hour: Hour, manifest: Manifest) -> bool:
        """Tell whether the bucket holds what ``manifest`` says of ``hour``: files, sizes, marker, manifest."""
        return self._manifest_bytes(hour) == encode(manifest) and self._stands(
            hour, {file.name: file.bytes for file in manifest.files}
        )

    def delivered_hours(self) -> set[Hour]:
        """Return the hours that were delivered at least once."""
        return self.state.hours("state")

    def events_uri(self, hour: Hour) -> str:
        """Return where the hour's parts are, for people."""
        return self.store.uri(self.names.events_prefix(hour) + "*")

    def _commit(
        self,
        hour: Hour,
        events: DedupedRecord,
        merged: MergedRecord | None,
        by: By,
        decided: str,
        state: DeliveryState | None,
        scratch: Path,
        force: bool,
    ) -> Receipt:
        plan = self._plan(hour, events, merged, scratch)
        manifest = plan.manifest
        data = encode(manifest)
        if problem := broken_sum(manifest):
            raise DeliveryError(
                f"hour {hour} of {self._label} does not add up: {problem}; run deduped_events of the hour again, forced"
            )
        files = {source.file.name: source.file.bytes for source in plan.sources}
        why = self._why(state, decided, force)
        written: list[str] = []
        deleted: list[str] = []
        if (
            force
            or self._manifest_bytes(hour) != data
            or not self._stands(hour, files)
            or not self._matches(plan.sources)
        ):
            self._own()
            deleted = self._replace(hour, plan.sources, self._known_files(hour, state, merged))
            written = [*files, self.names.manifest(hour)]
            self.store.put(self.names.manifest(hour), data)
            if self._delivery.complete_markers:
                self.store.put(self.names.complete_marker(hour), b"")
                written.append(self.names.complete_marker(hour))
        rows = {
            "events": manifest.counts.delivered,
            "merged_ids": manifest.merged_ids.delivered if manifest.merged_ids else 0,
        }
        self.state.append(
            hour,
            LogEntry(
                project=self._project.id,
                delivery=self._delivery.name,
                hour=hour.key,
                at=by.at,
                run=by.run,
                version=by.version,
                why=why,
                before=state.rows if state else {},
                after=rows,
                manifest_sha256=sha256(data),
                files_written=written,
                files_deleted=deleted,
            ),
        )
        self.state.save(
            "state",
            hour,
            DeliveryState(
                format=FORMAT,
                hour=hour.key,
                fingerprint=decided,
                settings=self._settings,
                manifest_sha256=sha256(data),
                files=files,
                rows=rows,
            ),
        )
        return Receipt(self.store.uri(self.names.manifest(hour)), manifest, why, plan.event_types, written, deleted)

    def _known_files(self, hour: Hour, state: DeliveryState | None, merged: MergedRecord | None) -> set[str]:
        """Return the files that an earlier delivery of the hour left.

        A merged-id file stays where the delivery has no merged ids any more: by now it may be another delivery's.
        """
        there = {info.name for prefix in self.names.events_prefixes(hour) for info in self.store.find(prefix)}
        mine = {name for name in state.files if merged is not None or not name.startswith("-")} if state else set[str]()
        return there | mine

    def _replace(self, hour: Hour, sources: list[_Source], known: set[str]) -> list[str]:
        """Put the hour's data in place of the ``known`` files; return the names of those that are no more."""
        for name in self.names.hour_ends(hour):
            self.store.delete(name)
        for source in sources:
            self.store.put(source.file.name, source.read())
        obsolete = sorted(known - {source.file.name for source in sources})
        for name in obsolete:
            self.store.delete(name)
        for source in sources:
            if sha256(self.store.get(source.file.name)) != source.file.sha256:
                raise DeliveryError(
                    f"{self.store.uri(source.file.name)} was written, but other bytes are read back; "
                    f"the hour {hour} has no complete marker. "
                    "Check the store and run the hour again"
                )
        return obsolete

    def _own(self) -> None:
        """Refuse a bucket that another organization delivers to; claim one that is nobody's."""
        if self._owned:
            return
        name = self.names.owner()
        record = {
            "organization": {"id": self._organization.id, "slug": self._organization.slug},
            "written_by": "amp_pipeline",
        }
        try:
            owner = msgspec.json.decode(self.store.get(name)).get("organization", {}).get("id")
        except ObjectNotFoundError:
            self.store.put(name, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
            owner = self._organization.id
        except (msgspec.MsgspecError, AttributeError):
            owner = "nobody that can be read"
        if owner != self._organization.id:
            raise DeliveryError(
                f"{self.store.uri(name)} says that this bucket belongs to organization {owner}, "
                f"not {self._organization.id}; "
                "deliver to another url, or delete that record if the bucket has changed hands"
            )
        self._owned = True

    def _manifest_bytes(self, hour: Hour) -> bytes | None:
        try:
            return self.store.get(self.names.manifest(hour))
        except ObjectNotFoundError:
            return None

    def _stands(self, hour: Hour, files: dict[str, int]) -> bool:
        """Tell whether the hour's files are there in their sizes, no other part is, and the marker is right."""
        there = {
            info.name: info.size for prefix in self.names.events_prefixes(hour) for info in self.store.find(prefix)
        }
        for name in files.keys() - there.keys():
            info = self.store.head(name)
            if info is not None:
                there[name] = info.size
        marked = self.store.head(self.names.complete_marker(hour)) is not None
        return there == files and marked == self._delivery.complete_markers

    def _matches(self, sources: list[_Source]) -> bool:
        return all(sha256(self.store.get(source.file.name)) == source.file.sha256 for source in sources)

    def _why(self, state: DeliveryState | None, decided: str, force: bool) -> str:
        if state is None:
            return "first"
        if force:
            return "forced"
        if state.fingerprint == decided:
            return "repair"
        return "late data" if state.settings == self._settings else "settings"

    @property
    def _label(self) -> str:
        return f"{self._project.slug}.{self._delivery.name}"

    def _plan(self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None, scratch: Path) -> _Plan:
        plan = _Plan(
            event_types=events.event_types, event_time=events.event_time, server_upload_time=events.server_upload_time
        )
        if "events" in self._delivery.what:
            if self._repacks:
                self._repack(hour, events, scratch, plan)
            else:
                for number, part in enumerate(events.parts):
                    plan.add("events", self.names.part(hour, number), part, self._from_workspace(hour, part))
        else:
            plan.event_types, plan.event_time, plan.server_upload_time = {}, None, None
        if merged is not None and merged.part is not None:
            plan.add("merged_ids", self.names.merged_ids(hour), merged.part, self._from_workspace(hour, merged.part))
        plan.manifest = self._manifest(hour, events, merged, plan)
        return plan

    def _manifest(self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None, plan: _Plan) -> Manifest:
        delivered = sum(source.file.rows for source in plan.sources if source.file.kind == "events")
        return Manifest(
            version=VERSION,
            organization=Owner(id=self._organization.id, slug=self._organization.slug),
            project=Owner(id=self._project.id, slug=self._project.slug),
            delivery=self._delivery.name,
            filter=self._delivery.filter,
            hour=hour.key,
            complete_marker=self.names.complete_marker(hour) if self._delivery.complete_markers else None,
            files=[source.file for source in plan.sources],
            counts=Counts(
                landed=events.landed,
                quarantined=events.quarantined,
                repeats=events.repeats,
                deleted=0,
                filtered=events.rows - delivered,
                delivered=delivered,
            ),
            merged_ids=None
            if merged is None
            else MergedCounts(
                landed=merged.landed,
                made=merged.made,
                quarantined=merged.quarantined,
                repeats=merged.repeats,
                delivered=merged.rows,
            ),
            event_time=_range(plan.event_time),
            server_upload_time=_range(plan.server_upload_time),
            schema=COLUMN_SCHEMA,
        )

    def _from_workspace(self, hour: Hour, part: PartRecord) -> Callable[[], bytes]:
        def read() -> bytes:
            data = self._workspace.get(part.name)
            if sha256(data) != part.sha256:
                raise DeliveryError(
                    f"{self._workspace.uri(part.name)} is not what was written; "
                    f"run deduped_events of hour {hour} again, forced"
                )
            return data

        return read

    def _repack(self, hour: Hour, events: DedupedRecord, scratch: Path, plan: _Plan) -> None:
        """Write the lines that pass the filter as parts of the delivery's own size, to local disk until the commit."""
        chosen = _Chosen(self._filter)
        size = (self._delivery.parts or self._project.parts).size
        for number, part in enumerate(codec.pack(chosen.lines(self._stored_lines(hour, events)), size)):
            path = scratch / str(number)
            path.write_bytes(part.data)
            record = PartRecord(
                name="", rows=part.rows, bytes=len(part.data), unpacked_bytes=part.unpacked_bytes, sha256=part.sha256
            )
            plan.add("events", self.names.part(hour, number), record, path.read_bytes)
        plan.event_types, plan.event_time, plan.server_upload_time = (
            dict(sorted(chosen.event_types.items())),
            chosen.event_time,
            chosen.upload,
        )

    def _stored_lines(self, hour: Hour, events: DedupedRecord) -> Iterator[list[bytes]]:
        for part in events.parts:
            yield from split(codec.unpack([self._from_workspace(hour, part)()], part.name))


class _Plan:
    """The files of a commit and what its manifest says of them."""

    manifest: Manifest

    def __init__(
        self, event_types: dict[str, int], event_time: TimeRange | None, server_upload_time: TimeRange | None
    ) -> None:
        self.sources: list[_Source] = []
        self.event_types = event_types
        self.event_time = event_time
        self.server_upload_time = server_upload_time

    def add(self, kind: str, name: str, part: PartRecord, read: Callable[[], bytes]) -> None:
        file = File(
            name=name,
            kind="events" if kind == "events" else "merged_ids",
            rows=part.rows,
            bytes=part.bytes,
            unpacked_bytes=part.unpacked_bytes,
            sha256=part.sha256,
        )
        self.sources.append(_Source(file, read))


class _Chosen:
    """Lines that pass a filter, and the ranges of their times."""

    def __init__(self, condition: Filter | None) -> None:
        self._filter = condition
        self.event_types: dict[str, int] = {}
        self.event_time: TimeRange | None = None
        self.upload: TimeRange | None = None

    def lines(self, blocks: Iterator[list[bytes]]) -> Iterator[bytes]:
        for block in blocks:
            lines = block
            if self._filter is not None:
                lines = [line for line, keep in zip(block, self._filter.keeps(block), strict=True) if keep]
            self._note(lines)
            yield from lines

    def _note(self, lines: list[bytes]) -> None:
        events = [event for event in envelope.read(lines) if isinstance(event, Envelope)]
        for event in events:
            kind = event.event_type or ""
            self.event_types[kind] = self.event_types.get(kind, 0) + 1
        self.event_time = _widened(self.event_time, [event.event_time for event in events])
        self.upload = _widened(self.upload, [event.server_upload_time for event in events])


def _widened(known: TimeRange | None, texts: list[str | None]) -> TimeRange | None:
    times: list[int] = timestamps.parse(texts).drop_nulls().to_list()
    if known is not None:
        times += [known.first, known.last]
    return TimeRange(min(times), max(times)) if times else None


def _range(known: TimeRange | None) -> Range | None:
    return None if known is None else Range(first=timestamps.write(known.first), last=timestamps.write(known.last))
