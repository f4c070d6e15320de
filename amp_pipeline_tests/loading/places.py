"""Databases that tests load into, looked at by connections of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import psycopg

from amp_pipeline.core.tables import TABLES, Name
from amp_pipeline.loading.database import Database
from amp_pipeline.loading.duckdb import DuckDB
from amp_pipeline.loading.postgres import Postgres
from amp_pipeline_tests.postgres_server import Postgres as Server

SECOND = "second"
"""Another schema that tests may load into."""


@dataclass(frozen=True)
class Place:
    """A database, and how to look at it."""

    folder: Path
    server: Server | None

    @property
    def file(self) -> Path:
        return self.folder / "tables.duckdb"

    @contextmanager
    def opened(self, schema: str = "amp_pipeline") -> Iterator[Database]:
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        database: Database
        if self.server is None:
            database = DuckDB(self.file, schema, 256 << 20, scratch)
        else:
            database = Postgres(self.server.url, schema)
        try:
            yield database
        finally:
            database.close()

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a query of tests, in a session whose zone is another."""
        if self.server is None:
            with duckdb.connect(str(self.file), read_only=True) as connection:
                connection.execute("SET TimeZone = 'America/New_York'")
                return connection.execute(statement).fetchall()
        with psycopg.connect(self.server.url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def do(self, *statements: str) -> None:
        """Run statements of somebody else who uses the database."""
        if self.server is None:
            with duckdb.connect(str(self.file)) as connection:
                for statement in statements:
                    connection.execute(statement)
        else:
            with psycopg.connect(self.server.url) as connection:
                for statement in statements:
                    connection.execute(statement.encode())

    def rows(self, name: Name) -> list[tuple[Any, ...]]:
        """All rows of a table in the order of its key, times as microseconds since 1970."""
        table = TABLES[name]
        columns = [self._text(column.name, column.kind) for column in table.columns]
        found = self.ask(f"SELECT {', '.join(columns)} FROM amp_pipeline.{name}")
        return in_order(name, found)

    def _text(self, name: str, kind: str) -> str:
        if kind != "time":
            return f'"{name}"'
        if self.server is None:
            return f'epoch_us("{name}")'
        return f'(extract(epoch FROM "{name}") * 1000000)::bigint'

    def count(self, table: str) -> int:
        ((rows,),) = self.ask(f"SELECT count(*) FROM amp_pipeline.{table}")
        return int(rows)


def place(kind: str, folder: Path, server: Server) -> Place:
    """Return an empty one."""
    if kind != "postgres":
        return Place(folder, None)
    server.drop("amp_pipeline", SECOND)
    return Place(folder, server)


def wanted(name: Name, frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """The rows of a frame as :meth:`Place.rows` has them."""
    times = [pl.col(one.name).dt.epoch("us") for one in TABLES[name].columns if one.kind == "time"]
    return in_order(name, frame.select(*TABLES[name].schema).with_columns(times).rows())


def in_order(name: Name, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    places = [list(TABLES[name].schema).index(column) for column in TABLES[name].key]
    return sorted(rows, key=lambda row: [row[one] for one in places])
