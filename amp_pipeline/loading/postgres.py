"""PostgreSQL as a place for the tables, by COPY. Needs the extra ``postgres``."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import psycopg
import pyarrow.parquet as pq
from psycopg.abc import ConnDict
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typing_extensions import override

from amp_pipeline.core.errors import LoadError
from amp_pipeline.core.schema import Kind
from amp_pipeline.core.tables import JOINS, TABLES, Join, Name, Table
from amp_pipeline.loading.database import WHOLE, Database

_BATCH_ROWS = 4096
_CONNECT_SECONDS = 15
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_LOCK = "SELECT pg_try_advisory_lock(hashtext('amp_pipeline'), hashtext({schema}))"
_CHANGE = (
    "DELETE FROM {table} t WHERE NOT EXISTS"
    " (SELECT 1 FROM staged s WHERE {same_key} AND ROW({ours}) IS NOT DISTINCT FROM ROW({theirs}))",
    # U+0000, which PostgreSQL can't hold, becomes U+FFFD, which may stand in another key.
    "INSERT INTO {table} SELECT s.* FROM staged s ON CONFLICT DO NOTHING",
)
_LONGEST_KEY_BYTES = 1300
"""Of a text that is in an index. Two of them and a ``user_key`` are one entry, which has at most 2704 bytes."""

_KEPT_CHARACTERS = 200
_TIMES = "%Y-%m-%dT%H:%M:%S%.6fZ"


class Postgres(Database):
    """A schema of a PostgreSQL database, version 12 or newer."""

    types: ClassVar[Mapping[Kind, str]] = {
        "string": "text",
        "json": "text",
        "integer": "bigint",
        "number": "double precision",
        "boolean": "boolean",
        "time": "timestamptz",
    }
    all_at_once: ClassVar[bool] = False
    hour_of_e: ClassVar[str] = "to_char(e.server_upload_time, 'YYYY-MM-DD-HH24:00')"

    def __init__(self, address: str, schema: str) -> None:
        """Connect, as ``address`` and the environment of libpq (``PGPASSWORD`` and so on) say.

        Args:
            address: A URL or other connection string of libpq.
            schema: Of the tables.

        Raises:
            LoadError: There is no connection, or another load of the schema is under way.
        """
        super().__init__(schema)
        given = _read_address(address)
        self._secret = str(given.get("password") or "")
        # Whatever the database's own encoding is, and PGCLIENTENCODING: COPY gets UTF-8.
        wanted = {"connect_timeout": given.get("connect_timeout", _CONNECT_SECONDS), "client_encoding": "UTF8"}
        try:
            self._connection = psycopg.connect(make_conninfo(address, **wanted), autocommit=True)
        except (psycopg.Error, UnicodeError) as error:
            # The second where a name can be none of a host, like a..b.
            raise LoadError(f"no connection to PostgreSQL: {self._hidden(str(error))}") from None
        place = self._connection.info
        self.place = f"{place.dbname} at {place.host or 'this machine'}"
        # Not by `options`, which may be given, and which poolers refuse.
        self.run("SET TIME ZONE 'UTC'")
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self.run(_LOCK, schema=schema)[0][0]:
            # The server may not have noticed yet that the load before has ended, or was killed.
            if time.monotonic() > until:
                self.close()
                raise LoadError(f"another load of the schema {schema} of {self.place} is under way; wait for its end")
            time.sleep(_PAUSE_SECONDS)

    @override
    def close(self) -> None:
        self._connection.close()

    @override
    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._explained(), self._connection.transaction():
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            # What it says beside its first line quotes rows.
            said = error.diag.message_primary or self._hidden(str(error).partition("\n")[0])
            raise LoadError(f"{self.place} can't be loaded: {said} ({error.sqlstate or 'connection'})") from None

    @override
    def run(self, statement: str, **values: str) -> list[tuple[Any, ...]]:
        places = {name: f"%({name})s::text" for name in values}
        text = statement.format_map({**self.names, "staged": "staged", **places}) if "{" in statement else statement
        with self._explained():
            # As bytes, since a text that was put together here is none that the types of psycopg take.
            found = self._connection.execute(text.encode(), values or None)
            return found.fetchall() if found.description else []

    @override
    def stage(self, table: Table, file: Path) -> None:
        self.run("DROP TABLE IF EXISTS pg_temp.staged")
        self.run(f"CREATE TEMP TABLE staged (LIKE {self.name(table.name)}) ON COMMIT DROP")
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        command = f"COPY staged ({columns}) FROM STDIN (FORMAT csv)".encode()
        with self._connection.cursor().copy(command) as copy:
            for rows in _csv(table, file):
                copy.write(rows)
        self.run("ANALYZE staged")

    @override
    def put_tables(self, files: Mapping[Name, tuple[Path, str]]) -> None:
        """Change the rows that differ, and no others: readers see no empty table, and nothing waits for them."""
        with self.transaction():
            # Foreign keys are looked at when it is committed.
            for name in WHOLE:
                if name not in files:
                    continue
                path, sha256 = files[name]
                self.stage(TABLES[name], path)
                for statement in _CHANGE:
                    for place, text in self._changed(TABLES[name]).items():
                        statement = statement.replace(place, text)
                    self.run(statement)
                self.remember_table(name, sha256)

    @override
    def reference(self, join: Join) -> str:
        return f"{super().reference(join)} DEFERRABLE INITIALLY DEFERRED"

    @override
    def _make_tables(self) -> None:
        super()._make_tables()
        for columns in ("server_upload_time", "user_key"):
            self.run(f'CREATE INDEX ON {self.name("event")} ("{columns}")')

    def _changed(self, table: Table) -> dict[str, str]:
        """Return what the statements of :data:`_CHANGE` name."""
        ours, theirs = (", ".join(f'{side}."{one.name}"' for one in table.columns) for side in ("t", "s"))
        return {
            "{table}": self.name(table.name),
            "{same_key}": " AND ".join(f't."{column}" = s."{column}"' for column in table.key),
            "{ours}": ours,
            "{theirs}": theirs,
        }

    def _hidden(self, text: str) -> str:
        text = " ".join(text.split())
        return text.replace(self._secret, "…") if self._secret else text


def _read_address(address: str) -> ConnDict:
    """Return the parts of an address.

    Raises:
        LoadError: It is none, or has an @ too many: with one in the password, the rest of that is taken for the host.
    """
    place = address.partition("://")[2].partition("?")[0]
    try:
        given = conninfo_to_dict(address)
    except (psycopg.Error, UnicodeError):
        # Its message quotes the address.
        given = None
    if given is None or "@" in place.partition("@")[2] or "@" in place.partition("/")[2]:
        raise LoadError(
            "the address of the PostgreSQL database can't be read; write postgresql://user@host:5432/database, and "
            "%-escapes for what has a meaning in URLs"
        )
    return given


def _csv(table: Table, file: Path) -> Iterator[bytes]:
    """Yield the rows of a Parquet file as PostgreSQL's CSV, in which an empty text has quotes and null has none."""
    columns = [column.name for column in table.columns]
    keys = sorted({*table.key, *[one for join in JOINS if join.table == table.name for one in join.columns]})
    with pq.ParquetFile(file) as parquet:
        # Of several row groups at once pyarrow keeps the packed bytes to the end.
        for group in range(parquet.num_row_groups):
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
                yield _as_csv(pl.DataFrame(batch), keys)


def _as_csv(frame: pl.DataFrame, keys: list[str]) -> bytes:
    data = _written(_with_short(frame, keys))
    if b"\0" not in data:
        return data
    possible = frame.with_columns(pl.col(pl.String).str.replace_all("\0", "\ufffd", literal=True))
    return _written(_with_short(possible, keys))


def _with_short(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Return ``frame`` with its keys no longer than an index takes."""
    is_long = pl.col(keys).str.len_bytes() > _LONGEST_KEY_BYTES
    long = [one.name for one in frame.select(is_long.any()) if one.item()]
    return frame.with_columns(pl.Series(name, map(_short, frame[name]), dtype=pl.String) for name in long)


def _short(text: str | None) -> str | None:
    """Return a text, or where it is too long its beginning and digest, which is as good a key.

    Example:
        >>> _short("x" * 1301)[-70:] == "xxxxx…" + hashlib.sha256(b"x" * 1301).hexdigest()
        True
    """
    if text is None or len(data := text.encode()) <= _LONGEST_KEY_BYTES:
        return text
    return f"{text[:_KEPT_CHARACTERS]}…{hashlib.sha256(data).hexdigest()}"


def _written(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_csv(out, include_header=False, datetime_format=_TIMES)
    return out.getvalue()
