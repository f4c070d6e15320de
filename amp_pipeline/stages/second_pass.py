"""The second reading of an hour's landing: which lines are kept, and the report of its repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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


class SecondPass:
    """Reads the landing again: tells the lines that are kept, and reports the repeats."""

    def __init__(self, raw_events: RawEvents, hour: Hour, raw: RawRecord, repeats: pl.DataFrame) -> None:
        """Read the landing of ``raw`` again, ``repeats`` being as :data:`amp_pipeline.core.dedupe.REPEATS` says."""
        self._raw_events = raw_events
        self._raw = raw
        self._rows = repeats["row"].to_numpy()
        self._first_seen = repeats["first_seen"].to_numpy()
        self._conflict = repeats["conflict"].to_numpy()
        self._repeat = np.zeros(raw.lines, np.bool_)
        self._repeat[self._rows] = True
        self._keep = np.zeros(raw.lines, np.bool_)
        self.event_time: TimeRange | None = None
        self.server_upload_time: TimeRange | None = None
        if raw.rows:
            self._read_rows(raw_events.workspace.rows(hour, raw.rows))
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
            repeats = np.flatnonzero(self._repeat[here])
            at = np.searchsorted(self._rows, (repeats + position).astype(np.uint64))
            for offset, place in zip(repeats.tolist(), at.tolist(), strict=True):
                self._repeats.append(_Repeat(place, name, numbers[offset], block.line(offset)))
            if len(self._repeats) >= _REPEATS_AT_ONCE:
                self._note()
            yield block, self._keep[here]
            position += len(block)
        self._note()

    def _read_rows(self, rows: Rows) -> None:
        """Find the lines to keep, and first and last of their times."""
        for events in rows.chunks():
            kept = events[~self._repeat[events["row"]]]
            self._keep[kept["row"]] = True
            self.server_upload_time = widened(self.server_upload_time, kept["time"])
            self.event_time = widened(self.event_time, kept["event_time"])

    def _note(self) -> None:
        """Report the repeats met since it was last done."""
        repeats, self._repeats = self._repeats, []
        events = self._reader.read(block_of(repeat.line for repeat in repeats)).events
        for (at, name, number, line), event in zip(repeats, events, strict=True):
            # Whose time could not be read is in the quarantine; which time it is makes no difference to the kind.
            kind = identity.identity(event, None if event.client_event_time is None else 0)
            if kind is None:
                raise _changed(name, number)
            first_seen = _key(int(self._first_seen[at]) // MICROSECONDS)
            self.first_seen[first_seen] += 1
            self.repeated_types[envelope.printable(event.event_type)] += 1
            entry = {
                "row": int(self._rows[at]),
                "object": name,
                "line": number,
                "identity": identity.KINDS[kind[0]],
                "uuid": None if event.uuid is None else envelope.printable(event.uuid),
                "first_seen": first_seen,
                "conflict": bool(self._conflict[at]),
                "text": line.decode(),
            }
            self.report.add(msgspec.json.encode(entry))


@lru_cache(maxsize=1000)
def _key(number: int) -> str:
    return Hour(number).key


def _changed(name: str, number: int) -> WorkspaceError:
    return WorkspaceError(
        f"the landing changed: line {number} of {name} is not the event that was indexed; run the hour again"
    )
