"""Gathering what is told of an hour's lines: its key index, and what goes to quarantine and to other hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from amp_pipeline.core import codec
from amp_pipeline.core.envelope import Bad
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import is_blank
from amp_pipeline.core.telling import Told
from amp_pipeline.stages.deletion import HourDeletion
from amp_pipeline.workspace.keys import KeysWriter
from amp_pipeline.workspace.store import quarantined

_IN_MEMORY_BYTES = 256 << 10
"""There may be strays to many hours."""


class Scan:
    """Takes what is told of an hour's blocks, in order, and keeps what the hour's record and index need."""

    def __init__(self, scratch: Path, most_keys: int, deletion: HourDeletion) -> None:
        """Begin without lines.

        Args:
            scratch: An empty folder on local disk.
            most_keys: About how many keys may be in memory.
            deletion: Who is left out of all but the key index.
        """
        self._deletion = deletion
        self._types: Counter[str] = Counter()
        self.position = 0
        """Lines so far, of all objects."""
        self.keys = KeysWriter(scratch, most_keys)
        self.quarantine = codec.LinePacker()
        self.quarantined = 0
        """Lines, also those that the quarantine does not hold because their users were deleted."""
        self.reasons: Counter[str] = Counter()
        self.strays: dict[tuple[Hour, str], codec.LinePacker] = {}
        """Lines of other hours, by their hour and the landing object they stand in."""
        self.strays_in = 0
        self.landed_bytes = 0
        self.made_merges: list[tuple[int, int, bytes]] = []
        """Time, row and record; in order of arrival when sorted."""
        self.made_deleted = 0

    def close(self) -> None:
        """Close what is open."""
        self.keys.close()

    @property
    def event_types(self) -> dict[str, int]:
        """Events by type."""
        return dict(sorted(self._types.items()))

    def add(self, name: str, numbers: Sequence[int], told: Told) -> None:
        """Take the next lines of an object, and their numbers in it."""
        for bad in told.bad:
            self._quarantine(name, numbers[bad.position], bad.line, Bad(bad.reason, bad.detail))
        for stray in told.strays:
            self._stray(Hour(stray.hour), name, numbers[stray.position], stray.line)
        self.keys.add(
            np.frombuffer(told.positions, np.int64) + self.position,
            np.frombuffer(told.times, np.int64),
            np.frombuffer(told.event_times, np.int64),
            told.digests,
            np.frombuffer(told.contents, np.uint64),
            told.without_identity,
        )
        self.landed_bytes += told.unpacked_bytes
        self._types.update(told.event_types)
        for made in told.merging:
            if self._deletion.takes_merge(made.record):
                self.made_deleted += 1
            else:
                self.made_merges.append((made.upload, self.position + made.position, made.record))
        self.position += told.lines

    def add_truncated(self, name: str, number: int, rest: bytes) -> None:
        """Take what stood between the last line end and the damage of an accepted object."""
        if not is_blank(rest):
            self._quarantine(name, number, rest, Bad("truncated", ""))
        self.position += 1

    def _quarantine(self, name: str, number: int, line: bytes, bad: Bad) -> None:
        self.reasons[bad.reason] += 1
        self.quarantined += 1
        if not self._deletion.takes_bad_line(line):
            self.quarantine.add(msgspec.json.encode(quarantined(name, number, line, bad)))

    def _stray(self, target: Hour, name: str, number: int, line: bytes) -> None:
        """Keep a line behind its number; the file's first line names the landing object."""
        if (target, name) not in self.strays:
            self.strays[target, name] = codec.LinePacker(_IN_MEMORY_BYTES)
            self.strays[target, name].add(msgspec.json.encode(name))
        self.strays[target, name].add(self._deletion.stray(target, number, line))
