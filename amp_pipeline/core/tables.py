"""The replicated tables: names, keys and columns of each. What they hold is told in docs/tables.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import polars as pl

from amp_pipeline.core.dashboard import CATEGORIES, COHORTS, EVENT_TYPES
from amp_pipeline.core.schema import COLUMNS, Column, Kind

FORMAT = 1
"""Raised by hand when a change of the code changes what is in the tables; all of them are then made again."""

Name = Literal["event", "user", "group", "user_group", "event_type", "event_category", "cohort", "user_cohort"]

JSON_COLUMNS = ("owners", "viewers", "shortcut_ids", "metadata", "definition", "other")
"""Columns of the dashboard that hold JSON text."""

_DTYPES: dict[Kind, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "time": pl.Datetime("us", "UTC"),
    "json": pl.String(),
}


class TableColumn(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind
    meaning: str
    nullable: bool = True

    @property
    def dtype(self) -> pl.DataType:
        """Its type in frames."""
        return _DTYPES[self.kind]


class Table(NamedTuple):
    """A table: its name, the columns that tell its rows apart, and all columns."""

    name: Name
    key: tuple[str, ...]
    columns: tuple[TableColumn, ...]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Types of its columns in frames, in their order."""
        return {column.name: column.dtype for column in self.columns}

    def empty(self) -> pl.DataFrame:
        """Return the table without rows."""
        return pl.DataFrame(schema=self.schema)


def _column(column: Column) -> TableColumn:
    return TableColumn(column.name.removeprefix("$"), column.kind, column.meaning)


def _needed(name: str, kind: Kind, meaning: str) -> TableColumn:
    return TableColumn(name, kind, meaning, nullable=False)


_USER_KEY = _needed("user_key", "string", "Digest of user_id, amplitude_id and device_id.")
_EVENTS = _needed("events", "integer", "Rows of event.")

SEEN = (
    TableColumn("first_seen", "time", "First server_upload_time, UTC."),
    TableColumn("last_seen", "time", "Last server_upload_time, UTC."),
)
_SEEN = tuple(column._replace(nullable=False) for column in SEEN)
_GROUP = (
    _needed("group_type", "string", "Type of the group."),
    _needed("group_name", "string", "Name of the group."),
)

EVENT_COLUMNS = tuple(column for column in COLUMNS if column.name != "uuid")
"""Columns of events but the key, with the keys that they are read from."""

EVENT = Table(
    "event",
    ("uuid",),
    (
        _needed("uuid", "string", "Unique identifier of the event; made of its line where it has none."),
        _USER_KEY,
        *map(_column, EVENT_COLUMNS),
        TableColumn("others", "json", "Keys that are no column, and values that don't fit theirs."),
    ),
)

_LATEST = (
    "user_properties",
    *("country", "region", "city", "language", "platform", "os_name", "os_version", "device_family", "version_name"),
    *("paying", "start_version", "user_creation_time"),
)
_KNOWN = {column.name: column for column in EVENT.columns}
LATEST = tuple(_KNOWN[name] for name in _LATEST)
"""What a user has of their last event."""

USER_IDS = (_KNOWN["user_id"], _KNOWN["amplitude_id"], _KNOWN["device_id"])

USER = Table(
    "user",
    ("user_key",),
    (
        _USER_KEY,
        *USER_IDS,
        *SEEN,
        TableColumn("first_event_time", "time", "First event_time, UTC."),
        TableColumn("last_event_time", "time", "Last event_time, UTC."),
        _EVENTS,
        *LATEST,
    ),
)

GROUP = Table(
    "group",
    ("group_type", "group_name"),
    (*_GROUP, *_SEEN, _EVENTS, TableColumn("group_properties", "json", "Those of its last event.")),
)

USER_GROUP = Table("user_group", ("user_key", "group_type", "group_name"), (_USER_KEY, *_GROUP, *_SEEN, _EVENTS))

TYPE_SUMS = Table(
    "event_type",
    ("name",),
    (_needed("name", "string", "Type of events."), _EVENTS, *SEEN),
)
"""What events say of their types."""


def _of_dashboard(schema: Mapping[str, pl.DataType], *keys: str) -> Iterator[TableColumn]:
    for name, dtype in schema.items():
        kind: Kind = "json" if name in JSON_COLUMNS else next(kind for kind, known in _DTYPES.items() if known == dtype)
        yield TableColumn(name, kind, "As Amplitude's dashboard has it.", nullable=name not in keys)


EVENT_TYPE = TYPE_SUMS._replace(
    columns=(*TYPE_SUMS.columns, *[one for one in _of_dashboard(EVENT_TYPES) if one.name != "name"])
)

EVENT_CATEGORY = Table("event_category", ("name",), tuple(_of_dashboard(CATEGORIES, "name")))

COHORT = Table("cohort", ("id",), tuple(_of_dashboard(COHORTS, "id")))

USER_COHORT = Table(
    "user_cohort",
    ("cohort_id", "user_key"),
    (
        _needed("cohort_id", "string", "Id of the cohort."),
        _USER_KEY,
        TableColumn("amplitude_id", "integer", "Of the member, as the dashboard has it."),
        TableColumn("user_id", "string", "Of the member, as the dashboard has it."),
    ),
)

TABLES: dict[Name, Table] = {
    table.name: table for table in (EVENT, USER, GROUP, USER_GROUP, EVENT_TYPE, EVENT_CATEGORY, COHORT, USER_COHORT)
}
"""All of them, by name."""


class Join(NamedTuple):
    """Columns of a table whose values, where they are not null, are those of the key of another."""

    table: Name
    columns: tuple[str, ...]
    to: Name
    key: tuple[str, ...]


JOINS = (
    Join("event", ("user_key",), "user", ("user_key",)),
    Join("event", ("event_type",), "event_type", ("name",)),
    Join("user_group", ("user_key",), "user", ("user_key",)),
    Join("user_group", ("group_type", "group_name"), "group", ("group_type", "group_name")),
    Join("event_type", ("category",), "event_category", ("name",)),
    Join("user_cohort", ("cohort_id",), "cohort", ("id",)),
    Join("user_cohort", ("user_key",), "user", ("user_key",)),
)
"""Which table joins to which."""
