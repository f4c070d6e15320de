"""What the tables have to hold, computed by DuckDB from the delivered archives: no line of code of the pipeline's own.

DuckDB refuses JSON with lone surrogates, and of a doubled key it takes the first. So lines can also be read by
:func:`read_line`, Python's parser and docs/tables.md; what follows from the rows of ``event`` is SQL in either case.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from amp_pipeline.config import Delivery, Organization, Project
from amp_pipeline.core.hours import Hour
from amp_pipeline.storage.objects import ObjectStore

STRINGS = (
    *("$insert_id", "$insert_key", "adid", "amplitude_event_type", "city", "country", "data_type", "device_brand"),
    *("device_carrier", "device_family", "device_id", "device_manufacturer", "device_model", "device_type", "dma"),
    *("event_type", "idfa", "ip_address", "language", "library", "os_name", "os_version", "partner_id", "platform"),
    *("region", "source_id", "start_version", "user_id", "version_name"),
)
INTEGERS = ("$schema", "amplitude_id", "app", "event_id", "session_id")
NUMBERS = ("location_lat", "location_lng", "sample_rate")
BOOLEANS = ("is_attribution_event", "paying")
TIMES = (
    *("client_event_time", "client_upload_time", "event_time", "processed_time", "server_received_time"),
    *("server_upload_time", "user_creation_time"),
)
JSONS = (
    *("amplitude_attribution_ids", "data", "event_properties", "global_user_properties", "group_properties"),
    *("groups", "plan", "user_properties"),
)
COLUMNS = [*STRINGS, *INTEGERS, *NUMBERS, *BOOLEANS, *TIMES, *JSONS]
_SQL_TYPES = {
    **dict.fromkeys(STRINGS, "VARCHAR"),
    **dict.fromkeys(INTEGERS, "BIGINT"),
    **dict.fromkeys(NUMBERS, "DOUBLE"),
    **dict.fromkeys(BOOLEANS, "BOOLEAN"),
    **dict.fromkeys(TIMES, "TIMESTAMPTZ"),
    **dict.fromkeys(JSONS, "VARCHAR"),
}
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,6})?Z?", re.ASCII)
MADE_UP = "'^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'"

USER_KEY = """substr(sha256(concat_ws(',',
  coalesce(length(user_id) || ':' || user_id, '-'),
  coalesce(cast(amplitude_id AS varchar), '-'),
  coalesce(length(device_id) || ':' || device_id, '-'))), 1, 32)"""


def named(column: str) -> str:
    return column.removeprefix("$")


class TablesTruth:
    """The archive and the tables of a delivery as they lie in ``folder``, in a DuckDB of their own."""

    def __init__(self, organization: Organization, project: Project, delivery: Delivery, store: ObjectStore) -> None:
        self.sql = duckdb.connect()
        self.sql.execute("SET TimeZone = 'UTC'")
        self._project = project
        self._manifests = f"_amp_pipeline/{project.id}/{delivery.name}/"
        self._store = store
        del organization

    def delivered(self) -> Iterator[tuple[str, int, bytes]]:
        """Hour, number and text of each delivered line."""
        for info in self._store.find(self._manifests):
            if not re.search(r"/\d\d\.json$", info.name):
                continue
            manifest = json.loads(self._store.get(info.name))
            files = [file["name"] for file in manifest["files"] if file["kind"] == "events"]
            lines = [line for name in files for line in gzip.decompress(self._store.get(name)).split(b"\n")[:-1]]
            for number, line in enumerate(lines):
                yield manifest["hour"], number, line

    def read_by_duckdb(self) -> None:
        """Make the relation ``truth_event`` by DuckDB's own reading of JSON."""
        rows = [(hour, number, line.decode()) for hour, number, line in self.delivered()]
        lines = pl.DataFrame(rows, schema={"hour": pl.String, "n": pl.Int64, "line": pl.String}, orient="row")
        self.sql.register("lines", lines.to_arrow())
        read = ", ".join(f"{_read(column)} AS {named(column)}" for column in COLUMNS)
        self.sql.execute(
            f"""CREATE TABLE found AS SELECT hour, n, nullif(line->>'$.uuid', '') AS uuid, {read},
            (SELECT json_group_object(k, line->('$."' || k || '"'))
             FROM (SELECT unnest(list_sort(json_keys(line))) AS k) WHERE k NOT IN ({_quoted([*COLUMNS, "uuid"])})) AS o
            FROM lines"""
        )
        self._finish("nullif(o::VARCHAR, '{}')")

    def read_by_python(self) -> None:
        """Make the relation ``truth_event`` by reading each line in Python."""
        found = [{"hour": hour, "n": number, **read_line(line)} for hour, number, line in self.delivered()]
        schema = {"hour": pl.String(), "n": pl.Int64(), "uuid": pl.String(), "o": pl.String()}
        for name, kind in _SQL_TYPES.items():
            polars = {"VARCHAR": pl.String(), "BIGINT": pl.Int64(), "DOUBLE": pl.Float64(), "BOOLEAN": pl.Boolean()}
            schema[named(name)] = polars.get(kind, pl.Datetime("us", "UTC"))
        self.sql.register("read", pl.DataFrame(found, schema=schema, orient="row").to_arrow())
        self.sql.execute("CREATE TABLE found AS SELECT * FROM read")
        self._finish("o")

    def _finish(self, others: str) -> None:
        self.sql.execute(
            f"""CREATE TABLE truth_event AS SELECT *, {USER_KEY} AS user_key, {others} AS others FROM found
            QUALIFY uuid IS NULL OR row_number() OVER (PARTITION BY hour, uuid ORDER BY n) = 1"""
        )

    def read_tables(self, folder: Path) -> None:
        """Put the tables of the bucket into ``folder`` and make relations of them."""
        prefix = f"tables/{self._project.id}/"
        for info in self._store.find(prefix):
            path = folder / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._store.get(info.name))
        below = folder / prefix
        if any(below.rglob("event.parquet")):
            self.sql.execute(
                f"CREATE VIEW event AS SELECT * FROM read_parquet('{below}/event/*/*/event.parquet', "
                "hive_partitioning = true, hive_types_autocast = false)"
            )
        else:
            self.sql.execute("CREATE VIEW event AS SELECT *, '' AS date FROM truth_event WHERE false")
        for name in ("user", "group", "user_group", "event_type", "event_category", "cohort", "user_cohort"):
            self.sql.execute(f"CREATE VIEW \"{name}\" AS SELECT * FROM read_parquet('{below}/{name}.parquet')")

    def assert_agree(self, *, as_written: bool) -> None:
        """Tables and truth hold the same rows; JSON as it is written, or as DuckDB writes it."""
        plain = [named(column) for column in COLUMNS if column not in JSONS]
        jsons = [named(column) for column in JSONS] + ["others"]
        as_json = jsons if as_written else [f"json({column})" for column in jsons]
        columns = ", ".join(["user_key", *plain, *as_json])
        uuid = f"CASE WHEN NOT regexp_matches(uuid, {MADE_UP}) THEN uuid END"
        self._same(
            f"SELECT date || '-' || hour || ':00', {uuid}, {columns} FROM event",
            f"SELECT hour, uuid, {columns} FROM truth_event",
        )
        ours = f'SELECT {_USER} FROM "user" WHERE events > 0', 'SELECT * FROM "group"'
        for found, expected, column in zip(
            ours, (_USERS, _GROUPS), ("user_properties", "group_properties"), strict=True
        ):
            both = [
                one if as_written else f"SELECT * REPLACE (json({column}) AS {column}) FROM ({one})"
                for one in (found, expected)
            ]
            self._same(*both)
        self._same("SELECT * FROM user_group", _USER_GROUPS)
        self._same("SELECT name, events, first_seen, last_seen FROM event_type WHERE events > 0", _EVENT_TYPES)
        self.assert_keys_and_joins()

    def assert_keys_and_joins(self) -> None:
        for name, key in KEYS.items():
            assert self.one(f'SELECT count(*) - count(DISTINCT ({key})) FROM "{name}"') == 0, f"{name} has a key twice"
        for join in JOINS:
            assert self.one(f"SELECT count(*) FROM {join}") == 0, join

    def one(self, query: str) -> Any:
        (row,) = self.sql.sql(query).fetchall()
        return row[0]

    def _same(self, found: str, expected: str) -> None:
        for one, other, what in ((found, expected, "too much"), (expected, found, "missing")):
            rows = self.sql.sql(f"({one}) EXCEPT ALL ({other})").fetchall()
            assert rows == [], f"{what}: {found}"


KEYS = {
    "event": "date, hour, uuid",
    "user": "user_key",
    "group": "group_type, group_name",
    "user_group": "user_key, group_type, group_name",
    "event_type": "name",
    "event_category": "name",
    "cohort": "id",
    "user_cohort": "cohort_id, user_key",
}
JOINS = (
    'event ANTI JOIN "user" USING (user_key)',
    "event e ANTI JOIN event_type t ON e.event_type = t.name WHERE e.event_type IS NOT NULL",
    'user_group ANTI JOIN "user" USING (user_key)',
    'user_group ANTI JOIN "group" USING (group_type, group_name)',
    "event_type e ANTI JOIN event_category c ON e.category = c.name WHERE e.category IS NOT NULL",
    'user_cohort ANTI JOIN "user" USING (user_key)',
    "user_cohort u ANTI JOIN cohort c ON u.cohort_id = c.id",
)

_LATEST = (
    *("user_properties", "country", "region", "city", "language", "platform", "os_name", "os_version"),
    *("device_family", "version_name", "paying", "start_version", "user_creation_time"),
)
_IDS = "user_id, amplitude_id, device_id"
_USER = f"user_key, {_IDS}, first_seen, last_seen, first_event_time, last_event_time, events, {', '.join(_LATEST)}"
_RANKED = "row_number() OVER (PARTITION BY {} ORDER BY server_upload_time DESC, n DESC) AS back"
_USERS = f"""SELECT user_key, {_IDS}, least, greatest, first_event, last_event, events, {", ".join(_LATEST)} FROM (
    SELECT *, min(server_upload_time) OVER u AS least, max(server_upload_time) OVER u AS greatest,
      min(event_time) OVER u AS first_event, max(event_time) OVER u AS last_event, count(*) OVER u AS events,
      {_RANKED.format(_IDS)}
    FROM truth_event WINDOW u AS (PARTITION BY {_IDS})) WHERE back = 1"""
_MEMBERS = """SELECT *, groups->('$."' || k || '"') AS named
    FROM (SELECT *, unnest(json_keys(groups)) AS k FROM truth_event WHERE json_type(groups) = 'OBJECT')"""
_NAMED = f"""SELECT DISTINCT * EXCLUDE (named, one), k AS group_type, one->>'$' AS group_name
    FROM (SELECT *, unnest(CASE json_type(named) WHEN 'ARRAY' THEN named::JSON[] ELSE [named] END) AS one
          FROM ({_MEMBERS})) WHERE json_type(one) = 'VARCHAR'"""
_GROUPS = f"""SELECT group_type, group_name, least, greatest, events, group_properties FROM (
    SELECT *, min(server_upload_time) OVER g AS least, max(server_upload_time) OVER g AS greatest,
      count(*) OVER g AS events, {_RANKED.format("group_type, group_name")}
    FROM ({_NAMED}) WINDOW g AS (PARTITION BY group_type, group_name)) WHERE back = 1"""
_USER_GROUPS = f"""SELECT user_key, group_type, group_name, min(server_upload_time), max(server_upload_time), count(*)
    FROM ({_NAMED}) GROUP BY ALL"""
_EVENT_TYPES = """SELECT event_type, count(*), min(server_upload_time), max(server_upload_time) FROM truth_event
    WHERE event_type IS NOT NULL GROUP BY event_type"""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _read(column: str) -> str:
    path = f"'$.\"{column}\"'"
    kind, text = f"json_type(line, {path})", f"json_extract_string(line, {path})"
    if column in STRINGS:
        return f"CASE WHEN {kind} = 'VARCHAR' THEN {text} END"
    if column in INTEGERS:
        # 7.0 is a whole number too; DuckDB's cast of such a text would round 7.5.
        double = f"TRY_CAST({text} AS DOUBLE)"
        whole = f"{kind} = 'DOUBLE' AND {double} = floor({double})"
        return (
            f"CASE WHEN {kind} IN ('BIGINT', 'UBIGINT') THEN TRY_CAST({text} AS BIGINT) "
            f"WHEN {whole} THEN TRY_CAST({double} AS BIGINT) END"
        )
    if column in NUMBERS:
        return f"CASE WHEN {kind} IN ('BIGINT', 'UBIGINT', 'DOUBLE') THEN TRY_CAST({text} AS DOUBLE) END"
    if column in BOOLEANS:
        return f"CASE WHEN {text} IN ('true', 'false') THEN {text} = 'true' END"
    if column in TIMES:
        return f"CASE WHEN {kind} = 'VARCHAR' THEN TRY_CAST(replace({text}, 'T', ' ') AS TIMESTAMP) END::TIMESTAMPTZ"
    return f"CASE WHEN {kind} <> 'NULL' THEN json_extract(line, {path})::VARCHAR END"


def read_line(line: bytes) -> dict[str, Any]:
    """The row of a line, by docs/tables.md: slow, and of nothing but Python's own parser."""
    row: dict[str, Any] = {named(column): None for column in COLUMNS} | {"uuid": None, "o": None}
    others: dict[str, str] = {}
    for key, text in members(line.decode()).items():
        value = json.loads(text)
        fits, kept = _fitting(key, value, text)
        if not fits:
            others[key] = text
        elif key in row or key in COLUMNS or key == "uuid":
            row[named(key)] = kept
    row["uuid"] = row["uuid"] or None
    if others:
        row["o"] = "{" + ",".join(f"{_key(key)}:{others[key]}" for key in sorted(others)) + "}"
    return row


def members(text: str) -> dict[str, str]:
    """The top-level members of an object with the text of their values; of a doubled key the last."""
    decoder = json.JSONDecoder()
    found: dict[str, str] = {}
    at = text.index("{") + 1
    while True:
        while text[at] in " \t\r,":
            at += 1
        if text[at] == "}":
            return found
        key, at = decoder.raw_decode(text, at)
        at = text.index(":", at) + 1
        while text[at] in " \t\r":
            at += 1
        _, end = decoder.raw_decode(text, at)
        found[key] = text[at:end]
        at = end


def _key(key: str) -> str:
    ascii_only = any("\ud800" <= one <= "\udfff" for one in key)
    return json.dumps(key, ensure_ascii=ascii_only)


def _fitting(key: str, value: Any, text: str) -> tuple[bool, Any]:
    if key not in COLUMNS and key != "uuid":
        return False, None
    if value is None:
        return True, None
    if key in JSONS:
        return True, text
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False, None
        if key in STRINGS or key == "uuid":
            return True, value
        if key in TIMES:
            return _time(value)
        return (True, value == "true") if key in BOOLEANS and value in ("true", "false") else (False, None)
    if isinstance(value, bool):
        return (True, value) if key in BOOLEANS else (False, None)
    if isinstance(value, (int, float)):
        return _number(key, value)
    return False, None


def _time(value: str) -> tuple[bool, Any]:
    match = _TIME.fullmatch(value)
    try:
        day, clock, fraction = match.groups() if match else ("", "", "")
        at = datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=UTC)
        return True, at.replace(microsecond=int(((fraction or ".")[1:]).ljust(6, "0")))
    except ValueError:
        return False, None


def _number(key: str, value: int | float) -> tuple[bool, Any]:
    try:
        number = float(value)
    except OverflowError:
        return False, None
    if number in (float("inf"), float("-inf")):
        return False, None
    if key in NUMBERS:
        return True, number
    whole = key in INTEGERS and value == int(value) and -(2**63) <= int(value) < 2**63
    return (True, int(value)) if whole else (False, None)


def hours_of(store: ObjectStore, project: Project, delivery: Delivery) -> list[Hour]:
    """The delivered hours, as their manifests say."""
    found = store.find(f"_amp_pipeline/{project.id}/{delivery.name}/")
    return [Hour.parse(json.loads(store.get(info.name))["hour"]) for info in found if info.name.endswith(".json")]
