"""The schedule that holds the last days against the source: real runs on a real instance, real mail, a real webhook."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.errors import StoreError
from amp_pipeline.core.hours import Hour
from amp_pipeline.defs.alerts import alert_sensors
from amp_pipeline.defs.assets import organization_assets
from amp_pipeline.defs.reconciliation import CHECK, reconciliation_checks, reconciliation_schedules
from amp_pipeline.reconciliation import Looked
from amp_pipeline.storage.urls import open_store
from amp_pipeline.workspace.ledger import Ledger
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import FIRST_HOUR, HOUR_US, event, object_name, put
from amp_pipeline_tests.receivers import Mailbox, Webhook, mailbox, webhook

PASSWORD = "marker-of-the-password"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
HOURS = 3
ALL, PURCHASES = dg.AssetKey(["shop7", "all", "manifest"]), dg.AssetKey(["shop7", "purchases", "manifest"])


class House:
    """A delivered organization, its schedule, and those who are told."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, box: Mailbox, hook: Webhook) -> None:
        self.folder = folder
        self.instance = instance
        self.box = box
        self.hook = hook
        self.now = (FIRST_HOUR + 20).start
        for n in range(HOURS):
            put(folder / "landing", object_name(FIRST_HOUR + n), event(n * HOUR_US, uuid=f"event {n}"))
            (folder / "landing" / f"7/7_{FIRST_HOUR.day}_{n}_complete").touch()
        self.organization = self.described()

    def described(self, **project: Any) -> Organization:
        return Organization.model_validate(
            {
                "id": 9,
                "slug": "house",
                "workspace": str(self.folder / "workspace"),
                "owners": ["owner@house.example"],
                "alerts": {
                    "mail": {
                        "server": self.box.server,
                        "security": "none",
                        "user": "amp",
                        "password": PASSWORD,
                        "sender": "amp@house.example",
                    },
                    "tries": 3,
                },
                "projects": [
                    {
                        "id": 7,
                        "slug": "shop7",
                        "first_hour": FIRST_HOUR.key,
                        "last_hour": (FIRST_HOUR + HOURS + -1).key,
                        "source": {"url": str(self.folder / "landing")},
                        "deliveries": [
                            builders.all_events(
                                self.folder / "all", alerts={"channels": [f"json://{self.hook.server}/token"]}
                            ),
                            builders.purchases(self.folder / "purchases"),
                        ],
                        **project,
                    }
                ],
            }
        )

    def definitions(self) -> dg.Definitions:
        return dg.Definitions(
            assets=organization_assets(self.organization),
            asset_checks=reconciliation_checks(self.organization, now=lambda: self.now),
            schedules=reconciliation_schedules(self.organization, now=lambda: self.now),
            sensors=alert_sensors(self.organization, now=lambda: self.now),
            executor=dg.in_process_executor,
        )

    def deliver(self, *, force: bool = False) -> None:
        definitions = self.definitions()
        assets = organization_assets(self.organization)
        job = definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=[key for one in assets for key in one.keys],
            tags={
                "dagster/asset_partition_range_start": FIRST_HOUR.key,
                "dagster/asset_partition_range_end": (FIRST_HOUR + HOURS + -1).key,
            },
            run_config={**QUIET, "ops": {one.op.name: {"config": {"force": force}} for one in assets}},
        )
        assert result.success

    def reconcile(self) -> None:
        """Run what the schedule runs, a day later than the last time."""
        job = self.definitions().resolve_job_def("shop7_reconciliation")
        assert job.execute_in_process(instance=self.instance, run_config=QUIET).success
        self.now += timedelta(days=1)

    def click(self, manifest: dg.AssetKey) -> None:
        """Run the check as its button does."""
        job = self.definitions().resolve_implicit_global_asset_job_def()
        chosen = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(manifest, CHECK)})
        assert chosen.execute_in_process(instance=self.instance, run_config=QUIET).success

    def last_check(self, manifest: dg.AssetKey) -> dg.AssetCheckEvaluation:
        found = self.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(manifest, CHECK), limit=1
        )
        assert found[0].event is not None
        assert found[0].event.dagster_event is not None
        said = found[0].event.dagster_event.event_specific_data
        assert isinstance(said, dg.AssetCheckEvaluation)
        return said

    def marked(self) -> list[Hour]:
        known, _ = Ledger(open_store(self.organization.workspace), 9, 7).day(FIRST_HOUR.date)
        return [Hour.parse(key) for key, entry in known.hours.items() if entry.forced]

    def part(self, n: int) -> Path:
        return self.folder / "all" / f"7/7_{FIRST_HOUR.day}_{n}#0.json.gz"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "home").mkdir()
    with (
        mailbox("amp", PASSWORD) as box,
        webhook() as hook,
        dg.DagsterInstance.local_temp(str(tmp_path / "home"), overrides={"telemetry": {"enabled": False}}) as instance,
    ):
        made = House(tmp_path / "house", instance, box, hook)
        made.deliver()
        yield made


def test_a_mismatch_is_shown_told_once_marked_and_told_to_be_over(house: House) -> None:
    house.reconcile()
    assert house.box.mails == house.hook.posts == []
    assert house.last_check(ALL).passed
    assert house.last_check(ALL).metadata["landed"].value == HOURS
    table = house.last_check(ALL).metadata["hours"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["state"] for record in table.records] == ["agrees"] * HOURS

    data = house.part(1).read_bytes()
    house.part(1).write_bytes(data[:-1])
    house.reconcile()
    assert house.box.subjects() == house.hook.titles == ["shop7 / all does not agree with its source"]
    body = house.box.mails[0].get_body(["plain"])
    assert body is not None
    assert (FIRST_HOUR + 1).key in body.get_content()
    assert "1 of 3 hours" in body.get_content()
    assert house.marked() == [FIRST_HOUR + 1]
    failed = house.last_check(ALL)
    assert not failed.passed
    assert failed.description == "2 agrees, 1 wrong"
    assert house.last_check(PURCHASES).passed

    house.deliver(force=True)
    assert house.part(1).read_bytes() == data
    house.reconcile()
    told = ["shop7 / all does not agree with its source", "shop7 / all agrees with its source again"]
    assert house.box.subjects() == house.hook.titles == told
    house.reconcile()
    assert len(house.box.mails) == 2


def test_an_hour_that_stays_wrong_is_looked_at_until_it_is_right(house: House) -> None:
    house.part(0).unlink()
    house.reconcile()
    # By now it is too long ago to be one of the last days.
    house.now += timedelta(days=30)
    house.reconcile()
    titles = ["shop7 / all does not agree with its source", "shop7 / all still does not agree with its source"]
    assert house.hook.titles == titles
    house.deliver(force=True)
    house.reconcile()
    assert house.hook.titles == [*titles, "shop7 / all agrees with its source again"]


def test_a_click_looks_at_one_delivery(house: House) -> None:
    house.part(2).unlink()
    house.click(PURCHASES)
    assert house.last_check(PURCHASES).passed
    assert house.marked() == []
    house.click(ALL)
    assert not house.last_check(ALL).passed
    assert house.marked() == [FIRST_HOUR + 2]


def test_an_alert_that_did_not_arrive_is_sent_again_by_the_sensor_that_tries_buckets(house: House) -> None:
    house.hook.status = 500
    house.part(2).unlink()
    house.reconcile()
    assert house.hook.posts == []
    house.hook.status = 200
    house.now += timedelta(minutes=-1430)
    repository = house.definitions().get_repository_def()
    with dg.build_sensor_context(
        instance=house.instance, repository_def=repository, sensor_name="house_access_alerts"
    ) as context:
        repository.get_sensor_def("house_access_alerts").evaluate_tick(context)
    assert house.hook.titles == ["shop7 / all does not agree with its source"]


def test_a_workspace_that_is_away_is_no_mismatch_and_no_crash(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> Iterator[Looked]:
        raise StoreError("the workspace gave no answer")
        yield

    monkeypatch.setattr("amp_pipeline.defs.reconciliation.reconcile", away)
    house.reconcile()
    said = house.last_check(ALL)
    assert not said.passed
    assert said.severity == dg.AssetCheckSeverity.WARN
    assert said.description == "nothing could be looked at: the workspace gave no answer"
    assert house.box.mails == []


def test_the_schedule_runs_by_itself_where_the_project_does(house: House) -> None:
    def status(**project: Any) -> list[tuple[str, str, dg.DefaultScheduleStatus]]:
        schedules = reconciliation_schedules(house.described(**project))
        return [(one.name, str(one.cron_schedule), one.default_status) for one in schedules]

    running, stopped = dg.DefaultScheduleStatus.RUNNING, dg.DefaultScheduleStatus.STOPPED
    assert status() == [("shop7_reconciliation", "30 3 * * *", running)]
    assert status(reconcile={"at": "17:05", "days": 7}) == [("shop7_reconciliation", "5 17 * * *", running)]
    assert status(automatic=False) == [("shop7_reconciliation", "30 3 * * *", stopped)]
    assert status(reconcile={"days": 0}) == []
    assert house.now < datetime.now(UTC)
