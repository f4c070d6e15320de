"""How deliveries stand: each hour is in its place, whatever was done with it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amp_pipeline.alerting import Alerting, Subject, failed_hour
from amp_pipeline.config import Organization
from amp_pipeline.core.alerts import Trouble
from amp_pipeline.core.due import MOST_ATTEMPTS
from amp_pipeline.core.hours import Hour, between, ranges
from amp_pipeline.core.volume import total
from amp_pipeline.run import OrganizationRun, ProjectRun
from amp_pipeline.status import DeliveryStatus, InFlight, ProjectStatus, gather
from amp_pipeline.workspace.alerts import AlertStore
from amp_pipeline.workspace.ledger import Entry, Ledger, Schedule, Schedules
from amp_pipeline.workspace.pulls import Trouble as SourceTrouble
from amp_pipeline.workspace.pulls import TroubleStore
from amp_pipeline.workspace.store import ProjectStore
from amp_pipeline_tests import builders
from amp_pipeline_tests.builders import BY, FIRST_HOUR, HOUR_US, all_events, event, object_name, purchases, put
from amp_pipeline_tests.laws.driver import Stores, run
from amp_pipeline_tests.simulation import Simulation

ZERO, ONE, TWO = FIRST_HOUR, FIRST_HOUR + 1, FIRST_HOUR + 2
MINUTE = timedelta(minutes=1)


class Trial(Simulation):
    """A project that lands in a folder, without markers; three hours have ended and are ready."""

    def __init__(self, base: Path, **project: Any) -> None:
        self.landing = base / "landing"
        source = {"url": str(self.landing), "complete": None, "grace": "30m"}
        organization = builders.organization(base, self.landing, projects=[{"source": source, **project}])
        super().__init__(organization, Stores(organization), TWO.start + timedelta(minutes=90))
        for n in range(3):
            self.land(ZERO + n, event(n * HOUR_US + 1, device_id="a", **{"$insert_id": f"{n}"}))

    def land(self, hour: Hour, *lines: bytes, number: int = 0) -> None:
        put(self.landing, object_name(hour, number), *lines)

    def deliver(self, *hours: Hour) -> None:
        assert run(self.organization, hours, self.stores) == {}

    def dedupe(self, *hours: Hour) -> None:
        this = OrganizationRun(self.organization, self.stores)
        for hour in hours:
            this.projects["shop7"].deduped.dedupe(hour)
            this.merged.merge(hour)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.stores(self.organization.workspace), 9, 7)

    @property
    def alerts(self) -> AlertStore:
        return AlertStore(self.stores(self.organization.workspace), 9)

    def subject(self, name: str) -> Subject:
        project = self.organization.projects[0]
        found = [one for one in project.deliveries if one.name == name]
        return (
            Subject(self.organization, project, found[0]) if found else Subject(self.organization, project, what=name)
        )

    def fail(self, name: str, hour: Hour, what: str = "no room") -> None:
        alerting = Alerting(self.organization, self.alerts, self.now, lambda *_: {})
        alerting.failed(self.subject(name), {hour.key: failed_hour(self.now, "run 1", what)}, lambda: None)

    def again(self, **changed: Any) -> None:
        """Change the settings of the first delivery, as a new defs.yaml would."""
        project = self.organization.projects[0]
        first = project.deliveries[0].model_copy(update=changed)
        project = project.model_copy(update={"deliveries": (first, *project.deliveries[1:])})
        self.organization = self.organization.model_copy(update={"projects": (project,)})

    def project(self, **asked: Any) -> ProjectStatus:
        (found,) = gather(OrganizationRun(self.organization, self.stores), self.now, **asked)
        return found

    def status(self, name: str = "all", **asked: Any) -> DeliveryStatus:
        (found,) = [one for one in self.project(**asked).deliveries if one.delivery.name == name]
        return found


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def places(one: DeliveryStatus) -> dict[str, list[int]]:
    """The hours that are not complete, from 0, by where they are shown."""
    failed = tuple(hour for failure in one.failed for hour in failure.hours)
    named = {name: getattr(one, name) for name in ("waiting", "again", "missing", "unready", "missed")}
    return {
        name: [h.number - ZERO.number for h in hours] for name, hours in {**named, "failed": failed}.items() if hours
    }


def test_a_project_of_which_nothing_was_done_is_all_missing(trial: Trial):
    one = trial.status()
    assert places(one) == {"missing": [0, 1, 2]}
    assert (one.last_complete, one.complete, one.is_complete) == (None, 0, False)


def test_delivered_hours_are_complete_up_to_the_first_gap(trial: Trial):
    trial.deliver(ZERO, TWO)
    one = trial.status()
    assert places(one) == {"missing": [1]}
    assert (one.last_complete, one.complete, one.is_complete) == (ZERO, 2, False)
    trial.deliver(ONE)
    one = trial.status()
    assert (places(one), one.last_complete, one.complete, one.is_complete) == ({}, TWO, 3, True)


def test_deduplicated_hours_wait(trial: Trial):
    trial.dedupe(ZERO, ONE)
    assert places(trial.status()) == {"waiting": [0, 1], "missing": [2]}


def test_an_hour_is_waited_for_until_it_is_marked_or_its_patience_ends(tmp_path: Path):
    source = {"url": str(tmp_path / "landing"), "grace": "2h"}
    trial = Trial(tmp_path, source=source)
    put(trial.landing, f"7/7_{ONE.day}_{ONE.of_day}_complete")
    # Hour 0 ended 2:30 h ago, hours 1 and 2 later; of these 1 is marked.
    one = trial.status()
    assert places(one) == {"missing": [0, 1], "unready": [2]}
    assert one.next is not None
    assert (one.next.hour, one.next.marked) == (TWO, True)
    assert (one.next.ends, one.next.due) == ((TWO + 1).start, (TWO + 3).start)
    trial.deliver(ZERO, ONE)
    assert trial.status().is_complete


def test_the_next_hour_is_the_one_that_goes_on_where_all_ended_ones_are_ready(trial: Trial):
    one = trial.status()
    assert one.next is not None
    assert (one.next.hour, one.next.marked, one.next.due) == (TWO + 1, False, (TWO + 2).start + 30 * MINUTE)


def test_a_project_that_has_ended_has_no_next_hour_and_one_to_begin_its_first(tmp_path: Path):
    ended = Trial(tmp_path, last_hour=ONE.key)
    assert ended.status().next is None
    assert places(ended.status()) == {"missing": [0, 1]}
    ended.now = ZERO.start - timedelta(days=3)
    later = ended.status()
    assert later.is_complete
    assert later.next is not None
    assert later.next.hour == ZERO


def test_hours_before_the_first_of_a_delivery_are_not_counted(tmp_path: Path):
    deliveries = [all_events(tmp_path / "all", first_hour=TWO.key), purchases(tmp_path / "purchases")]
    trial = Trial(tmp_path, deliveries=deliveries)
    trial.dedupe(ZERO, ONE, TWO)
    assert places(trial.status()) == {"waiting": [2]}
    assert places(trial.status("purchases")) == {"waiting": [0, 1, 2]}
    trial.deliver(ZERO, ONE, TWO)
    assert (trial.status().last_complete, trial.status().complete) == (TWO, 1)


def test_what_the_sensor_did_is_complete_with_volumes_and_no_records_read(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
):
    trial.until_quiet()
    for name in ("deduped", "raw"):
        monkeypatch.setattr(ProjectStore, name, lambda *_: pytest.fail("records are read"))
    one = trial.project()
    assert all(delivery.is_complete for delivery in one.deliveries)
    assert len(one.volumes) == 3
    assert total(one.volumes.values()).events == 3
    assert (one.unknown_volumes, one.made_again) == (0, 0)


def test_volumes_of_hours_that_the_sensor_does_not_know_are_read(trial: Trial):
    trial.until_quiet()
    known = trial.project().volumes
    for day in trial.ledger.days():
        trial.ledger.change(day, lambda found: bool(found.hours.clear()) or True)
    assert trial.project().volumes == known
    left = trial.project(most_read=2)
    assert (set(left.volumes), left.unknown_volumes) == ({ONE, TWO}, 1)


def test_late_data_that_was_read_but_not_delivered_is_to_be_made_again(trial: Trial):
    trial.deliver(ZERO, ONE, TWO)
    trial.land(ONE, event(HOUR_US + 5, device_id="late"), number=1)
    # Nobody has looked at the landing since.
    assert trial.status().is_complete
    trial.dedupe(ONE)
    one = trial.status()
    assert places(one) == {"again": [1]}
    assert (one.last_complete, one.complete, one.is_complete) == (ZERO, 2, False)


def test_late_data_that_the_sensor_found_is_to_be_made_again_by_all_deliveries(trial: Trial):
    trial.until_quiet()
    trial.land(ONE, event(HOUR_US + 5, device_id="late"), number=1)
    trial.tick()
    for name in ("all", "purchases"):
        assert places(trial.status(name)) == {"again": [1]}
    trial.work()
    trial.now += MINUTE
    # Done, though the sensor has yet to see it.
    assert trial.status().is_complete
    trial.until_quiet()
    assert trial.status().is_complete
    assert trial.project().made_again == 1


def test_a_doubt_that_the_sensor_has_yet_to_look_into_is_no_gap(trial: Trial):
    trial.until_quiet()
    trial.ledger.change(ONE.date, lambda day: day.hours.update({ONE.key: _doubted(day.entry(ONE))}) is None)
    assert trial.status().is_complete


def _doubted(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, doubt="late data in hour 0")


def test_an_hour_that_another_delivery_waits_for_is_complete_in_this_one(trial: Trial):
    trial.unreachable = {"purchases"}
    trial.tick()
    trial.work()
    trial.tick()
    assert trial.status().is_complete
    assert places(trial.status("purchases")) == {"waiting": [0, 1, 2]}


def test_an_hour_whose_delivery_was_killed_is_to_be_made_again(trial: Trial):
    trial.deliver(ZERO, ONE, TWO)
    this = OrganizationRun(trial.organization, trial.stores).projects["shop7"]
    state = this.deliveries_of(this.project.deliveries[0])
    found = state.state(TWO)
    assert found is not None
    state.save("state", TWO, msgspec.structs.replace(found, fingerprint=""))
    assert places(trial.status()) == {"again": [2]}
    assert trial.status("purchases").is_complete


def test_hours_that_failed_are_shown_with_why_and_since_until_they_are_done(trial: Trial):
    trial.deliver(ZERO)
    trial.dedupe(ONE, TWO)
    trial.fail("all", ONE)
    trial.fail("all", TWO)
    one = trial.status()
    (failure,) = one.failed
    assert (failure.hours, failure.what, failure.since, failure.given_up) == ((ONE, TWO), "no room", trial.now, False)
    assert places(one) == {"failed": [1, 2]}
    assert places(trial.status("purchases")) == {"waiting": [1, 2]}
    # What alerts remember is not put right at once.
    trial.deliver(ONE, TWO)
    assert trial.status().is_complete


def test_a_damaged_hour_fails_in_all_deliveries_and_is_given_up_once_it_was_tried_often(trial: Trial):
    (trial.landing / object_name(ONE, ending=".json.gz")).write_bytes(b"\x1f\x8b no gzip")
    (trial.landing / object_name(ONE)).unlink()
    for attempt in range(1, MOST_ATTEMPTS + 1):
        trial.tick()
        trial.work()
        trial.now += timedelta(hours=1)
        entry = trial.ledger.day(ONE.date)[0].entry(ONE)
        assert entry.attempt == attempt
        if attempt == 1:
            assert 1 in places(trial.status())["missing"]
        else:
            assert places(trial.status())["failed"] == [1]
    for name in ("all", "purchases"):
        (failure,) = trial.status(name).failed
        assert (failure.hours, failure.given_up) == ((ONE,), True)
        assert failure.what == f"asked for {MOST_ATTEMPTS} times, and not done"
    trial.fail("raw_events", ONE, "…#0.json.gz is corrupt")
    (failure,) = trial.status().failed
    assert (failure.what, failure.given_up) == ("raw_events: …#0.json.gz is corrupt", True)


def test_hours_that_wait_for_a_bucket_are_never_given_up(trial: Trial):
    trial.until_quiet()
    trial.dedupe(ZERO + 3)
    asked = Entry(content="x", attempt=MOST_ATTEMPTS + 3, asked=MOST_ATTEMPTS + 3, asked_at=trial.now.timestamp())
    trial.ledger.change(ZERO.date, lambda day: day.hours.update({(ZERO + 3).key: asked}) is None)
    trial.now += timedelta(hours=2)
    (failure,) = trial.status().failed
    assert (failure.hours, failure.given_up) == ((ZERO + 3,), False)


def test_hours_that_were_missed_while_switched_off_are_named_with_what_delivers_them(trial: Trial):
    trial.until_quiet()
    trial.again(enabled=False)
    trial.tick()
    off = trial.status()
    assert off.is_complete
    assert off.off_since == Hour.of(trial.now)
    trial.now += timedelta(hours=36)
    trial.until_quiet()
    trial.again(enabled=True)
    trial.until_quiet()
    one = trial.status()
    ((first, last),) = ranges(one.missed)
    assert places(one) == {"missed": [hour.number - ZERO.number for hour in one.missed]}
    assert not one.is_complete
    assert one.commands == [f"amp-pipeline deliver --project shop7 --from {first} --to {last}"]
    trial.deliver(*one.missed)
    assert (trial.status().missed, trial.status().is_complete) == ((), True)


def test_a_missed_hour_that_fails_when_it_is_delivered_by_hand_has_failed(trial: Trial):
    schedules = Schedules(deliveries={"all": Schedule(missed=((ZERO.key, ONE.key),))})
    assert trial.ledger.save_schedules(schedules, None)
    trial.fail("all", ONE)
    assert places(trial.status()) == {"missed": [0], "missing": [2], "failed": [1]}


def test_hours_delivered_under_earlier_settings_are_complete_and_named_when_asked_for(trial: Trial):
    trial.deliver(ZERO, ONE)
    trial.again(filter="event_type = 'click'")
    trial.deliver(TWO)
    one = trial.status()
    assert (one.is_complete, one.earlier_settings, one.commands) == (True, None, [])
    one = trial.status(settings=True)
    assert one.is_complete
    assert one.earlier_settings == (ZERO, ONE)
    assert one.commands == [f"amp-pipeline deliver --project shop7 --from {ZERO} --to {ONE}"]
    assert trial.status("purchases", settings=True).earlier_settings == ()


def test_a_project_that_is_delivered_by_hand_is_told_how(tmp_path: Path):
    trial = Trial(tmp_path, automatic=False)
    trial.deliver(ONE)
    start = "amp-pipeline deliver --project shop7"
    assert trial.status().commands == [f"{start} --from {ZERO} --to {ZERO}", f"{start} --from {TWO} --to {TWO}"]


@pytest.mark.parametrize(
    ("in_flight", "shown"),
    [
        (None, None),
        ({}, ()),
        ({"shop7/raw_events": [ONE]}, (ONE,)),
        ({"shop7/deduped_events": [ONE], "shop7/all/manifest": [TWO, ONE]}, (ONE, TWO)),
        ({"shop7_hours": [TWO]}, (TWO,)),
        ({"house/merged_ids": [TWO]}, (TWO,)),
        ({"shop7/purchases/manifest": [ONE], "other/raw_events": [TWO]}, ()),
    ],
)
def test_hours_are_in_flight_in_the_runs_that_make_them(
    trial: Trial, in_flight: InFlight | None, shown: tuple[Hour, ...] | None
):
    one = trial.status(in_flight=in_flight)
    assert one.in_flight == shown
    assert places(one) == {"missing": [0, 1, 2]}


def test_an_open_problem_with_the_bucket_or_the_landing_is_told(trial: Trial):
    away = Trouble(source="access", kind="denied", summary="no access to s3://house")
    alerting = Alerting(trial.organization, trial.alerts, trial.now, lambda *_: {})
    alerting.saw(trial.subject("all"), away)
    assert (trial.status().problem, trial.status().problem_since) == ("no access to s3://house", trial.now)
    assert trial.status("purchases").problem == ""
    alerting.saw(trial.subject("all"), None)
    assert trial.status().problem == ""
    alerting.saw(trial.subject("landing"), Trouble(source="access", kind="landing", summary="the landing is not there"))
    assert trial.status("purchases").problem == "the landing is not there"


def test_what_a_run_was_told_by_a_source_is_told_before_the_sensor_knows(trial: Trial):
    troubles = TroubleStore(OrganizationRun(trial.organization, trial.stores).workspace, trial.organization.id, 7)
    at = trial.now.timestamp()
    troubles.save(SourceTrouble(kind="credentials", summary="the keys are wrong", advice="", since=at, tried=at))
    status = trial.status()
    assert (status.problem, status.problem_is_of, status.problem_since) == ("the keys are wrong", "source", trial.now)
    troubles.save(None)
    assert trial.status().problem == ""


def test_neither_landing_nor_buckets_need_be_there(trial: Trial, tmp_path: Path):
    trial.deliver(ZERO, ONE, TWO)
    (tmp_path / "landing").rename(tmp_path / "gone")
    trial.now += timedelta(hours=1)
    assert places(trial.status()) == {"missing": [3]}


def test_only_the_newest_of_many_doubtful_hours_are_read(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    trial.deliver(ZERO, ONE, TWO)
    read: list[Hour] = []
    was = ProjectRun.is_delivered
    monkeypatch.setattr(
        ProjectRun, "is_delivered", lambda self, archive, one, hour: read.append(hour) or was(self, archive, one, hour)
    )
    assert trial.status(most_read=1).is_complete
    assert read == [TWO, TWO]


def test_a_delivery_that_is_asked_for_alone_is_told_as_among_all(trial: Trial):
    trial.unreachable = {"purchases"}
    trial.tick()
    trial.work()
    trial.tick()
    (one,) = trial.project(only="all").deliveries
    assert one == trial.status("all")
    assert one.is_complete


def test_each_project_is_looked_at_on_its_own(tmp_path: Path):
    landing = tmp_path / "landing"
    organization: Organization = builders.organization(tmp_path, landing, projects=[{}, {"last_hour": ZERO.key}])
    stores = Stores(organization)
    run(organization, list(between(ZERO, ZERO)), stores, BY.run)
    now = datetime(2024, 5, 8, tzinfo=UTC)
    found = gather(OrganizationRun(organization, stores), now, slugs=["shop8"])
    assert [(one.project.slug, one.deliveries[0].is_complete) for one in found] == [("shop8", True)]
    assert len(gather(OrganizationRun(organization, stores), now)) == 2
