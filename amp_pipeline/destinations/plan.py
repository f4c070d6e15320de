"""What a delivery of an hour will consist of: its files, the bytes behind them, and the manifest that describes them.

Files without a filter and of the project's own size are the deduplicated parts as they are; others are packed anew,
large ones on local disk.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress, count

import numpy as np
import numpy.typing as npt

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core import codec, envelope, timestamps
from amp_pipeline.core.columns import Reader
from amp_pipeline.core.errors import DeliveryError
from amp_pipeline.core.filters import Filter
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.layout import ArchiveNames
from amp_pipeline.core.lines import Block, block_of, split_stored
from amp_pipeline.core.manifest import COLUMN_SCHEMA, VERSION, Counts, File, Manifest, MergedCounts, Owner, Range
from amp_pipeline.core.overlap import ahead
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import DedupedRecord, MergedRecord, PartRecord, TimeRange, widened

_LARGE_BYTES = 16 << 20
"""Unpacked; hours from here on are worth threads."""


_IN_MEMORY_BYTES = 1 << 20
"""All parts of an hour are there until its commit, so all but small ones are on local disk."""


@dataclass(frozen=True)
class Source:
    """A file to be delivered, and where its bytes are."""

    file: File
    chunks: Callable[[], Iterator[bytes]]
    stored: str = ""
    """Name of the same bytes in the workspace; "" where they are made for this delivery."""


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

    def add(self, kind: str, name: str, part: PartRecord, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Add a file; ``part`` has no name where it is not in the workspace."""
        file = File(
            name=name,
            kind="events" if kind == "events" else "merged_ids",
            rows=part.rows,
            bytes=part.bytes,
            unpacked_bytes=part.unpacked_bytes,
            sha256=part.sha256,
        )
        self.sources.append(Source(file, chunks, part.name))


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

    def plan(self, hour: Hour, events: DedupedRecord, merged: MergedRecord | None) -> Plan:
        """Return the plan of an hour.

        Args:
            hour: The hour.
            events: Its deduplicated events.
            merged: Its merged ids, where the delivery has them.
        """
        plan = Plan(
            event_types=events.event_types, event_time=events.event_time, server_upload_time=events.server_upload_time
        )
        if "events" in self._delivery.what:
            if self._repacks:
                self._repack(hour, events, plan)
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
                deleted=events.deleted,
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
                deleted=merged.deleted,
            ),
            event_time=_range(plan.event_time),
            server_upload_time=_range(plan.server_upload_time),
            schema=COLUMN_SCHEMA,
        )

    def _from_workspace(self, hour: Hour, part: PartRecord) -> Callable[[], Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            digest = hashlib.sha256()
            for chunk in self._workspace.chunks(part.name):
                digest.update(chunk)
                yield chunk
            if digest.hexdigest() != part.sha256:
                raise DeliveryError(
                    f"{self._workspace.uri(part.name)} is not what was written; "
                    f"run deduped_events of hour {hour} again, forced"
                )

        return chunks

    def _repack(self, hour: Hour, events: DedupedRecord, plan: Plan) -> None:
        """Pack the lines that pass the filter as parts of the delivery's own size."""
        chosen = _Chosen(self._filter)
        numbers = count()
        at_once = sum(part.unpacked_bytes for part in events.parts) < _LARGE_BYTES

        def add(part: codec.Part) -> None:
            record = PartRecord(
                name="", rows=part.rows, bytes=part.bytes, unpacked_bytes=part.unpacked_bytes, sha256=part.sha256
            )
            plan.add("events", self.names.part(hour, next(numbers)), record, part.chunks)

        parts = self._delivery.parts or self._project.parts
        with codec.PartsPacker(
            parts.size, add, compression=parts.compression, at_once=at_once, in_memory=_IN_MEMORY_BYTES
        ) as packer:
            blocks = self._stored(hour, events)
            for block in blocks if at_once else ahead(blocks):
                packer.add(block, chosen.of(block))
        plan.event_types, plan.event_time, plan.server_upload_time = (
            dict(sorted(chosen.event_types.items())),
            chosen.event_time,
            chosen.upload,
        )

    def _stored(self, hour: Hour, events: DedupedRecord) -> Iterator[Block]:
        for part in events.parts:
            yield from split_stored(codec.unpack(self._from_workspace(hour, part)(), part.name))


class _Chosen:
    """Lines that pass a filter, and the ranges of their times."""

    def __init__(self, condition: Filter | None) -> None:
        self._filter = condition
        self._reader = Reader(contents=False)
        self.event_types: Counter[str] = Counter()
        self.event_time: TimeRange | None = None
        self.upload: TimeRange | None = None

    def of(self, block: Block) -> npt.NDArray[np.bool_]:
        keep = np.ones(len(block), np.bool_)
        if self._filter is not None:
            keep[:] = self._filter.keeps(block.lines)
        chosen = block if keep.all() else block_of(compress(block.lines, keep.tolist()))
        events = self._reader.read(chosen).events
        self.event_types.update([envelope.printable(event.event_type) for event in events])
        self.event_time = widened(self.event_time, timestamps.parse_many([event.event_time for event in events]))
        self.upload = widened(self.upload, timestamps.parse_many([event.server_upload_time for event in events]))
        return keep


def _range(known: TimeRange | None) -> Range | None:
    return None if known is None else Range(first=timestamps.write(known.first), last=timestamps.write(known.last))
