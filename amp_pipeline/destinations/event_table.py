"""The rows of the table ``event`` of one hour, from the files that were delivered, and the summary of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from amp_pipeline.core import codec
from amp_pipeline.core.errors import DamagedObjectError, DeliveryError, ObjectNotFoundError
from amp_pipeline.core.event_rows import EventRows
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.lines import Block, split_stored
from amp_pipeline.core.manifest import File
from amp_pipeline.core.overlap import Behind, ahead
from amp_pipeline.core.seen import Seen
from amp_pipeline.core.summaries import Summary, Summing
from amp_pipeline.core.tables import EVENT
from amp_pipeline.destinations.parquet import ParquetFile, RowGroups
from amp_pipeline.storage.objects import ObjectStore

_LARGE_BYTES = 16 << 20
"""Unpacked; hours from here on are worth threads."""


class HourRows(NamedTuple):
    """What became of the events of an hour."""

    delivered: int
    same_uuid: int
    summary: Summary

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.delivered - self.same_uuid


def write_event_table(store: ObjectStore, hour: Hour, files: list[File], path: Path) -> HourRows:
    """Write the rows of an hour to a local file, in memory that does not grow with its events but for 16 bytes of each.

    Args:
        store: Where the files were delivered to.
        hour: Theirs.
        files: As the manifest names them, in order.
        path: Of the Parquet file.

    Raises:
        DeliveryError: They are not what the manifest says.
    """
    at_once = sum(file.unpacked_bytes for file in files) < _LARGE_BYTES
    blocks = _blocks(store, hour, files)
    with ParquetFile(path, EVENT) as parquet, Behind[None](at_once=at_once) as behind:
        hour_rows = _HourRows(parquet, behind)
        for block in blocks if at_once else ahead(blocks):
            hour_rows.add(block)
        return hour_rows.finish()


class _HourRows:
    """Rows on their way into the file and the summary."""

    def __init__(self, parquet: ParquetFile, behind: Behind[None]) -> None:
        self._parquet = parquet
        self._behind = behind
        self._reader = EventRows()
        self._seen = Seen()
        self._groups = RowGroups()
        self._summing = Summing()
        self._delivered = 0
        self._kept = 0

    def add(self, block: Block) -> None:
        rows = self._reader.read(block)
        first = self._seen.first(rows["uuid"].to_list())
        numbers = np.arange(self._delivered, self._delivered + len(rows))
        self._delivered += len(rows)
        self._kept += int(first.sum())
        sizes = (block.ends - block.starts)[first]
        numbered = rows.with_columns(pl.Series(_NUMBER, numbers))
        for group in self._groups.add(numbered if first.all() else numbered.filter(first), sizes):
            self._behind.do(self._put, group)

    def finish(self) -> HourRows:
        self._behind.do(self._put, self._groups.finish())
        self._behind.finish()
        return HourRows(self._delivered, self._delivered - self._kept, self._summing.finish())

    def _put(self, group: pl.DataFrame) -> None:
        if len(group):
            rows = group.drop(_NUMBER)
            self._parquet.write(rows)
            self._summing.add(rows, group[_NUMBER])


_NUMBER = " row"  # no column of events has a space


def _blocks(store: ObjectStore, hour: Hour, files: list[File]) -> Iterator[Block]:
    """Yield the lines of delivered files, each held against size, rows and digest when it was read to its end."""
    for file in files:
        chunks = _Chunks(store.chunks(file.name))
        rows = 0
        try:
            for block in split_stored(codec.unpack(chunks, store.uri(file.name))):
                rows += len(block)
                yield block
        except (DamagedObjectError, ObjectNotFoundError) as error:
            raise DeliveryError(f"{error}; {_again(hour)}") from error
        if (chunks.size, rows, chunks.digest.hexdigest()) != (file.bytes, file.rows, file.sha256):
            raise DeliveryError(f"{store.uri(file.name)} is not what the manifest says; {_again(hour)}")


class _Chunks:
    """Pieces of an object, with the size and digest of those that were taken."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


def _again(hour: Hour) -> str:
    return f"deliver {hour} again, then its tables"
