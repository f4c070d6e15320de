"""The second reading of an hour's landing: which lines are kept, who is deleted, and the report of its repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from amp_pipeline.core import codec, envelope, identity
from amp_pipeline.core.columns import Reader
from amp_pipeline.core.errors import WorkspaceError
from amp_pipeline.core.hours import MICROSECONDS, Hour
from amp_pipeline.core.index import Rows
from amp_pipeline.core.lines import Block, block_of
from amp_pipeline.stages.deletion import deleted_repeat
from amp_pipeline.stages.numbered import deleted_events
from amp_pipeline.stages.raw_events import RawEvents
from amp_pipeline.workspace.records import RawRecord, TimeRange, widened

_REPEATS_AT_ONCE = 500
"""Repeats that are looked at together."""


class _Repeat(NamedTuple):
    """A repeat as it is met in the landing."""

    at: int
    """Its place among the hour's repeats."""
    name: str
    number: int
    line: bytes
    deleted: str | None
    """Where its user was deleted, its type; its line is blank then."""


class SecondPass:
    """Reads the landing again: tells the lines that are kept, counts deleted ones, and reports the repeats."""

    def __init__(self, raw_events: RawEvents, hour: Hour, raw: RawRecord, repeats: pl.DataFrame) -> None:
        """Read the landing of ``raw`` again, ``repeats`` being as :data:`amp_pipeline.core.dedupe.REPEATS` says."""
        self._raw_events = raw_events
        self._raw = raw
        self._suppressed = raw_events.suppressed.at(hour)
        self.deleted_by: Counter[str] = Counter()
        self.deleted_types: Counter[str] = Counter()
        self._rows = repeats["row"].to_numpy()
        self._first_seen = repeats["first_seen"].to_numpy()
        self._conflict = repeats["conflict"].to_numpy()
        self._repeat = np.zeros(raw.lines, np.bool_)
        self._repeat[self._rows] = True
        self._keep = np.zeros(raw.lines, np.bool_)
        self._gone: list[int] = []
        """Rows of deleted events that are no repeats."""
        self.event_time: TimeRange | None = None
        """Of the lines that are kept, when they all are read."""
        self.server_upload_time: TimeRange | None = None
        self._all_rows = raw_events.workspace.rows(hour, raw.rows) if raw.rows else None
        if self._all_rows:
            self._read_rows(self._all_rows)
        self._reader = Reader(contents=False)
        self._repeats: list[_Repeat] = []
        self.report = codec.LinePacker()
        self.first_seen: Counter[str] = Counter()
        self.repeated_types: Counter[str] = Counter()

    def kept(self) -> Iterator[tuple[Block, npt.NDArray[np.bool_]]]:
        """Yield all lines of the hour, and which of them are kept."""
        position = 0
        for name, numbers, block in self._raw_events.lines(self._raw):
            here = slice(position, position + len(block))
            deleted = self._delete(numbers, block, position)
            repeats = np.flatnonzero(self._repeat[here])
            at = np.searchsorted(self._rows, (repeats + position).astype(np.uint64))
            for offset, place in zip(repeats.tolist(), at.tolist(), strict=True):
                line = b"" if offset in deleted else block.line(offset)
                self._repeats.append(_Repeat(place, name, abs(numbers[offset]), line, deleted.get(offset)))
            if len(self._repeats) >= _REPEATS_AT_ONCE:
                self._note()
            yield block, self._keep[here]
            position += len(block)
        self._note()
        if self.deleted_by and self._all_rows:
            self.event_time = self.server_upload_time = None
            self._read_rows(self._all_rows)

    def _delete(self, numbers: Sequence[int], block: Block, position: int) -> dict[int, str]:
        """Take deleted events out of what is kept; return where in the block they are, with their types."""
        found = {offset: (by, self._type_of(block.line(offset))) for offset, by in self._suppressed.find(block).items()}
        # Of strays, only what they are is left.
        found |= {offset: (event.by, event.event_type) for offset, event in deleted_events(numbers, block).items()}
        for offset, (by, event_type) in found.items():
            if self._keep[position + offset]:
                self._keep[position + offset] = False
                self._gone.append(position + offset)
                self.deleted_by[by] += 1
                self.deleted_types[event_type] += 1
        return {offset: event_type for offset, (_, event_type) in found.items()}

    def _type_of(self, line: bytes) -> str:
        return envelope.printable(self._reader.read(block_of([line])).events[0].event_type)

    def _read_rows(self, rows: Rows) -> None:
        """Find the lines to keep, and first and last of their times."""
        for events in rows.chunks():
            kept = events[~(self._repeat[events["row"]] | np.isin(events["row"], self._gone))]
            self._keep[kept["row"]] = True
            self.server_upload_time = widened(self.server_upload_time, kept["time"])
            self.event_time = widened(self.event_time, kept["event_time"])

    def _note(self) -> None:
        """Report the repeats met since it was last done."""
        repeats, self._repeats = self._repeats, []
        events = self._reader.read(block_of(repeat.line for repeat in repeats)).events
        for (at, name, number, line, deleted), event in zip(repeats, events, strict=True):
            # Whose time could not be read is in the quarantine; which time it is makes no difference to the kind.
            kind = identity.identity(event, None if event.client_event_time is None else 0)
            if kind is None and deleted is None:
                raise _changed(name, number)
            first_seen = _key(int(self._first_seen[at]) // MICROSECONDS)
            self.first_seen[first_seen] += 1
            self.repeated_types[envelope.printable(event.event_type) if deleted is None else deleted] += 1
            entry = {
                "row": int(self._rows[at]),
                "object": name,
                "line": number,
                "identity": kind and identity.KINDS[kind[0]],
                "uuid": None if event.uuid is None else envelope.printable(event.uuid),
                "first_seen": first_seen,
                "conflict": bool(self._conflict[at]),
                "text": line.decode(),
            }
            self.report.add(msgspec.json.encode(entry if deleted is None else deleted_repeat(entry)))


@lru_cache(maxsize=1000)
def _key(number: int) -> str:
    return Hour(number).key


def _changed(name: str, number: int) -> WorkspaceError:
    return WorkspaceError(
        f"the landing changed: line {number} of {name} is not the event that was indexed; run the hour again"
    )
