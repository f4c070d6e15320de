"""The files as other programs read them: by their own means, with the day and hour from the folders."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from amp_pipeline.core.errors import DeliveryError
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.tables import TABLES
from amp_pipeline.destinations import parquet
from amp_pipeline.destinations.claim import Claim
from amp_pipeline.destinations.table_checks import broken_joins, keys_twice, without_rows
from amp_pipeline.destinations.tables import Tables
from amp_pipeline.run import OrganizationRun
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.tables import HourTables
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import BY, FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.laws.driver import run, with_tables

HOURS = [FIRST_HOUR, FIRST_HOUR + 1, FIRST_HOUR + 25]
EVENTS = 10


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of three hours, of which the second is empty."""
    base = tmp_path_factory.mktemp("tables")
    for hour in (HOURS[0], HOURS[2]):
        us = hour.start_us - FIRST_HOUR.start_us
        lines = [event(us + n, uuid=f"{hour}{n}", user_id=f"u{n % 3}", user_properties={"n": n}) for n in range(EVENTS)]
        put(base / "landing", object_name(hour), *lines)
    organization = with_tables(builders.organization(base, base / "landing"), "all")
    assert run(organization, HOURS, open_store) == {}
    return Path(organization.projects[0].deliveries[0].url) / "tables" / "7"


def test_only_hours_with_events_have_a_file(tables: Path):
    found = sorted(str(path.relative_to(tables)) for path in tables.rglob("*.parquet"))
    assert [name for name in found if name.startswith("event/")] == [
        "event/date=2024-05-06/hour=00/event.parquet",
        "event/date=2024-05-07/hour=01/event.parquet",
    ]
    assert [name for name in found if "/" not in name] == sorted(
        f"{name}.parquet" for name in TABLES if name != "event"
    )


def test_duckdb_reads_and_prunes_them(tables: Path):
    files = f"read_parquet('{tables}/event/*/*/*.parquet', hive_partitioning = true)"
    query = f"SELECT count(*), min(server_upload_time) FROM {files} WHERE date = DATE '2024-05-07' AND hour = '01'"
    duckdb.execute("SET TimeZone = 'UTC'")
    assert duckdb.execute(query).fetchall() == [(EVENTS, HOURS[2].start)]
    (kind,) = {row[1] for row in duckdb.execute(f"DESCRIBE SELECT first_seen FROM '{tables}/user.parquet'").fetchall()}
    assert kind == "TIMESTAMP WITH TIME ZONE"


def test_polars_reads_them(tables: Path):
    frame = pl.read_parquet(tables / "event", hive_partitioning=True)
    assert frame.height == 2 * EVENTS
    assert frame.schema["server_upload_time"] == pl.Datetime("us", "UTC")
    assert frame["user_properties"].str.json_path_match("$.n").cast(pl.Int64).sum() == 2 * sum(range(EVENTS))


def test_pyarrow_reads_them(tables: Path):
    found = ds.dataset(tables / "event", partitioning="hive").to_table()
    assert found.num_rows == 2 * EVENTS
    schema = found.schema
    assert schema.field("uuid") == pa.field("uuid", pa.string(), nullable=False)
    assert schema.field("server_upload_time").type == pa.timestamp("us", "UTC")
    assert schema.field("amplitude_id").type == pa.int64()
    assert schema.field("location_lat").type == pa.float64()
    assert schema.field("paying").type == pa.bool_()


@pytest.mark.parametrize("name", [name for name in TABLES if name != "event"])
def test_a_file_has_the_columns_of_its_table(tables: Path, name: str):
    found = pq.read_schema(tables / f"{name}.parquet")
    table = next(one for one in TABLES.values() if one.name == name)
    assert [(field.name, field.nullable) for field in found] == [(one.name, one.nullable) for one in table.columns]


def test_a_large_hour_is_cut_into_row_groups_wherever_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 7)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1500)
    lines = [event(n, uuid=str(n), city="x" * (n * 37 % 400)) for n in range(100)]
    put(tmp_path / "landing", object_name(FIRST_HOUR), *lines)
    found: list[bytes] = []
    for size in (1, 3, 100):
        parts = {"parts": {"events": size}}
        one = builders.organization(tmp_path / str(size), tmp_path / "landing", projects=[parts])
        one = with_tables(one, "all")
        assert run(one, [FIRST_HOUR], open_store) == {}
        name = "tables/7/event/date=2024-05-06/hour=00/event.parquet"
        found.append((Path(one.projects[0].deliveries[0].url) / name).read_bytes())
    assert found[0] == found[1] == found[2]
    groups = pq.ParquetFile(pa.BufferReader(found[0])).metadata
    assert groups.num_row_groups > 100 // 7
    assert max(groups.row_group(at).num_rows for at in range(groups.num_row_groups)) == 7


def checked(tables: Tables, done: dict[Hour, HourTables]) -> list[dict[str, str]]:
    return [without_rows(tables, done), keys_twice(tables, list(done), []), broken_joins(tables, list(done))]


def test_what_is_damaged_is_told_by_the_checks_and_made_again_by_a_forced_run(tmp_path: Path):
    put(tmp_path / "landing", object_name(FIRST_HOUR), event(1, uuid="a"))
    organization = with_tables(builders.organization(tmp_path, tmp_path / "landing"), "all")
    assert run(organization, [FIRST_HOUR], open_store) == {}
    delivery = organization.projects[0].deliveries[0]
    tables = OrganizationRun(organization).projects["shop7"].tables(delivery)
    files = [Path(delivery.url) / tables.names.event_table(FIRST_HOUR), Path(delivery.url) / tables.names.table("user")]
    whole = [file.read_bytes() for file in files]
    for file in files:
        data = file.read_bytes()
        for damaged in (bytes(len(data)), data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :]):
            file.write_bytes(damaged)
            done = {FIRST_HOUR: tables.write_hour(FIRST_HOUR, BY)}
            tables.finish([FIRST_HOUR], BY)
            with pytest.raises(DeliveryError, match=rf"{file.name} is damaged .*; run the tables .* again, forced"):
                checked(tables, done)
            tables.write_hour(FIRST_HOUR, BY, force=True)
            tables.finish([FIRST_HOUR], BY, force=True)
            assert [one.read_bytes() for one in files] == whole
            assert checked(tables, done) == [{}, {}, {}]


def test_a_run_that_waits_too_long_for_another_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amp_pipeline.destinations.tables.PATIENCE_SECONDS", 0)
    put(tmp_path / "landing", object_name(FIRST_HOUR), event(1, uuid="a"), event(HOUR_US // 2, uuid="b"))
    plain = builders.organization(tmp_path, tmp_path / "landing")
    assert run(plain, [FIRST_HOUR], open_store) == {}
    organization = with_tables(plain, "all")
    tables = OrganizationRun(organization).projects["shop7"].tables(organization.projects[0].deliveries[0])
    tables.write_hour(FIRST_HOUR, BY)
    at = datetime(2024, 6, 1, tzinfo=UTC).isoformat()
    with (
        Claim(tables.store, tables.names.tables_claim(), "the tables", "another run", at),
        pytest.raises(DeliveryError, match="the tables of shop7.all is being written by run another run"),
    ):
        tables.finish([FIRST_HOUR], BY)
    assert not tables.is_current(FIRST_HOUR)
    tables.finish([FIRST_HOUR], BY)
    assert tables.is_current(FIRST_HOUR)
