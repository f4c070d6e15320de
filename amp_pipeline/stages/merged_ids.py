"""The merged ids of an organization: one file an hour, from landed files and from the events of all its projects.

Like key indexes, what landed or was made in an hour depends on that hour alone, and whoever needs it may make it;
repeats are found by looking back over the window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

import msgspec

from amp_pipeline.config import Organization
from amp_pipeline.core import codec, merged_ids
from amp_pipeline.core.envelope import Bad
from amp_pipeline.core.errors import AmpError, FrozenHourError, LandingError
from amp_pipeline.core.fingerprint import FORMAT, fingerprint
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.lines import is_blank, split_stored
from amp_pipeline.core.merged_ids import Merge
from amp_pipeline.core.suppression import Suppressed
from amp_pipeline.sources import landing
from amp_pipeline.sources.landing import Listing, ObjectReader
from amp_pipeline.stages.deletion import clean_quarantine
from amp_pipeline.stages.raw_events import RawEvents
from amp_pipeline.storage.objects import ObjectInfo, ObjectStore
from amp_pipeline.workspace.records import Input, MergedRecord, PairsRecord, PartRecord, RawRecord
from amp_pipeline.workspace.store import OrganizationStore, quarantined


@dataclass
class _Made:
    """The merged ids that events of an hour make, by project."""

    digests: dict[str, str] = field(default_factory=dict[str, str])
    records: dict[str, RawRecord] = field(default_factory=dict[str, RawRecord])
    """Of the projects of which there is one."""
    missing: list[int] = field(default_factory=list[int])
    """Projects whose landing could not be read."""

    @property
    def deleted(self) -> int:
        """How many are left out because their users were deleted."""
        return sum(record.made_deleted for record in self.records.values())


class MergedIds:
    """The merged ids of an organization, as one run sees them."""

    def __init__(self, organization: Organization, raw: Sequence[RawEvents], workspace: OrganizationStore) -> None:
        """Merge what the landings and the projects of ``raw`` have."""
        self.workspace = workspace
        self._hours_back = organization.merged_ids_window // timedelta(hours=1)
        self._raw = sorted(raw, key=lambda one: one.project.id)
        self._first = organization.first_hour
        self._listings: dict[tuple[str, str], tuple[ObjectStore, Listing]] = {}
        for one in self._raw:
            source = one.project.source
            listing = landing.merged_ids(one.source, source, organization.id)
            self._listings.setdefault((one.source.url, source.merged_ids), (one.source, listing))
        self._current: dict[Hour, PairsRecord] = {}
        self._pairs: dict[str, list[Merge]] = {}

    @cached_property
    def suppressed(self) -> Suppressed:
        """The deleted users of all projects: merged ids belong to the organization."""
        return Suppressed(listed for one in self._raw for listed in one.suppressed.all)

    def uri(self, hour: Hour) -> str:
        """Return where the hour's files are, for people."""
        return self.workspace.uri("merged_ids", hour)

    def merge(self, hour: Hour, *, force: bool = False) -> MergedRecord:
        """Return the merged ids of ``hour``, writing its file where that has changed.

        Raises:
            LandingError: A landed merged-id object is damaged.
        """
        here = self.collect(hour, force=force)
        window = self._window(hour)
        before = self.workspace.merged(hour)
        merges = self.merges(hour, here.pairs)
        kept = merged_ids.drop_repeats(merges, self.earlier(window)) if merges else []
        decided = _decided(here, merges, kept)
        if before is not None and before.fingerprint == decided and not force:
            before = self._settled(hour, before, here.suppressions)
            record = msgspec.structs.replace(before, window=window, pairs=here.pairs, missing=here.missing)
            if record != before:
                self.workspace.save("merged_ids", hour, record)
            return record
        part = codec.pack_one(merge.line for merge in kept)
        stored = self._put(hour, part) if part is not None else None
        made = sum(merge.made for merge in merges) + here.made_deleted
        record = MergedRecord(
            format=FORMAT,
            hour=hour.key,
            fingerprint=decided,
            pairs=here.pairs,
            window=window,
            missing=here.missing,
            part=stored,
            landed=here.landed,
            quarantined=here.quarantined,
            made=made,
            repeats=len(merges) - len(kept),
            reasons=here.reasons,
            deleted=here.landed_deleted + here.made_deleted,
            suppressions=here.suppressions,
        )
        self.workspace.save("merged_ids", hour, record)
        # That of the record before this one stays, for a delivery that is reading it, unless deleted users are in it.
        clean = before is not None and before.suppressions == record.suppressions
        known = [part.name for part in (stored, before.part if before and clean else None) if part is not None]
        self.workspace.remove_other_data("merged_ids", hour, known)
        return record

    def is_stale(self, hour: Hour, record: MergedRecord) -> bool:
        """Tell whether a recorded hour would come out otherwise today."""
        here = self.collect(hour)
        window = self._window(hour)
        deleted = here.landed_deleted + here.made_deleted
        counts = (here.landed, here.quarantined, deleted) == (record.landed, record.quarantined, record.deleted)
        if counts and here.pairs == record.pairs and window == record.window:
            self._settled(hour, record, here.suppressions)
            return False
        merges = self.merges(hour, here.pairs)
        kept = merged_ids.drop_repeats(merges, self.earlier(window)) if merges else []
        return _decided(here, merges, kept) != record.fingerprint

    def seen(self, hour: Hour) -> str:
        """Return a fingerprint of the merged-id objects that landed in ``hour``, from listings alone."""
        objects = (info for _, listing in self._listings.values() for info in listing.objects(hour))
        return fingerprint([(info.name, info.size, info.version) for info in objects])

    def collect(self, hour: Hour, *, force: bool = False) -> PairsRecord:
        """Return what landed or was made in ``hour``, repeats included, read again even if nothing seems to change."""
        if hour in self._current and not force:
            return self._current[hour]
        before = self.workspace.load("pairs", hour, PairsRecord)
        objects = [(store, info) for store, listing in self._listings.values() for info in listing.objects(hour)]
        made = self._made(hour, before)
        if before is not None:
            # Before anything else, so that it does not depend on what became of the landing.
            before = self._without_deleted(hour, before, made.records)
        seen = [(info.name, info.size, info.version) for _, info in objects]
        gone = before is not None and _vanished(before, [name for name, _, _ in seen])
        if before is not None and gone:
            seen = [(item.object, item.size, item.version) for item in before.inputs]
        if (
            before is not None
            and not (force and not gone)
            and seen == [(item.object, item.size, item.version) for item in before.inputs]
            and before.made == made.digests
            and (gone or before.made_without == made.deleted)
        ):
            pairs = msgspec.structs.replace(before, missing=made.missing)
        elif not objects and before is not None and before.inputs:
            raise FrozenHourError(
                f"the merged ids of hour {hour} can't be made again from events that landed late, because its landed "
                f"merged-id objects are gone ({before.inputs[0].object}, …); put them back and run the hour again"
            )
        else:
            pairs = self._read(hour, objects, made)
        self._current[hour] = pairs
        return pairs

    def _made(self, hour: Hour, before: PairsRecord | None) -> _Made:
        found = _Made()
        for one in self._raw:
            if not one.project.holds(hour):
                continue
            try:
                record = one.land(hour) if one.has_landed(hour) else None
            except AmpError:
                # What is on record of it still counts; the hour is stale once the rest can be read.
                found.missing.append(one.project.id)
                record = one.recorded(hour)
            project = str(one.project.id)
            if record is not None:
                found.digests[project] = record.made_merges
                found.records[project] = record
            elif before is not None and project in before.made:
                found.digests[project] = before.made[project]
        return found

    def holds_deleted(self, hour: Hour) -> bool:
        """Tell whether what is on record of ``hour`` has merged ids of deleted users; the landing is not looked at."""
        here = self.suppressed.at(hour)
        pairs, record = self.workspace.load("pairs", hour, PairsRecord), self.workspace.merged(hour)
        merges = self.merges(hour, pairs.pairs) if pairs and pairs.suppressions != here.fingerprint else []
        if record and record.suppressions != here.fingerprint:
            merges = [*merges, *self._stored(record)]
        return any(here.of_merge(*merge.pair) is not None for merge in merges)

    def without_deleted(self, hour: Hour) -> None:
        """Take deleted users out of what is on record of ``hour``, whatever became of its landing."""
        here = self.suppressed.at(hour)
        pairs, record = self.workspace.load("pairs", hour, PairsRecord), self.workspace.merged(hour)
        if pairs is not None:
            found = {str(one.project.id): one.recorded(hour) for one in self._raw}
            self._without_deleted(hour, pairs, {project: raw for project, raw in found.items() if raw is not None})
        if record is None or record.suppressions == here.fingerprint:
            return
        merges = self._stored(record)
        kept = [merge for merge in merges if here.of_merge(*merge.pair) is None]
        if len(kept) < len(merges):
            part = codec.pack_one(merge.line for merge in kept)
            record = msgspec.structs.replace(
                record,
                # It counts as deleted what was a repeat as well once the hour is merged again.
                fingerprint="",
                part=self._put(hour, part) if part else None,
                deleted=record.deleted + len(merges) - len(kept),
            )
            self.workspace.save("merged_ids", hour, record)
        self._settled(hour, record, here.fingerprint)

    def _stored(self, record: MergedRecord) -> list[Merge]:
        """Return the merged ids of a recorded hour as they stand in its file."""
        if record.part is None:
            return []
        chunks = self.workspace.store.chunks(record.part.name)
        lines = [line for block in split_stored(codec.unpack(chunks, record.part.name)) for line in block.lines]
        return [merge for line in lines if isinstance(merge := merged_ids.read_landed(line), Merge)]

    def merges(self, hour: Hour, pairs: str) -> list[Merge]:
        """Return recorded merges by their digest."""
        if not pairs:
            return []
        if pairs not in self._pairs:
            data = self.workspace.data("pairs", hour, pairs, ".jsonl.gz")
            self._pairs[pairs] = [
                msgspec.json.decode(line, type=Merge)
                for block in split_stored(codec.unpack([data], pairs))
                for line in block.lines
            ]
        return self._pairs[pairs]

    def earlier(self, window: dict[str, str]) -> list[Merge]:
        """Return the merges of the hours of a window."""
        return [merge for key, pairs in window.items() for merge in self.merges(Hour.parse(key), pairs)]

    def _window(self, hour: Hour) -> dict[str, str]:
        found: dict[str, str] = {}
        for earlier in between(max(hour + -self._hours_back, self._first), hour + -1):
            if self._has_any(earlier):
                try:
                    pairs = self.collect(earlier).pairs
                except AmpError:
                    record = self.workspace.load("pairs", earlier, PairsRecord)
                    pairs = record.pairs if record else ""
                if pairs:
                    found[earlier.key] = pairs
        return found

    def has_objects(self, hour: Hour) -> bool:
        """Tell whether the landings have merged-id objects of ``hour``."""
        return any(listing.objects(hour) for _, listing in self._listings.values())

    def _has_any(self, hour: Hour) -> bool:
        landed = any(one.project.holds(hour) and one.has_landed(hour) for one in self._raw)
        return landed or self.has_objects(hour) or self.workspace.has_record("pairs", hour)

    def _read(self, hour: Hour, objects: list[tuple[ObjectStore, ObjectInfo]], made: _Made) -> PairsRecord:
        merges: list[Merge] = []
        quarantine = codec.LinePacker()
        reasons: Counter[str] = Counter()
        inputs: list[Input] = []
        for store, info in objects:
            inputs.append(_read_object(store, info, merges, quarantine, reasons))
        landed = len(merges)
        for one in self._raw:
            if digest := made.digests.get(str(one.project.id)):
                data = one.workspace.data("made_merges", hour, digest, ".json.gz")
                merges += [
                    merged_ids.read_made(line)
                    for block in split_stored(codec.unpack([data], digest))
                    for line in block.lines
                ]
        here = self.suppressed.at(hour)
        kept = [merge for merge in merges if here.of_merge(*merge.pair) is None]
        landed_kept = sum(not merge.made for merge in kept)
        part = codec.pack_one(msgspec.json.encode(merge) for merge in kept)
        record = PairsRecord(
            format=FORMAT,
            hour=hour.key,
            inputs=inputs,
            made=made.digests,
            missing=made.missing,
            pairs=self.workspace.put_data("pairs", hour, part.data, ".jsonl.gz") if part else "",
            landed=landed + quarantine.rows,
            quarantined=quarantine.rows,
            reasons=dict(sorted(reasons.items())),
            landed_deleted=landed - landed_kept,
            made_deleted=made.deleted + len(merges) - landed - (len(kept) - landed_kept),
            made_without=made.deleted,
            suppressions=here.fingerprint,
        )
        self.workspace.put_report("merged_quarantine", hour, quarantine)
        self.workspace.save("pairs", hour, record)
        if here:
            clean_quarantine(self.workspace, "merged_quarantine", hour, here)
            self._remove_other_pairs(hour, record)
        return record

    def _without_deleted(self, hour: Hour, record: PairsRecord, raw: dict[str, RawRecord]) -> PairsRecord:
        """Take deleted users out of what is on record of an hour, whatever became of its landing."""
        here = self.suppressed.at(hour)
        if record.suppressions == here.fingerprint or not all(one.reads for one in self._raw):
            return record
        clean_quarantine(self.workspace, "merged_quarantine", hour, here)
        merges = self.merges(hour, record.pairs)
        kept = [merge for merge in merges if here.of_merge(*merge.pair) is None]
        if len(kept) < len(merges):
            part = codec.pack_one(msgspec.json.encode(merge) for merge in kept)
            made = sum(merge.made for merge in merges) - sum(merge.made for merge in kept)
            record = msgspec.structs.replace(
                record,
                pairs=self.workspace.put_data("pairs", hour, part.data, ".jsonl.gz") if part else "",
                landed_deleted=record.landed_deleted + len(merges) - len(kept) - made,
                made_deleted=record.made_deleted + made,
            )
        # Those made from events were taken out there as well.
        made_now = {
            project: raw[project].made_merges if project in raw and digest in raw[project].made_before else digest
            for project, digest in record.made.items()
        }
        made_without = sum(one.made_deleted for one in raw.values())
        record = msgspec.structs.replace(record, made=made_now, made_without=made_without)
        self.workspace.save("pairs", hour, record)
        self._remove_other_pairs(hour, record)
        # Last: whoever is killed before this is followed by a run that does it all again.
        record = msgspec.structs.replace(record, suppressions=here.fingerprint)
        self.workspace.save("pairs", hour, record)
        return record

    def _remove_other_pairs(self, hour: Hour, record: PairsRecord) -> None:
        name = self.workspace.data_name("pairs", hour, record.pairs, ".jsonl.gz")
        self.workspace.remove_other_data("pairs", hour, [name] if record.pairs else [])

    def _settled(self, hour: Hour, record: MergedRecord, suppressions: str) -> MergedRecord:
        """Return the record of an hour that stands, noted to be held against the list of deleted users."""
        if record.suppressions == suppressions or not all(one.reads for one in self._raw):
            return record
        self.workspace.remove_other_data("merged_ids", hour, [record.part.name] if record.part else [])
        record = msgspec.structs.replace(record, suppressions=suppressions)
        self.workspace.save("merged_ids", hour, record)
        return record

    def _put(self, hour: Hour, part: codec.Part) -> PartRecord:
        digest = self.workspace.put_data("merged_ids", hour, part.data, ".json.gz")
        name = self.workspace.data_name("merged_ids", hour, digest, ".json.gz")
        return PartRecord(
            name=name, rows=part.rows, bytes=part.bytes, unpacked_bytes=part.unpacked_bytes, sha256=digest
        )


def _vanished(before: PairsRecord, have: list[str]) -> bool:
    """Tell whether all landed objects of an hour are gone, so that what is on record of them stands.

    Raises:
        LandingError: Some are gone and some are there.
    """
    # Two landings may have objects of one name.
    gone = list((Counter(item.object for item in before.inputs) - Counter(have)).elements())
    if gone and have:
        raise LandingError(f"{gone[0]} has vanished from the landing of hour {before.hour}; put it back")
    return bool(gone)


def _decided(here: PairsRecord, merges: list[Merge], kept: list[Merge]) -> str:
    deleted = here.landed_deleted + here.made_deleted
    rows = [merge.text for merge in kept], here.landed, here.quarantined, len(merges)
    return fingerprint(*rows, deleted) if deleted else fingerprint(*rows)


def _read_object(
    store: ObjectStore, info: ObjectInfo, merges: list[Merge], quarantine: codec.LinePacker, reasons: Counter[str]
) -> Input:
    reader = ObjectReader(store, info.name)
    number = 0
    for block in reader.blocks():
        for line in block.lines:
            number += 1
            if is_blank(line):
                continue
            found = merged_ids.read_landed(line)
            if isinstance(found, Bad):
                reasons[found.reason] += 1
                quarantine.add(msgspec.json.encode(quarantined(info.name, number, line, found)))
            else:
                merges.append(found)
    if reader.damage is not None:
        raise LandingError(f"{reader.damage}; put a whole copy in its place")
    return Input(object=info.name, size=info.size, version=info.version, sha256=reader.sha256, lines=number)
