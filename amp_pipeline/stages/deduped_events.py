"""The events of an hour that are not repeats, stored as archive parts.

They are compressed once, and copied to every delivery that wants them all. They are the pipeline's own durable record:
deliveries read them, never the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import compress
from typing import Any

import msgspec
import numpy as np
import polars as pl

from amp_pipeline.core import codec, dedupe, envelope, identity, index
from amp_pipeline.core.envelope import Envelope
from amp_pipeline.core.errors import AmpError, FrozenHourError, WorkspaceError
from amp_pipeline.core.fingerprint import FORMAT, fingerprint
from amp_pipeline.core.hours import MICROSECONDS, Hour, between, window
from amp_pipeline.core.lines import split_stored
from amp_pipeline.stages.raw_events import RawEvents
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.records import DedupedRecord, PartRecord, RawRecord, TimeRange
from amp_pipeline.workspace.store import sha256

_CACHE_BYTES = 512 << 20
"""Key indexes that a run keeps in memory while it goes from hour to hour."""


@dataclass
class _Window:
    """The hours before an hour: digests of their key indexes, and those that could not be read."""

    digests: dict[str, str] = field(default_factory=dict[str, str])
    missing: list[str] = field(default_factory=list[str])


class DedupedEvents:
    """The deduplicated hours of a project, as one run sees them."""

    def __init__(self, raw: RawEvents) -> None:
        """Deduplicate what ``raw`` landed."""
        self.raw = raw
        self.project = raw.project
        self.workspace = raw.workspace
        self._window_us = raw.project.dedupe.window // timedelta(microseconds=1)
        self._cache: dict[str, pl.DataFrame] = {}

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
        events = self._events(hour, raw)
        earlier = (
            (self._keys(Hour.parse(key), digest) for key, digest in around.digests.items()) if len(events) else iter(())
        )
        repeats = dedupe.find_repeats(events, _gathered(earlier), self._window_us)
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
        events = self._events(hour, raw)
        if events.is_empty():
            return 0
        dropped = [entry["row"] for entry in self.workspace.report("repeats", hour)]
        kept = events.filter(~pl.col("row").is_in(dropped))
        earlier = (
            self._keys(Hour.parse(key), digest)
            for key, digest in self._window(hour, self.workspace.deduped(hour)).digests.items()
        )
        return dedupe.seen_twice(kept, _gathered(earlier), self._window_us)

    def open_parts(self, record: DedupedRecord) -> Iterator[list[bytes]]:
        """Yield the lines of a recorded hour, in order, in lists."""
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
        events = self._events(hour, raw)
        for key in sorted(differing):
            earlier = Hour.parse(key)
            try:
                old = self._keys(earlier, record.window.get(key, ""))
                new = self._keys(earlier, around.digests.get(key, ""))
            except WorkspaceError:
                return f"a key index of hour {key} is gone"
            if dedupe.touches(dedupe.changed(old, new), events, self._window_us):
                return f"late data in hour {key}"
        return ""

    def _landed_as(self, raw: RawRecord) -> str:
        inputs = [(item.object, item.sha256, item.lines) for item in raw.inputs]
        return fingerprint(inputs, raw.rows, raw.quarantined, self._window_us, self.project.parts.model_dump())

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
            except AmpError:
                # And so does what is on record of an hour that can't be read; ours is stale once it can.
                found.missing.append(earlier.key)
                record = self.raw.recorded(earlier)
                keys = record.keys if record else keys
            if keys:
                found.digests[earlier.key] = keys
        return found

    def _events(self, hour: Hour, raw: RawRecord) -> pl.DataFrame:
        rows = self.workspace.rows(hour, raw.rows) if raw.rows else index.empty_rows()
        return index.events_of(rows, self._keys(hour, raw.keys))

    def _keys(self, hour: Hour, digest: str) -> pl.DataFrame:
        if digest not in self._cache:
            keys = self.workspace.keys(hour, digest)
            if sum(frame.estimated_size() for frame in self._cache.values()) + keys.estimated_size() > _CACHE_BYTES:
                self._cache.clear()
            self._cache[digest] = keys
        return self._cache[digest]

    def _write(
        self,
        hour: Hour,
        raw: RawRecord,
        repeats: pl.DataFrame,
        around: _Window,
        decided: str,
        before: DedupedRecord | None,
    ) -> DedupedRecord:
        pass_ = _SecondPass(self, hour, raw, repeats)
        parts = [
            self.workspace.put_part(hour, number, part)
            for number, part in enumerate(codec.pack(pass_.kept_lines(), self.project.parts.size))
        ]
        for part in parts:
            check_part(self.workspace.store, part)
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
            window=around.digests,
            missing=around.missing,
            parts=parts,
            landed=raw.landed,
            quarantined=raw.quarantined,
            repeats=len(repeats),
            conflicts=int(repeats["conflict"].sum()),
            first_seen=dict(sorted(Counter(entry["first_seen"] for entry in pass_.report).items())),
            event_types=dict(sorted((Counter(raw.event_types) - pass_.repeated_types).items())),
            event_time=pass_.range_of("event_time"),
            server_upload_time=pass_.range_of("time"),
        )
        self.workspace.save("deduped", hour, record)
        # Those of the record before this one stay, for a delivery that is reading them.
        known = [*parts, *(before.parts if before else ())]
        self.workspace.remove_other_data("deduped", hour, [part.name for part in known])
        return record


def check_part(store: ObjectStore, part: PartRecord) -> None:
    """Read a stored part again and hold its bytes and its lines against what was written.

    Raises:
        WorkspaceError: It is not what was written.
    """
    data = store.get(part.name)
    unpacked = list(codec.unpack([data], part.name))
    rows = sum(block.count(b"\n") for block in unpacked)
    if sha256(data) != part.sha256 or rows != part.rows or not unpacked[-1].endswith(b"\n"):
        raise WorkspaceError(
            f"{store.uri(part.name)} is not what was written ({rows} lines instead of {part.rows}); "
            "check the disk and run the hour again"
        )


class _SecondPass:
    """Reads the landing again: hands on the lines that are kept, and reports the repeats."""

    def __init__(self, deduped: DedupedEvents, hour: Hour, raw: RawRecord, repeats: pl.DataFrame) -> None:
        self._raw_events = deduped.raw
        self._raw = raw
        rows = deduped.workspace.rows(hour, raw.rows) if raw.rows else index.empty_rows()
        self._kept = rows.filter(~pl.col("row").is_in(repeats["row"].implode()))
        self._keep = np.zeros(raw.lines, dtype=np.bool_)
        self._keep[self._kept["row"].to_numpy()] = True
        self._repeats = {row: (first_seen, conflict) for row, first_seen, conflict in repeats.iter_rows()}
        self._repeat = np.zeros(raw.lines, dtype=np.bool_)
        self._repeat[repeats["row"].to_numpy()] = True
        self.report: list[dict[str, Any]] = []
        self.repeated_types: Counter[str] = Counter()

    def range_of(self, column: str) -> TimeRange | None:
        """Return first and last time of the events that are kept."""
        times = self._kept[column].drop_nulls().to_numpy()
        return TimeRange(int(times.min()), int(times.max())) if len(times) else None

    def kept_lines(self) -> Iterator[bytes]:
        """Yield the lines that are kept."""
        position = 0
        for name, numbers, lines in self._raw_events.lines(self._raw):
            end = position + len(lines)
            if self._repeat[position:end].any():
                for offset in np.flatnonzero(self._repeat[position:end]).tolist():
                    self._note(position + offset, name, numbers[offset], lines[offset])
            yield from compress(lines, self._keep[position:end].tolist())
            position = end

    def _note(self, row: int, name: str, number: int, line: bytes) -> None:
        first_seen, conflict = self._repeats[row]
        event = envelope.read_line(line)
        if not isinstance(event, Envelope):
            raise _changed(name, number)
        # Whose time could not be read is in the quarantine; which time it is makes no difference to the kind.
        client = None if event.client_event_time is None else 0
        kind = identity.identity(event, client)
        if kind is None:
            raise _changed(name, number)
        self.repeated_types[envelope.printable(event.event_type)] += 1
        self.report.append(
            {
                "row": row,
                "object": name,
                "line": number,
                "identity": identity.KINDS[kind[0]],
                "uuid": None if event.uuid is None else envelope.printable(event.uuid),
                "first_seen": Hour(first_seen // MICROSECONDS).key,
                "conflict": conflict,
                "text": line.decode(),
            }
        )


def _changed(name: str, number: int) -> WorkspaceError:
    return WorkspaceError(
        f"the landing changed: line {number} of {name} is not the event that was indexed; run the hour again"
    )


_GATHERED_ROWS = 1_000_000


def _gathered(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Put small key indexes together.

    A week of small hours is one search then, and a week of large ones is never in memory at once.
    """
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= _GATHERED_ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)
