"""Parquet files from frames, row group by row group: the same rows give the same bytes, by one version of pyarrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from amp_pipeline.core.schema import Kind
from amp_pipeline.core.tables import Table

GROUP_ROWS = 65_536
"""Most rows of a row group."""

GROUP_BYTES = 32 << 20
"""Most bytes of lines whose rows are one row group: it is made in memory, several times over."""

_LEVEL = 3
_PIECE_BYTES = 1 << 20

# Parquet itself knows one kind of text; the large ones have no bound of 2 GiB on the way.
_TYPES: dict[Kind, Any] = {
    "string": pa.large_string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
    "json": pa.large_string(),
}


class ParquetFile:
    """A Parquet file in the making, on local disk."""

    def __init__(self, path: Path, table: Table) -> None:
        """Write rows of ``table`` to ``path``."""
        self.path = path
        self.rows = 0
        self._schema = pa.schema(
            [pa.field(column.name, _TYPES[column.kind], column.nullable) for column in table.columns]
        )
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=_LEVEL,
            # Or readers would see large strings, which is no matter of theirs.
            store_schema=False,
        )

    def __enter__(self) -> ParquetFile:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self._writer.close()

    def write(self, rows: pl.DataFrame) -> None:
        """Write ``rows``, which have the table's columns in its order, in row groups of :data:`GROUP_ROWS`."""
        for group in rows.iter_slices(GROUP_ROWS):
            # In one piece, or where a page ends would depend on how the rows came.
            columns = group.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
            self._writer.write_table(columns.cast(self._schema).combine_chunks(), row_group_size=GROUP_ROWS)
            self.rows += len(group)


class RowGroups:
    """Cuts frames into row groups, which depend on rows and their sizes alone, not on how the rows came."""

    def __init__(self) -> None:
        """Begin without rows."""
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._bytes = 0

    def add(self, frame: pl.DataFrame, sizes: npt.NDArray[np.int64]) -> Iterator[pl.DataFrame]:
        """Add rows, and yield the row groups that are full.

        Args:
            frame: The rows.
            sizes: Bytes of each, shape (rows,).
        """
        behind = np.cumsum(sizes)
        done = 0
        while done < len(frame):
            before = int(behind[done - 1]) if done else 0
            fits = int(np.searchsorted(behind, before + GROUP_BYTES - self._bytes, "right"))
            until = min(len(frame), done + GROUP_ROWS - self._rows, max(fits, done))
            if until == done and not self._rows:
                until += 1
            if until == done:
                yield self.finish()
                continue
            self._frames.append(frame[done:until])
            self._rows += until - done
            self._bytes += int(behind[until - 1]) - before
            done = until

    def finish(self) -> pl.DataFrame:
        """Return the rows that are left, which may be none where none were added."""
        frames, self._frames, self._rows, self._bytes = self._frames, [], 0, 0
        return pl.concat(frames, rechunk=True) if frames else pl.DataFrame()


def digest_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces."""
    with path.open("rb") as opened:
        while chunk := opened.read(_PIECE_BYTES):
            yield chunk
