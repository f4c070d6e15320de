"""What holds of tables: keys tell rows apart, joins find their rows, and there is a row for each delivered event.

What is in the bucket is read again, no more of it than the columns in question.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from amp_pipeline.core.errors import DeliveryError, ObjectNotFoundError
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.core.seen import Seen
from amp_pipeline.core.tables import JOINS, TABLES, Join, Name
from amp_pipeline.destinations.tables import Tables
from amp_pipeline.storage.objects import ObjectStore
from amp_pipeline.workspace.tables import HourTables

MOST_ROWS = 20_000_000
"""Events of a window that are looked through for the same uuid; with more, only the hours of the run are."""

_BATCH_ROWS = 65_536


def without_rows(tables: Tables, records: Mapping[Hour, HourTables]) -> dict[str, str]:
    """Return the hours whose files have not the rows that the manifest demands."""
    found: dict[str, str] = {}
    for hour, record in records.items():
        there = _rows(tables, hour)
        if there + record.same_uuid != record.delivered:
            found[hour.key] = (
                f"{record.delivered} events were delivered, but {there} are in the table and {record.same_uuid} have "
                "the uuid of another one"
            )
    return found


def keys_twice(tables: Tables, hours: Sequence[Hour], window: Iterable[Hour]) -> dict[str, str]:
    """Return the tables, and hours of ``event``, in which a key stands twice.

    Args:
        tables: Of a delivery.
        hours: That were written.
        window: Earlier hours, in which no uuid of them may stand.
    """
    found: dict[str, str] = {}
    for name, table in TABLES.items():
        if name != "event":
            rows = _columns(tables, name, table.key)
            if twice := len(rows) - rows.n_unique():
                found[name] = f"{twice} rows have a key that another row has"
    seen = Seen()
    for hour in [*_affordable(tables, window), *hours]:
        twice = sum(int((~seen.first(uuids)).sum()) for uuids in _uuids(tables, hour))
        if twice and hour in hours:
            found[hour.key] = f"{twice} events have the uuid of an event of the hours before"
    return found


def broken_joins(tables: Tables, hours: Sequence[Hour]) -> dict[str, str]:
    """Return the tables, and hours of ``event``, in which rows join to nothing."""
    found: dict[str, str] = {}
    keys = {join.to: _columns(tables, join.to, join.key) for join in JOINS}
    for join in JOINS:
        if join.table != "event":
            _lost(join.table, _columns(tables, join.table, join.columns), join, keys[join.to], found)
    of_events = [join for join in JOINS if join.table == "event"]
    for hour in hours:
        for batch in _batches(tables, tables.names.event_table(hour), [join.columns[0] for join in of_events]):
            for join in of_events:
                _lost(hour.key, batch.select(*join.columns), join, keys[join.to], found)
    return found


def _lost(where: str, rows: pl.DataFrame, join: Join, keys: pl.DataFrame, found: dict[str, str]) -> None:
    asked = rows.unique().drop_nulls()
    lost = len(asked.join(keys, left_on=join.columns, right_on=join.key, how="anti"))
    if lost:
        found[where] = f"{lost} values of {', '.join(join.columns)} are not in {join.to}"


def _affordable(tables: Tables, window: Iterable[Hour]) -> list[Hour]:
    """Return the hours of a window that have events, none where they have too many."""
    records = ((hour, tables.records.hour(hour)) for hour in window)
    rows = {hour: record.rows for hour, record in records if record is not None and record.rows}
    return list(rows) if sum(rows.values()) <= MOST_ROWS else []


def window_of(hours: Sequence[Hour], reach: int) -> list[Hour]:
    """Return the ``reach`` hours before each of ``hours`` that are none of them, in order."""
    wanted = {earlier for hour in hours for earlier in between(hour + -reach, hour + -1)}
    return sorted(wanted - set(hours))


def _rows(tables: Tables, hour: Hour) -> int:
    with _explained(tables, tables.names.event_table(hour)) as name:
        file = _open(tables.store, name)
        return file.metadata.num_rows if file is not None else 0


def _uuids(tables: Tables, hour: Hour) -> Iterator[list[str]]:
    for batch in _batches(tables, tables.names.event_table(hour), ["uuid"]):
        yield batch["uuid"].to_list()


def _columns(tables: Tables, name: Name, columns: Sequence[str]) -> pl.DataFrame:
    rows = list(_batches(tables, tables.names.table(name), columns))
    return pl.concat(rows) if rows else pl.DataFrame(schema={one: TABLES[name].schema[one] for one in columns})


def _batches(tables: Tables, name: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    with _explained(tables, name):
        yield from batches(tables.store, name, columns)


@contextmanager
def _explained(tables: Tables, name: str) -> Iterator[str]:
    try:
        yield name
    except (pa.ArrowException, OSError) as error:
        said = str(error).partition("\n")[0]
        raise DeliveryError(
            f"{tables.store.uri(name)} is damaged ({said}); run the tables of its hour, or of "
            "any where it has none, again, forced"
        ) from error


def batches(store: ObjectStore, name: str, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file in a store, all columns if not told which; none where there is no file.

    Raises:
        pyarrow.ArrowException | OSError: It is no Parquet file, or a damaged one.
    """
    file = _open(store, name)
    if file is not None:
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns and list(columns)):
            frame = pl.from_arrow(batch)
            if isinstance(frame, pl.DataFrame):
                yield frame


def _open(store: ObjectStore, name: str) -> Any:
    """Return a Parquet file in a store, read as far as it is asked for; None where there is none."""
    found = store.head(name)
    try:
        return None if found is None else pq.ParquetFile(_Ranges(store, name, found.size))
    except ObjectNotFoundError:
        return None


class _Ranges(io.RawIOBase):
    """An object of a store as a file that can be read anywhere."""

    def __init__(self, store: ObjectStore, name: str, size: int) -> None:
        self._store = store
        self._name = name
        self._size = size
        self._at = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    @override
    def tell(self) -> int:
        return self._at

    @override
    def read(self, size: int = -1) -> bytes:
        length = self._size - self._at if size < 0 else min(size, self._size - self._at)
        data = self._store.read_range(self._name, self._at, length) if length > 0 else b""
        self._at += len(data)
        return data
