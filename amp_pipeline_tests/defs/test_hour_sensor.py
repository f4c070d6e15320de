"""The sensor that asks for hours, as Dagster evaluates it: what it asks for, and what it says where it can't."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from amp_pipeline import config_files
from amp_pipeline.alert_text import Text
from amp_pipeline.core.hours import Hour
from amp_pipeline.core.ticks import Request
from amp_pipeline.defs.assets import organization_assets
from amp_pipeline.defs.hour_sensor import REQUEST, WHY, Jobs, Running, hour_sensors
from amp_pipeline.defs.hours import hours_of_tags
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.workspace.ledger import Day, Entry, Ledger
from amp_pipeline_tests import builders
from amp_pipeline_tests.defs.shop import shop_in

FIRST = Hour.parse("2024-05-06-00:00")
ALERTS = """
  alerts:
    channels: ["json://127.0.0.1:1/"]
"""


class Sensor:
    """The example's hour sensor, its instance, its clock, and what people were told."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        file = folder / "defs.yaml"
        file.write_text(file.read_text().rstrip() + "\n" + ALERTS)
        (organization,) = config_files.read(file, {})
        assets = organization_assets(organization)
        self.workspace = folder / "workspace"
        self.now = datetime(2024, 6, 1, tzinfo=UTC)
        self.told: list[Text] = []
        (self.sensor,), jobs = hour_sensors(organization, assets, send=self._send, now=lambda: self.now)
        definitions = dg.Definitions(assets=assets, jobs=jobs, sensors=[self.sensor], executor=dg.in_process_executor)
        self.repository = definitions.get_repository_def()
        self.instance = instance
        self.cursor: str | None = None

    def _send(self, alerts: Any, everybody: Any, text: Text) -> Mapping[str, str]:
        self.told.append(text)
        return {one.name: "" for one in everybody}

    def tick(self) -> dg.SensorResult:
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository
        ) as context:
            result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shop_in(tmp_path / "shop")


@pytest.fixture
def sensor(folder: Path) -> Iterator[Sensor]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sensor(folder, instance)


def requests(result: dg.SensorResult) -> list[dg.RunRequest]:
    return list(result.run_requests or [])


def test_a_run_is_asked_for_with_all_that_dagster_needs(sensor: Sensor):
    first = requests(sensor.tick())[0]
    assert first.job_name == "shop_hours"
    assert first.run_key == first.tags[REQUEST]
    assert (first.tags[WHY], first.tags["dagster/priority"]) == ("first", "-5")
    assert first.tags["dagster/asset_partition_range_start"] == FIRST.key
    assert {key.to_user_string() for key in first.asset_selection or ()} >= {
        "shop/raw_events",
        "shop_org/merged_ids",
        "shop/purchases/manifest",
    }
    names = {key.name for key in first.asset_check_keys or ()}
    assert "counts_add_up" in names
    assert "bucket_can_be_reached" not in names


def test_an_hour_that_ended_a_short_time_ago_goes_before_the_backlog(sensor: Sensor):
    sensor.now = datetime(2024, 5, 8, 5, 30, tzinfo=UTC)
    first, *rest = requests(sensor.tick())
    assert first.tags["dagster/priority"] == "10"
    assert "amp_pipeline/backlog" not in first.tags
    assert {one.tags["amp_pipeline/backlog"] for one in rest} == {"shop"}


def test_hours_that_a_run_of_anybody_has_are_not_asked_for(sensor: Sensor):
    sensor.now = datetime(2024, 5, 6, 2, 30, tzinfo=UTC)
    sensor.instance.create_run_for_job(
        sensor.repository.get_job("shop_hours"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": FIRST.key},
    )
    (request,) = requests(sensor.tick())
    assert request.partition_key == (FIRST + 1).key


def test_what_an_audit_found_is_asked_for_with_force(sensor: Sensor):
    sensor.now = datetime(2024, 5, 6, 1, 30, tzinfo=UTC)
    ledger = Ledger(FolderStore(sensor.workspace), 189524, 187520)
    ledger.save(FIRST.date, Day(hours={FIRST.key: Entry(settled="once", forced=True, doubt="an audit")}), None)
    (request,) = requests(sensor.tick())
    assert request.run_config["ops"]["shop__raw_events"] == {"config": {"force": True}}
    assert request.tags[WHY] == "an audit found it wrong"


def test_a_landing_that_is_not_there_is_said_and_told_after_some_tries(sensor: Sensor, folder: Path):
    shutil.move(folder / "landing", folder / "elsewhere")
    for _ in range(3):
        result = sensor.tick()
        assert requests(result) == []
        assert result.skip_reason is not None
        assert "is not there" in str(result.skip_reason.skip_message)
        sensor.now += timedelta(minutes=1)
    (text,) = sensor.told
    assert "shop / landing can't be reached" in text.title
    assert "No hour of the project is delivered while this lasts" in text.plain
    shutil.move(folder / "elsewhere", folder / "landing")
    assert requests(sensor.tick())
    assert sensor.told[-1].title == "shop / landing can be reached again"


def test_a_workspace_that_cannot_be_used_is_a_message(sensor: Sensor, folder: Path):
    (folder / "workspace").write_text("no folder")
    result = sensor.tick()
    assert requests(result) == []
    assert str(folder / "workspace") in str(result.skip_reason and result.skip_reason.skip_message)


def test_a_flood_of_late_data_is_told(sensor: Sensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amp_pipeline.defs.hour_sensor.MANY_LATE", 0)
    sensor.tick()
    (text,) = sensor.told
    assert text.title == "shop / late data changes many hours that were delivered"


def test_a_sensor_that_is_not_automatic_waits_to_be_switched_on(sensor: Sensor):
    assert sensor.sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_runs_of_another_project_are_not_waited_for_though_they_make_merged_ids(tmp_path: Path):
    source = {"url": str(tmp_path / "landing"), "complete": None}
    organization = builders.organization(
        tmp_path, tmp_path / "landing", projects=[{"source": source}, {"source": source}]
    )
    assets = organization_assets(organization)
    mine, other = (Jobs(organization, project, assets) for project in organization.projects)
    jobs = [*{**mine.definitions(), **other.definitions()}.values()]
    repository = dg.Definitions(assets=assets, jobs=jobs, executor=dg.in_process_executor).get_repository_def()
    what = ("raw_events", "deduped_events", "merged_ids", "all")
    asked = other.run_request(Request("8-a", (FIRST,), what, "first", live=True, late=False, forced=False))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.create_run_for_job(
            repository.get_job(other.name),
            status=dg.DagsterRunStatus.STARTED,
            tags={**asked.tags, "dagster/partition": FIRST.key},
            asset_selection=frozenset(asked.asset_selection or ()),
        )
        found = [Running(instance, one, datetime.now(UTC)) for one in (mine, other)]
    assert [(running.hours, running.requests) for running in found] == [(set(), 0), ({FIRST}, 1)]


@pytest.mark.parametrize(
    ("status", "waits"), [(dg.DagsterRunStatus.QUEUED, True), (dg.DagsterRunStatus.STARTED, False)]
)
def test_a_run_in_the_queue_is_waited_for_however_long_and_one_that_began_is_forgotten(
    sensor: Sensor, status: dg.DagsterRunStatus, waits: bool
):
    job = sensor.repository.get_job("shop_hours")
    sensor.instance.create_run_for_job(
        job,
        status=status,
        tags={"dagster/partition": FIRST.key},
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "it"), job.name),
    )
    sensor.now = datetime.now(UTC) + timedelta(days=1)
    first = requests(sensor.tick())
    asked = {one.tags.get("dagster/asset_partition_range_start", one.partition_key) for one in first}
    assert (FIRST.key not in asked) is waits


@pytest.mark.parametrize("partition", ["2024-05-06", FIRST.key])
def test_runs_of_other_jobs_are_not_waited_for_whatever_their_partitions_are(sensor: Sensor, partition: str):
    sensor.instance.create_run_for_job(
        _other, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": partition}
    )
    sensor.now = datetime(2024, 5, 6, 1, 30, tzinfo=UTC)
    (request,) = requests(sensor.tick())
    assert request.partition_key == FIRST.key


def test_a_run_of_the_assets_with_partitions_that_are_no_hours_is_no_error():
    assert hours_of_tags({"dagster/partition": "2024-05-06"}) == []


@dg.job
def _other() -> None:
    pass
