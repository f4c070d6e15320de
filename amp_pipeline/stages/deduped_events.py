"""The events of an hour that are not repeats, stored as archive parts.

They are compressed once, and copied to every delivery that wants them all. They are the pipeline's own durable record:
deliveries read them, never the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from amp_pipeline.core import codec, dedupe, index
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
from amp_pipeline.core.lines import Block, split_stored
from amp_pipeline.core.overlap import Behind
from amp_pipeline.stages.raw_events import RawEvents
from amp_pipeline.stages.second_pass import SecondPass
from amp_pipeline.stages.stored_parts import changed_lines, check_part
from amp_pipeline.storage.scratch import explained
from amp_pipeline.workspace.records import Change, DedupedRecord, PartRecord, RawRecord
from amp_pipeline.workspace.store import sha256

_LARGE_BYTES = 16 << 20
"""Unpacked; hours from here on are worth threads."""


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
        before = self.workspace.deduped(hour)
        # Landed before the window, which its objects may have strays to, and after it, for strays from there.
        self.raw.land(hour)
        around = self._settled_window(hour, before)
        raw = self.raw.land(hour)
        repeats = self._repeats(hour, raw, around)
        landed_as = self._landed_as(raw)
        decided = fingerprint(
            landed_as, [sha256(repeats[column].cast(pl.Int64).to_numpy().tobytes()) for column in repeats.columns]
        )
        if before is not None and before.fingerprint == decided and not force:
            record = msgspec.structs.replace(before, window=around.digests, missing=around.missing)
            if record != before:
                self.workspace.save("deduped", hour, record)
            return record
        if self.raw.is_gone(hour, raw):
            changes = before is None or before.fingerprint != decided
            why = "late data or settings would change it" if changes else "it was to be made anew"
            raise FrozenHourError(
                f"hour {hour} can't be deduplicated again ({why}), because its landing objects are gone; "
                "put them back and run the hour again"
            )
        return self._write(hour, raw, repeats, around, decided, before)

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
        for part in record.parts:
            yield from split_stored(codec.unpack(self.workspace.store.chunks(part.name), part.name))

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
        around = self._window(hour, record)
        differing = {
            key
            for key in record.window.keys() | around.digests.keys()
            if record.window.get(key) != around.digests.get(key)
        }
        if not differing:
            return ""
        for key in sorted(differing):
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
        return self._landed_as(raw) != record.landed_as and _inputs_as(raw) == record.inputs_as

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
        decided: str,
        before: DedupedRecord | None,
    ) -> DedupedRecord:
        pass_ = SecondPass(self.raw, hour, raw, repeats)
        parts = self._put_parts(hour, raw, pass_)
        kept = sum(part.rows for part in parts)
        if kept + len(repeats) != raw.events:
            raise WorkspaceError(
                f"hour {hour}: {raw.events} events landed, but {kept} were kept and {len(repeats)} are repeats; "
                "run the hour again, forced"
            )
        self.workspace.put_report("repeats", hour, pass_.report)
        record = DedupedRecord(
            format=FORMAT,
            hour=hour.key,
            fingerprint=decided,
            landed_as=self._landed_as(raw),
            inputs_as=_inputs_as(raw),
            window=around.digests,
            missing=around.missing,
            change=self._change(before, decided, parts),
            parts=parts,
            landed=raw.landed,
            quarantined=raw.quarantined,
            repeats=len(repeats),
            conflicts=int(repeats["conflict"].sum()),
            first_seen=dict(sorted(pass_.first_seen.items())),
            event_types=dict(sorted((Counter(raw.event_types) - pass_.repeated_types).items())),
            event_time=pass_.event_time,
            server_upload_time=pass_.server_upload_time,
        )
        self.workspace.save("deduped", hour, record)
        # Those of the record before this one stay, for a delivery that is reading them.
        known = [*parts, *(before.parts if before else ())]
        self.workspace.remove_other_data("deduped", hour, [part.name for part in known])
        return record

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

    def _put_parts(self, hour: Hour, raw: RawRecord, pass_: SecondPass) -> list[PartRecord]:
        """Write the lines that are kept; of a large hour, reading, packing and checking go on at the same time."""
        at_once = raw.landed_bytes < _LARGE_BYTES
        numbers = count()

        def put(part: codec.Part) -> PartRecord:
            record = self.workspace.put_part(hour, next(numbers), part)
            check_part(self.workspace.store, record)
            return record

        with explained(), Behind[PartRecord](at_once=at_once) as written:
            parts = self.project.parts
            with codec.PartsPacker(
                parts.size, lambda part: written.do(put, part), compression=parts.compression, at_once=at_once
            ) as packer:
                for block, keep in pass_.kept():
                    packer.add(block, keep)
        return written.results


def _inputs_as(raw: RawRecord) -> str:
    return fingerprint([(item.object, item.sha256, item.lines) for item in raw.inputs], raw.rows, raw.quarantined)


class _ReportedRow(msgspec.Struct):
    """What is read of an entry of a repeats report."""

    row: int
