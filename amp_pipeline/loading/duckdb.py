"""A DuckDB file as a place for the tables. Needs the extra ``duckdb``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import duckdb
from typing_extensions import override

from amp_pipeline.core.errors import LoadError
from amp_pipeline.core.schema import Kind
from amp_pipeline.core.tables import TABLES, Name, Table
from amp_pipeline.loading.database import WHOLE, Database

_STAGE = "CREATE OR REPLACE TEMP VIEW staged AS SELECT {columns} FROM read_parquet('{path}')"
_KEY_BYTES = 70  # measured with 4,350,000 events
_INSERT = "INSERT INTO {table} SELECT * FROM staged"


class DuckDB(Database):
    """A schema of a DuckDB file."""

    types: ClassVar[Mapping[Kind, str]] = {
        "string": "VARCHAR",
        "json": "VARCHAR",
        "integer": "BIGINT",
        "number": "DOUBLE",
        "boolean": "BOOLEAN",
        "time": "TIMESTAMPTZ",
    }
    all_at_once: ClassVar[bool] = True
    hour_of_e: ClassVar[str] = "strftime(e.server_upload_time, '%Y-%m-%d-%H:00')"

    def __init__(self, file: Path, schema: str, memory: int, scratch: Path) -> None:
        """Open or make a file.

        Args:
            file: The file.
            schema: Of the tables.
            memory: Bytes that DuckDB may take for data; it spills the rest.
            scratch: A folder on local disk.

        Raises:
            LoadError: It can't be opened, is being written, or has the name of the schema.
        """
        super().__init__(schema)
        self.file = file
        try:
            self._connection = duckdb.connect(str(file))
        except duckdb.Error as error:
            raise LoadError(
                f"{file} can't be opened: {_first_line(error)}. Check that it is a DuckDB file, or not there yet, that "
                "its folder is there, and that nobody else has it open"
            ) from None
        if self.run("SELECT lower(current_database())") == [(schema,)]:
            self.close()
            raise LoadError(
                f"{file} and the schema {schema} have one name, which DuckDB can't tell apart; name the file "
                "otherwise, or the schema, by --schema"
            )
        for setting, value in {
            "TimeZone": "UTC",
            "memory_limit": f"{memory >> 20}MiB",
            "temp_directory": str(scratch),
            "preserve_insertion_order": "false",
        }.items():
            self._connection.execute(f"SET {setting} = '{value.replace(chr(39), chr(39) * 2)}'")

    @override
    def close(self) -> None:
        self._connection.close()

    @override
    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._explained():
            self._connection.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except duckdb.ConstraintException as error:
            # Without its message, which quotes keys.
            raise LoadError(
                f"{self.file}: a key or join of the tables does not hold ({type(error).__name__})"
            ) from None
        except duckdb.OutOfMemoryException as error:
            raise LoadError(
                f"{self.file} can't be loaded: {_first_line(error)}. DuckDB has the keys of all events in memory, "
                f"about {_KEY_BYTES} bytes each, beside what it writes: raise `memory` of the organization, or load "
                "into PostgreSQL"
            ) from None
        except duckdb.Error as error:
            raise LoadError(f"{self.file} can't be loaded: {_first_line(error)}") from None

    @override
    def run(self, statement: str, **values: str) -> list[tuple[Any, ...]]:
        places = {name: f"${name}" for name in values}
        text = statement.format_map({**self.names, "staged": "staged", **places}) if "{" in statement else statement
        with self._explained():
            return self._connection.execute(text, values or None).fetchall()

    @override
    def stage(self, table: Table, file: Path) -> None:
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        path = str(file).replace("'", "''")
        # Read again by each statement, of which all but one need a column alone: a copy would cost more.
        self._connection.execute(_STAGE.replace("{columns}", columns).replace("{path}", path))

    @override
    def put_tables(self, files: Mapping[Name, tuple[Path, str]]) -> None:
        """Make all tables anew, since DuckDB can't delete what is referred to in the transaction that replaces it."""
        missing = set(WHOLE) - set(files)
        if missing:
            raise ValueError(f"DuckDB replaces all tables at once; {missing} are missing")
        with self.transaction():
            for name in reversed(WHOLE):
                self.run(f"DROP TABLE IF EXISTS {self.name(name)}")
            for name in WHOLE:
                path, sha256 = files[name]
                self.run(self.create(TABLES[name]))
                self.stage(TABLES[name], path)
                self.run(_INSERT.replace("{table}", self.name(name)))
                self.remember_table(name, sha256)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
