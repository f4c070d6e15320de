"""What a delivery of an hour will consist of: its files, the bytes behind them, and the manifest that describes them.

Files without a filter and of the project's own size are the deduplicated parts as they are; others are packed anew, to
local disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import codec, envelope, timestamps
from amp_pipeline.core.envelope import Envelope
from amp_pipeline.core.errors import DeliveryError
from amp_pipeline.core.filters import Filter
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.lines import split_stored
from amp_pipeline.core.manifest import COLUMN_SCHEMA, VERSION, Counts, File, Manifest, MergedCounts, Owner, Range
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import DedupedRecord, MergedRecord, PartRecord, TimeRange
from amp_pipeline.workspace.store import sha256


@dataclass(frozen=True)
class Source:
    """A file to be delivered, and where its bytes are."""

    file: File
    read: Callable[[], bytes]


class Plan:
    """The files of a commit and what its manifest says of them."""

    manifest: Manifest

    def __init__(
        self, event_types: dict[str, int], event_time: TimeRange | None, server_upload_time: TimeRange | None
    ) -> None:
        """Begin without files.

        Args:
            event_types: Delivered events by type.
            event_time: First and last of the delivered events.
            server_upload_time: First and last of the delivered events.
        """
        self.sources: list[Source] = []
        self.event_types = event_types
        self.event_time = event_time
        self.server_upload_time = server_upload_time

    def add(self, kind: str, name: str, part: PartRecord, read: Callable[[], bytes]) -> None:
        """Add a file."""
        file = File(
            name=name,
            kind="events" if kind == "events" else "merged_ids",
            rows=part.rows,
            bytes=part.bytes,
            unpacked_bytes=part.unpacked_bytes,
            sha256=part.sha256,
        )
        self.sources.append(Source(file, read))


class Planner:
    """Plans the hours of one delivery."""

    def __init__(
        self,
        organization: Organization,
        project: Project,
        delivery: Delivery,
        names: ArchiveNames,
        workspace: ObjectStore,
    ) -> None:
        """Plan from what ``workspace`` holds."""
        self.names = names
        self._organization = organization
        self._project = project
        self._delivery = delivery
        self._workspace = workspace
        self._filter = Filter(delivery.filter) if delivery.filter is not None else None
        self._repacks = self._filter is not None or (delivery.parts is not None and delivery.parts != project.parts)

    def plan(self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None, scratch: Path) -> Plan:
        """Return the plan of an hour.

        Args:
            hour: The hour.
            events: Its deduplicated events.
            merged: Its merged ids, where the delivery has them.
            scratch: Folder for files that are packed anew; it must outlive the plan.
        """
        plan = Plan(
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

    def _manifest(self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None, plan: Plan) -> Manifest:
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

    def _repack(self, hour: Hour, events: DedupedRecord, scratch: Path, plan: Plan) -> None:
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
            yield from split_stored(codec.unpack([self._from_workspace(hour, part)()], part.name))


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
            kind = envelope.printable(event.event_type)
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
