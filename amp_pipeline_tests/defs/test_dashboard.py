"""The dashboard as Dagster runs it: real runs, a real server, a real webhook."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from amp_pipeline.config import Organization
from amp_pipeline.defs.alerts import alert_sensors
from amp_pipeline.defs.dashboard import CHECK, dashboard_assets, dashboard_schedules
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.dashboard import DashboardStore
from amp_pipeline.workspace.pulls import Trouble, TroubleStore
from amp_pipeline_tests.dashboard_server import (
    API_KEY,
    SECRET_KEY,
    Dashboard,
    Fault,
    cohort,
    dashboard,
    event_type,
    members,
)
from amp_pipeline_tests.receivers import Webhook, webhook

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
KEY = dg.AssetKey(["shop7", "dashboard"])
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class House:
    def __init__(self, folder: Path, server: Dashboard, hook: Webhook) -> None:
        self.folder = folder
        self.server = server
        self.hook = hook
        self.now = NOON
        self.organization = self.described()

    def described(self, **project: Any) -> Organization:
        source = {
            "type": "amplitude_export",
            "url": self.server.api,
            "api_key": API_KEY,
            "secret_key": SECRET_KEY,
            "attempts": 1,
        }
        known = {"id": 7, "slug": "shop7", "first_hour": "2026-11-20-00:00", "source": source, "dashboard": {}}
        return Organization.model_validate(
            {
                "id": 9,
                "slug": "house",
                "workspace": str(self.folder / "workspace"),
                "alerts": {"channels": [f"json://{self.hook.server}/token"], "tries": 3},
                "projects": [{**known, **project}],
            }
        )

    def run(self) -> tuple[bool, dict[str, Any], bool | None]:
        """Take one; return whether that went well, the metadata, and whether the check passed."""
        assets = dashboard_assets(self.organization, now=lambda: self.now)
        self.now += timedelta(hours=1)
        result = dg.materialize(assets, raise_on_error=False, run_config=QUIET)
        events = result.get_asset_materialization_events()
        metadata = events[0].materialization.metadata if events else {}
        checks = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
        return result.success, {name: one.value for name, one in metadata.items()}, checks.get(CHECK)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dashboard() as server, webhook() as hook:
        server.cohorts = [cohort("a"), cohort("b")]
        server.members = {"a": members((1, "x"), (2, "y")), "b": members((3, "z"))}
        server.events = [event_type("buy")]
        server.categories = [{"id": 1, "name": "Sales"}]
        yield House(tmp_path, server, hook)


def test_run_keeps_a_snapshot_and_says_what_is_in_it(house: House) -> None:
    went_well, metadata, passed = house.run()
    assert went_well
    assert passed
    assert {name: metadata[name] for name in ("cohorts", "members", "cohorts_asked_for", "event_types")} == {
        "cohorts": 2,
        "members": 3,
        "cohorts_asked_for": 2,
        "event_types": 1,
    }
    assert (metadata["categories"], metadata["is_new"], metadata["refused"]) == (1, True, 0)
    latest = DashboardStore(open_store(house.organization.workspace), 9, 7).latest()
    assert latest is not None
    assert metadata["dagster/uri"].endswith(f"9/7/dashboard/{latest.stamp}")
    went_well, metadata, _ = house.run()
    assert (went_well, metadata["is_new"], metadata["cohorts_asked_for"]) == (True, False, 0)
    assert house.hook.titles == []


def test_what_was_refused_is_named_and_fails_no_run(house: House) -> None:
    house.server.no_taxonomy = 403
    house.server.faults.append(Fault("/api/5/cohorts/request/a", 500))
    went_well, metadata, passed = house.run()
    assert (went_well, passed, metadata["refused"]) == (True, False, 2)
    named = str(metadata["what_was_refused"])
    assert "not for this plan" in named
    assert "members of cohort a" in named
    assert house.hook.titles == []


def test_people_are_told_at_once_and_again_when_it_is_well(house: House) -> None:
    for _ in range(2):
        house.server.faults.append(Fault("/api/2/events/list", 403, b"no such key"))
        went_well, _, _ = house.run()
        assert not went_well
    (post,) = house.hook.posts
    assert post["title"] == "shop7 / dashboard could not be taken"
    assert "answers 403: no such key. Check api_key and secret_key" in post["message"]
    assert house.run()[0]
    assert house.hook.titles[1:] == ["shop7 / dashboard was taken again"]
    assert not any(secret in str(house.hook.posts) for secret in (API_KEY, SECRET_KEY))


def test_keys_that_pulling_has_found_wrong_are_not_told_a_second_time(house: House) -> None:
    workspace = open_store(house.organization.workspace)
    known = Trouble(kind="credentials", summary="wrong keys", advice="", since=0, tried=0)
    TroubleStore(workspace, 9, 7).save(known)
    house.server.faults.append(Fault("/api/2/events/list", 403, b"no such key"))
    assert not house.run()[0]
    assert house.hook.titles == []
    # Another trouble, and wrong keys where pulling is well, are told.
    house.server.faults.append(Fault("/api/2/events/list", 500))
    assert not house.run()[0]
    assert house.hook.titles == ["shop7 / dashboard could not be taken"]


def test_message_that_did_not_arrive_is_sent_again_by_the_sensor(house: House) -> None:
    house.hook.status = 500
    house.server.faults.append(Fault("/api/2/events/list", 500))
    assert not house.run()[0]
    house.hook.status = 200
    (sensor, _) = alert_sensors(house.organization, now=lambda: house.now + timedelta(hours=1))
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
        sensor.evaluate_tick(context)
        assert house.hook.titles == ["shop7 / dashboard could not be taken"]
        # Of that it is taken again, trying buckets says nothing.
        sensor.evaluate_tick(context)
    assert house.hook.titles == ["shop7 / dashboard could not be taken"]


def test_schedule_runs_it_each_day_at_its_time(house: House) -> None:
    (schedule,) = dashboard_schedules(house.described(dashboard={"at": "06:05"}))
    assert (schedule.name, schedule.cron_schedule) == ("shop7_dashboard", "5 6 * * *")
    assert schedule.execution_timezone == "UTC"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    definitions = dg.Definitions(assets=dashboard_assets(house.organization), schedules=[schedule])
    job = definitions.resolve_job_def(schedule.job_name)
    assert job.asset_layer.selected_asset_keys == {KEY}
    (by_hand,) = dashboard_schedules(house.described(automatic=False))
    assert by_hand.default_status == dg.DefaultScheduleStatus.STOPPED


def test_projects_without_a_dashboard_have_none_of_it(house: House) -> None:
    organization = house.described(dashboard=None)
    assert dashboard_assets(organization) == []
    assert dashboard_schedules(organization) == []
