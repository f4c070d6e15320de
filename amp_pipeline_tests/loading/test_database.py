"""Hours and tables in a database, from Parquet files that tests make."""

import random
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from amp_pipeline.core.errors import LoadError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.tables import TABLES, Name
from amp_pipeline.destinations.parquet import ParquetFile
from amp_pipeline.loading import database as databases
from amp_pipeline.loading.database import NO_EVENTS, WHOLE, Database
from amp_pipeline.loading.duckdb import DuckDB
from amp_pipeline.loading.postgres import Postgres
from amp_pipeline_tests.builders import FIRST_HOUR
from amp_pipeline_tests.loading.places import SECOND, Place, in_order, place, wanted
from amp_pipeline_tests.postgres_server import Postgres as Server

OWNER = "9/7/all"


def events(hour: Hour, *uuids: str, **values: Any) -> pl.DataFrame:
    """Events of an hour; only what is given has a value."""
    rows = [
        {
            "uuid": uuid,
            "user_key": f"user of {uuid}",
            "server_upload_time": hour.start,
            "event_type": str(hour),
            **values,
        }
        for uuid in uuids
    ]
    return pl.DataFrame(rows, schema=TABLES["event"].schema)


def written(folder: Path, name: Name, frame: pl.DataFrame) -> Path:
    path = folder / f"{name}-{random.getrandbits(64):x}.parquet"
    with ParquetFile(path, TABLES[name]) as parquet:
        parquet.write(frame.select(*TABLES[name].schema))
    return path


def put(database: Database, folder: Path, hour: Hour, *uuids: str, digest: str = "1", **values: Any) -> None:
    database.put_hour(hour, written(folder, "event", events(hour, *uuids, **values)) if uuids else None, digest)


def whole(folder: Path, **rows: list[dict[str, Any]]) -> dict[Name, tuple[Path, str]]:
    """Files of all tables that are replaced whole; only what is given has rows."""
    return {
        name: (
            written(folder, name, pl.DataFrame(rows.get(name, []), schema=TABLES[name].schema)),
            repr(rows.get(name)),
        )
        for name in WHOLE
    }


def user(key: str, **values: Any) -> dict[str, Any]:
    return {"user_key": key, "events": 1, **values}


def of_hours(place: Place) -> list[tuple[str, str]]:
    """Each uuid with its hour."""
    return sorted((row[0], row[1]) for row in place.ask("SELECT uuid, event_type FROM amp_pipeline.event"))


TEXTS = [
    "",
    " ",
    "\\N",
    "NULL",
    "a,b",
    'quoted "text"',
    "line\nbreak\r\n",
    "tab\t",
    "\\.",
    "é🎉\u2028",
    "'",
    "{}",
    "%s",
    "$1",
]
NUMBERS = [0.1, -0.0, 1e300, 5e-324, 1.7976931348623157e308, 1 / 3, 123456789.123456789]
INTEGERS = [0, -1, (1 << 63) - 1, -(1 << 63)]
TIMES = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 5, 6, 1, 2, 3, 4, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]


def test_values_of_all_kinds_are_loaded_as_they_are(database: Place, tmp_path: Path) -> None:
    pick = random.Random(1)
    kinds: Mapping[str, list[Any]] = {
        "string": TEXTS,
        "json": [*TEXTS, '{"a": "\\u0000"}'],
        "integer": INTEGERS,
        "number": NUMBERS,
        "boolean": [True, False],
        "time": TIMES,
    }
    columns = [one for one in TABLES["event"].columns if one.name not in ("uuid", "server_upload_time")]
    rows = [
        {
            "uuid": f"u{number}",
            "server_upload_time": FIRST_HOUR.start,
            **{
                one.name: None if one.nullable and not pick.randrange(4) else pick.choice(kinds[one.kind])
                for one in columns
            },
        }
        for number in range(200)
    ]
    frame = pl.DataFrame(rows, schema=TABLES["event"].schema)
    with database.opened() as one:
        one.prepare(OWNER)
        one.put_hour(FIRST_HOUR, written(tmp_path, "event", frame), "1")
    assert database.rows("event") == wanted("event", frame)


def test_keys_and_joins_are_those_of_the_engine(database: Place) -> None:
    with database.opened() as one:
        one.prepare(OWNER)
    found = database.ask(
        "SELECT c.table_name, c.constraint_type, count(*) FROM information_schema.table_constraints c"
        " WHERE c.table_schema = 'amp_pipeline' AND c.constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY') GROUP BY 1, 2"
    )
    counts = {(table, kind): count for table, kind, count in found if table in TABLES}
    assert counts == {
        **{(name, "PRIMARY KEY"): 1 for name in TABLES},
        ("event_type", "FOREIGN KEY"): 1,
        ("user_group", "FOREIGN KEY"): 2,
        ("user_cohort", "FOREIGN KEY"): 2,
    }


def test_names_that_mean_something_in_sql_need_no_quotes_behind_the_schema(database: Place) -> None:
    with database.opened() as one:
        one.prepare(OWNER)
    assert database.ask("SELECT * FROM amp_pipeline.user u JOIN amp_pipeline.group g ON u.user_id = g.group_name") == []


def test_an_hour_is_replaced_by_itself(database: Place, tmp_path: Path) -> None:
    with database.opened() as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a", "b")
        put(one, tmp_path, FIRST_HOUR + 1, "c")
        put(one, tmp_path, FIRST_HOUR, "b", "d", digest="2")
        put(one, tmp_path, FIRST_HOUR + 2, digest=NO_EVENTS)
        assert one.hours() == {FIRST_HOUR.key: "2", (FIRST_HOUR + 1).key: "1", (FIRST_HOUR + 2).key: NO_EVENTS}
    zero, first = str(FIRST_HOUR), str(FIRST_HOUR + 1)
    assert of_hours(database) == [("b", zero), ("c", first), ("d", zero)]
    with database.opened() as one:
        one.prepare(OWNER)
        one.remove_hour(FIRST_HOUR)
        assert set(one.hours()) == {(FIRST_HOUR + 1).key, (FIRST_HOUR + 2).key}
    assert of_hours(database) == [("c", first)]


def test_of_a_uuid_in_several_hours_the_earliest_has_the_row(database: Place, tmp_path: Path) -> None:
    hours = [FIRST_HOUR + n for n in range(3)]
    with database.opened() as one:
        one.prepare(OWNER)
        for hour in reversed(hours):
            put(one, tmp_path, hour, "same", f"own of {hour}")
        assert one.count("event_repeat") == 2
    assert ("same", str(hours[0])) in of_hours(database)
    with database.opened() as one:
        put(one, tmp_path, hours[0], f"own of {hours[0]}", digest="2")
        assert one.hours() == {hours[0].key: "2", hours[1].key: "", hours[2].key: ""}
        for hour in hours[1:]:
            put(one, tmp_path, hour, "same", f"own of {hour}")
        assert one.count("event_repeat") == 1
    assert ("same", str(hours[1])) in of_hours(database)
    assert database.count("event") == 4


@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_loads_gives_the_same(database: Place, tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    truth: dict[Hour, list[str]] = {}
    digest = 0
    with database.opened() as one:
        one.prepare(OWNER)
        for _ in range(15):
            hour = FIRST_HOUR + pick.randrange(5)
            if hour in truth and not pick.randrange(5):
                del truth[hour]
                one.remove_hour(hour)
            else:
                truth[hour] = pick.sample("abcdefgh", pick.randrange(4))
                digest += 1
                put(one, tmp_path, hour, *truth[hour], digest=str(digest))
            for again in sorted(truth):
                # As the load does: what has no digest any more is loaded again, upwards.
                if one.hours()[again.key] == "":
                    digest += 1
                    put(one, tmp_path, again, *truth[again], digest=str(digest))
    first: dict[str, str] = {}
    repeats = 0
    for hour in sorted(truth):
        for uuid in truth[hour]:
            repeats += uuid in first
            first.setdefault(uuid, str(hour))
    assert of_hours(database) == sorted(first.items())
    assert database.count("event_repeat") == repeats


def test_tables_are_replaced_whole(database: Place, tmp_path: Path) -> None:
    first = whole(
        tmp_path,
        user=[user("k1", user_id=""), user("k2", user_id=None, paying=True), user("k3")],
        group=[{"group_type": "t", "group_name": "n", "events": 1, "first_seen": TIMES[2], "last_seen": TIMES[3]}],
        user_group=[
            {
                "user_key": "k1",
                "group_type": "t",
                "group_name": "n",
                "events": 1,
                "first_seen": TIMES[0],
                "last_seen": TIMES[1],
            }
        ],
        event_type=[{"name": "e", "events": 3, "category": "c"}],
        event_category=[{"name": "c", "id": 4}],
    )
    second = whole(tmp_path, user=[user("k2", paying=False), user("k4")], event_type=[{"name": "e", "events": 4}])
    with database.opened() as one:
        one.prepare(OWNER)
        for files in (first, second, first, first):
            one.put_tables(files)
            assert one.tables() == {name: digest for name, (_, digest) in files.items()}
            assert {name: _read(one, name) for name in WHOLE} == {
                name: wanted(name, pl.read_parquet(path)) for name, (path, _) in files.items()
            }


def _read(one: Database, name: Name) -> list[tuple[Any, ...]]:
    columns = []
    for column in TABLES[name].columns:
        as_number = (
            f'epoch_us("{column.name}")'
            if one.all_at_once
            else f'(extract(epoch FROM "{column.name}") * 1000000)::bigint'
        )
        columns.append(as_number if column.kind == "time" else f'"{column.name}"')
    return in_order(name, one.run(f"SELECT {', '.join(columns)} FROM {one.name(name)}"))


def test_postgres_touches_only_rows_that_differ(server: Server, tmp_path: Path) -> None:
    database = place("postgres", tmp_path, server)
    with database.opened() as one:
        one.prepare(OWNER)
        one.put_tables(whole(tmp_path, user=[user("k1"), user("k2"), user("k3")]))
        before = dict(database.ask("SELECT user_key, xmin::text FROM amp_pipeline.user"))
        one.put_tables(whole(tmp_path, user=[user("k1"), user("k2", user_id=""), user("k4")]))
    after = dict(database.ask("SELECT user_key, xmin::text FROM amp_pipeline.user"))
    assert {key for key in after if after[key] == before.get(key)} == {"k1"}


def test_postgres_needs_no_rights_beside_those_on_a_schema_that_is_there(server: Server, tmp_path: Path) -> None:
    database = place("postgres", tmp_path, server)
    with psycopg.connect(server.url) as connection:
        for statement in (
            "CREATE SCHEMA amp_pipeline",
            "DROP ROLE IF EXISTS loader",
            "CREATE ROLE loader LOGIN PASSWORD 'x'",
            "GRANT USAGE, CREATE ON SCHEMA amp_pipeline TO loader",
        ):
            connection.execute(statement.encode())
    address = f"postgresql://loader:x@/postgres?host={server.folder}"
    with closing(Postgres(address, "amp_pipeline")) as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a")
        one.put_tables(whole(tmp_path, user=[user("k1")]))
    assert database.count("user") == 1
    with (
        closing(Postgres(address, SECOND)) as one,
        pytest.raises(LoadError, match="permission denied for database postgres .42501."),
    ):
        one.prepare(OWNER)
    server.drop("amp_pipeline")
    with psycopg.connect(server.url) as connection:
        connection.execute("DROP ROLE loader")


@pytest.mark.parametrize("encoding", ["of the client", "of the database"])
def test_postgres_gets_texts_in_whatever_encoding(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    url = server.url
    if encoding == "of the client":
        server.drop("amp_pipeline")
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    else:
        url = server.url.replace("/postgres?", "/latin?")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with closing(Postgres(url, "amp_pipeline")) as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a", city="Köln")
    with psycopg.connect(url, client_encoding="UTF8") as connection:
        assert connection.execute("SELECT city FROM amp_pipeline.event").fetchall() == [("Köln",)]


def test_postgres_keeps_the_options_of_its_address(server: Server) -> None:
    with closing(Postgres(f"{server.url}&options=-c%20work_mem%3D123MB", "amp_pipeline")) as one:
        assert one.run("SHOW work_mem") == [("123MB",)]
        assert one.run("SHOW timezone") == [("UTC",)]


def test_postgres_that_goes_away_is_told(server: Server, tmp_path: Path) -> None:
    with place("postgres", tmp_path, server).opened() as one:
        one.prepare(OWNER)
        ((process,),) = one.run("SELECT pg_backend_pid()")
        with psycopg.connect(server.url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (process,))
        with pytest.raises(LoadError, match=r"can't be loaded: terminating connection"):
            one.hours()
        with pytest.raises(LoadError, match=r"can't be loaded: the connection is"):
            one.count("event")
        with pytest.raises(LoadError, match=r"can't be loaded: the connection is"):
            put(one, tmp_path, FIRST_HOUR, "a")


def test_duckdb_without_memory_says_what_to_do(tmp_path: Path) -> None:
    hour = FIRST_HOUR
    with closing(DuckDB(tmp_path / "tables.duckdb", "amp_pipeline", 16 << 20, tmp_path)) as one:
        one.prepare(OWNER)
        put(one, tmp_path, hour, "a")
        with pytest.raises(LoadError, match="raise `memory` of the organization, or load into PostgreSQL"):
            put(one, tmp_path, hour + 1, *[f"{number:032}" for number in range(150_000)])
        assert one.hours() == {hour.key: "1"}


def test_join_that_does_not_hold_leaves_all_as_it_was(database: Place, tmp_path: Path) -> None:
    good = whole(tmp_path, user=[user("k1")])
    bad = whole(
        tmp_path, user=[user("k2")], cohort=[{"id": "c"}], user_cohort=[{"cohort_id": "c", "user_key": "marker"}]
    )
    with database.opened() as one:
        one.prepare(OWNER)
        one.put_tables(good)
        with pytest.raises(LoadError) as raised:
            one.put_tables(bad)
        assert "marker" not in str(raised.value)
        assert one.tables() == {name: digest for name, (_, digest) in good.items()}
    assert [row[0] for row in database.rows("user")] == ["k1"]


def test_hour_that_can_not_be_loaded_leaves_it_as_it_was(database: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with database.opened() as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a")
        with pytest.raises(Exception, match="(?i)parquet"):
            one.put_hour(FIRST_HOUR, broken, "2")
        assert one.hours() == {FIRST_HOUR.key: "1"}
    assert database.count("event") == 1


def test_nul_that_postgres_can_not_hold_is_replaced(database: Place, tmp_path: Path) -> None:
    with database.opened() as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a", user_id="x\0y", event_properties='{"a": "\\u0000"}')
    ((found, properties),) = database.ask("SELECT user_id, event_properties FROM amp_pipeline.event")
    assert found == ("x\0y" if database.server is None else "x\ufffdy")
    assert properties == '{"a": "\\u0000"}'


@pytest.mark.parametrize("unit", ["é", "a\0"])
def test_keys_that_are_too_long_for_an_index_of_postgres_are_shortened(
    database: Place, tmp_path: Path, unit: str
) -> None:
    # No two characters alike, or the server packs them.
    noise = "".join(random.Random(1).choices([unit, *"0123456789abcdefghijklmnopqrstuvwxyz"], k=9000))
    texts = [noise[:1000], noise, noise + "2"]
    seen = {"events": 1, "first_seen": TIMES[2], "last_seen": TIMES[2]}
    groups = [{"group_type": one, "group_name": one, **seen} for one in texts]
    with database.opened() as one:
        one.prepare(OWNER)
        for hour in (FIRST_HOUR, FIRST_HOUR + 1):
            put(one, tmp_path, hour, *texts, event_type=noise)
        one.put_tables(
            whole(
                tmp_path,
                user=[user("k1" * 16)],
                group=groups,
                user_group=[{"user_key": "k1" * 16, **group} for group in groups],
                event_type=[{"name": name, "events": 1, "category": name} for name in texts],
                event_category=[{"name": name} for name in texts],
                cohort=[{"id": name} for name in texts],
                user_cohort=[{"cohort_id": name, "user_key": "k1" * 16} for name in texts],
            )
        )
    found = sorted(row[0] for row in database.ask("SELECT name FROM amp_pipeline.event_type"))
    if database.server is None:
        assert found == sorted(texts)
    else:
        texts = [text.replace("\0", "\ufffd") for text in texts]
        cut = [f"{text[:200]}…{sha256(text.encode()).hexdigest()}" for text in texts[1:]]
        assert found == sorted([texts[0], *cut])
    assert database.ask(
        "SELECT count(*), count(DISTINCT e.uuid) FROM amp_pipeline.event e"
        " JOIN amp_pipeline.event_type t ON t.name = e.event_type"
    ) == [(3, 3)]
    assert database.count("event_repeat") == 3


def test_a_schema_holds_the_tables_of_one_delivery(database: Place, tmp_path: Path) -> None:
    with database.opened() as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a")
        with pytest.raises(
            LoadError, match="the schema amp_pipeline holds the tables of 9/7/all; load 9/7/other into an"
        ):
            one.prepare("9/7/other")
    with database.opened(SECOND) as one:
        one.prepare("9/7/other")
        assert one.hours() == {}
    assert database.count("event") == 1


@pytest.mark.parametrize("name", ["event", "cohort"])
def test_tables_that_somebody_has_dropped_are_made_anew(database: Place, tmp_path: Path, name: str) -> None:
    with database.opened() as one:
        one.prepare(OWNER)
        put(one, tmp_path, FIRST_HOUR, "a")
    database.do(
        *(f"DROP TABLE amp_pipeline.{gone}" for gone in (["user_cohort", name] if name == "cohort" else [name]))
    )
    with database.opened() as one:
        one.prepare(OWNER)
        assert (one.hours(), one.tables(), one.count(name)) == ({}, {}, 0)
        put(one, tmp_path, FIRST_HOUR, "a")
        one.prepare(OWNER)
        assert one.hours() == {FIRST_HOUR.key: "1"}


@pytest.mark.parametrize("name", ["user", "loaded_hours"])
def test_tables_of_somebody_else_are_left_alone(database: Place, name: str) -> None:
    database.do(
        "CREATE SCHEMA amp_pipeline",
        f'CREATE TABLE amp_pipeline."{name}" (hour text)',
        f"INSERT INTO amp_pipeline.\"{name}\" VALUES ('theirs')",
    )
    with database.opened() as one, pytest.raises(LoadError, match=f"has tables that no load has made: {name}. Nothing"):
        one.prepare(OWNER)
    assert database.ask(f'SELECT hour FROM amp_pipeline."{name}"') == [("theirs",)]
    database.do(f'ALTER TABLE amp_pipeline."{name}" RENAME TO theirs')
    with database.opened() as one:
        one.prepare(OWNER)
        one.prepare(OWNER)
    assert (database.count("theirs"), database.count(name)) == (1, 0)


def test_tables_of_a_version_with_other_columns_are_made_anew(
    database: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TABLES["event"]
    fewer = table._replace(columns=tuple(one for one in table.columns if one.name != "city"))
    with monkeypatch.context() as patch:
        patch.setitem(databases.TABLES, "event", fewer)
        with database.opened() as one:
            one.prepare(OWNER)
            put(one, tmp_path, FIRST_HOUR, "a")
            one.put_tables(whole(tmp_path, user=[user("k1")]))
    with database.opened() as one:
        one.prepare(OWNER)
        assert (one.hours(), one.tables()) == ({}, {})
        put(one, tmp_path, FIRST_HOUR, "a", city="Ulm")
        one.prepare(OWNER)
        assert one.hours() == {FIRST_HOUR.key: "1"}
    assert database.ask("SELECT city FROM amp_pipeline.event") == [("Ulm",)]


@pytest.mark.parametrize("schema", ["", "Public", "a b", 'a"b', "a;b", "1a", "x" * 64])
def test_names_of_schemas_need_no_quotes(database: Place, schema: str) -> None:
    with pytest.raises(LoadError, match="is no name of a schema"), database.opened(schema):
        pass
