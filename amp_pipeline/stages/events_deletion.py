"""Taking deleted users out of deduplicated hours that are on record: from the parts themselves, never the landing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from amp_pipeline.config import Parts
from amp_pipeline.core import envelope, timestamps
from amp_pipeline.core.columns import Reader
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.stages.deletion import clean_repeats
from amp_pipeline.stages.stored_parts import LARGE_BYTES, open_parts, put_parts
from amp_pipeline.workspace.records import Change, DedupedRecord, PartRecord, TimeRange, widened
from amp_pipeline.workspace.store import ProjectStore


def deleted_fingerprint(kept_as: str, deleted_by: dict[str, int]) -> str:
    """Return the fingerprint of an hour from the one that it would have if nobody were deleted."""
    return fingerprint(kept_as, deleted_by) if deleted_by else kept_as


class EventsDeletion:
    """Takes deleted users out of the deduplicated hours of a project."""

    def __init__(self, workspace: ProjectStore, suppressed: Suppressed, parts: Parts) -> None:
        """Clean ``workspace`` of ``suppressed``; what is written has ``parts`` of the project's size."""
        self._workspace = workspace
        self._suppressed = suppressed
        self._parts = parts

    def is_needed(self, hour: Hour, record: DedupedRecord) -> bool:
        """Tell whether there is anything of deleted users in a recorded hour.

        Where there is nothing, the record is noted to be held against the list.
        """
        here = self._suppressed.at(hour)
        if record.suppressions == here.fingerprint:
            return False
        repeats = (entry.text.encode() for entry in self._workspace.report("repeats", hour, _Text) if entry.text)
        if any(here.of_event(line) is not None for line in repeats):
            return True
        if any(here.find(block) for block in open_parts(self._workspace.store, record.parts)):
            return True
        self._settle(hour, record, here)
        return False

    def without_deleted(self, hour: Hour, record: DedupedRecord) -> DedupedRecord:
        """Take deleted users out of a recorded hour: its parts, its repeats, and what lies there from before.

        Raises:
            DamagedObjectError: A part can't be unpacked.
            ObjectNotFoundError: A part is gone.
        """
        here = self._suppressed.at(hour)
        if record.suppressions == here.fingerprint:
            return record
        clean_repeats(self._workspace, hour, here)
        if any(here.find(block) for block in open_parts(self._workspace.store, record.parts)):
            record = self._rewritten(hour, record, here)
            self._workspace.save("deduped", hour, record)
        return self._settle(hour, record, here)

    def _settle(self, hour: Hour, record: DedupedRecord, here: Suppressed) -> DedupedRecord:
        """Take away what the record does not name, and note that it was held against the list.

        In this order: whoever is killed in between is followed by a run that does it again.
        """
        self._workspace.remove_other_data("deduped", hour, [part.name for part in record.parts])
        record = msgspec.structs.replace(record, suppressions=here.fingerprint)
        self._workspace.save("deduped", hour, record)
        return record

    def _rewritten(self, hour: Hour, record: DedupedRecord, here: Suppressed) -> DedupedRecord:
        left = _Left(here)
        at_once = sum(part.unpacked_bytes for part in record.parts) < LARGE_BYTES
        parts = put_parts(self._workspace, hour, self._parts, left.of(self._workspace, record.parts), at_once=at_once)
        kept_as = record.kept_as or record.fingerprint
        deleted_by = dict(sorted((Counter(record.deleted_by) + left.deleted_by).items()))
        return msgspec.structs.replace(
            record,
            fingerprint=deleted_fingerprint(kept_as, deleted_by),
            kept_as=kept_as,
            parts=parts,
            change=Change(before=record.fingerprint, added=0, removed=left.deleted_by.total(), deletion=True),
            event_types=dict(sorted((Counter(record.event_types) - left.types).items())),
            event_time=left.event_time,
            server_upload_time=left.server_upload_time,
            deleted=record.deleted + left.deleted_by.total(),
            deleted_by=deleted_by,
        )


@dataclass
class _Left:
    """What is left of parts without deleted users, and what of them is gone."""

    suppressed: Suppressed
    deleted_by: Counter[str] = field(default_factory=Counter[str])
    types: Counter[str] = field(default_factory=Counter[str])
    """Of the deleted events."""
    event_time: TimeRange | None = None
    server_upload_time: TimeRange | None = None

    def of(self, workspace: ProjectStore, parts: Sequence[PartRecord]) -> Iterator[tuple[Block, npt.NDArray[np.bool_]]]:
        """Yield the lines of parts, and which of them are left."""
        reader = Reader(contents=False)
        for block in open_parts(workspace.store, parts):
            found = self.suppressed.find(block)
            keep = np.ones(len(block), np.bool_)
            keep[list(found)] = False
            self.deleted_by.update(found.values())
            events = reader.read(block).events
            self.types.update(envelope.printable(events[position].event_type) for position in found)
            left = [event for event, kept in zip(events, keep.tolist(), strict=True) if kept]
            self.event_time = widened(self.event_time, timestamps.parse_many([event.event_time for event in left]))
            uploads = timestamps.parse_many([event.server_upload_time for event in left])
            self.server_upload_time = widened(self.server_upload_time, uploads)
            yield block, keep


class _Text(msgspec.Struct):
    """What is read of an entry of a repeats report."""

    text: str = ""
