"""The check of each delivery's hours, run on a real instance, and the hours that are in flight."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.hours import Hour
from amp_pipeline.defs.assets import organization_assets
from amp_pipeline.defs.status import CHECK, in_flight, status_checks
from amp_pipeline.storage.urls import open_store
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.laws.driver import run

ALL, PURCHASES = dg.AssetKey(["shop7", "all", "manifest"]), dg.AssetKey(["shop7", "purchases", "manifest"])
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
NOW = FIRST_HOUR.start + timedelta(hours=28)


@pytest.fixture
def organization(tmp_path: Path) -> Organization:
    for n in range(3):
        put(tmp_path / "landing", object_name(FIRST_HOUR + n), event(n * HOUR_US, uuid=f"event {n}"))
    return builders.organization(tmp_path, tmp_path / "landing", projects=[{"automatic": False}])


def checked(organization: Organization, key: dg.AssetKey = ALL) -> dg.AssetCheckEvaluation:
    definitions = dg.Definitions(
        assets=organization_assets(organization), asset_checks=status_checks(organization, now=lambda: NOW)
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    only = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(key, CHECK)})
    with dg.DagsterInstance.ephemeral() as instance:
        result = only.execute_in_process(instance=instance, run_config=QUIET)
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def told(evaluation: dg.AssetCheckEvaluation) -> dict[str, object]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def test_the_check_passes_where_every_ready_hour_is_delivered(organization: Organization):
    assert run(organization, [FIRST_HOUR + n for n in range(4)], open_store) == {}
    evaluation = checked(organization)
    assert evaluation.passed
    assert evaluation.description == "every ready hour is delivered"
    known = told(evaluation)
    assert known["last_complete_hour"] == str(FIRST_HOUR + 3)
    assert (known["delivered_hours"], known["missing_hours"], known["failed_hours"]) == (4, 0, 0)
    assert known["next_hour"] == str(FIRST_HOUR + 4)
    assert isinstance(known["average_event_bytes"], float)
    assert "hours_not_delivered" not in known
    table = evaluation.metadata["months_of_the_project"]
    assert isinstance(table, dg.TableMetadataValue)
    rows = [record.data for record in table.records]
    assert [(row["month"], row["hours_known"], row["events"]) for row in rows] == [
        ("2024-06", "0 of 720", 0),
        ("2024-05", "4 of 624", 3),
    ]


def test_the_check_names_hours_that_are_not_delivered_and_what_delivers_them(organization: Organization):
    assert run(organization, [FIRST_HOUR], open_store) == {}
    evaluation = checked(organization, PURCHASES)
    assert not evaluation.passed
    assert evaluation.description == f"complete up to {FIRST_HOUR}; 3 missing"
    table = evaluation.metadata["hours_not_delivered"]
    assert isinstance(table, dg.TableMetadataValue)
    first, last = (FIRST_HOUR + 1).key, (FIRST_HOUR + 3).key
    assert [record.data for record in table.records] == [{"what": "missing", "first": first, "last": last}]
    assert told(evaluation)["to_do"] == f"    amp-pipeline deliver --project shop7 --from {first} --to {last}"


def test_each_delivery_that_is_switched_on_has_the_check(organization: Organization):
    specs = [spec for check in status_checks(organization) for spec in check.check_specs]
    assert [(spec.asset_key, spec.name) for spec in specs] == [(ALL, CHECK), (PURCHASES, CHECK)]
    assert all((spec.description or "").endswith(".") for spec in specs)


def test_hours_are_in_flight_while_their_run_is_not_done():
    selected = frozenset({dg.AssetKey(["shop7", "raw_events"]), ALL})
    of_range = {
        "dagster/asset_partition_range_start": FIRST_HOUR.key,
        "dagster/asset_partition_range_end": (FIRST_HOUR + 1).key,
    }
    later = FIRST_HOUR + 5
    now = datetime.now(UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        for job, tags, selection, status in (
            ("some", of_range, selected, dg.DagsterRunStatus.STARTED),
            ("shop7_hours", {"dagster/partition": later.key}, None, dg.DagsterRunStatus.NOT_STARTED),
            ("done", {"dagster/partition": "2024-05-07-00:00"}, selected, dg.DagsterRunStatus.SUCCESS),
            ("other", {"dagster/partition": "Monday"}, selected, dg.DagsterRunStatus.STARTED),
        ):
            instance.add_run(dg.DagsterRun(job, status=status, tags=tags, asset_selection=selection))
        found = {name: set(hours) for name, hours in in_flight(instance, now).items()}
        hours: set[Hour] = {FIRST_HOUR, FIRST_HOUR + 1}
        assert found == {"shop7/raw_events": hours, "shop7/all/manifest": hours, "shop7_hours": {later}}
        assert in_flight(instance, now + timedelta(hours=13)) == {}
