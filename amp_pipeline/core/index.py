"""What an hour leaves behind for deduplication: a key index for ever, and the rows of the hour for itself.

Both are little-endian columns behind a short header, so that any language reads them and the same content has the
same bytes:

* key index (``AMPKEYS1``, count u64): ``high`` u64, ``low`` u64 (the identity's digest), ``time`` i64 (µs),
  ``content`` u64;
  32 bytes an event that has an identity, sorted by digest, time and landing order.
* rows (``AMPROWS1``, count u64): ``row`` u64 (position among all lines of the hour's objects, blank ones too),
  ``time`` i64 (µs),
  ``event_time`` i64 (µs, the smallest i64 where the event has none), ``rank`` i64 (position in the key index, -1
  without identity);
  32 bytes an event, in landing order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from amp_pipeline.core.errors import WorkspaceError

KEYS: Mapping[str, type[pl.DataType]] = {"high": pl.UInt64, "low": pl.UInt64, "time": pl.Int64, "content": pl.UInt64}
"""Columns of a key index."""

ROWS: Mapping[str, type[pl.DataType]] = {"row": pl.UInt64, "time": pl.Int64, "event_time": pl.Int64, "rank": pl.Int64}
"""Columns of the rows of an hour."""

_KEYS_MAGIC = b"AMPKEYS1"
_ROWS_MAGIC = b"AMPROWS1"
_HEADER_BYTES = 16
_NONE = np.iinfo(np.int64).min
_NUMPY: Mapping[type[pl.DataType], np.dtype[Any]] = {pl.UInt64: np.dtype("<u8"), pl.Int64: np.dtype("<i8")}


def empty_keys() -> pl.DataFrame:
    """Return the key index of an hour without identities."""
    return pl.DataFrame(schema=dict(KEYS))


def empty_rows() -> pl.DataFrame:
    """Return the rows of an hour without events."""
    return pl.DataFrame(schema=dict(ROWS))


def build(
    rows: Sequence[int],
    times: Sequence[int],
    event_times: Sequence[int | None],
    digests: Sequence[bytes | None],
    contents: Sequence[int],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the key index and the rows of an hour.

    Args:
        rows: Position of each event among the hour's lines, ascending; the other arguments are parallel to it.
        times: ``server_upload_time`` in µs.
        event_times: ``event_time`` in µs, or None.
        digests: 16 bytes of identity, or None for an event that is never a repeat.
        contents: Content digests, 64 bits.
    """
    halves = np.frombuffer(b"".join(digest or bytes(16) for digest in digests), dtype=">u8").reshape(-1, 2)
    events = pl.DataFrame(
        {
            "row": pl.Series(rows, dtype=pl.UInt64),
            "time": pl.Series(times, dtype=pl.Int64),
            "event_time": pl.Series(event_times, dtype=pl.Int64),
            "high": halves[:, 0].astype("<u8"),
            "low": halves[:, 1].astype("<u8"),
            "content": pl.Series(contents, dtype=pl.UInt64),
            "has_identity": pl.Series([digest is not None for digest in digests], dtype=pl.Boolean),
        }
    )
    keyed = events.filter("has_identity").sort("high", "low", "time", "row").with_row_index("rank")
    ranked = events.join(
        keyed.select("row", pl.col("rank").cast(pl.Int64)), on="row", how="left", maintain_order="left"
    )
    return keyed.select(*KEYS), ranked.select("row", "time", "event_time", pl.col("rank").fill_null(-1))


def encode_keys(keys: pl.DataFrame) -> bytes:
    """Return the bytes of a key index."""
    return _encode(_KEYS_MAGIC, KEYS, keys)


def decode_keys(data: bytes) -> pl.DataFrame:
    """Return the key index that ``data`` holds.

    Raises:
        WorkspaceError: ``data`` is no key index of this version.
    """
    return _decode(_KEYS_MAGIC, KEYS, data)


def encode_rows(rows: pl.DataFrame) -> bytes:
    """Return the bytes of the rows of an hour."""
    return _encode(_ROWS_MAGIC, ROWS, rows.with_columns(pl.col("event_time").fill_null(_NONE)))


def decode_rows(data: bytes) -> pl.DataFrame:
    """Return the rows that ``data`` holds, ``event_time`` null where the event has none.

    Raises:
        WorkspaceError: ``data`` is no rows file of this version.
    """
    rows = _decode(_ROWS_MAGIC, ROWS, data)
    return rows.with_columns(pl.when(pl.col("event_time") != _NONE).then(pl.col("event_time")))


def events_of(rows: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """Return an hour's events that have an identity: ``row`` and the columns of the key index, in landing order."""
    keyed = rows.filter(pl.col("rank") >= 0)
    return pl.concat([keyed.select("row"), keys[keyed["rank"]]], how="horizontal")


def _encode(magic: bytes, columns: Mapping[str, type[pl.DataType]], frame: pl.DataFrame) -> bytes:
    parts = [magic, len(frame).to_bytes(8, "little")]
    for name, dtype in columns.items():
        parts.append(frame[name].cast(dtype).to_numpy().astype(_NUMPY[dtype], copy=False).tobytes())
    return b"".join(parts)


def _decode(magic: bytes, columns: Mapping[str, type[pl.DataType]], data: bytes) -> pl.DataFrame:
    count = int.from_bytes(data[8:_HEADER_BYTES], "little")
    if data[:8] != magic or len(data) != _HEADER_BYTES + 8 * count * len(columns):
        raise WorkspaceError(f"not a whole {magic.decode()} file ({len(data)} bytes)")
    arrays = {
        name: np.frombuffer(data, _NUMPY[dtype], count, _HEADER_BYTES + 8 * count * position)
        for position, (name, dtype) in enumerate(columns.items())
    }
    return pl.DataFrame(arrays, schema=dict(columns))
