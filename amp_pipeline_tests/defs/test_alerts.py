"""The sensors that tell people: real ticks on a real instance, a real mail server, a real webhook, real folders."""

import gzip
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from amp_pipeline.config import Organization
from amp_pipeline.core.access import Outcome
from amp_pipeline.defs.alerts import CHECK, Probe, alert_sensors, bucket_checks
from amp_pipeline.defs.assets import organization_assets
from amp_pipeline.defs.watching import trouble_of_dagster
from amp_pipeline.run import OrganizationRun
from amp_pipeline.status import gather
from amp_pipeline.storage.probe import probe
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import event, object_name, put, put_bytes
from amp_pipeline_tests.receivers import Mailbox, Webhook, mailbox, webhook

PASSWORD = "marker-of-the-password"
TOKEN = "marker-of-the-token"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
QUIET_INSTANCE = {"telemetry": {"enabled": False}}
FIRST = builders.FIRST_HOUR
ALL, PURCHASES = dg.AssetKey(["shop7", "all", "manifest"]), dg.AssetKey(["shop7", "purchases", "manifest"])
UI = "https://dagster.house.example"


class House:
    """An organization in a folder, its sensors, and those whom they tell."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, box: Mailbox, hook: Webhook) -> None:
        self.folder = folder
        self.box = box
        self.hook = hook
        self.instance = instance
        self.now = datetime.now(UTC)
        self.cursor: dict[str, str | None] = {}
        self.organization = self.described()
        for n in range(3):
            put(folder / "landing", object_name(FIRST + n), event(n * builders.HOUR_US, uuid=f"event {n}"))

    def described(self, **alerts: Any) -> Organization:
        (self.folder / "landing").mkdir(exist_ok=True)
        return Organization.model_validate(
            {
                "id": 9,
                "slug": "house",
                "workspace": str(self.folder / "workspace"),
                "owners": ["owner@house.example", "team:data"],
                "alerts": {
                    "mail": {
                        "server": self.box.server,
                        "security": "none",
                        "user": "amp",
                        "password": PASSWORD,
                        "sender": "amp@house.example",
                    },
                    "ui": UI,
                    "tries": 3,
                    **alerts,
                },
                "projects": [
                    {
                        "id": 7,
                        "slug": "shop7",
                        "first_hour": FIRST.key,
                        "last_hour": (FIRST + 2).key,
                        "source": {"url": str(self.folder / "landing")},
                        "deliveries": [
                            {
                                "name": "all",
                                "url": str(self.folder / "all"),
                                "alerts": {"channels": [f"json://amp:{TOKEN}@{self.hook.server}/{TOKEN}"]},
                            },
                            {
                                "name": "purchases",
                                "url": str(self.folder / "purchases"),
                                "owner": "maker@house.example",
                                "filter": "event_type = 'purchase'",
                            },
                        ],
                    }
                ],
            }
        )

    def definitions(self, probe: Probe = probe) -> dg.Definitions:
        sensors = alert_sensors(self.organization, probe=probe, now=lambda: self.now)
        return dg.Definitions(
            assets=organization_assets(self.organization),
            asset_checks=bucket_checks(self.organization, probe=probe),
            sensors=sensors,
            executor=dg.in_process_executor,
        )

    def tick(self, name: str = "house_access_alerts", *, probe: Probe = probe, times: int = 1) -> Any:
        """Evaluate a sensor as the daemon does, and report what it reports."""
        repository = self.definitions(probe).get_repository_def()
        data = None
        for _ in range(times):
            with dg.build_sensor_context(
                instance=self.instance, cursor=self.cursor.get(name), repository_def=repository, sensor_name=name
            ) as context:
                data = repository.get_sensor_def(name).evaluate_tick(context)
            self.cursor[name] = data.cursor
            for reported in data.asset_events:
                self.instance.report_runless_asset_event(reported)
            self.now += timedelta(minutes=15)
        return data

    def run(self, *keys: str, hours: int = 1, **tags: str) -> dg.ExecuteInProcessResult:
        """Run the first hours, of all assets if none are named."""
        return (
            self.definitions()
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey.from_user_string(key) for key in keys] or None,
                tags={
                    "dagster/asset_partition_range_start": FIRST.key,
                    "dagster/asset_partition_range_end": (FIRST + (hours - 1)).key,
                    **tags,
                },
                run_config=QUIET,
                raise_on_error=False,
            )
        )

    def last_check(self, manifest: dg.AssetKey) -> dg.AssetCheckEvaluation | None:
        """Return what the instance knows of a bucket."""
        found = self.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(manifest, CHECK), limit=1
        )
        if not found or found[0].event is None or found[0].event.dagster_event is None:
            return None
        said = found[0].event.dagster_event.event_specific_data
        assert isinstance(said, dg.AssetCheckEvaluation)
        return said

    def take_away(self, name: str) -> None:
        """Put a file in the place of a bucket's folder: root may do anything with folders."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).write_text("no folder")

    def give_back(self, name: str) -> None:
        (self.folder / name).unlink()


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster instance with its databases, which take 1.5 s to make."""
    home = tmp_path_factory.mktemp("home")
    with dg.DagsterInstance.local_temp(str(home), overrides=QUIET_INSTANCE) as instance:
        instance.all_instigator_state()
        instance.get_run_ids()
        instance.get_asset_keys()
    return home


@pytest.fixture
def house(tmp_path: Path, empty_home: Path) -> Iterator[House]:
    home = shutil.copytree(empty_home, tmp_path / "home")
    with (
        mailbox("amp", PASSWORD) as box,
        webhook() as hook,
        dg.DagsterInstance.local_temp(str(home), overrides=QUIET_INSTANCE) as instance,
    ):
        (tmp_path / "house").mkdir()
        yield House(tmp_path / "house", instance, box, hook)


def test_a_bucket_that_can_t_be_reached_is_told_once_and_once_when_it_can(house: House) -> None:
    house.run("shop7/raw_events", "shop7/deduped_events", "house/merged_ids", hours=3)
    house.tick()
    assert house.box.mails == house.hook.posts == []
    house.take_away("all")
    house.tick(times=2)
    assert house.box.mails == house.hook.posts == []
    house.tick()
    assert house.box.subjects() == house.hook.titles == ["shop7 / all can't be reached"]
    house.tick(times=5)
    assert len(house.box.mails) == len(house.hook.posts) == 1
    body = house.box.mails[0].get_body(["html"])
    assert body is not None
    assert f"{house.folder}/all" in body.get_content()
    assert f"3: oldest {FIRST}, newest {FIRST + 2}" in body.get_content()
    assert f'"{UI}/assets/shop7/all/manifest"' in body.get_content()
    assert (failed := house.last_check(ALL)) is not None
    assert not failed.passed
    assert failed.metadata["step"].value
    house.give_back("all")
    house.tick()
    house.tick(times=5)
    told = ["shop7 / all can't be reached", "shop7 / all can be reached again"]
    assert house.box.subjects() == house.hook.titles == told
    assert (passed := house.last_check(ALL)) is not None
    assert passed.passed


def test_a_bucket_holds_up_no_other(house: House) -> None:
    def broken(url: str, s3: Any) -> Outcome:
        if url.endswith("all"):
            raise ZeroDivisionError(PASSWORD)
        return probe(url, s3)

    house.take_away("purchases")
    data = house.tick(probe=broken, times=3)
    assert data.skip_message == "not reached: shop7 / all, shop7 / purchases"
    assert sorted(house.box.subjects("maker@house.example")) == ["shop7 / purchases can't be reached"]
    assert house.hook.titles == ["shop7 / all can't be reached"]
    assert "ZeroDivisionError" in house.hook.posts[0]["message"]
    assert (found := house.last_check(PURCHASES)) is not None
    assert not found.passed


def test_a_bucket_that_gives_no_answer_is_told_and_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amp_pipeline.defs.alerts._TRY_SECONDS", 0.5)
    answers = threading.Event()

    def silent(url: str, s3: Any) -> Outcome:
        if url.endswith("all"):
            answers.wait()
        return probe(url, s3)

    house.take_away("purchases")
    house.tick(probe=silent, times=3)
    answers.set()
    assert house.hook.titles == ["shop7 / all can't be reached"]
    assert "gave no answer within" in house.hook.posts[0]["message"]
    assert house.box.subjects("maker@house.example") == ["shop7 / purchases can't be reached"]


def test_what_did_not_arrive_is_sent_at_the_next_tick_to_whom_it_missed(house: House) -> None:
    house.take_away("all")
    house.box.refusing.add("owner@house.example")
    house.tick(times=4)
    assert house.box.mails == []
    assert len(house.hook.posts) == 1
    house.box.refusing.clear()
    house.tick(times=3)
    assert house.box.subjects() == ["shop7 / all can't be reached"]
    assert len(house.hook.posts) == 1


def test_secrets_appear_nowhere(
    house: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    house.take_away("all")
    house.hook.status = 500
    house.box.refusing.add("owner@house.example")
    house.tick(times=4)
    damage(house)
    house.tick("house_run_alerts")
    house.run(RAW, hours=3)
    house.tick("house_run_alerts")
    states = sorted((house.folder / "workspace" / "9" / "alerts").iterdir())
    assert [path.name for path in states] == ["7-all.json", "7-raw_events.json"]
    logs = [dg.serialize_value(entry) for run in house.instance.get_run_ids() for entry in house.instance.all_logs(run)]
    events = [repr(house.last_check(key)) for key in (ALL, PURCHASES)]
    for path in (house.folder / "workspace").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    for path in (house.folder.parent / "home").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    texts = [*logs, *events, *map(str, house.cursor.values()), caplog.text, "".join(capfd.readouterr())]
    assert "can't be" in "".join(texts) or "did not reach" in "".join(texts)
    assert not any(secret in text for text in texts for secret in (PASSWORD, TOKEN))


def test_a_workspace_that_is_away_is_told_once_and_no_tick_fails(house: House) -> None:
    house.tick()
    house.take_away("workspace")
    house.tick(times=6)
    assert house.box.subjects() == ["house / workspace can't be reached"]
    assert (found := house.last_check(ALL)) is not None
    assert found.passed
    house.give_back("workspace")
    house.tick(times=2)
    assert house.box.subjects() == ["house / workspace can't be reached", "house / workspace can be reached again"]


RAW = "shop7/raw_events"


def damage(house: House) -> None:
    put_bytes(house.folder / "landing", object_name(FIRST + 1, 1, ".json.gz"), gzip.compress(event())[:-8])


def mend(house: House) -> None:
    (house.folder / "landing" / object_name(FIRST + 1, 1, ".json.gz")).unlink()


def test_hours_that_fail_are_told_once_until_they_are_done(house: House) -> None:
    house.tick("house_run_alerts")
    damage(house)
    runs = []
    for _ in range(3):
        house.now = datetime.now(UTC)
        runs.append(house.run(RAW, hours=3).run_id)
        house.tick("house_run_alerts")
    assert house.box.subjects() == ["shop7 / raw_events has hours that failed"]
    body = house.box.mails[0].get_body(["html"])
    assert body is not None
    assert f'href="{UI}/runs/{runs[0]}"' in body.get_content()
    assert f'href="{UI}/assets/shop7/raw_events"' in body.get_content()
    assert f"<b>{FIRST + 1}:</b>" in body.get_content()
    house.tick(times=3)
    mend(house)
    assert house.run(RAW, hours=3).success
    house.tick()
    assert house.box.subjects() == [
        "shop7 / raw_events has hours that failed",
        "shop7 / raw_events has done the hours that had failed",
    ]
    house.tick("house_run_alerts", times=2)
    assert len(house.box.mails) == 2


def test_where_nobody_is_told_why_hours_failed_is_known_to_status_and_no_bucket_is_tried(house: House) -> None:
    nobody = [{"name": name, "url": str(house.folder / name)} for name in ("all", "purchases")]
    project = {"last_hour": (FIRST + 2).key, "source": {"url": str(house.folder / "landing")}, "deliveries": nobody}
    house.organization = builders.organization(house.folder, house.folder / "landing", projects=[project])

    def untried(*_: Any) -> Outcome:
        raise AssertionError("a bucket was tried")

    house.tick("house_run_alerts", probe=untried)
    assert house.run(hours=3).success
    damage(house)
    for _ in range(2):
        house.now = datetime.now(UTC)
        house.run(hours=3)
        house.tick("house_run_alerts", probe=untried)
    for delivery in gather(OrganizationRun(house.organization), house.now)[0].deliveries:
        (failure,) = delivery.failed
        assert failure.hours == (FIRST + 1,)
        assert "is truncated" in failure.what or "is corrupt" in failure.what
        assert "amp-pipeline accept" in failure.what
    assert house.box.mails == []


def test_runs_that_fail_by_a_bucket_are_told_as_that_and_once(house: House) -> None:
    assert house.run(hours=3).success
    house.tick("house_run_alerts")
    house.take_away("all")
    for _ in range(4):
        house.run("shop7/all/archive", "shop7/all/manifest", hours=3)
        house.tick("house_run_alerts")
        house.tick()
    assert house.box.subjects() == ["shop7 / all can't be reached"]
    house.give_back("all")
    house.tick()
    assert house.box.subjects()[1:] == ["shop7 / all can be reached again"]


def test_a_run_that_will_be_started_again_is_not_told(house: House) -> None:
    house.tick("house_run_alerts")
    damage(house)
    house.run(RAW, hours=3, **{"dagster/will_retry": "true"})
    house.tick("house_run_alerts")
    assert house.box.mails == []
    house.run(RAW, hours=3, **{"dagster/will_retry": "false"})
    house.tick("house_run_alerts")
    assert len(house.box.mails) == 1


def test_hours_that_were_done_since_are_not_told(house: House) -> None:
    house.tick("house_run_alerts")
    damage(house)
    house.run(RAW, hours=3)
    mend(house)
    assert house.run(RAW, hours=3).success
    house.tick("house_run_alerts")
    house.tick()
    assert house.box.mails == []


def test_runs_of_others_are_passed_over(house: House) -> None:
    @dg.op
    def foreign() -> None:
        raise ZeroDivisionError

    @dg.job(executor_def=dg.in_process_executor)
    def elsewhere() -> None:
        foreign()

    house.tick("house_run_alerts")
    run = elsewhere.execute_in_process(instance=house.instance, raise_on_error=False, run_config=QUIET)
    before = len(house.instance.all_logs(run.run_id))
    house.tick("house_run_alerts")
    assert house.box.mails == []
    assert len(house.instance.all_logs(run.run_id)) == before


def test_a_bug_is_told_by_its_name_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the event of user-1")

    house.tick("house_run_alerts")
    monkeypatch.setattr("amp_pipeline.stages.raw_events.RawEvents.land", bug)
    house.run(RAW, hours=3)
    house.tick("house_run_alerts")
    (mail,) = house.box.mails
    assert "ZeroDivisionError; see the run" in mail.as_string()
    assert "user-1" not in mail.as_string()


def test_sensors_run_by_themselves_where_anybody_is_told(house: House) -> None:
    assert {sensor.default_status for sensor in alert_sensors(house.organization)} == {dg.DefaultSensorStatus.RUNNING}
    nobody = builders.organization(house.folder, house.folder / "landing")
    assert {sensor.name: sensor.default_status for sensor in alert_sensors(nobody)} == {
        "house_access_alerts": dg.DefaultSensorStatus.STOPPED,
        "house_run_alerts": dg.DefaultSensorStatus.RUNNING,
    }
    assert alert_sensors(house.organization)[0].minimum_interval_seconds == 900


def test_the_check_is_run_by_a_click(house: House) -> None:
    job = house.definitions().resolve_implicit_global_asset_job_def()
    only = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(ALL, CHECK)})
    for name, passes in (("take_away", False), ("give_back", True)):
        getattr(house, name)("all")
        result = only.execute_in_process(instance=house.instance, run_config=QUIET, raise_on_error=False)
        assert result.success
        (evaluation,) = result.get_asset_check_evaluations()
        assert evaluation.passed is passes
        assert (evaluation.asset_key, evaluation.check_name) == (ALL, CHECK)
        assert f"{house.folder}/all" in (evaluation.description or "")


def test_a_range_of_hours_runs_the_check_once_and_is_not_disturbed_by_it(house: House) -> None:
    result = house.run(hours=3)
    assert result.success
    for key in (ALL, PURCHASES):
        assert house.instance.get_materialized_partitions(key) == {(FIRST + n).key for n in range(3)}
    found = [one for one in result.get_asset_check_evaluations() if one.check_name == CHECK]
    assert [(one.passed, one.partition) for one in found] == [(True, None)] * 2


def test_each_sensor_says_what_it_does(house: House) -> None:
    assert all((sensor.description or "").endswith(".") for sensor in alert_sensors(house.organization))
    checks = [spec for check in bucket_checks(house.organization) for spec in check.check_specs]
    assert [(spec.asset_key, spec.name) for spec in checks] == [(ALL, CHECK), (PURCHASES, CHECK)]
    assert all((spec.description or "").endswith(".") for spec in checks)


Watched = tuple[House, Any]


def origin(name: str) -> Any:
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

    return RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("amp_pipeline"), "__repository__").get_instigator_origin(
        name
    )


def state(house: House, name: str, status: str = "DECLARED_IN_CODE") -> Any:
    """Write down a sensor as the daemon does when it first sees it."""
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType

    made = InstigatorState(origin(name), InstigatorType.SENSOR, InstigatorStatus[status])
    return house.instance.add_instigator_state(made)


def ticked(house: House, state: Any, ago: timedelta, status: str = "SKIPPED", error: str = "") -> None:
    from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
    from dagster_shared.error import SerializableErrorInfo

    house.instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=state.name,
            instigator_type=InstigatorType.SENSOR,
            status=TickStatus[status],
            timestamp=(house.now - ago).timestamp(),
            selector_id=state.selector_id,
            error=SerializableErrorInfo(error, [], None) if error else None,
        )
    )


def beat(house: House, ago: timedelta, but: str = "") -> None:
    from dagster._daemon.types import DaemonHeartbeat

    for kind in set(house.instance.get_required_daemon_types()) - {but}:
        house.instance.add_daemon_heartbeat(DaemonHeartbeat((house.now - ago).timestamp(), kind, None, None))


def watched(house: House) -> str:
    trouble = trouble_of_dagster(house.definitions(), house.instance, house.organization, [], house.now)
    return trouble.summary if trouble else ""


def test_dagster_at_work_is_no_trouble(house: House) -> None:
    beat(house, timedelta(minutes=1))
    for name in ("house_access_alerts", "house_run_alerts"):
        ticked(house, state(house, name), timedelta(minutes=9))
    assert watched(house) == ""


def test_a_daemon_that_is_silent_or_never_ran_is_named(house: House) -> None:
    assert watched(house).startswith("no daemon has ever run in this Dagster instance: DAGSTER_HOME names another one")
    beat(house, timedelta(minutes=30), but="SENSOR")
    assert "the daemon SENSOR has never run" in watched(house)
    beat(house, timedelta(minutes=30))
    assert "the daemon SENSOR has given no sign of life since" in watched(house)


@pytest.mark.parametrize(
    ("status", "ago", "tick", "said"),
    [
        ("STOPPED", timedelta(minutes=1), "SKIPPED", "the sensor house_access_alerts is stopped"),
        ("RUNNING", timedelta(minutes=1), "FAILURE", "failed at"),
        ("DECLARED_IN_CODE", timedelta(hours=1), "SKIPPED", "has not run since"),
    ],
)
def test_a_sensor_that_does_not_run_is_named(house: House, status: str, ago: timedelta, tick: str, said: str) -> None:
    beat(house, timedelta(minutes=1))
    ticked(house, state(house, "house_run_alerts"), timedelta(minutes=1))
    assert watched(house) == "the sensor house_access_alerts has never run"
    ticked(
        house, state(house, "house_access_alerts", status), ago, tick, "no good\nat line 1" if tick == "FAILURE" else ""
    )
    assert said in watched(house)
    assert "at line 1" not in watched(house)
    assert "house_run_alerts" not in watched(house)


def test_sensors_of_another_organization_are_passed_over(house: House) -> None:
    beat(house, timedelta(minutes=1))
    other = replace_slug(house.organization, "hut")
    trouble = trouble_of_dagster(house.definitions(), house.instance, other, [house.organization], house.now)
    assert trouble is None


def replace_slug(organization: Organization, slug: str) -> Organization:
    return organization.model_copy(update={"slug": slug})


def test_an_outcome_becomes_a_trouble_with_all_that_it_says() -> None:
    from amp_pipeline.alerting import trouble_of

    fine = Outcome(True, "", "", "", "", "", "", "", None, "", ())
    assert trouble_of(fine) is None
    bad = replace(
        fine, ok=False, step="put", kind="kms", action="kms:Encrypt", statement={"Effect": "Allow"}, passed=("list",)
    )
    trouble = trouble_of(bad)
    assert trouble is not None
    assert (trouble.kind, trouble.statement, trouble.passed) == ("kms kms:Encrypt", '{"Effect": "Allow"}', ("list",))


def test_a_bucket_that_is_away_for_a_moment_makes_no_failed_hour_done(house: House) -> None:
    house.tick("house_run_alerts")
    assert house.run(hours=3).success
    house.tick()
    house.take_away("all")
    # By the time that it is tried, the bucket is well.
    house.run("shop7/all/archive", "shop7/all/manifest", hours=3)
    house.give_back("all")
    house.tick("house_run_alerts")
    assert house.box.subjects() == ["shop7 / all has hours that failed"]
    house.take_away("all")
    house.tick()
    house.give_back("all")
    house.tick(times=3)
    assert house.box.subjects() == ["shop7 / all has hours that failed"]


def test_an_hour_that_was_done_before_it_failed_and_after_is_done(house: House) -> None:
    def run(name: str) -> bool:
        hour = {"dagster/asset_partition_range_start": (FIRST + 1).key}
        result = house.run(RAW, hours=2, **(hour if name == "second" else {}))
        house.tick("house_run_alerts")
        return result.success

    house.tick("house_run_alerts")
    first = object_name(FIRST, 1, ".json.gz")
    put_bytes(house.folder / "landing", first, gzip.compress(event())[:-8])
    assert not run("both")
    assert run("second")
    damage(house)
    assert not run("second")
    mend(house)
    assert run("second")
    house.tick()
    state = json.loads((house.folder / "workspace" / "9" / "alerts" / "7-raw_events.json").read_text())
    assert list(state["failed"]) == [FIRST.key]


def test_many_buckets_that_give_no_answer_hold_up_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_pipeline.defs.alerts._TRY_SECONDS", 1.0)
    (project,) = house.organization.projects
    every, purchases = project.deliveries
    many = [every.model_copy(update={"name": f"all{n}", "url": f"{every.url}{n}"}) for n in range(12)]
    project = project.model_copy(update={"deliveries": (*many, purchases)})
    house.organization = house.organization.model_copy(update={"projects": (project,)})
    answers = threading.Event()

    def silent(url: str, s3: Any) -> Outcome:
        if "/all" in url:
            answers.wait()
        return probe(url, s3)

    data = house.tick(probe=silent)
    answers.set()
    assert "shop7 / all11" in data.skip_message
    assert "purchases" not in data.skip_message


def test_hours_that_fail_while_the_workspace_is_away_are_told_once_it_is_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = house.definitions()
    monkeypatch.setattr(house, "definitions", lambda _: definitions)
    house.tick("house_run_alerts")
    damage(house)
    with monkeypatch.context() as used:
        used.setattr(house, "definitions", lambda: definitions)
        house.run(RAW, hours=3)
    kept = (house.folder / "workspace").rename(house.folder / "kept")
    (house.folder / "workspace").write_text("no folder")
    house.tick("house_run_alerts")
    house.give_back("workspace")
    kept.rename(house.folder / "workspace")
    assert house.box.mails == []
    house.tick(times=3)
    assert house.box.subjects() == ["shop7 / raw_events has hours that failed"]
