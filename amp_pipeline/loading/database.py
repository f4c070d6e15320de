"""What a database that tables are loaded into does, in the SQL that DuckDB and PostgreSQL have in common.

Beside the eight tables there are four of its own, in the same schema: ``loaded_from`` (whose tables they are),
``loaded_hours`` and ``loaded_tables`` (the SHA-256 of what was loaded; empty where it has to be loaded again), and
``event_repeat`` (uuids of an hour that stand in an earlier one). Each hour, and the seven tables together, are one
transaction, so whoever is killed is followed by a run that finishes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from amp_pipeline.core.errors import LoadError
from amp_pipeline.core.fingerprint import fingerprint
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.schema import Kind
from amp_pipeline.core.tables import JOINS, TABLES, Join, Name, Table

NO_EVENTS = "no events"
"""Stands for the SHA-256 of an hour without a file."""

WHOLE: tuple[Name, ...] = ("event_category", "event_type", "cohort", "group", "user", "user_group", "user_cohort")
"""The tables that are replaced whole, each behind those that it refers to."""

REFERENCES = tuple(join for join in JOINS if join.table in WHOLE)
"""Joins that are foreign keys. Those of ``event`` are not: its hours come one by one, the other tables after them."""

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_LOADED_FROM = "loaded_from"
_OWN_TABLES = (_LOADED_FROM, "loaded_hours", "loaded_tables", "event_repeat")
_OWN = (
    "CREATE TABLE IF NOT EXISTS {own}loaded_from (what {text} PRIMARY KEY, value {text} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {own}loaded_hours (hour {text} PRIMARY KEY, sha256 {text} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {own}loaded_tables (name {text} PRIMARY KEY, sha256 {text} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {own}event_repeat (uuid {text}, hour {text}, PRIMARY KEY (uuid, hour))",
)

_REMOVE_HOUR = (
    "DELETE FROM {event} WHERE server_upload_time >= CAST({start} AS timestamptz)"
    " AND server_upload_time < CAST({end} AS timestamptz)",
    "DELETE FROM {own}event_repeat WHERE hour = {hour}",
    "DELETE FROM {own}loaded_hours WHERE hour = {hour}",
)
_INSERT_HOUR = (
    # Later hours that were loaded before this one give their rows up.
    "INSERT INTO {own}event_repeat SELECT e.uuid, {hour_of_e} FROM {event} e JOIN {staged} s ON e.uuid = s.uuid"
    " WHERE e.server_upload_time >= CAST({end} AS timestamptz)",
    "DELETE FROM {event} WHERE server_upload_time >= CAST({end} AS timestamptz)"
    " AND uuid IN (SELECT s.uuid FROM {staged} s)",
    "INSERT INTO {event} SELECT s.* FROM {staged} s ON CONFLICT DO NOTHING",
    "INSERT INTO {own}event_repeat SELECT s.uuid, {hour} FROM {staged} s WHERE NOT EXISTS"
    " (SELECT 1 FROM {event} e WHERE e.uuid = s.uuid AND e.server_upload_time >= CAST({start} AS timestamptz)"
    " AND e.server_upload_time < CAST({end} AS timestamptz))",
)
_REMEMBER_HOUR = "INSERT INTO {own}loaded_hours SELECT {hour}, {sha256}"
_GIVE_BACK = (
    "UPDATE {own}loaded_hours SET sha256 = '' WHERE hour IN (SELECT r.hour FROM {own}event_repeat r"
    " WHERE NOT EXISTS (SELECT 1 FROM {event} e WHERE e.uuid = r.uuid))"
)
"""What stood in an hour, and stands there no more, a later one may have: it is loaded again."""

_WAS_LOADED = "SELECT 1 FROM {own}loaded_hours WHERE hour = {hour}"
_FORGET = ("DELETE FROM {own}loaded_hours", "DELETE FROM {own}loaded_tables", "DELETE FROM {own}event_repeat")
_FORGET_TABLE = "DELETE FROM {own}loaded_tables WHERE name = {name}"
_REMEMBER_TABLE = "INSERT INTO {own}loaded_tables SELECT {name}, {sha256}"
_IS_THERE = "SELECT 1 FROM information_schema.schemata WHERE schema_name = {schema}"
_TABLES_THERE = "SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}"
_COUNT = "SELECT count(*) FROM {table}"


class Database(ABC):
    """A schema of a database. One process at a time loads it."""

    types: ClassVar[Mapping[Kind, str]]
    """Types of columns."""
    hour_of_e: ClassVar[str]
    """The hour of a row ``e`` of ``event``, like 2024-05-06-10:00; the session's zone is UTC."""
    all_at_once: ClassVar[bool]
    """Whether :meth:`put_tables` needs all of :data:`WHOLE`, also those that have not changed."""

    def __init__(self, schema: str) -> None:
        """Load into ``schema``.

        Raises:
            LoadError: That is no name that needs no quotes.
        """
        if not _SCHEMA.fullmatch(schema):
            raise LoadError(f"{schema!r} is no name of a schema; write small letters, digits and _, like amp_pipeline")
        self.schema = schema

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Any]:
        """Return a transaction, which is committed at the end of the block and rolled back where it raises."""

    @abstractmethod
    def run(self, statement: str, **values: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows.

        Args:
            statement: With ``{name}`` for values, for what :meth:`names` knows, and for ``staged``.
            **values: Of its parameters.
        """

    @abstractmethod
    def stage(self, table: Table, file: Path) -> None:
        """Make the rows of a Parquet file readable as ``{staged}`` until the transaction ends."""

    @abstractmethod
    def put_tables(self, files: Mapping[Name, tuple[Path, str]]) -> None:
        """Replace tables of :data:`WHOLE` by the rows of files, all in one transaction.

        Args:
            files: By table a Parquet file on local disk, and its SHA-256.
        """

    @property
    def names(self) -> dict[str, str]:
        """What statements name: ``own`` before the tables of its own, ``event``, types and expressions."""
        return {
            "own": f'"{self.schema}".',
            "event": self.name("event"),
            "text": self.types["string"],
            "hour_of_e": self.hour_of_e,
        }

    def name(self, table: str) -> str:
        """Return the name of a table, with its schema: ``user`` and ``group`` mean something else in SQL."""
        return f'"{self.schema}"."{table}"'

    def prepare(self, owner: str) -> None:
        """Make what is not there yet.

        Tables that another version of amp_pipeline made, with other columns, are made anew and loaded again; so are all
        where somebody has dropped one.

        Args:
            owner: Whose tables they are; a schema holds those of one delivery.

        Raises:
            LoadError: The schema holds those of another delivery, or tables of these names that no load has made.
        """
        with self.transaction():
            there = self._tables_there()
            if not self.run(_IS_THERE, schema=self.schema):
                # IF NOT EXISTS would ask for the right to make one also where there is one.
                self.run("CREATE SCHEMA " + self.names["own"].removesuffix("."))
            for statement in _OWN:
                self.run(statement)
            known = {str(what): str(value) for what, value in self.run("SELECT what, value FROM {own}loaded_from")}
            if known.get("owner", owner) != owner:
                raise LoadError(
                    f"the schema {self.schema} holds the tables of {known['owner']}; load {owner} into another one, by "
                    "--schema"
                )
            if known.get("columns") != self._columns or not there.issuperset(TABLES):
                self._make_tables()
                for what, value in (("owner", owner), ("columns", self._columns)):
                    self.run("DELETE FROM {own}loaded_from WHERE what = {what}", what=what)
                    self.run("INSERT INTO {own}loaded_from SELECT {what}, {value}", what=what, value=value)

    def hours(self) -> dict[str, str]:
        """Return the hours that were loaded, with the SHA-256 of each; it is empty where one must be loaded again."""
        return {str(hour): str(digest) for hour, digest in self.run("SELECT hour, sha256 FROM {own}loaded_hours")}

    def tables(self) -> dict[str, str]:
        """Return the tables that were loaded, with the SHA-256 of each."""
        return {str(name): str(digest) for name, digest in self.run("SELECT name, sha256 FROM {own}loaded_tables")}

    def put_hour(self, hour: Hour, file: Path | None, sha256: str) -> None:
        """Replace the rows of ``event`` of an hour by those of a Parquet file, in one transaction.

        Of a uuid that stands in several hours the earliest hour has the row, whatever is loaded first.

        Args:
            hour: The hour.
            file: On local disk; None where it has no events.
            sha256: What is remembered of it.
        """
        with self.transaction():
            was_loaded = bool(self.run(_WAS_LOADED, hour=hour.key))
            self._run_for(hour, _REMOVE_HOUR)
            if file is not None:
                self.stage(TABLES["event"], file)
                self._run_for(hour, _INSERT_HOUR)
            self.run(_REMEMBER_HOUR, hour=hour.key, sha256=sha256)
            if was_loaded:
                self.run(_GIVE_BACK)

    def remove_hour(self, hour: Hour) -> None:
        """Remove the rows of an hour that there is no more, in one transaction."""
        with self.transaction():
            self._run_for(hour, _REMOVE_HOUR)
            self.run(_GIVE_BACK)

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ((rows,),) = self.run(_COUNT.replace("{table}", self.name(table)))
        return int(rows)

    def create(self, table: Table) -> str:
        """Return the statement that makes a table, with its keys."""
        lines = [
            f'"{one.name}" {self.types[one.kind]}' + ("" if one.nullable and one.name not in table.key else " NOT NULL")
            for one in table.columns
        ]
        lines.append(f"PRIMARY KEY ({_listed(table.key)})")
        lines += [self.reference(join) for join in REFERENCES if join.table == table.name]
        return f"CREATE TABLE {self.name(table.name)} ({', '.join(lines)})"

    def reference(self, join: Join) -> str:
        """Return the foreign key of a join."""
        return f"FOREIGN KEY ({_listed(join.columns)}) REFERENCES {self.name(join.to)} ({_listed(join.key)})"

    def _tables_there(self) -> set[str]:
        """Return the tables of the schema.

        Raises:
            LoadError: Some have our names and are not ours: they would be dropped, or written into.
        """
        # DuckDB takes User and user for one.
        there = {str(name).lower() for (name,) in self.run(_TABLES_THERE, schema=self.schema)}
        theirs = sorted(there & {*TABLES, *_OWN_TABLES})
        if theirs and _LOADED_FROM not in there:
            raise LoadError(
                f"the schema {self.schema} has tables that no load has made: {', '.join(theirs)}. Nothing was changed; "
                "load into a schema of its own, by --schema"
            )
        return there

    def _make_tables(self) -> None:
        for name in ("event", *reversed(WHOLE)):
            self.run(f"DROP TABLE IF EXISTS {self.name(name)}")
        for name in (*WHOLE, "event"):
            self.run(self.create(TABLES[name]))
        for statement in _FORGET:
            self.run(statement)

    def remember_table(self, name: Name, sha256: str) -> None:
        """Note what was loaded into a table, within a transaction."""
        self.run(_FORGET_TABLE, name=name)
        self.run(_REMEMBER_TABLE, name=name, sha256=sha256)

    def _run_for(self, hour: Hour, statements: Iterable[str]) -> None:
        values = {
            "hour": hour.key,
            "start": f"{hour.start:%Y-%m-%d %H:%M:%S}+00",
            "end": f"{(hour + 1).start:%Y-%m-%d %H:%M:%S}+00",
        }
        for statement in statements:
            self.run(statement, **{name: value for name, value in values.items() if "{" + name + "}" in statement})

    @property
    def _columns(self) -> str:
        """Digest of all that tables are made of."""
        return fingerprint([self.create(table) for table in TABLES.values()])


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)
