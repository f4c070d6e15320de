"""A project that pulls, as the hour sensor sees it: when hours are asked for, and what a source that is shut does."""

import gzip
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from amp_pipeline.cli import main
from amp_pipeline.core.hours import Hour
from amp_pipeline.sources import amplitude_http
from amp_pipeline_tests.defs.test_hour_sensor import Sensor, requests
from amp_pipeline_tests.export_stand_in import KEYS, Packed, StandIn, stand_in

FIRST = Hour.parse("2024-05-06-00:00")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(amplitude_http, "_FIRST_WAIT_SECONDS", 0.01)
    with stand_in() as server:
        yield server


def house_in(folder: Path, server: StandIn, **source: Any) -> Path:
    project = {
        "id": 7,
        "slug": "shop",
        "first_hour": FIRST.key,
        "source": server.source(**source),
        "deliveries": [{"name": "all", "url": str(folder / "bucket")}],
    }
    told = {"id": 9, "slug": "house", "workspace": str(folder / "workspace"), "projects": [project]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "defs.yaml").write_text(
        yaml.safe_dump({"type": "amp_pipeline.Organization", "attributes": told}, sort_keys=False)
    )
    return folder


@pytest.fixture
def sensor(tmp_path: Path, server: StandIn) -> Iterator[Sensor]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sensor(house_in(tmp_path, server, every="6h"), instance)


def run_all(sensor: Sensor, result: dg.SensorResult) -> list[bool]:
    """Run what was asked for, as the daemon would."""
    job = sensor.repository.get_job("shop_hours")
    return [
        job.execute_in_process(
            instance=sensor.instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            asset_selection=request.asset_selection,
            raise_on_error=False,
        ).success
        for request in requests(result)
    ]


def test_hours_are_asked_for_when_they_are_pulled_together(sensor: Sensor):
    sensor.now = FIRST.start + timedelta(hours=5, minutes=59)
    assert requests(sensor.tick()) == []
    sensor.now += timedelta(minutes=1)
    (request,) = requests(sensor.tick())
    assert request.tags["dagster/asset_partition_range_start"] == FIRST.key
    assert request.tags["dagster/asset_partition_range_end"] == (FIRST + 3).key


def test_a_source_that_refuses_keys_is_told_and_held_until_they_are_right(sensor: Sensor, server: StandIn):
    server.keys = ("another", "secret")
    sensor.now = datetime(2024, 5, 6, 23, tzinfo=UTC)
    result = sensor.tick()
    assert run_all(sensor, result) == [False] * len(requests(result))
    sensor.now += timedelta(hours=1)
    result = sensor.tick()
    assert requests(result) == []
    assert "answers 403" in str(result.skip_reason)
    for _ in range(3):
        sensor.now += timedelta(minutes=10)
        sensor.tick()
    (told,) = [text for text in sensor.told if "shop / landing" in text.title]
    assert "Check api_key and secret_key" in told.plain
    assert not any(key in told.plain + told.html for key in KEYS)
    server.keys = KEYS
    sensor.now += timedelta(minutes=10)
    # All hours together again: it was not they that failed.
    again = requests(sensor.tick())
    assert again[0].tags["dagster/asset_partition_range_start"] == FIRST.key
    assert again[0].tags["dagster/asset_partition_range_end"] == (FIRST + 21).key
    assert len([text for text in sensor.told if "shop / landing" in text.title]) == 2


def test_keys_of_another_project_are_told_once_and_hold_all_hours(sensor: Sensor, server: StandIn):
    """What opens the first hour of 2012 may still be of another project: the hour that told so is asked for again."""
    wrong = {FIRST + 1: [Packed("8/8_2024-05-06_1#0.json.gz", gzip.compress(b"{}"))]}
    server.hours = wrong
    sensor.now = datetime(2024, 5, 6, 23, tzinfo=UTC)
    result = sensor.tick()
    assert run_all(sensor, result) == [False] * len(requests(result))
    for _ in range(4):
        sensor.now += timedelta(minutes=10)
        assert requests(sensor.tick()) == []
    (told,) = [text for text in sensor.told if "shop / landing" in text.title]
    assert "the keys are of that project" in told.plain
    server.hours = {FIRST + 1: [Packed("7/7_2024-05-06_1#0.json.gz", gzip.compress(b"{}"))]}
    sensor.now += timedelta(minutes=10)
    again = requests(sensor.tick())
    assert again[0].tags["dagster/asset_partition_range_start"] == FIRST.key
    assert len([text for text in sensor.told if "shop / landing" in text.title]) == 2


@pytest.mark.parametrize("right", [True, False])
def test_access_tries_the_source(tmp_path: Path, server: StandIn, right: bool):
    if not right:
        server.keys = ("another", "secret")
    environment = {"AMP_PIPELINE_ORGANIZATIONS": str(house_in(tmp_path, server)), "HTTP_PROXY": None}
    found = CliRunner().invoke(main, ["access"], env=environment)
    assert found.exit_code == (0 if right else 1), found.output
    assert f"shop source  {server.url}/api/2/export" in found.output
    assert ("Check api_key and secret_key" in found.output) is not right
    assert not any(key in found.output for key in KEYS)
