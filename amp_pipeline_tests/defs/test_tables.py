"""The tables through Dagster: what a run writes and records, and checks that fail where they should."""

import io
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from amp_pipeline import alerting, config_files
from amp_pipeline.core.hours import Hour, between
from amp_pipeline.definitions import build_definitions
from amp_pipeline.defs import alerts
from amp_pipeline.defs.delivering import Delivering
from amp_pipeline.defs.tables import tables_assets
from amp_pipeline_tests.defs.shop import shop_in
from amp_pipeline_tests.defs.test_runs import ALL, DEDUPED, MERGED, RAW, House, metadata, results

TABLES = "shop/all_events/tables"
EVERYTHING = [RAW, DEDUPED, MERGED, *ALL, TABLES]
FIRST, LAST = Hour.parse("2024-05-08-09:00"), Hour.parse("2024-05-08-11:00")
HOURS = list(between(FIRST, LAST))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = shop_in(tmp_path / "shop", "*/*2024-05-08_9*", "*/*2024-05-08_10*", "*/*2024-05-08_11*")
    file = folder / "defs.yaml"
    name = "        - name: all_events\n"
    file.write_text(file.read_text().replace(name, name + "          tables: true\n"))
    return folder


@pytest.fixture
def house(folder: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(folder)}), instance)


def bucket(folder: Path) -> Path:
    return folder / "buckets" / "all_events"


def test_a_run_writes_the_tables_and_says_what_is_in_them(house: House, folder: Path) -> None:
    result = house.run(FIRST, LAST, only=EVERYTHING)
    assert result.success
    assert {name: found.passed for name, found in results(result).items() if name.startswith(TABLES)} == {
        f"{TABLES}:rows_match_manifest": True,
        f"{TABLES}:keys_are_unique": True,
        f"{TABLES}:joins_hold": True,
    }
    said = {event.partition: metadata(event) for event in house.events(TABLES)}
    archives = {event.partition: metadata(event) for event in house.events(ALL[0])}
    assert said.keys() == {hour.key for hour in HOURS}
    for key, one in said.items():
        assert one["dagster/row_count"] + one["same_uuid"] == archives[key]["dagster/row_count"] > 0
        assert pl.read_parquet(one["dagster/uri"]).height == one["dagster/row_count"]
    users = pl.read_parquet(bucket(folder) / "tables/187520/user.parquet")
    assert said[LAST.key]["rows_of_user"] == users.height > 0
    assert users["events"].sum() == sum(one["dagster/row_count"] for one in said.values())


def changed(path: Path, change: pl.Expr | None = None, rows: slice = slice(None)) -> None:
    """Write a table anew as nobody should."""
    frame = pl.read_parquet(path, hive_partitioning=False)
    stream = io.BytesIO()
    (frame if change is None else frame.with_columns(change))[rows].write_parquet(stream)
    path.write_bytes(stream.getvalue())


def findings(one: dg.AssetCheckEvaluation) -> list[object]:
    table = one.metadata["first_findings"]
    assert isinstance(table, dg.TableMetadataValue)
    return [record.data["hour"] for record in table.records]


def test_checks_tell_what_does_not_hold(house: House, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert house.run(FIRST, LAST, only=EVERYTHING).success
    # The tables are as they are written down, whatever size they have: only the checks look inside.
    monkeypatch.setattr("amp_pipeline.destinations.tables.Tables._stands", lambda *_: True)
    monkeypatch.setattr("amp_pipeline.destinations.tables.Tables._is_there", lambda *_: True)
    tables = bucket(folder) / "tables" / "187520"
    hour = tables / "event" / "date=2024-05-08" / "hour=11" / "event.parquet"
    uuid = pl.read_parquet(hour.parents[1] / "hour=09" / "event.parquet")["uuid"][0]
    changed(hour, pl.lit(uuid).alias("uuid"), slice(1, None))
    changed(tables / "user.parquet", rows=slice(1, None))
    changed(tables / "event_type.parquet", pl.lit("x").alias("name"))
    result = house.run(FIRST, LAST, only=[TABLES])
    found = {name.partition(":")[2]: one for name, one in results(result).items()}
    assert not any(one.passed for one in found.values())
    hours = {name: findings(one) for name, one in found.items()}
    assert hours["rows_match_manifest"] == [LAST.key]
    assert set(hours["keys_are_unique"]) == {"event_type", LAST.key}
    assert set(hours["joins_hold"]) >= {FIRST.key, LAST.key}


def test_an_hour_that_is_not_delivered_fails_and_the_others_are_done(house: House, folder: Path) -> None:
    assert house.run(FIRST, HOURS[1], only=EVERYTHING).success
    result = house.run(FIRST, LAST, only=[TABLES])
    assert not result.success
    assert house.materialized(TABLES) == {FIRST.key, HOURS[1].key}
    assert (bucket(folder) / "tables" / "187520" / "user.parquet").is_file()


def test_amp_pipeline_deliver_writes_tables_too(house: House, folder: Path) -> None:
    (organization,) = config_files.read(folder / "defs.yaml", {})
    definitions = build_definitions({"AMP_PIPELINE_ORGANIZATIONS": str(folder)})
    said: list[str] = []
    delivering = Delivering(definitions, house.instance, organization, said.append)
    assert delivering.deliver(organization.projects[0], HOURS[:1]) == {}
    assert house.materialized(TABLES) == {FIRST.key}
    table = bucket(folder) / "tables" / "187520" / "event" / "date=2024-05-08" / "hour=09" / "event.parquet"
    table.unlink()
    assert delivering.deliver(organization.projects[0], HOURS[:1]) == {}
    assert table.is_file()


def test_people_are_told_of_tables_that_fail(folder: Path) -> None:
    (organization,) = config_files.read(folder / "defs.yaml", {})
    (subject,) = alerting.tables(organization)
    assert (subject.asset, subject.name, subject.url) == (TABLES, "shop / all_events/tables", "")
    # What is remembered of it lies beside what is remembered of others.
    assert "/" not in subject.key
    (step,) = [one.op.name for one in tables_assets(organization)]
    assert alerts._by_op(organization)[step] == subject
