"""The events of an hour that are not repeats, stored as archive parts.

They are compressed once, and copied to every delivery that wants them all. They are the pipeline's own durable record:
deliveries read them, never the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from amp_pipeline.core import dedupe, index
from amp_pipeline.core.errors import (
    AmpError,
    DamagedObjectError,
    FrozenHourError,
    ObjectNotFoundError,
    WorkspaceError,
)
from amp_pipeline.core.fingerprint import FORMAT, fingerprint
from amp_pipeline.core.hours import Hour, between, window
from amp_pipeline.core.index import KeyIndex, Keys
from amp_pipeline.core.lines import Block
from amp_pipeline.stages.events_deletion import EventsDeletion, deleted_fingerprint
from amp_pipeline.stages.raw_events import RawEvents
from amp_pipeline.stages.second_pass import SecondPass
from amp_pipeline.stages.stored_parts import LARGE_BYTES, changed_lines, check_part, open_parts, put_parts
from amp_pipeline.workspace.records import Change, DedupedRecord, PartRecord, RawRecord
from amp_pipeline.workspace.store import sha256

DELETION = "a user's events are to be deleted from it"
"""Why an hour is stale."""

_LINES_COMPARED = 10_000_000
"""Of an hour before and after late data; comparing them takes about 32 bytes of memory each."""


@dataclass
class _Window:
    """The hours before an hour: digests of their key indexes, and those that could not be read."""

    digests: dict[str, str] = field(default_factory=dict[str, str])
    missing: list[str] = field(default_factory=list[str])


class DedupedEvents:
    """The deduplicated hours of a project, as one run sees them."""

    def __init__(self, raw: RawEvents, most_keys: int) -> None:
        """Deduplicate what ``raw`` landed, with about ``most_keys`` keys of events in memory."""
        self._most_keys = most_keys
        self.raw = raw
        self.project = raw.project
        self.workspace = raw.workspace
        self._window_us = raw.project.dedupe.window // timedelta(microseconds=1)
        self._indexes: dict[str, KeyIndex] = {}

    @property
    def _deletion(self) -> EventsDeletion:
        return EventsDeletion(self.workspace, self.raw.suppressed, self.project.parts)

    def uri(self, hour: Hour) -> str:
        """Return where the hour's files are, for people."""
        return self.workspace.uri("deduped", hour)

    def dedupe(self, hour: Hour, *, force: bool = False) -> DedupedRecord:
        """Return what is left of ``hour`` without repeats, writing its parts where that has changed.

        Args:
            hour: An hour of the project.
            force: Write the parts even if nothing has changed.

        Raises:
            LandingError: The hour's landing can't be used as it is.
            FrozenHourError: The parts would change, but the hour's landing is gone.
        """
        record = self._deduped(hour, force=force)
        # Now that the events are kept without them: what was pulled of the hour is ours to clean.
        if self.raw.suppressed.at(hour):
            self.raw.drop_deleted(hour, self.raw.land(hour))
        return record

    def _deduped(self, hour: Hour, *, force: bool) -> DedupedRecord:
        before = self.without_deleted(hour, force=force)
        # Landed before the window, which its objects may have strays to, and after it, for strays from there.
        self.raw.land(hour)
        around = self._settled_window(hour, before)
        raw = self.raw.land(hour)
        repeats = self._repeats(hour, raw, around)
        landed_as = self._landed_as(raw)
        kept_as = fingerprint(
            landed_as, [sha256(repeats[column].cast(pl.Int64).to_numpy().tobytes()) for column in repeats.columns]
        )
        stands = before is not None and (before.kept_as or before.fingerprint) == kept_as
        # Where the landing is gone nothing can be made anew, and nothing need be while all is there as it was written.
        if before is not None and stands and (not force or (self.raw.is_gone(hour, raw) and self._holds(before))):
            record = msgspec.structs.replace(before, window=around.digests, missing=around.missing)
            if record != before:
                self.workspace.save("deduped", hour, record)
            return record
        if self.raw.is_gone(hour, raw):
            why = "it was to be made anew" if stands else "late data or settings would change it"
            raise FrozenHourError(
                f"hour {hour} can't be deduplicated again ({why}), because its landing objects are gone; "
                "put them back and run the hour again"
            )
        return self._write(hour, raw, repeats, around, kept_as, before)

    def holds_deleted(self, hour: Hour, record: DedupedRecord) -> bool:
        """Tell whether a recorded hour has anything of deleted users; the landing is not looked at.

        Raises:
            DamagedObjectError: A part can't be unpacked.
            ObjectNotFoundError: A part is gone.
        """
        return self._deletion.is_needed(hour, record)

    def without_deleted(self, hour: Hour, *, force: bool = False) -> DedupedRecord | None:
        """Return what is on record of ``hour``, without deleted users, whatever became of its landing.

        Raises:
            WorkspaceError: What is on record can't be read; with ``force`` it is left to be written anew.
        """
        before = self.workspace.deduped(hour)
        if before is None:
            return None
        try:
            return self._deletion.without_deleted(hour, before)
        except (DamagedObjectError, ObjectNotFoundError) as error:
            if not force:
                raise WorkspaceError(
                    f"deleted users can't be taken out of hour {hour}: {error}; run the hour again, forced"
                ) from None
            return before

    def identities_seen_twice(self, hour: Hour) -> int:
        """Return how many kept events of a recorded hour repeat another event of the window.

        Found without the rule that dropped repeats.
        """
        raw = self.raw.land(hour)
        around = self._window(hour, self.workspace.deduped(hour))
        entries = self.workspace.report("repeats", hour, _ReportedRow)
        dropped = np.fromiter((entry.row for entry in entries), np.uint64)
        found = 0
        for own, rows in self._own_keys(hour, raw):
            kept = own.where(~np.isin(rows, dropped))
            earlier = self._earlier(kept, around)
            chosen = kept.where(dedupe.candidates(kept, earlier))
            found += dedupe.seen_twice(chosen.frame(), [earlier.frame()], self._window_us)
        return found

    def open_parts(self, record: DedupedRecord) -> Iterator[Block]:
        """Yield the lines of a recorded hour, in order."""
        return open_parts(self.workspace.store, record.parts)

    def is_stale(self, hour: Hour, record: DedupedRecord) -> str:
        """Return why a recorded hour has to run again, or "" where it stands.

        An earlier hour's key index that changed matters only where an identity that was added to or removed from it
        is in this hour.
        """
        try:
            raw = self.raw.land(hour)
        except AmpError as error:
            return str(error)
        if self._landed_as(raw) != record.landed_as:
            return "what landed in it changed, or its settings did"
        if self.raw.reads and self.holds_deleted(hour, record):
            return DELETION
        return self._late_data(hour, raw, record)

    def _late_data(self, hour: Hour, raw: RawRecord, record: DedupedRecord, since: str = "") -> str:
        """Return which hour of the window, none before ``since``, has changed what are repeats in a recorded hour."""
        around = self._window(hour, record)
        keys = {key for key in record.window.keys() | around.digests.keys() if key >= since}
        for key in sorted(key for key in keys if record.window.get(key) != around.digests.get(key)):
            old, new = record.window.get(key, ""), around.digests.get(key, "")
            try:
                if self._touches(hour, raw, Hour.parse(key), old, new):
                    return f"late data in hour {key}"
            except WorkspaceError:
                return f"a key index of hour {key} is gone"
        return ""

    def _touches(self, hour: Hour, raw: RawRecord, earlier: Hour, old: str, new: str) -> bool:
        """Tell whether what changed in an earlier hour's key index can change what is a repeat in ``hour``."""
        indexes = [self._index(earlier, digest) for digest in (old, new) if digest]
        own = self._index(hour, raw.keys) if raw.keys else None
        if own is None:
            return False
        for first, last in index.ranges(max(one.count for one in indexes), self._most_keys):
            versions = [
                self._index(earlier, digest).between(first, last)[1] if digest else index.no_keys()
                for digest in (old, new)
            ]
            change = dedupe.changed(versions[0].frame(), versions[1].frame())
            met = own.search(np.unique(change["high"].to_numpy()))
            if dedupe.touches(change, met.frame(), self._window_us):
                return True
        return False

    def _landed_as(self, raw: RawRecord) -> str:
        inputs = [(item.object, item.sha256, item.lines) for item in raw.inputs]
        return fingerprint(inputs, raw.rows, raw.quarantined, self._window_us, self.project.parts.model_dump())

    def only_settings_changed(self, hour: Hour, record: DedupedRecord) -> bool:
        """Tell whether a recorded hour is stale for nothing but the settings of the project."""
        raw = self.raw.land(hour)
        if self._landed_as(raw) == record.landed_as or _inputs_as(raw) != record.inputs_as:
            return False
        # That a longer window holds more hours, and a shorter one fewer, is a matter of settings.
        length = min(self._window_us, record.window_us or self._window_us)
        first, _ = window(hour, timedelta(microseconds=length))
        return not self._late_data(hour, raw, record, first.key)

    def _settled_window(self, hour: Hour, before: DedupedRecord | None) -> _Window:
        """Return the window, its hours landed: each of them may hold strays of the others and of ``hour``."""
        around = self._window(hour, before)
        while (again := self._window(hour, before)) != around:
            around = again
        return around

    def _window(self, hour: Hour, before: DedupedRecord | None) -> _Window:
        first, last = window(hour, self.project.dedupe.window)
        found = _Window()
        for earlier in between(max(first, self.project.first_hour), last):
            # What was used before still counts where an hour's landing and record are both gone.
            keys = before.window.get(earlier.key, "") if before else ""
            try:
                if self.raw.has_landed(earlier):
                    keys = self.raw.land(earlier).keys
                elif self.workspace.has_record("raw", earlier):
                    # Of another version, and its landing is gone.
                    found.missing.append(earlier.key)
            except AmpError:
                # And so does what is on record of an hour that can't be read; ours is stale once it can.
                found.missing.append(earlier.key)
                record = self.raw.recorded(earlier)
                keys = record.keys if record else keys
            if keys:
                found.digests[earlier.key] = keys
        return found

    def _repeats(self, hour: Hour, raw: RawRecord, around: _Window) -> pl.DataFrame:
        """Return the repeats of an hour, in landing order; of its keys only so many at a time are in memory."""
        found = [pl.DataFrame(schema=dedupe.REPEATS)]
        for own, rows in self._own_keys(hour, raw):
            earlier = self._earlier(own, around)
            chosen = dedupe.candidates(own, earlier)
            events = own.where(chosen).frame().with_columns(row=pl.Series(rows[chosen]))
            found.append(dedupe.find_repeats(events, [earlier.frame()], self._window_us))
        return pl.concat(found).sort("row")

    def _own_keys(self, hour: Hour, raw: RawRecord) -> Iterator[tuple[Keys, npt.NDArray[np.uint64]]]:
        """Yield an hour's keys, sorted, and the rows of their events: all of an identity together."""
        if not raw.keys:
            return
        keys, rows = self._index(hour, raw.keys), self.workspace.rows(hour, raw.rows)
        for first, last in index.ranges(keys.count, self._most_keys):
            rank, own = keys.between(first, last)
            if own.count:
                yield own, rows.of_ranks(rank, own.count)

    def _earlier(self, own: Keys, around: _Window) -> Keys:
        """Return the keys of the window that may be those of ``own``; none of its indexes is loaded whole."""
        new = np.ones(own.count, np.bool_)
        new[1:] = own.high[1:] != own.high[:-1]
        wanted = own.high[new]
        return index.joined([self._index(Hour.parse(key), keys).search(wanted) for key, keys in around.digests.items()])

    def _index(self, hour: Hour, digest: str) -> KeyIndex:
        if digest not in self._indexes:
            self._indexes[digest] = self.workspace.keys(hour, digest)
        return self._indexes[digest]

    def _write(
        self,
        hour: Hour,
        raw: RawRecord,
        repeats: pl.DataFrame,
        around: _Window,
        kept_as: str,
        before: DedupedRecord | None,
    ) -> DedupedRecord:
        pass_ = SecondPass(self.raw, hour, raw, repeats)
        parts = put_parts(
            self.workspace, hour, self.project.parts, pass_.kept(), at_once=raw.landed_bytes < LARGE_BYTES
        )
        kept, deleted = sum(part.rows for part in parts), pass_.deleted_by.total()
        if kept + len(repeats) + deleted != raw.events:
            raise WorkspaceError(
                f"hour {hour}: {raw.events} events landed, but {kept} were kept, {deleted} deleted, and {len(repeats)} "
                "are repeats; run the hour again, forced"
            )
        deleted_by = dict(sorted(pass_.deleted_by.items()))
        decided = deleted_fingerprint(kept_as, deleted_by)
        self.workspace.put_report("repeats", hour, pass_.report)
        record = DedupedRecord(
            format=FORMAT,
            hour=hour.key,
            fingerprint=decided,
            landed_as=self._landed_as(raw),
            inputs_as=_inputs_as(raw),
            window=around.digests,
            window_us=self._window_us,
            missing=around.missing,
            change=self._change(before, decided, parts),
            parts=parts,
            landed=raw.landed,
            quarantined=raw.quarantined,
            repeats=len(repeats),
            conflicts=int(repeats["conflict"].sum()),
            first_seen=dict(sorted(pass_.first_seen.items())),
            event_types=dict(sorted((Counter(raw.event_types) - pass_.repeated_types - pass_.deleted_types).items())),
            event_time=pass_.event_time,
            server_upload_time=pass_.server_upload_time,
            deleted=deleted,
            deleted_by=deleted_by,
            kept_as=kept_as if deleted_by else "",
            suppressions=self.raw.suppressed.at(hour).fingerprint,
        )
        self.workspace.save("deduped", hour, record)
        # Those of the record before this one stay, for a delivery that is reading them, unless deleted users are in it.
        clean = before is not None and before.suppressions == record.suppressions
        known = [*parts, *(before.parts if before and clean else ())]
        self.workspace.remove_other_data("deduped", hour, [part.name for part in known])
        return record

    def _holds(self, record: DedupedRecord) -> bool:
        """Tell whether the parts of a record are what was written."""
        try:
            for part in record.parts:
                check_part(self.workspace.store, part)
        except (ObjectNotFoundError, WorkspaceError):
            return False
        return True

    def _change(self, before: DedupedRecord | None, decided: str, parts: list[PartRecord]) -> Change | None:
        """Return what the writing changed; None where that is not known."""
        if before is None or before.fingerprint == decided:
            return before.change if before else None
        if sum(part.rows for part in [*before.parts, *parts]) > _LINES_COMPARED:
            return None
        try:
            added, removed = changed_lines(self.workspace.store, before.parts, parts)
        except (DamagedObjectError, ObjectNotFoundError):
            # Written again because it was damaged: what it was is not known.
            return None
        return Change(before=before.fingerprint, added=added, removed=removed)


def _inputs_as(raw: RawRecord) -> str:
    return fingerprint([(item.object, item.sha256, item.lines) for item in raw.inputs], raw.rows, raw.quarantined)


class _ReportedRow(msgspec.Struct):
    """What is read of an entry of a repeats report."""

    row: int
